"""Calls into a backend that may hang: never waited for longer than a limit, never more of them at a time than a fixed number.

A thread that is stuck in a call cannot be ended. So it is left to itself and counted, and what it was asked is not asked again while it is:
threads do not grow, however often somebody asks.
"""

import queue
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Generic, TypeVar

_Result = TypeVar("_Result")


class NoAnswer(Exception):
    """The call has not come back within the limit, or could not be begun because too many others have not; the text says which."""


class _Call(Generic[_Result]):
    def __init__(self, began_at: float) -> None:
        self.began_at = began_at
        self.result: _Result | None = None
        self.error: BaseException | None = None
        self.is_done = False
        self._waiting: list[threading.Lock] = []

    def make_waiter(self) -> threading.Lock:
        """To be acquired: it can be when the call is done. A bare lock for each, so that nobody is woken by somebody else's call."""
        waiter = threading.Lock()
        waiter.acquire()
        self._waiting.append(waiter)
        return waiter

    def finish(self) -> None:
        self.is_done = True
        for waiter in self._waiting:
            waiter.release()


class BoundedCalls(Generic[_Result]):
    """At most ``threads`` calls at a time; each caller waits ``limit`` seconds at most. Thread-safe.

    One key is never called twice at a time: who asks while a call is under way gets its result.
    """

    def __init__(self, name: str, *, threads: int, limit: float) -> None:
        self._name = name
        self._threads = threads
        self._limit = limit
        self._condition = threading.Condition()
        self._running: dict[str, _Call[_Result]] = {}
        self._work: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._started = self._free = 0

    def call(self, key: str, work: Callable[[], _Result]) -> _Result:
        """The result of ``work``, done in another thread.

        :raises NoAnswer: not within the limit.
        :raises BaseException: whatever ``work`` raised.
        """
        end = time.monotonic() + self._limit
        with self._condition:
            call = self._running.get(key)
            while call is None and len(self._running) >= self._threads:
                left = end - time.monotonic()
                if left <= 0 or self._are_all_stuck():
                    raise NoAnswer(f"all {self._threads} threads for this wait for the backend")
                self._condition.wait(left)
                call = self._running.get(key)
            if call is None:
                call = self._begin(key, work)
            elif self._is_stuck(call):
                raise NoAnswer(f"the backend has not answered an earlier question for {time.monotonic() - call.began_at:.0f} s")
            waiter = call.make_waiter()
        waiter.acquire(timeout=max(0.0, end - time.monotonic()))
        if not call.is_done:
            raise NoAnswer(f"the backend did not answer within {self._limit:g} s")
        if call.error is not None:
            raise call.error
        return call.result  # type: ignore[return-value]  # done without an error

    def count_running(self) -> int:
        """How many calls have not come back."""
        with self._condition:
            return len(self._running)

    def _begin(self, key: str, work: Callable[[], _Result]) -> _Call[_Result]:
        call: _Call[_Result] = _Call(time.monotonic())
        self._running[key] = call
        self._work.put(partial(self._run, key, call, work))
        if self._free:
            self._free -= 1
        else:
            self._started += 1
            threading.Thread(target=self._serve, name=f"{self._name}-{self._started}", daemon=True).start()
        return call

    def _serve(self) -> None:
        """A thread of one's own for each call would cost more than most calls do."""
        while True:
            self._work.get()()

    def _run(self, key: str, call: _Call[_Result], work: Callable[[], _Result]) -> None:
        try:
            call.result = work()
        except BaseException as error:  # noqa: BLE001 -- raised again in whoever waits for it
            call.error = error
        with self._condition:
            del self._running[key]
            self._free += 1
            self._condition.notify_all()
            call.finish()

    def _is_stuck(self, call: _Call[_Result]) -> bool:
        return time.monotonic() - call.began_at >= self._limit

    def _are_all_stuck(self) -> bool:
        return all(self._is_stuck(call) for call in self._running.values())
