"""How a fake server's next calls go wrong, or slow, or late: what a test or a load test asks of :class:`FakeHypervisor`.

A behaviour is called in place of one injection, collection, host dump, resumption or step of a watchdog's change, with the function that
does it (delivers the NMI, writes the file, plugs the device in; a collection reads after the behaviour returned); whether and when it
calls that, and what it raises, is the whole difference between the ways in which a real backend fails.
"""

import threading
from collections.abc import Callable

from compute_agent.drivers.errors import NothingSent, OutcomeUnknown

Deliver = Callable[[], None]
Behaviour = Callable[[Deliver], None]


def refuse(error: NothingSent) -> Behaviour:
    """The backend says no: nothing is delivered."""

    def behave(deliver: Deliver) -> None:
        raise error

    return behave


def lose_answer(reason: str = "no answer came") -> Behaviour:
    """Delivered, but the answer never comes."""

    def behave(deliver: Deliver) -> None:
        deliver()
        raise OutcomeUnknown(None, reason)

    return behave


def lose_request(reason: str = "no answer came") -> Behaviour:
    """Not delivered, and the driver cannot know it."""

    def behave(deliver: Deliver) -> None:
        raise OutcomeUnknown(None, reason)

    return behave


def break_down(error: BaseException, *, delivered: bool = False) -> Behaviour:
    """Fail with any exception, one that no driver declares say."""

    def behave(deliver: Deliver) -> None:
        if delivered:
            deliver()
        raise error

    return behave


def ignore_request(deliver: Deliver) -> None:
    """The backend says yes and does nothing: a device that the guest never lets go of, say."""


def go_away(lose_backend: Callable[[], None], *, delivered: bool = False) -> Behaviour:
    """The backend goes away right before it is done, or right after."""

    def behave(deliver: Deliver) -> None:
        if delivered:
            deliver()
        lose_backend()
        raise OutcomeUnknown(None, "the backend went away")

    return behave


def answer_late(pass_time: Callable[[], None]) -> Behaviour:
    """Delivered at once; the answer comes after ``pass_time`` returned (it moves a test's clock, say)."""

    def behave(deliver: Deliver) -> None:
        deliver()
        pass_time()

    return behave


class Hang:
    """Neither delivered nor answered until :meth:`release`; then both, or ``error`` instead."""

    def __init__(self, error: Exception | None = None) -> None:
        self.entered = threading.Event()
        self._released = threading.Event()
        self._error = error

    def release(self) -> None:
        self._released.set()

    def __call__(self, deliver: Deliver) -> None:
        self.entered.set()
        self._released.wait()
        if self._error is not None:
            raise self._error
        deliver()
