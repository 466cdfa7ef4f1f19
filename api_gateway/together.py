"""Let what several threads ask for at the same time be done in one go, by one of them."""

import threading
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

Q = TypeVar("Q")
A = TypeVar("A")


class Together(Generic[Q, A]):
    """One go at a time: whoever asks while one lasts waits for the next, which one of those who wait makes for all of them.

    Nobody waits for company: who comes alone is served alone and at once. So a single caller loses nothing, and the more ask, the more of
    them share what a go costs. There are no threads but the callers'.
    """

    def __init__(self, answer: Callable[[Sequence[Q]], Sequence[A]], *, most: int) -> None:
        """
        :param answer: has one answer to each question, in their order; it is never called twice at a time. What it raises, all get.
        :param most: questions of one go
        """
        self._answer = answer
        self._most = most
        self._lock = threading.Lock()
        self._waiting: list[_Turn[Q, A]] = []
        self._is_going = False

    def ask(self, question: Q) -> A:
        """Its answer, from this thread or another one.

        :raises Exception: what ``answer`` raised.
        """
        turn: _Turn[Q, A] = _Turn(question)
        with self._lock:
            self._waiting.append(turn)
            turn.leads = not self._is_going
            self._is_going = True
        if not turn.leads:
            turn.wait()
        if turn.leads:
            self._go()
        if turn.error is not None:
            raise turn.error
        return turn.answers[0]

    def count_waiting(self) -> int:
        """How many questions wait for the next go."""
        with self._lock:
            return len(self._waiting)

    def _go(self) -> None:
        """The first of those who wait is the caller's own turn."""
        with self._lock:
            going, self._waiting = self._waiting[: self._most], self._waiting[self._most :]
        try:
            for turn, answer in zip(going, self._answer([turn.question for turn in going]), strict=True):
                turn.answers.append(answer)
        except BaseException as error:  # noqa: BLE001 -- whatever it is, nobody may wait for it for ever: all who asked raise it
            for turn in going:
                turn.error = error
        finally:
            self._appoint_next()
            for turn in going[1:]:
                turn.wake()

    def _appoint_next(self) -> None:
        with self._lock:
            self._is_going = bool(self._waiting)
            if self._is_going:
                self._waiting[0].leads = True
                self._waiting[0].wake()


class _Turn(Generic[Q, A]):
    """One question, until it is answered or its thread is to lead."""

    __slots__ = ("_woken", "answers", "error", "leads", "question")

    def __init__(self, question: Q) -> None:
        self.question = question
        self.answers: list[A] = []
        self.error: BaseException | None = None
        self.leads = False
        self._woken = threading.Lock()  # a bare lock: an Event costs several times as much, and there is one of these for each request
        self._woken.acquire()

    def wait(self) -> None:
        self._woken.acquire()

    def wake(self) -> None:
        self._woken.release()
