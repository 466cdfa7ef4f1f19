"""Long polls: wait in the request's own thread until something is known, without keeping the others from being answered.

Only so many requests wait at a time; one more is answered at once with what is known. While waiting a thread asks for the store's change
hint (microseconds) every millisecond at first, less often later, and reads again only when somebody committed.
"""

import threading
from collections.abc import Callable
from typing import Protocol, TypeVar

from api_gateway.store import Store
from compute_agent.contract.clock import Clock

T = TypeVar("T")

_STEPS = ((0.1, 0.001), (2.0, 0.003), (float("inf"), 0.02))
"""(until, step) in seconds: most actions end within milliseconds; who waits longer than two seconds waits for a guest, not for us."""


class Stopping(Protocol):
    """Says when this process stops; ``threading.Event`` is one."""

    def wait(self, timeout: float) -> bool:
        """Wait at most ``timeout`` seconds; True when the process stops."""
        ...


class LongPolls:
    """All waiting requests of one worker process.

    :param limit: how many may wait at a time; keep it below the number of the worker's threads
    :param stopping: lets all that wait go
    """

    def __init__(self, store: Store, clock: Clock, limit: int, stopping: Stopping) -> None:
        self._store = store
        self._clock = clock
        self._places = threading.BoundedSemaphore(limit) if limit > 0 else None
        self._stopping = stopping

    def wait_until(self, enough: Callable[[T], bool], read: Callable[[], T], timeout: float) -> T:
        """Read until it is ``enough`` or ``timeout`` seconds have passed; the last thing read either way.

        :raises StoreBusy, StoreUnavailable: as ``read`` does.
        """
        deadline = self._clock.monotonic() + timeout
        seen = self._store.data_version() if timeout > 0 else 0
        found = read()
        if timeout <= 0 or enough(found) or self._places is None or not self._places.acquire(blocking=False):
            return found
        try:
            return self._wait(enough, read, deadline, seen, found)
        finally:
            self._places.release()

    def _wait(self, enough: Callable[[T], bool], read: Callable[[], T], deadline: float, seen: int, found: T) -> T:
        begun = self._clock.monotonic()
        while (now := self._clock.monotonic()) < deadline:
            step = next(step for until, step in _STEPS if now - begun < until)
            if self._stopping.wait(min(step, deadline - now)):
                break
            version = self._store.data_version()
            if version != seen:
                seen, found = version, read()
                if enough(found):
                    break
        return found
