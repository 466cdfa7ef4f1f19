"""A worker's request threads stay together on one processor, and leave it together for one that has less to do."""

import os
import threading
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import pytest

from api_gateway.one_processor import KernelsProcessors, OneProcessor
from tests.fakes import FakeClock

OWN, ANOTHER, SERVERS = 11, 12, 13
"""Threads: the caller's, one that it started, and one of the HTTP server that never asked for a place."""


class FakeProcessors:
    """Implements Processors: three, of which this process may use two."""

    def __init__(self) -> None:
        self.allowed: Collection[int] = {0, 1}
        self.idle = {0: 10.0, 1: 10.0, 2: 10.0}
        self.places: dict[int, Collection[int]] = {SERVERS: {0, 1}}
        self.refuses = False

    def list_allowed(self) -> Collection[int]:
        return self.allowed

    def read_idle(self) -> Mapping[int, float]:
        if self.refuses:
            raise PermissionError
        return dict(self.idle)

    def list_threads(self) -> Iterable[int]:
        return list(self.places)

    def list_allowed_of(self, thread: int) -> Collection[int]:
        return self.places[thread]

    def keep(self, thread: int, processors: Collection[int]) -> None:
        if self.refuses:
            raise PermissionError
        self.places[thread or OWN] = processors


@pytest.fixture
def processors() -> FakeProcessors:
    return FakeProcessors()


def make(processors: FakeProcessors, clock: FakeClock) -> OneProcessor:
    """Begins on the first one; leaves whenever it may."""
    return OneProcessor(processors, monotonic=clock.monotonic, choose=lambda several: several[0])


def pass_a_second(processors: FakeProcessors, clock: FakeClock, *idle: float) -> None:
    clock.advance(1.0)
    processors.idle = {number: seconds + idle[number] for number, seconds in processors.idle.items()}


def test_a_request_has_its_thread_come_home(processors: FakeProcessors, clock: FakeClock) -> None:
    served: list[Any] = []
    serve = make(processors, clock).wrap(lambda environ, _start: served.append((environ, dict(processors.places))) or [])
    assert list(serve({"PATH_INFO": "/"}, lambda *_: lambda _: None)) == []
    assert served == [({"PATH_INFO": "/"}, {OWN: {0}, SERVERS: {0, 1}})]


def test_all_who_are_home_move_to_where_there_is_less_to_do(processors: FakeProcessors, clock: FakeClock) -> None:
    place = make(processors, clock)
    place.come_home()
    processors.places[ANOTHER] = {0}
    pass_a_second(processors, clock, 0.1, 0.5, 1.0)
    place.come_home()
    assert processors.places == {OWN: {1}, ANOTHER: {1}, SERVERS: {0, 1}}


def test_who_comes_later_comes_to_the_new_home(processors: FakeProcessors, clock: FakeClock) -> None:
    place = make(processors, clock)
    pass_a_second(processors, clock, 0.0, 1.0, 1.0)
    place.come_home()
    del processors.places[OWN]
    thread = threading.Thread(target=place.come_home)
    thread.start()
    thread.join()
    assert processors.places[OWN] == {1}


@pytest.mark.parametrize("idle", [(0.0, 0.1, 1.0), (0.9, 1.0, 1.0), (0.5, 0.0, 1.0)])
def test_nobody_moves_for_little(processors: FakeProcessors, clock: FakeClock, idle: tuple[float, ...]) -> None:
    place = make(processors, clock)
    place.come_home()
    pass_a_second(processors, clock, *idle)
    place.come_home()
    assert processors.places == {OWN: {0}, SERVERS: {0, 1}}


def test_what_needs_no_interpreter_may_run_anywhere(processors: FakeProcessors, clock: FakeClock) -> None:
    place = make(processors, clock)
    place.come_home()
    with place.anywhere():
        assert processors.places[OWN] == {0, 1}
        pass_a_second(processors, clock, 0.0, 1.0, 1.0)
    assert processors.places[OWN] == {1}


def test_with_one_processor_there_is_nothing_to_do(processors: FakeProcessors, clock: FakeClock) -> None:
    processors.allowed = {1}

    def app(*_: object) -> list[bytes]:
        return []

    assert make(processors, clock).wrap(app) is app


def test_where_it_is_not_allowed_requests_are_served_all_the_same(processors: FakeProcessors, clock: FakeClock) -> None:
    processors.refuses = True
    place = make(processors, clock)
    for _ in range(2):
        place.come_home()
        with place.anywhere():
            clock.advance(1.0)
    assert processors.places == {SERVERS: {0, 1}}


def test_the_kernel_is_asked_in_its_words() -> None:
    processors = KernelsProcessors()
    allowed = processors.list_allowed()
    assert set(allowed) <= set(processors.read_idle())
    assert os.getpid() in processors.list_threads()

    def move() -> None:
        processors.keep(0, {min(allowed)})
        places.append(processors.list_allowed_of(threading.get_native_id()))

    places: list[Collection[int]] = []
    thread = threading.Thread(target=move)
    thread.start()
    thread.join()
    assert places == [{min(allowed)}]
    assert processors.list_allowed() == allowed
