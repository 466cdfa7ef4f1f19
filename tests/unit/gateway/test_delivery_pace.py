"""When the engine looks again for what is to be delivered."""

import threading

import pytest

from api_gateway.deliveries import pace
from api_gateway.deliveries.pace import Pace

PATIENCE = 10.0
LONG = 3600.0


@pytest.fixture(autouse=True)
def _long_intervals(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that only what a test does ends a wait."""
    monkeypatch.setattr(pace, "_INTERVAL", 0.0)
    monkeypatch.setattr(pace, "_IDLE_INTERVAL", LONG)


def wait_behind(waiting: Pace) -> threading.Thread:
    thread = threading.Thread(target=waiting.wait, kwargs={"is_behind": False}, daemon=True)
    thread.start()
    return thread


@pytest.mark.parametrize("tell", [Pace.note_news, Pace.hurry])
def test_who_waits_for_news_goes_on_when_there_are_some(tell: object) -> None:
    waiting = Pace(is_told=True)
    thread = wait_behind(waiting)
    assert callable(tell)
    tell(waiting)
    thread.join(PATIENCE)
    assert not thread.is_alive()


def test_what_came_during_a_look_is_looked_at_next() -> None:
    waiting = Pace(is_told=True)
    waiting.begin_look()
    waiting.note_news()
    waiting.wait(is_behind=False)


def test_who_left_something_does_not_wait_for_news() -> None:
    Pace(is_told=True).wait(is_behind=True)


def test_who_is_told_of_nothing_looks_by_itself() -> None:
    Pace(is_told=False).wait(is_behind=False)


def test_a_free_slot_ends_the_shortest_wait_too(monkeypatch: pytest.MonkeyPatch) -> None:
    waiting = Pace(is_told=True)
    monkeypatch.setattr(pace, "_INTERVAL", LONG)
    waiting.hurry()
    waiting.wait(is_behind=False)
