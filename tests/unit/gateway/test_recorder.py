"""The recorder's steps: each event once, applied with its record; what cannot be taken in stops nobody."""

import logging
from pathlib import Path

import pytest

from api_gateway import recorder as recorder_module
from api_gateway.cast_slots import ImmediateCasts
from api_gateway.received import Received
from api_gateway.recorder import Recorder
from api_gateway.store import Store, StoreBusy, StoreRejected, agents, endings, events, gaps, outbox, reports, servers
from compute_agent.contract.errors import Code, Ending
from compute_agent.contract.models import PowerState
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


@pytest.fixture
def voice(clock: FakeClock) -> AgentVoice:
    return AgentVoice(clock)


@pytest.fixture
def recorder(store: Store, caster: NotingCaster, clock: FakeClock) -> Recorder:
    return Recorder(store, caster, clock, slots=ImmediateCasts())


def list_types(store: Store) -> list[str]:
    with store.read() as c:
        return [event.event_type for event in events.list_events(c)]


def count_shelved(store: Store) -> int:
    with store.read() as c:
        return events.count_shelved(c)


def test_an_action_goes_from_received_to_its_observation(recorder: Recorder, store: Store, clock: FakeClock, voice: AgentVoice) -> None:
    action = add_action(store, clock)
    recorder.record(
        [
            voice.tell_received(action),
            voice.tell("action.started", action_id=action.id, kind=action.kind),
            voice.tell_ended(action),
            voice.tell(
                "action.observed",
                action_id=action.id,
                kind=action.kind,
                observation="guest_panicked",
                final=True,
                observed_at=clock.now().isoformat(),
                text="The guest panicked.",
            ),
        ]
    )
    row = get_action(store, action)
    assert (row.state, row.ending, row.code, row.decided_by) == ("ended", "succeeded", "signal_delivered", "agent")
    assert (row.observation, row.observation_final, row.received_at) == ("guest_panicked", True, clock.now())


def test_what_comes_twice_is_recorded_once(recorder: Recorder, store: Store, clock: FakeClock, voice: AgentVoice) -> None:
    action = add_action(store, clock)
    batch = [voice.tell_received(action), voice.tell_ended(action)]
    recorder.record(batch)
    recorder.record([*batch, *batch])
    assert list_types(store) == ["action.received", "action.ended"]


def test_an_ending_out_of_the_agents_journal_replaces_the_gateways_unknown_once(
    recorder: Recorder, store: Store, clock: FakeClock, voice: AgentVoice
) -> None:
    add_agent(store, voice, clock)
    action = add_action(store, clock)
    with store.write() as c:
        endings.end_by_gateway(c, action.id, ending=Ending.UNKNOWN, code=Code.NOT_REPORTED, reason="No word.", at=clock.now())
    clock.advance(5)
    late = voice.tell_ended(action)
    recorder.record([late])
    recorder.record([late])
    row = get_action(store, action)
    assert (row.ending, row.revised_at) == ("succeeded", clock.now())
    with store.read() as c:
        assert [event.event_type for event in outbox.list_unsent(c)] == ["action.ended", "action.revised"]


def test_an_action_that_only_the_agent_knows_is_made_from_its_events_in_any_order(
    recorder: Recorder, store: Store, clock: FakeClock, voice: AgentVoice, tmp_path: Path
) -> None:
    elsewhere = open_store(tmp_path / "elsewhere.sqlite")
    action = add_action(elsewhere, clock)
    elsewhere.dispose()
    received, ended = voice.tell_received(action), voice.tell_ended(action)
    recorder.record([ended])
    recorder.record([received])
    assert get_action(store, action).ending == "succeeded"


def test_unknown_types_and_words_are_kept_as_they_came(recorder: Recorder, store: Store, clock: FakeClock, voice: AgentVoice) -> None:
    action = add_action(store, clock)
    recorder.record(
        [
            voice.tell("server.levitated", height=3),
            voice.tell_ended(action, ending="failed", code="a_code_of_tomorrow"),
        ]
    )
    assert list_types(store) == ["server.levitated", "action.ended"]
    assert get_action(store, action).code == "a_code_of_tomorrow"
    assert count_shelved(store) == 0


