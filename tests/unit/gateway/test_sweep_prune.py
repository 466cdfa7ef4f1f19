"""What was kept for long enough is forgotten, and nothing else."""

import pytest

from api_gateway.cast_slots import ImmediateCasts
from api_gateway.received import Received
from api_gateway.recorder import Recorder
from api_gateway.store import Store, events, outbox
from api_gateway.sweep import Sweep
from tests.fakes import FakeClock
from tests.unit.gateway.engine_parts import (
    AgentVoice,
    NotingCaster,
    add_action,
    get_action,
)


def test_what_was_published_long_ago_is_forgotten(sweep: Sweep, store: Store, clock: FakeClock) -> None:
    action = add_action(store, clock)
    clock.advance(31)
    sweep.step()
    with store.write() as c:
        (row,) = outbox.list_unsent(c)
        outbox.mark_sent(c, [row.sequence], at=clock.now())
    clock.advance(86_500)
    sweep.prune()
    with store.write() as c:
        assert outbox.prune(c, sent_before=clock.now()) == 0
    assert get_action(store, action).ending == "expired"


def list_kept(store: Store) -> list[int | None]:
    with store.read() as c:
        return [event.sequence for event in events.list_events(c, limit=10_000)]


def test_events_are_forgotten_after_their_time_except_those_of_an_open_action(
    sweep: Sweep, store: Store, caster: NotingCaster, clock: FakeClock, voice: AgentVoice
) -> None:
    action = add_action(store, clock, deadline=100 * 86_400)
    recorder = Recorder(store, caster, clock, slots=ImmediateCasts())
    recorder.record([voice.tell("server.levitated"), voice.tell_received(action), voice.tell("server.levitated"), Received(b"poison")])
    clock.advance(89 * 86_400)
    recorder.record([voice.tell("server.levitated")])
    sweep.prune()
    assert list_kept(store) == [1, 2, 3, 4]
    clock.advance(2 * 86_400)
    sweep.prune()
    assert list_kept(store) == [2, 4]
    recorder.record([voice.tell_ended(action)])
    clock.advance(601)
    sweep.prune()
    assert list_kept(store) == [4, 5]
    with store.read() as c:
        assert events.count_shelved(c) == 1, "dead letters are for people"


def test_much_to_forget_goes_in_batches_that_follow_each_other(
    sweep: Sweep, store: Store, caster: NotingCaster, clock: FakeClock, voice: AgentVoice, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api_gateway.sweep._BATCH", 10)
    Recorder(store, caster, clock, slots=ImmediateCasts()).record([voice.tell("server.levitated") for _ in range(25)])
    clock.advance(91 * 86_400)
    left = []
    for _ in range(3):
        sweep.prune()
        left.append(len(list_kept(store)))
    assert left == [15, 5, 0]


def test_events_may_be_kept_for_ever(store: Store, caster: NotingCaster, clock: FakeClock, voice: AgentVoice) -> None:
    sweep = Sweep(store, caster, clock, slots=ImmediateCasts(), events_keep=0)
    Recorder(store, caster, clock, slots=ImmediateCasts()).record([voice.tell("server.levitated")])
    clock.advance(36_500 * 86_400)
    sweep.prune()
    assert list_kept(store) == [1]
