"""Files with servers' memory, written by the hypervisor: where, how many bytes at most, and never half a file under a whole one's name.

Whatever a dump says belongs to the server's owner: the directory and the files are for the agent's user only. Dumps are never removed to
make room for others; an operator takes them away.
"""

import logging
import os
import re
import shutil
import stat
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from compute_agent.contract.clock import Clock
from compute_agent.contract.errors import Code
from compute_agent.contract.models import PowerState
from compute_agent.drivers.base import Driver
from compute_agent.drivers.models import DriverServer
from compute_agent.journal import JournalTransaction
from compute_agent.kinds import Refused

LOG = logging.getLogger(__name__)

_SUFFIX = ".kdump"
_PART_SUFFIX = ".kdump.part"
_OWN_PART = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}-[A-Za-z0-9-]+\.kdump\.part")
_MIB = 1 << 20
_CRASH_KERNEL = "server.crash_kernel_started"
_NEW_RUN = frozenset({"server.rebooted", "server.stopped", "server.started"})
_PROGRESS_STEP = 10
"""Percent between two lines of progress in the log."""


@dataclass(frozen=True)
class DumpPlace:
    """Where dumps go and what they may take, in bytes. ``directory`` None: host dumps are off."""

    directory: Path | None = None
    quota: int = 0
    min_free: int = 0


@dataclass(frozen=True)
class Dump:
    """A complete dump: its file, its size in bytes, and the seconds that it took."""

    path: Path
    size: int
    duration: float


class HostDumps:
    """One dump at a time, however many are asked for: they would only take each other's disk. Thread-safe."""

    def __init__(self, driver: Driver, clock: Clock, place: DumpPlace) -> None:
        self._driver = driver
        self._clock = clock
        self._place = place
        self._lock = threading.Lock()

    def check_supported(self) -> None:
        """:raises Refused: the driver cannot, or the operator has not said where to."""
        if self._driver.host_dump is None:
            raise Refused(Code.NOT_SUPPORTED, f"The driver {self._driver.name} cannot write a server's memory to a file.")
        if self._place.directory is None:
            raise Refused(Code.NOT_SUPPORTED, "Host dumps are off on this host; its operator turns them on with [host_dump] directory.")

    def take(self, server: DriverServer, name: str, last_check: Callable[[], None], *, wait: bool = False) -> Dump:
        """Write the memory of ``server`` to ``<server>-<name>.kdump``; blocks until it is there. No file is left of a failure.

        :param last_check: raises :class:`Refused` when it must not be any more; called last before the driver is
        :param wait: for a dump that is being written, however long that takes; otherwise this one is refused
        :raises Refused: it was not begun, or what was written cannot be kept.
        :raises DriverError: the driver's own.
        """
        self.check_supported()
        if server.power_state is PowerState.SHUTDOWN:
            raise Refused(Code.SERVER_NOT_RUNNING, f"The server is {server.power_state}; it has no memory to be written.")
        host_dump, directory = self._driver.host_dump, self._place.directory
        assert host_dump is not None  # narrows the types: check_supported() saw to both
        assert directory is not None
        if not self._lock.acquire(blocking=wait):
            raise Refused(
                Code.HOST_DUMP_FAILED, "Another server's memory is being written; nothing was written of this one. Try again later."
            )
        try:
            part = directory / f"{server.id}-{name}{_PART_SUFFIX}"
            self._prepare(server, directory, part)
            progress = _Progress(server.id)
            began_at = self._clock.monotonic()
            try:
                last_check()
                host_dump.take_host_dump(server.id, str(part), progress.tell)
                path, size = self._keep(part)
            except BaseException:
                with suppress(OSError):
                    part.unlink()
                raise
        finally:
            self._lock.release()
        dump = Dump(path, size, round(self._clock.monotonic() - began_at, 3))
        LOG.info("server %s: its memory was written to %s, %d bytes in %.1f s", server.id, path, size, dump.duration)
        return dump

    def remove_unfinished(self) -> None:
        """At start: what a dead agent left half written is of no use to anybody. A directory that cannot be used is nobody's misfortune
        but the dumps'."""
        directory = self._place.directory
        if directory is None:
            return
        try:
            for part in directory.glob(f"*{_PART_SUFFIX}") if directory.is_dir() else ():
                if _OWN_PART.fullmatch(part.name):
                    LOG.warning("removing %s, which was not finished when the agent stopped", part)
                    part.unlink(missing_ok=True)
        except OSError as error:
            LOG.error("unfinished dumps in %s cannot be removed: %s", directory, error)

    def _prepare(self, server: DriverServer, directory: Path, part: Path) -> None:
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            part.unlink(missing_ok=True)
            used = sum(_find_size(file) for file in directory.glob(f"*{_SUFFIX}"))
            free = shutil.disk_usage(directory).free
        except OSError as error:
            raise Refused(Code.HOST_DUMP_FAILED, f"The directory {directory} cannot be used: {error.strerror}.") from error
        # The dump is compressed, but nobody knows how well before it is there: it counts as large as the memory.
        if server.memory_mib is None:
            raise Refused(
                Code.NO_SPACE, "How large the server's memory is, is not known, nor whether there is room for it. Nothing was written."
            )
        needed = server.memory_mib * _MIB
        if self._place.quota and used + needed > self._place.quota:
            raise Refused(
                Code.NO_SPACE,
                f"{directory} holds {used // _MIB} MiB of dumps, this one may need {needed // _MIB} MiB, and [host_dump] quota_mib is "
                f"{self._place.quota // _MIB}; nothing was written.",
            )
        if free < needed + self._place.min_free:
            raise Refused(
                Code.NO_SPACE,
                f"The disk of {directory} has {free // _MIB} MiB left; this dump may need {needed // _MIB} MiB and "
                f"[host_dump] min_free_mib keeps {self._place.min_free // _MIB} MiB free. Nothing was written.",
            )

    def _keep(self, part: Path) -> tuple[Path, int]:
        """Give the finished file its name: its size, and 0600 whatever the hypervisor made it."""
        path = part.with_name(part.name.removesuffix(".part"))
        try:
            status = part.stat()
            if stat.S_IMODE(status.st_mode) != 0o600:
                part.chmod(0o600)
            if status.st_size == 0:
                raise Refused(Code.HOST_DUMP_FAILED, "The hypervisor left an empty file.")
            os.rename(part, path)
        except OSError as error:
            raise Refused(Code.HOST_DUMP_FAILED, f"The file {part} cannot be kept: {error.strerror}.") from error
        return path, status.st_size


def _find_size(file: Path) -> int:
    """In bytes; 0 for one that an operator has taken away meanwhile."""
    try:
        return file.stat().st_size
    except FileNotFoundError:
        return 0


def has_crash_kernel(transaction: JournalTransaction, server: str) -> bool:
    """Whether the guest started its crash kernel in this run: it is writing its own dump, which nobody must disturb."""
    last = transaction.find_last_event(server, {_CRASH_KERNEL, *_NEW_RUN})
    return last is not None and last.event_type == _CRASH_KERNEL


class _Progress:
    """Says in the log how far a dump is, every tenth of it."""

    def __init__(self, server: str) -> None:
        self._server = server
        self._next = 0

    def tell(self, done: int, total: int) -> None:
        percent = 100 * done // total if total > 0 else 0
        if percent >= self._next:
            self._next = percent - percent % _PROGRESS_STEP + _PROGRESS_STEP
            LOG.info("server %s: %d %% of its memory are written (%d of %d bytes)", self._server, percent, done, total)