@pytest.mark.parametrize(
    "missing", [{"ending": "evaporated"}, {"ending": None}, {"code": 7}, {"reason": ["no", "text"]}, {"occurred_at": "yesterday"}]
)
def test_an_event_that_says_too_little_is_recorded_and_not_applied(
    recorder: Recorder, store: Store, clock: FakeClock, voice: AgentVoice, missing: dict[str, object]
) -> None:
    action = add_action(store, clock)
    body = {"action_id": action.id, "kind": action.kind, "ending": "succeeded", "code": "signal_delivered", "reason": "So it went."}
    recorder.record([voice.tell("action.ended", **(body | missing))])
    assert list_types(store) == ["action.ended"]
    assert get_action(store, action).ending is None


@pytest.mark.parametrize(
    "body", [b"", b"no json", b"[]", b'{"oslo.message": 3}', b"\xff\xfe", b'{"oslo.version": "2.0", "oslo.message": "{}"}']
)
def test_what_cannot_be_read_goes_to_the_dead_letter_shelf_and_stops_nobody(
    recorder: Recorder, store: Store, clock: FakeClock, voice: AgentVoice, body: bytes
) -> None:
    action = add_action(store, clock)
    recorder.record([voice.tell_received(action), Received(body), voice.tell_ended(action)])
    assert list_types(store) == ["action.received", "action.ended"]
    assert count_shelved(store) == 1


