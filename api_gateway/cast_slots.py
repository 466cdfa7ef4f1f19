"""A bounded number of casts at the same time.

A cast blocks for as long as a broker's alarm lasts, so whoever decides to cast must not be the one who waits for it. Those who
decide get :class:`CastSlots` handed in: threads in the engine, none in a simulation.
"""

import logging
import queue
import threading
import time
from collections.abc import Callable
from typing import Protocol

LOG = logging.getLogger(__name__)


class CastSlots(Protocol):
    """Where casts run."""

    def count_free(self) -> int:
        """How many jobs would begin at once."""
        ...

    def start(self, job: Callable[[], None]) -> None:
        """Run ``job`` without waiting for it. Call it for at most ``count_free()`` jobs: a further one waits for a slot."""
        ...


class ImmediateCasts:
    """Runs each job to its end before ``start`` returns, in the caller's thread: for simulations and unit tests."""

    def count_free(self) -> int:
        return 1_000

    def start(self, job: Callable[[], None]) -> None:
        job()


class CastThreads:
    """Daemon threads, so that a cast which a broker in alarm does not let go cannot keep the process from ending.

    :param size: threads, and so casts at the same time
    :param on_free: called from a job's thread when the job is over and its slot counts as free again, not a moment earlier: whoever
        it wakes looks at once
    """

    def __init__(self, name: str, size: int, *, on_free: Callable[[], object] = lambda: None) -> None:
        self.name = name
        self._on_free = on_free
        self._size = size
        self._busy = 0
        self._lock = threading.Lock()
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._threads = [threading.Thread(target=self._run, name=f"{name}-{number}", daemon=True) for number in range(size)]
        for thread in self._threads:
            thread.start()

    def count_free(self) -> int:
        with self._lock:
            return max(self._size - self._busy, 0)

    def start(self, job: Callable[[], None]) -> None:
        with self._lock:
            self._busy += 1
        self._jobs.put(job)

    def stop(self) -> None:
        """Begin no job any more that is not begun or waiting; returns at once."""
        for _thread in self._threads:
            self._jobs.put(None)

    def join(self, timeout: float) -> int:
        """Wait for begun jobs after :meth:`stop`, for at most ``timeout`` seconds.

        :returns: how many threads are still held by a cast that does not return.
        """
        give_up_at = time.monotonic() + timeout
        for thread in self._threads:
            thread.join(max(give_up_at - time.monotonic(), 0.0))
        return sum(thread.is_alive() for thread in self._threads)

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            try:
                job()
            except Exception:  # the thread must live on for the next cast; jobs report what they expect themselves
                LOG.exception("a cast's own bookkeeping failed")
            finally:
                with self._lock:
                    self._busy -= 1
                self._on_free()
