"""What time alone brings about."""

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from api_gateway.cast_slots import ImmediateCasts
from api_gateway.dispatcher import Dispatcher
from api_gateway.echo import Echo
from api_gateway.received import Received
from api_gateway.recorder import Recorder
from api_gateway.store import Store, agents, gaps, hearing, outbox, servers
from api_gateway.sweep import Sweep
from compute_agent.contract.models import EventRange
from compute_agent.contract.notifications import Notification, encode
from compute_agent.contract.rpcapi import Unroutable
from tests.fakes import FakeClock
from tests.unit.gateway.engine_parts import (
    HOST,
    JOURNAL,
    SERVER,
    AgentVoice,
    HeldCasts,
    NotingCaster,
    add_action,
    add_agent,
    build_server,
    get_action,
    open_store,
)

GRACE = 2.0 + 20.0


class NotingPublisher:
    """Implements EchoPublisher."""

    def __init__(self) -> None:
        self.sent: list[Notification] = []

    def publish_heartbeat(self, heartbeat: Notification) -> None:
        self.sent.append(heartbeat)


def listen(store: Store, clock: FakeClock, seconds: float) -> None:
    """Time passes in which echoes come back."""
    while seconds > 0:
        clock.advance(min(seconds, 5.0))
        seconds -= 5.0
        with store.write() as c:
            hearing.note_heard(c, clock.now(), now=clock.now())


def list_outbox(store: Store) -> list[str]:
    with store.read() as c:
        return [row.event_type for row in outbox.list_unsent(c)]


def find_state(store: Store) -> str:
    with store.read() as c:
        agent = agents.find_agent(c, HOST)
    assert agent is not None
    return agent.state


def test_nothing_happens_before_the_deadline(sweep: Sweep, store: Store, clock: FakeClock) -> None:
    action = add_action(store, clock)
    clock.advance(29.9)
    sweep.step()
    assert get_action(store, action).ending is None


def test_what_was_never_cast_expires_at_its_deadline(sweep: Sweep, store: Store, clock: FakeClock) -> None:
    action = add_action(store, clock)
    clock.advance(30.1)
    sweep.step()
    row = get_action(store, action)
    assert (row.ending, row.code, row.decided_by) == ("expired", "deadline_passed", "gateway")
    assert list_outbox(store) == ["action.ended"]


def test_what_the_broker_always_returned_expires_at_its_deadline(
    sweep: Sweep, dispatcher: Dispatcher, store: Store, caster: NotingCaster, clock: FakeClock
) -> None:
    action = add_action(store, clock)
    caster.error = Unroutable("no queue")
    for _ in range(5):
        dispatcher.step()
        clock.advance(6.1)
    sweep.step()
    row = get_action(store, action)
    assert row.cast_count > 1
    assert row.ending == "expired"


def test_what_was_perhaps_delivered_is_given_up_only_after_the_grace_and_as_unknown(
    sweep: Sweep, dispatcher: Dispatcher, store: Store, clock: FakeClock
) -> None:
    action = add_action(store, clock)
    dispatcher.step()
    clock.advance(30 + GRACE - 0.1)
    sweep.step()
    assert get_action(store, action).ending is None
    clock.advance(0.2)
    sweep.step()
    row = get_action(store, action)
    assert (row.ending, row.code, row.decided_by) == ("unknown", "not_reported", "gateway")


def test_a_cast_in_flight_at_the_deadline_is_not_called_expired(store: Store, caster: NotingCaster, clock: FakeClock, sweep: Sweep) -> None:
    slots = HeldCasts()
    action = add_action(store, clock)
    Dispatcher(store, caster, clock, owner="one", slots=slots).step()
    clock.advance(31)
    sweep.step()
    assert get_action(store, action).ending is None


def test_what_the_agent_received_is_never_called_expired_by_the_gateway(
    sweep: Sweep, store: Store, caster: NotingCaster, clock: FakeClock, voice: AgentVoice
) -> None:
    """It may have come to the agent by another gateway's cast."""
    action = add_action(store, clock)
    Recorder(store, caster, clock, slots=ImmediateCasts()).record([voice.tell_received(action)])
    clock.advance(31)
    sweep.step()
    assert get_action(store, action).ending is None
    clock.advance(GRACE)
    sweep.step()
    assert get_action(store, action).ending == "unknown"


def test_no_action_stays_open_when_its_host_is_unknown(sweep: Sweep, store: Store, clock: FakeClock) -> None:
    action = add_action(store, clock, host="forgotten")
    clock.advance(31)
    sweep.step()
    assert get_action(store, action).ending == "expired"