def test_a_batch_that_the_store_rejects_is_halved_down_to_the_one_bad_message(
    recorder: Recorder, store: Store, voice: AgentVoice, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Order stays: everything in front of the bad one is recorded before everything behind it."""
    record_events = events.record_events

    def reject_the_bad(c, batch, *, now):  # type: ignore[no-untyped-def]
        if any(notification.payload.get("bad") for notification in batch):
            raise StoreRejected("a value out of range")
        return record_events(c, batch, now=now)

    monkeypatch.setattr(recorder_module.stored_events, "record_events", reject_the_bad)
    recorder.record([voice.tell("server.levitated", number=number, bad=number == 5) for number in range(9)])
    with store.read() as c:
        assert [event.payload["number"] for event in events.list_events(c)] == [0, 1, 2, 3, 4, 6, 7, 8]
    assert count_shelved(store) == 1


def test_an_event_whose_application_fails_is_still_in_the_record(
    recorder: Recorder, store: Store, clock: FakeClock, voice: AgentVoice, monkeypatch: pytest.MonkeyPatch
) -> None:
    action = add_action(store, clock)

    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError("a fault of ours")

    monkeypatch.setattr(reports, "apply_started", fail)
    recorder.record(
        [voice.tell_received(action), voice.tell("action.started", action_id=action.id, kind=action.kind), voice.tell_ended(action)]
    )
    assert list_types(store) == ["action.received", "action.started", "action.ended"]
    assert get_action(store, action).ending == "succeeded"
    assert count_shelved(store) == 0


def test_a_busy_store_takes_nothing_and_says_so(recorder: Recorder, store: Store, voice: AgentVoice, tmp_path: Path) -> None:
    somebody = open_store(tmp_path / "gateway.sqlite")
    batch = [voice.tell("server.levitated"), Received(b"no json")]
    with somebody.write(), pytest.raises(StoreBusy):
        recorder.record(batch)
    somebody.dispose()
    assert (list_types(store), count_shelved(store)) == ([], 0)


def test_the_gateways_own_events_are_recorded_and_applied_nowhere(
    recorder: Recorder, store: Store, clock: FakeClock, voice: AgentVoice
) -> None:
    action = add_action(store, clock)
    voice.journal = store.store_id
    recorder.record([voice.tell_ended(action, ending="unknown", code="not_reported")])
    assert list_types(store) == ["action.ended"]
    assert get_action(store, action).ending is None


def test_another_host_cannot_end_an_action(recorder: Recorder, store: Store, clock: FakeClock) -> None:
    action = add_action(store, clock)
    recorder.record([AgentVoice(clock, "host-2", "journal-2").tell_ended(action)])
    assert get_action(store, action).ending is None


def test_a_servers_state_follows_its_events(recorder: Recorder, store: Store, clock: FakeClock, voice: AgentVoice) -> None:
    recorder.record_heartbeats([voice.beat(build_server(clock))])
    clock.advance(1)
    recorder.record([voice.tell("server.stopped", power_state=PowerState.SHUTDOWN, reason="destroyed")])
    with store.read() as c:
        server = servers.find_server(c, SERVER)
    assert server is not None
    assert server.power_state == "shutdown"


def test_a_named_gap_is_not_asked_for(recorder: Recorder, store: Store, clock: FakeClock, voice: AgentVoice) -> None:
    recorder.record([voice.tell("server.levitated"), voice.tell("server.levitated", sequence=9)])
    with store.read() as c:
        assert [(gap.first, gap.last) for gap in gaps.list_gaps(c, now=clock.now())] == [(2, 8)]
    recorder.record([voice.tell("events.lost", server=None, sequence=10, lost_epoch=JOURNAL, first=2, last=8, reason="pruned")])
    with store.read() as c:
        assert gaps.list_gaps(c, now=clock.now()) == []


def test_a_heartbeat_makes_its_agent_known(recorder: Recorder, store: Store, voice: AgentVoice, clock: FakeClock) -> None:
    recorder.record_heartbeats([voice.beat(build_server(clock))])
    with store.read() as c:
        agent = agents.find_agent(c, HOST)
    assert agent is not None
    assert (agent.state, agent.journal_id) == ("up", JOURNAL)


def test_a_restarted_agent_wakes_the_dispatcher_after_the_commit(
    store: Store, caster: NotingCaster, clock: FakeClock, voice: AgentVoice
) -> None:
    woken: list[int] = []

    def note() -> None:
        with store.read() as c:
            agent = agents.find_agent(c, HOST)
        assert agent is not None
        woken.append(agent.incarnation)

    recorder = Recorder(store, caster, clock, slots=ImmediateCasts(), on_agent_restarted=note)
    recorder.record_heartbeats([voice.beat()])
    recorder.record_heartbeats([voice.beat()])
    voice.incarnation = 2
    recorder.record_heartbeats([voice.beat()])
    assert woken == [1, 2]


def test_an_inventory_that_cannot_be_followed_is_asked_for_once_per_batch(
    recorder: Recorder, caster: NotingCaster, voice: AgentVoice
) -> None:
    recorder.record_heartbeats([voice.beat(full=False), voice.beat(full=False)])
    assert caster.inventories == [HOST]


def test_of_the_hosts_of_a_batch_those_are_asked_that_cannot_be_followed(
    recorder: Recorder, caster: NotingCaster, clock: FakeClock
) -> None:
    voices = [AgentVoice(clock, f"host-{number}", f"journal-{number}") for number in range(4)]
    recorder.record_heartbeats([voice.beat(full=number % 2 == 0) for number, voice in enumerate(voices)])
    assert caster.inventories == ["host-1", "host-3"]


def test_operators_read_in_the_log_who_claims_a_server_twice(
    recorder: Recorder, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    server = build_server(clock)
    recorder.record_heartbeats([AgentVoice(clock, host, f"journal-of-{host}").beat(server) for host in ("host-1", "host-2")])
    (said,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert said.getMessage() == f"server {server.id} is claimed by two hosts, host-1 and host-2"


def test_an_inventory_that_came_later_in_the_batch_is_not_asked_for(recorder: Recorder, caster: NotingCaster, voice: AgentVoice) -> None:
    recorder.record_heartbeats([voice.beat(full=False), voice.beat(full=True)])
    assert caster.inventories == []


def test_a_broker_in_alarm_keeps_no_heartbeat_waiting(store: Store, caster: NotingCaster, clock: FakeClock, voice: AgentVoice) -> None:
    recorder = Recorder(store, caster, clock, slots=HeldCasts(0))
    recorder.record_heartbeats([voice.beat(full=False)])
    with store.read() as c:
        assert agents.find_agent(c, HOST) is not None


def test_a_host_that_cannot_be_asked_stops_nobody(recorder: Recorder, caster: NotingCaster, clock: FakeClock, store: Store) -> None:
    caster.error = OSError("broker away")
    recorder.record_heartbeats([AgentVoice(clock, f"host-{number}", f"journal-{number}").beat(full=False) for number in (1, 2)])
    assert caster.inventories == ["host-1", "host-2"]


@pytest.mark.parametrize("body", [b"no json", b"{}"])
def test_an_unreadable_heartbeat_is_dropped_and_its_neighbours_are_heard(
    recorder: Recorder, store: Store, voice: AgentVoice, body: bytes
) -> None:
    recorder.record_heartbeats([Received(body), voice.tell("server.levitated"), voice.beat()])
    with store.read() as c:
        assert agents.find_agent(c, HOST) is not None
    assert count_shelved(store) == 0
