"""The gateway's database is out of order: no room on its disk, commits whose answer is lost, a frozen process that holds the writer's lock.

What all processes of the gateway share of it; times in virtual seconds.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from api_gateway.store import StoreBusy, StoreUnavailable
from tests.simulation.kernel import Event, Kernel, Process

BUSY_TIMEOUT = 5.0
"""Seconds that a transaction waits for the writer's lock."""


class Database:
    """``usable_since``: when the last outage that keeps an engine from its work was over; never earlier than now while one lasts."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._full_until = 0.0
        self._silent_until = 0.0
        self._holder: Process | None = None
        self._released = Event(kernel)
        self._usable_since = 0.0

    @property
    def usable_since(self) -> float:
        return self._kernel.time if self._holder is not None else max(self._usable_since, min(self._full_until, self._kernel.time))

    # What happens to it

    def fill(self, seconds: float) -> None:
        """Nothing more goes onto its disk."""
        self._full_until = max(self._full_until, self._kernel.time + seconds)

    def silence(self, seconds: float) -> None:
        """It commits and does not say so: the connection breaks at that moment."""
        self._silent_until = max(self._silent_until, self._kernel.time + seconds)

    def heal(self) -> None:
        self._full_until = min(self._full_until, self._kernel.time)
        self._silent_until = 0.0

    @contextmanager
    def held_by(self, process: Process) -> Iterator[None]:
        """That one is frozen inside its transaction."""
        self._holder = process
        try:
            yield
        finally:
            self._holder = None
            self._usable_since = self._kernel.time
            self._released.set()
            self._released.clear()

    # What a transaction meets

    def enter(self, process: Process) -> None:
        """:raises StoreBusy: somebody holds the lock for too long."""
        end = self._kernel.time + BUSY_TIMEOUT
        while self._holder is not None and self._holder.alive:
            if self._kernel.time >= end:
                raise StoreBusy(f"another process has been writing for {BUSY_TIMEOUT} s")
            self._released.wait(end - self._kernel.time)
            process.check()

    def check_room(self) -> None:
        """:raises StoreUnavailable: before the commit."""
        if self._kernel.time < self._full_until:
            raise StoreUnavailable("database or disk is full")

    def answer(self) -> None:
        """:raises StoreUnavailable: after the commit."""
        if self._kernel.time < self._silent_until:
            raise StoreUnavailable("the connection was lost at the commit")