def test_a_silent_agent_is_down_after_three_intervals_and_people_are_told(sweep: Sweep, store: Store, clock: FakeClock) -> None:
    with store.write() as c:
        hearing.note_heard(c, clock.now(), now=clock.now())
    listen(store, clock, 89)
    sweep.step()
    assert find_state(store) == "up"
    listen(store, clock, 2)
    sweep.step()
    sweep.step()
    assert find_state(store) == "down"
    assert list_outbox(store) == ["agent.down"]


def test_silence_while_the_gateway_was_deaf_counts_for_nobody(sweep: Sweep, store: Store, clock: FakeClock) -> None:
    """A broker in alarm keeps all agents' heartbeats back and our echoes with them, for as long as it lasts."""
    listen(store, clock, 60)
    clock.advance(3600)
    sweep.step()
    assert find_state(store) == "up"
    listen(store, clock, 94)
    sweep.step()
    assert find_state(store) == "up"
    listen(store, clock, 5)
    sweep.step()
    assert find_state(store) == "down"


def test_a_clock_that_is_put_back_proves_nothing_of_the_time_that_comes_again(sweep: Sweep, store: Store, clock: FakeClock) -> None:
    listen(store, clock, 60)
    clock.step(-3600)
    listen(store, clock, 60)
    with store.read() as c:
        assert hearing.find_hearing(c) == hearing.Hearing(clock.now() - timedelta(seconds=55), clock.now())


def test_a_recorder_that_lags_behind_makes_nobody_silent(sweep: Sweep, store: Store, clock: FakeClock) -> None:
    """An echo says up to when everything was heard, and that is the time when it was said."""
    said_at = clock.now()
    clock.advance(3600)
    for _ in range(20):
        with store.write() as c:
            hearing.note_heard(c, said_at, now=clock.now())
        said_at += timedelta(seconds=4)
    sweep.step()
    assert find_state(store) == "up"


def test_what_another_process_hears_is_known_to_the_sweep(
    sweep: Sweep, store: Store, caster: NotingCaster, clock: FakeClock, tmp_path: Path
) -> None:
    """``--only sweep`` beside ``--only recorder``: through the store alone."""
    recorder_store = open_store(tmp_path / "gateway.sqlite")
    recorder = Recorder(recorder_store, caster, clock, slots=ImmediateCasts())
    echoes = NotingPublisher()
    echo = Echo(recorder_store, echoes, clock, publisher_id="gateway:test:1")
    for _ in range(20):
        echo.step()
        recorder.record_heartbeats([Received(encode(echoes.sent.pop()))])
        clock.advance(5)
    sweep.step()
    recorder_store.dispose()
    assert find_state(store) == "down"


def test_an_echo_of_another_gateway_or_out_of_the_future_proves_nothing(store: Store, caster: NotingCaster, clock: FakeClock) -> None:
    recorder = Recorder(store, caster, clock, slots=ImmediateCasts())
    echoes = NotingPublisher()
    Echo(store, echoes, clock, publisher_id="gateway:test:1").step()
    payload = echoes.sent[0].payload
    later = (clock.now() + timedelta(days=1)).isoformat()
    for broken in ({"store_id": "another"}, {"said_at": "noon"}, {"said_at": None}, {"said_at": "2026-01-01"}):
        recorder.record_heartbeats([Received(encode(replace(echoes.sent[0], payload=payload | broken)))])
    with store.read() as c:
        assert hearing.find_hearing(c) is None
    recorder.record_heartbeats([Received(encode(replace(echoes.sent[0], payload=payload | {"said_at": later})))])
    with store.read() as c:
        assert hearing.find_hearing(c) == hearing.Hearing(clock.now(), clock.now())


def test_a_server_that_nobody_has_is_deleted_after_the_grace(
    sweep: Sweep, store: Store, caster: NotingCaster, clock: FakeClock, voice: AgentVoice
) -> None:
    recorder = Recorder(store, caster, clock, slots=ImmediateCasts())
    recorder.record_heartbeats([voice.beat(build_server(clock))])
    recorder.record_heartbeats([voice.beat()])
    clock.advance(599)
    sweep.expire_missing_servers()
    with store.read() as c:
        assert servers.find_server(c, SERVER) is not None
    clock.advance(2)
    sweep.expire_missing_servers()
    with store.read() as c:
        assert servers.find_server(c, SERVER) is None
        assert servers.find_server(c, SERVER, include_deleted=True) is not None


def make_gap(store: Store, caster: NotingCaster, clock: FakeClock, voice: AgentVoice) -> None:
    """Sequences 2 to 4 never came."""
    Recorder(store, caster, clock, slots=ImmediateCasts()).record([voice.tell("agent.up", server=None), voice.tell("x", sequence=5)])


