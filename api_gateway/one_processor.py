"""Keeps a worker's request threads on one processor at a time.

They take turns at the interpreter, so that a second processor lets no two of them run at once. But wherever one of them waits for the disk
or for a lock, the kernel wakes the next one on the other processor, which costs both of them a while and finds cold caches: a third of a
request's time. They move together, and only when another processor had less to do.
"""

import os
import random
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

_LOOK_EVERY_SECONDS = 1.0
_WORTH_A_MOVE = 0.2
"""The part of the time since the last look by which another processor must have been idle longer."""
_IDLE_FIELDS = slice(4, 6)
"""Of a processor's line in /proc/stat, behind its name: idle, and idle while a disk is busy."""


class Processors(Protocol):
    """The kernel's word on them."""

    def list_allowed(self) -> Collection[int]:
        """Those that this process may run on."""
        ...

    def read_idle(self) -> Mapping[int, float]:
        """Seconds that each of the machine's processors had nothing to do so far.

        :raises OSError: it does not say.
        """
        ...

    def list_threads(self) -> Iterable[int]:
        """Of this process."""
        ...

    def list_allowed_of(self, thread: int) -> Collection[int]: ...

    def keep(self, thread: int, processors: Collection[int]) -> None:
        """Let a thread, 0: the caller's own, run on these only.

        :raises OSError: it may not be kept, or has ended.
        """
        ...


class KernelsProcessors:
    """Implements Processors."""

    def list_allowed(self) -> Collection[int]:
        return os.sched_getaffinity(0)

    def read_idle(self) -> Mapping[int, float]:
        ticks = os.sysconf("SC_CLK_TCK")
        lines = (line.split() for line in Path("/proc/stat").read_text().splitlines())
        return {int(line[0][3:]): sum(map(int, line[_IDLE_FIELDS])) / ticks for line in lines if line[0][:3] == "cpu" and line[0] != "cpu"}

    def list_threads(self) -> Iterable[int]:
        return map(int, os.listdir("/proc/self/task"))

    def list_allowed_of(self, thread: int) -> Collection[int]:
        return os.sched_getaffinity(thread)

    def keep(self, thread: int, processors: Collection[int]) -> None:
        os.sched_setaffinity(thread, processors)


class OneProcessor:
    """Of one process, made in it.

    :param choose: one of several
    """

    def __init__(
        self,
        processors: Processors,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        choose: Callable[[list[int]], int] = random.choice,
    ) -> None:
        self._processors = processors
        self._monotonic = monotonic
        self._choose = choose
        self._allowed = frozenset(processors.list_allowed())
        self._home = choose(sorted(self._allowed))
        self._own = threading.local()
        self._looking = threading.Lock()
        self._looked = monotonic(), self._read_idle()

    def wrap(self, app: WSGIApplication) -> WSGIApplication:
        """The same application, each of whose requests has its thread come home."""
        if len(self._allowed) < 2:
            return app

        def serve(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
            self.come_home()
            return app(environ, start_response)

        return serve

    def come_home(self) -> None:
        """The caller's thread, and those that it starts from here on."""
        while not getattr(self._own, "is_home", False):
            home = self._home
            with suppress(OSError):  # where the kernel does not allow it, all goes on as it would without us
                self._processors.keep(0, {home})
            self._own.is_home = home == self._home  # else the others moved meanwhile
        if self._monotonic() - self._looked[0] >= _LOOK_EVERY_SECONDS and self._looking.acquire(blocking=False):
            try:
                self._look()
            finally:
                self._looking.release()

    @contextmanager
    def anywhere(self) -> Iterator[None]:
        """For what takes a processor for long and needs no interpreter: the others must not share theirs with it."""
        with suppress(OSError):
            self._processors.keep(0, self._allowed)
        self._own.is_home = False
        try:
            yield
        finally:
            self.come_home()

    def _look(self) -> None:
        (before, idle_before), now, idle = self._looked, self._monotonic(), self._read_idle()
        self._looked = now, idle
        free = {processor: seconds - idle_before.get(processor, seconds) for processor, seconds in idle.items()}
        worth = free.get(self._home, 0.0) + _WORTH_A_MOVE * (now - before)
        better = [processor for processor in sorted(free) if free[processor] > worth]
        # Others may look at the same moment and find the same: whoever stays by chance keeps them from moving to and fro together.
        if better:
            self._move(self._choose([*better, self._home]))

    def _read_idle(self) -> dict[int, float]:
        try:
            idle = self._processors.read_idle()
        except OSError:
            return {}
        return {processor: seconds for processor, seconds in idle.items() if processor in self._allowed}

    def _move(self, home: int) -> None:
        """With all that one of them has started: the server's own threads have never been home and stay where they like."""
        self._home = home
        for thread in self._processors.list_threads():
            with suppress(OSError):
                if frozenset(self._processors.list_allowed_of(thread)) != self._allowed:
                    self._processors.keep(thread, {home})
