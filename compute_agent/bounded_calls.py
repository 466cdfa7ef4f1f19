"""Calls into a backend that may hang: never waited for longer than a limit, never more of them at a time than a fixed number.

A thread that is stuck in a call cannot be ended. So it is left to itself and counted, and what it was asked is not asked again while it is:
threads do not grow, however often somebody asks. One that has nothing to do waits a little for more before it ends.
"""

import queue
import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

_Result = TypeVar("_Result")


class NoAnswer(Exception):
    """The call has not come back within the limit, or could not be begun because too many others have not; the text says which."""


_IDLE_SECONDS = 5.0


class _Call(Generic[_Result]):
    def __init__(self, key: str, work: Callable[[], _Result]) -> None:
        self.key = key
        self.work = work
        self.began_at = time.monotonic()
        self.result: _Result | None = None
        self.error: BaseException | None = None
        self.is_done = threading.Event()


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
        self._begun: queue.SimpleQueue[_Call[_Result]] = queue.SimpleQueue()
        self._free = 0

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
                call = self._begin(_Call(key, work))
            elif self._is_stuck(call):
                raise NoAnswer(f"the backend has not answered an earlier question for {time.monotonic() - call.began_at:.0f} s")
        if not call.is_done.wait(max(0.0, end - time.monotonic())):
            raise NoAnswer(f"the backend did not answer within {self._limit:g} s")
        if call.error is not None:
            raise call.error
        return call.result  # type: ignore[return-value]  # done without an error

    def count_running(self) -> int:
        """How many calls have not come back."""
        with self._condition:
            return len(self._running)

    def _begin(self, call: _Call[_Result]) -> _Call[_Result]:
        if self._free:
            self._free -= 1
            self._begun.put(call)
        else:
            threading.Thread(target=self._run, args=(call,), name=f"{self._name}-{call.key}", daemon=True).start()
        self._running[call.key] = call
        return call

    def _run(self, first: _Call[_Result]) -> None:
        call: _Call[_Result] | None = first
        while call is not None:
            try:
                call.result = call.work()
            except BaseException as error:  # noqa: BLE001 -- raised again in whoever waits for it
                call.error = error
            with self._condition:
                del self._running[call.key]
                self._free += 1
                self._condition.notify()
            call.is_done.set()
            del call
            call = self._wait_for_call()

    def _wait_for_call(self) -> _Call[_Result] | None:
        """The next one for this thread; None when it is free and shall end."""
        try:
            return self._begun.get(timeout=_IDLE_SECONDS)
        except queue.Empty:
            with self._condition:
                if self._free:
                    self._free -= 1
                    return None
            return self._begun.get()  # it was given out in this moment

    def _is_stuck(self, call: _Call[_Result]) -> bool:
        return time.monotonic() - call.began_at >= self._limit

    def _are_all_stuck(self) -> bool:
        return all(self._is_stuck(call) for call in self._running.values())