def test_missing_events_are_asked_for_until_they_come(
    sweep: Sweep, store: Store, caster: NotingCaster, clock: FakeClock, voice: AgentVoice
) -> None:
    make_gap(store, caster, clock, voice)
    clock.advance(3)
    sweep.step()
    sweep.step()
    assert caster.resends == [(HOST, EventRange(epoch=JOURNAL, first=2, last=4))]
    clock.advance(11)
    sweep.step()
    assert len(caster.resends) == 2
    Recorder(store, caster, clock, slots=ImmediateCasts()).record([voice.tell("x", sequence=number) for number in (2, 3, 4)])
    clock.advance(600)
    add_agent(store, voice, clock)
    sweep.step()
    assert len(caster.resends) == 2
    assert "events.lost" not in list_outbox(store)


def test_a_message_that_is_only_late_is_not_asked_for(
    sweep: Sweep, store: Store, caster: NotingCaster, clock: FakeClock, voice: AgentVoice
) -> None:
    make_gap(store, caster, clock, voice)
    clock.advance(1)
    sweep.step()
    assert caster.resends == []


def test_what_does_not_come_after_many_tries_is_named_as_lost(
    sweep: Sweep, store: Store, caster: NotingCaster, clock: FakeClock, voice: AgentVoice
) -> None:
    make_gap(store, caster, clock, voice)
    for _ in range(20):
        clock.advance(301)
        add_agent(store, voice, clock)
        sweep.step()
    assert len(caster.resends) == 10
    with store.read() as c:
        (lost,) = outbox.list_unsent(c)
        assert gaps.list_gaps(c, now=clock.now()) == []
    assert lost.event_type == "events.lost"
    assert (lost.payload["lost_epoch"], lost.payload["first"], lost.payload["last"]) == (JOURNAL, 2, 4)


def test_no_event_is_given_up_while_the_broker_is_away(
    sweep: Sweep, store: Store, caster: NotingCaster, clock: FakeClock, voice: AgentVoice
) -> None:
    make_gap(store, caster, clock, voice)
    caster.error = OSError("broker away")
    for _ in range(20):
        clock.advance(301)
        add_agent(store, voice, clock)
        sweep.step()
    assert len(caster.resends) == 20
    with store.read() as c:
        assert [gap.tries for gap in gaps.list_gaps(c, now=clock.now() + timedelta(minutes=5))] == [0]
    assert "events.lost" not in list_outbox(store)


def test_a_host_that_is_down_is_not_asked_and_its_events_are_not_given_up(
    sweep: Sweep, store: Store, caster: NotingCaster, clock: FakeClock, voice: AgentVoice
) -> None:
    make_gap(store, caster, clock, voice)
    listen(store, clock, 100)
    sweep.mark_silent_agents()
    for _ in range(20):
        clock.advance(301)
        sweep.step()
    assert caster.resends == []
    assert list_outbox(store) == ["agent.down"]


def test_nobody_waits_behind_the_missing_events_of_hosts_that_are_down(
    sweep: Sweep, store: Store, caster: NotingCaster, clock: FakeClock, voice: AgentVoice, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api_gateway.sweep._BATCH", 2)
    for number in range(3):
        stopped = AgentVoice(clock, f"down-{number}", f"journal-down-{number}")
        make_gap(store, caster, clock, stopped)
        Recorder(store, caster, clock, slots=ImmediateCasts()).record_heartbeats([stopped.beat(stopping=True)])
    clock.advance(1)
    make_gap(store, caster, clock, voice)
    clock.advance(3)
    sweep.ask_for_missing_events()
    assert caster.resends == [(HOST, EventRange(epoch=JOURNAL, first=2, last=4))]


def test_events_of_a_journal_that_is_gone_are_named_as_lost(
    sweep: Sweep, store: Store, caster: NotingCaster, clock: FakeClock, voice: AgentVoice
) -> None:
    make_gap(store, caster, clock, voice)
    clock.advance(120)
    add_agent(store, AgentVoice(clock, HOST, "journal-2"), clock)
    sweep.ask_for_missing_events()
    assert caster.resends == []
    assert list_outbox(store) == ["events.lost"]


def test_a_broker_in_alarm_costs_no_tries(store: Store, caster: NotingCaster, clock: FakeClock, voice: AgentVoice) -> None:
    sweep = Sweep(store, caster, clock, slots=HeldCasts(0))
    make_gap(store, caster, clock, voice)
    for _ in range(20):
        clock.advance(301)
        add_agent(store, voice, clock)
        sweep.step()
    with store.read() as c:
        assert [gap.tries for gap in gaps.list_gaps(c, now=clock.now())] == [0]
