"""The dead-letter shelf has an end, and what anybody can cause is told once a minute: no account fills the database's disk or the log."""

import logging
from collections.abc import Callable
from dataclasses import replace

import pytest
from oslo_config import cfg
from sqlalchemy import delete, select

from api_gateway.cast_slots import ImmediateCasts
from api_gateway.config import load_config
from api_gateway.received import Received
from api_gateway.recorder import Recorder
from api_gateway.senders import SenderCheck
from api_gateway.shelf import LOOKED_EVERY_SECONDS, DeadLetter, Shelf, ShelfLimits
from api_gateway.store import Store, events
from api_gateway.store.tables import dead_letters
from api_gateway.summary import Summary
from tests.fakes import FakeClock
from tests.unit.gateway.engine_parts import AgentVoice, NotingCaster

MIB = 2**20
SAID = "'server.sank': account 'agent.host-2' spoke for host 'host-1'"


def build_recorder(store: Store, clock: FakeClock, *, messages: int = 3, size: int = MIB) -> Recorder:
    senders = SenderCheck({"gateway"}, store.store_id)
    return Recorder(store, NotingCaster(), clock, slots=ImmediateCasts(), senders=senders, shelf=ShelfLimits(messages, size))


def put(store: Store, shelf: Shelf, clock: FakeClock, *letters: DeadLetter) -> None:
    with store.write() as c:
        shelf.put(c, letters, now=clock.now())


def count(store: Store) -> tuple[int, int]:
    """What lies on the shelf, and what it had no room for."""
    with store.write() as c:
        return events.count_shelved(c), events.count_refused(c, 0)


def list_lines(caplog: pytest.LogCaptureFixture, word: str) -> list[str]:
    return [record.getMessage() for record in caplog.records if word in record.getMessage()]


def test_a_full_shelf_counts_what_it_has_no_room_for_and_keeps_nothing_else_away(
    store: Store, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    recorder, voice = build_recorder(store, clock), AgentVoice(clock)
    with caplog.at_level(logging.ERROR):
        for _ in range(5):
            recorder.record([Received(b"?"), voice.tell("server.levitated"), replace(voice.tell("server.sank"), user="agent.host-2")])
    assert count(store) == (3, 7)
    with store.read() as c:
        assert [event.event_type for event in events.list_events(c)] == ["server.levitated"] * 5
    assert len(list_lines(caplog, "goes to the dead-letter shelf")) == 3
    assert list_lines(caplog, "that are lost")[0].endswith("1 since 2026-01-01T00:00:00+00:00, the last: of crashcart.recorder: " + SAID)
    assert len(list_lines(caplog, "that are lost")) == 1
    caplog.clear()
    clock.advance(60)
    recorder.record_heartbeats([])
    assert [line.split(": ")[1].split()[0] for line in list_lines(caplog, "that are lost")] == ["6"], "the rest, once a minute"


@pytest.mark.parametrize(
    ("sizes", "kept"),
    [([400, 400, 400, 1], 2), ([1000, 20], 1), ([1001, 20], 0), ([990, 10, 1], 2), ([2 * MIB], 0)],
    ids=str,
)
def test_the_shelf_ends_by_bytes_as_well(store: Store, clock: FakeClock, sizes: list[int], kept: int) -> None:
    """What is behind something that found no room may find some at the next look."""
    shelf = Shelf(ShelfLimits(100, 1000), clock, Summary(clock))
    for size in sizes:
        put(store, shelf, clock, DeadLetter(b"x" * size, "", "q"))
    assert count(store) == (kept, len(sizes) - kept)


def test_a_reason_is_cut_and_counts(store: Store, clock: FakeClock) -> None:
    shelf = Shelf(ShelfLimits(100, 4500), clock, Summary(clock))
    put(store, shelf, clock, *[DeadLetter(b"?", "why " * 100_000, "q")] * 3)
    assert count(store) == (2, 1)
    with store.read() as c:
        assert {len(reason) for reason in c.execute(select(dead_letters.c.reason)).scalars()} == {2000}


def test_a_shelf_that_somebody_emptied_takes_again(store: Store, clock: FakeClock) -> None:
    shelf, letter = Shelf(ShelfLimits(1, MIB), clock, Summary(clock)), DeadLetter(b"?", "no JSON", "q")
    put(store, shelf, clock, letter, letter)
    with store.write() as c:
        c.execute(delete(dead_letters))
    put(store, shelf, clock, letter)
    assert count(store) == (0, 2), "it is not measured for each message that it refuses"
    clock.advance(LOOKED_EVERY_SECONDS)
    put(store, shelf, clock, letter, letter)
    assert count(store) == (1, 3)


def test_what_is_undone_is_not_counted(store: Store, clock: FakeClock) -> None:
    shelf = Shelf(ShelfLimits(1, MIB), clock, Summary(clock))
    letter = DeadLetter(b"?", "no JSON", "q")

    def fail() -> None:
        with store.write() as c:
            shelf.put(c, [letter, letter], now=clock.now())
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert count(store) == (0, 0)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda beat: Received(b"?"),
        lambda beat: replace(beat, user="agent.host-2"),
        lambda beat: AgentVoice(FakeClock()).tell("server.levitated"),
        lambda beat: AgentVoice(FakeClock()).tell("agent.heartbeat", number="a\nb"),
    ],
    ids=["unreadable", "forged", "no heartbeat", "invalid"],
)
def test_dropped_heartbeats_are_told_of_once_a_minute(
    store: Store, clock: FakeClock, spoil: Callable[[Received], Received], caplog: pytest.LogCaptureFixture
) -> None:
    recorder, voice = build_recorder(store, clock), AgentVoice(clock)
    for _ in range(100):
        recorder.record_heartbeats([spoil(voice.beat())])
        clock.advance(1)
    lines = list_lines(caplog, "heartbeats dropped as")
    assert [line.split(": ")[1].split(" since")[0] for line in lines] == ["1", "59"]
    assert all("\n" not in line for line in lines)


def test_what_cannot_be_taken_in_is_told_with_its_traceback_once_a_minute(
    store: Store, clock: FakeClock, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError("a fault of ours")

    monkeypatch.setattr(events, "record_events", fail)
    build_recorder(store, clock).record([AgentVoice(clock).tell("server.levitated") for _ in range(8)])
    (record,) = [record for record in caplog.records if "cannot be taken in" in record.getMessage()]
    assert record.exc_info is not None
    assert count(store) == (3, 5)


def test_the_shelf_takes_ten_thousand_messages_and_64_mib_unless_told_otherwise() -> None:
    conf: cfg.ConfigOpts = load_config([])
    assert ShelfLimits(conf.recorder.shelf_max_messages, conf.recorder.shelf_max_bytes) == ShelfLimits() == ShelfLimits(10_000, 64 * MIB)
