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
from compute_agent.drivers.base import Driver, DriverServer
from compute_agent.kinds import Refused

LOG = logging.getLogger(__name__)

_SUFFIX = ".kdump"
_PART_SUFFIX = ".kdump.part"
_OWN_PART = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}-[A-Za-z0-9-]+\.kdump\.part")
_MIB = 1 << 20
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

    def take(self, server: DriverServer, name: str, check_deadline: Callable[[], None] = lambda: None) -> Dump:
        """Write the memory of ``server`` to ``<server>-<name>.kdump``; blocks until it is there. No file is left of a failure.

        :raises Refused: it was not begun, or what was written cannot be kept.
        :raises DriverError: the driver's own.
        """
        self.check_supported()
        if server.power_state is PowerState.SHUTDOWN:
            raise Refused(Code.SERVER_NOT_RUNNING, f"The server is {server.power_state}; it has no memory to be written.")
        host_dump, directory = self._driver.host_dump, self._place.directory
        assert host_dump is not None  # narrows the types: check_supported() saw to both
        assert directory is not None
        with self._lock:
            part = directory / f"{server.id}-{name}{_PART_SUFFIX}"
            self._prepare(server, directory, part)
            progress = _Progress(server.id)
            began_at = self._clock.monotonic()
            try:
                check_deadline()
                host_dump.take_host_dump(server.id, str(part), progress.tell)
                path, size = self._keep(part)
            except BaseException:
                with suppress(OSError):
                    part.unlink()
                raise
        dump = Dump(path, size, round(self._clock.monotonic() - began_at, 3))
        LOG.info("server %s: its memory was written to %s, %d bytes in %.1f s", server.id, path, size, dump.duration)
        return dump

    def remove_unfinished(self) -> None:
        """At start: what a dead agent left half written is of no use to anybody."""
        directory = self._place.directory
        if directory is None or not directory.is_dir():
            return
        for part in directory.glob(f"*{_PART_SUFFIX}"):
            if _OWN_PART.fullmatch(part.name):
                LOG.warning("removing %s, which was not finished when the agent stopped", part)
                part.unlink(missing_ok=True)

    def _prepare(self, server: DriverServer, directory: Path, part: Path) -> None:
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            part.unlink(missing_ok=True)
            used = sum(file.stat().st_size for file in directory.glob(f"*{_SUFFIX}"))
            free = shutil.disk_usage(directory).free
        except OSError as error:
            raise Refused(Code.HOST_DUMP_FAILED, f"The directory {directory} cannot be used: {error.strerror}.") from error
        # The dump is compressed, but nobody knows how well before it is there: it counts as large as the memory.
        needed = (server.memory_mib or 0) * _MIB
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
