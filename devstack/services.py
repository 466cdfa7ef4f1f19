"""Processes that outlive the command that started them: start, stop, kill, freeze, find again, by verified pid."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

from devstack.steps import StepFailed

PATIENCE = float(os.environ.get("CRASHCART_PATIENCE", "1"))
"""How many times as long as usual is waited before it is given up: on a machine that is shared with others, work takes as it likes."""

T = TypeVar("T")

_HELD_UP = 0.5
"""Seconds by which a wait may end too late before the machine is said to have stood still."""
_never = threading.Event()


def wait_until(condition: Callable[[], T | None], timeout: float, what: str, interval: float = 0.02) -> T:
    """Call `condition` until it returns something true and return that.

    Raises TimeoutError saying `what` was waited for after `timeout` seconds (times PATIENCE), without those in which the machine stood
    still. For conditions of other processes that offer nothing to wait on; an exception of the condition is the caller's.
    """
    timeout *= PATIENCE
    give_up = time.monotonic() + timeout
    while True:
        found = condition()
        if found:
            return found
        if time.monotonic() >= give_up:
            raise TimeoutError(f"waited {timeout:g} s for {what}, in vain (last seen: {found!r})")
        slept_at = time.monotonic()
        _never.wait(interval)
        stood_still = time.monotonic() - slept_at - interval
        if stood_still > _HELD_UP:
            give_up += stood_still


def iterate_command_lines() -> Iterator[tuple[int, bytes]]:
    """The pid and the command line, its words separated by NUL, of every process but this one; any may be gone meanwhile."""
    for directory in Path("/proc").iterdir():
        if not directory.name.isdigit() or int(directory.name) == os.getpid():
            continue
        try:
            command_line = (directory / "cmdline").read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            continue
        yield int(directory.name), command_line


def list_children(pid: int) -> list[ProcessId]:
    """The processes that this one has started and that still run, without theirs."""
    found: list[ProcessId] = []
    for tasks in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            pids = tasks.read_text().split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        found += [child for child in map(ProcessId.find_running, map(int, pids)) if child is not None]
    return found


@dataclass(frozen=True)
class ProcessId:
    """A pid together with what tells this process from a later one that got the same number."""

    pid: int
    start_ticks: int
    boot_id: str

    @classmethod
    def find_running(cls, pid: int) -> ProcessId | None:
        """The identity of a live pid, or None when it is gone (a zombie counts as gone)."""
        start_ticks = _find_start_ticks(pid)
        return None if start_ticks is None else cls(pid, start_ticks, _get_boot_id())

    @property
    def is_alive(self) -> bool:
        return _find_start_ticks(self.pid) == self.start_ticks and self.boot_id == _get_boot_id()

    def send(self, signal_number: int) -> bool:
        """Signal this very process; False when it is gone. The pid is pinned first, so no other can be hit."""
        pinned = self._pin()
        if pinned is None:
            return False
        try:
            signal.pidfd_send_signal(pinned, signal_number)
        except ProcessLookupError:
            return False
        finally:
            os.close(pinned)
        return True

    def wait_gone(self, timeout: float) -> bool:
        """Wait up to `timeout` seconds for the process to end; True when it has."""
        pinned = self._pin()
        if pinned is None:
            return True
        try:
            poll = select.poll()
            poll.register(pinned, select.POLLIN)
            return bool(poll.poll(int(timeout * 1000)))
        finally:
            os.close(pinned)

    def stop(self, grace: float = 10.0) -> bool:
        """SIGTERM, up to `grace` seconds (times PATIENCE), then SIGKILL. True when it ended by itself."""
        self.send(signal.SIGCONT)  # a frozen process would not see the SIGTERM
        self.send(signal.SIGTERM)
        if self.wait_gone(grace * PATIENCE):
            return True
        self.kill()
        return False

    def kill(self) -> None:
        """kill -9, and wait until it is gone."""
        self.send(signal.SIGKILL)
        if not self.wait_gone(10 * PATIENCE):
            raise TimeoutError(f"process {self.pid} did not end within {10 * PATIENCE:g} s of SIGKILL")

    def save(self, path: Path) -> None:
        """Write the identity where another command finds it."""
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".new")
        partial.write_text(json.dumps(asdict(self)))
        partial.replace(path)

    @classmethod
    def find_saved(cls, path: Path) -> ProcessId | None:
        """The process saved at `path` if it still runs, else None."""
        try:
            saved = cls(**json.loads(path.read_text()))
        except (FileNotFoundError, json.JSONDecodeError, TypeError):
            return None
        return saved if saved.is_alive else None

    def _pin(self) -> int | None:
        try:
            pinned = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return None
        if self.is_alive:
            return pinned
        os.close(pinned)
        return None


class Service:
    """One detached process with its log file and, optionally, a record by which a later command finds it."""

    def __init__(
        self,
        name: str,
        argv: Sequence[str],
        env: Mapping[str, str] | None = None,
        log: Path | None = None,
        *,
        record: Path | None = None,
        cwd: Path | None = None,
    ) -> None:
        self.name = name
        self.argv = list(argv)
        self.env = dict(os.environ if env is None else env)
        self.log = log
        self.record = record
        self.cwd = cwd
        self._process: ProcessId | None = None
        self._child: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the process, in a session of its own so that a Ctrl-C at the terminal does not reach it."""
        if self.is_running:
            raise RuntimeError(f"{self.name} runs already, pid {self.pid}")
        output = self._open_log()
        try:
            self._child = subprocess.Popen(
                self.argv,
                env=self.env,
                cwd=self.cwd,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        finally:
            if output != subprocess.DEVNULL:
                os.close(output)
        # A child that ended at once is a zombie until it is reaped, so its start time can still be read.
        start_ticks = _find_start_ticks(self._child.pid, even_zombie=True)
        assert start_ticks is not None, "an unreaped child has an entry in /proc"
        self._process = ProcessId(self._child.pid, start_ticks, _get_boot_id())
        if self.record is not None:
            self._process.save(self.record)

    @property
    def process(self) -> ProcessId | None:
        """The running process, started here or by the command that left the record; None when it is gone."""
        if self._child is not None:
            self._child.poll()  # reaps it
        if self._process is None and self.record is not None:
            self._process = ProcessId.find_saved(self.record)
        return self._process if self._process is not None and self._process.is_alive else None

    @property
    def is_running(self) -> bool:
        return self.process is not None

    @property
    def pid(self) -> int:
        """The pid; raises RuntimeError when it does not run."""
        return self._get_process().pid

    def stop(self, grace: float = 10.0) -> bool:
        """SIGTERM, wait, then SIGKILL; True when it ended by itself or did not run."""
        process = self.process
        by_itself = process is None or process.stop(grace)
        self._forget()
        return by_itself

    def kill(self) -> None:
        """kill -9 and wait; the record goes as well."""
        process = self.process
        if process is not None:
            process.kill()
        self._forget()

    def freeze(self) -> None:
        """SIGSTOP: the process and its sockets stay, nothing answers."""
        self._get_process().send(signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT after freeze()."""
        self._get_process().send(signal.SIGCONT)

    def restart(self) -> None:
        """stop() and start()."""
        self.stop()
        self.start()

    def wait_ready(self, condition: Callable[[], object], timeout: float, what: str, advice: str = "") -> None:
        """Wait for `condition`; a process that ended meanwhile or a time-out raises StepFailed with the log."""

        def is_ready() -> bool:
            if not self.is_running:
                raise StepFailed(f"{self.name} ended before {what}", log=self.log, advice=advice)
            return bool(condition())

        try:
            wait_until(is_ready, timeout, what)
        except TimeoutError as error:
            raise StepFailed(f"{self.name}: {error}", log=self.log, advice=advice) from error

    def _get_process(self) -> ProcessId:
        process = self.process
        if process is None:
            raise RuntimeError(f"{self.name} does not run")
        return process

    def _forget(self) -> None:
        if self._child is not None:
            self._child.wait(timeout=10 * PATIENCE)
        self._child = None
        self._process = None
        if self.record is not None:
            self.record.unlink(missing_ok=True)

    def _open_log(self) -> int:
        if self.log is None:
            return subprocess.DEVNULL
        self.log.parent.mkdir(parents=True, exist_ok=True)
        return os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)


class ServiceOwner:
    """What has one process of its own: kill, freeze and find it. ``start`` and ``stop`` are the owner's, who knows when it is ready."""

    _service: Service

    @property
    def pid(self) -> int:
        """Raises RuntimeError when it does not run."""
        return self._service.pid

    @property
    def is_running(self) -> bool:
        return self._service.is_running

    def start(self) -> None:
        """Start and wait until it is ready; raises StepFailed."""
        raise NotImplementedError

    def stop(self) -> None:
        """An orderly stop."""
        raise NotImplementedError

    def kill(self) -> None:
        """kill -9; what others run for it lives on."""
        self._service.kill()

    def restart(self) -> None:
        """stop() and start()."""
        self.stop()
        self.start()

    def freeze(self) -> None:
        """SIGSTOP: connections stay open, nothing answers."""
        self._service.freeze()

    def thaw(self) -> None:
        """SIGCONT after freeze()."""
        self._service.thaw()


def _find_start_ticks(pid: int, *, even_zombie: bool = False) -> int | None:
    """Start time of a process in clock ticks since boot, None when it is gone."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = stat.rpartition(")")[2].split()  # the name before it may contain spaces and brackets
    if fields[0] in "ZX" and not even_zombie:
        return None
    return int(fields[19])


def _get_boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
