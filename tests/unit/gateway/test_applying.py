"""What an event changes: all that it says reaches its rows, and one that says less than its type needs changes nothing."""

import logging
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from api_gateway.cast_slots import ImmediateCasts
from api_gateway.recorder import Recorder
from api_gateway.store import Store, actions, events, gaps, restoring, servers
from compute_agent.contract.models import PowerState
from tests.fakes import FakeClock
from tests.http.answering_agents import build_report
from tests.unit.gateway.engine_parts import (
    HOST,
    JOURNAL,
    KIND,
    SERVER,
    AgentVoice,
    NotingCaster,
    add_action,
    build_server,
    get_action,
)

ANOTHER = "66666666-7777-4888-8999-000000000000"
ACTION = "req-asked-of-the-agent-itself"
TOO_LITTLE: tuple[tuple[str, str, object], ...] = (
    ("action.received", "kind", None),
    ("action.received", "server", 7),
    ("action.received", "project", 7),
    ("action.received", "user", ["root"]),
    ("action.received", "deadline", None),
    ("action.received", "deadline", "soon"),
    ("action.received", "deadline", "2026-01-01T00:00:30"),
    ("action.received", "deadline", "9999-12-31T23:59:59-14:00"),
    ("action.received", "occurred_at", None),
    ("action.started", "occurred_at", None),
    ("action.ended", "ending", None),
    ("action.ended", "ending", "evaporated"),
    ("action.ended", "code", 7),
    ("action.ended", "reason", None),
    ("action.ended", "occurred_at", None),
    ("action.ended", "started_at", 7),
    ("action.ended", "signalled_at", "soon"),
    ("action.observed", "observation", None),
    ("action.observed", "final", None),
    ("action.observed", "final", "yes"),
    ("action.observed", "final", 1),
    ("action.observed", "observed_at", None),
    ("action.observed", "text", 7),
)
STATES = {
    "server.started": PowerState.RUNNING,
    "server.stopped": PowerState.SHUTDOWN,
    "server.paused": PowerState.PAUSED,
    "server.resumed": PowerState.RUNNING,
    "server.suspended": PowerState.SUSPENDED,
    "server.rebooted": PowerState.RUNNING,
    "server.panicked": PowerState.CRASHED,
    "server.crash_kernel_started": PowerState.RUNNING,
}


@pytest.fixture
def voice(clock: FakeClock) -> AgentVoice:
    return AgentVoice(clock)


@pytest.fixture
def recorder(store: Store, clock: FakeClock) -> Recorder:
    return Recorder(store, NotingCaster(), clock, slots=ImmediateCasts())


def build_body(clock: FakeClock, event_type: str, action_id: str = ACTION) -> dict[str, Any]:
    """All that an event of this type must say, and no more."""
    moment = clock.now().isoformat()
    bodies: dict[str, dict[str, Any]] = {
        "action.received": {"kind": KIND, "deadline": (clock.now() + timedelta(seconds=30)).isoformat()},
        "action.started": {},
        "action.ended": {"ending": "succeeded", "code": "signal_delivered", "reason": "As the driver said."},
        "action.observed": {"observation": "guest_panicked", "final": True, "observed_at": moment, "text": "It panicked."},
    }
    return {"action_id": action_id, **bodies[event_type]}


def get_server(store: Store) -> servers.ServerRow:
    with store.read() as c:
        row = servers.find_server(c, SERVER)
    assert row is not None
    return row


def find_action(store: Store, action_id: str = ACTION) -> actions.ActionRow | None:
    with store.read() as c:
        return actions.find_action(c, action_id)


def list_recorded(store: Store) -> list[str]:
    with store.read() as c:
        return [event.event_type for event in events.list_events(c)]


def test_an_action_asked_of_the_agent_itself_is_all_that_the_agent_says_of_it(
    recorder: Recorder, store: Store, clock: FakeClock, voice: AgentVoice
) -> None:
    """Each moment is the agent's own, however late it is heard; what is written down when is the gateway's."""
    moments = {}
    told = []
    for event_type in ("action.received", "action.started", "action.ended", "action.observed"):
        moments[event_type] = clock.now()
        told.append((event_type, build_body(clock, event_type)))
        clock.advance(1)
    bodies = dict(told)
    bodies["action.received"] |= {"project": "demo", "user": "root"}
    bodies["action.ended"] |= {"signalled_at": (moments["action.started"] + timedelta(seconds=0.5)).isoformat()}
    recorder.record([voice.tell(event_type, occurred_at=moments[event_type].isoformat(), **body) for event_type, body in bodies.items()])
    row = find_action(store)
    assert row is not None
    assert (row.kind, row.server, row.host, row.project, row.user, row.journal_id) == (KIND, SERVER, HOST, "demo", "root", JOURNAL)
    assert row.deadline == moments["action.received"] + timedelta(seconds=30)
    assert (row.received_at, row.started_at, row.ended_at) == tuple(moments.values())[:3]
    assert row.signalled_at == moments["action.started"] + timedelta(seconds=0.5)
    assert (row.ending, row.code, row.reason, row.ending_epoch) == ("succeeded", "signal_delivered", "As the driver said.", JOURNAL)
    assert (row.observation, row.observation_final, row.observation_text) == ("guest_panicked", True, "It panicked.")
    assert row.observed_at == moments["action.observed"]
    assert row.recorded_at == row.updated_at == clock.now()


def test_an_ending_tells_when_it_began_to_who_never_heard_of_the_beginning(
    recorder: Recorder, store: Store, clock: FakeClock, voice: AgentVoice
) -> None:
    action = add_action(store, clock)
    began = clock.now()
    clock.advance(2)
    recorder.record([voice.tell("action.ended", **build_body(clock, "action.ended", action.id), started_at=began.isoformat())])
    assert get_action(store, action).started_at == began


def test_what_may_be_left_out_is_nobodys_fault(recorder: Recorder, store: Store, clock: FakeClock, voice: AgentVoice) -> None:
    """Neither a project nor a user, when nobody asked; no moment of a signal that was never sent."""
    recorder.record([voice.tell(event_type, **build_body(clock, event_type)) for event_type in ("action.received", "action.ended")])
    row = find_action(store)
    assert row is not None
    assert (row.project, row.user, row.started_at, row.signalled_at, row.ending) == (None, None, None, None, "succeeded")


def test_an_event_that_says_less_than_its_type_needs_changes_nothing_and_it_is_said_what_is_missing(
    recorder: Recorder, store: Store, clock: FakeClock, voice: AgentVoice, caplog: pytest.LogCaptureFixture
) -> None:
    for number, (event_type, key, value) in enumerate(TOO_LITTLE):
        action_id = f"req-{number}"
        if event_type != "action.received":
            recorder.record([voice.tell("action.received", **build_body(clock, "action.received", action_id))])
        before = find_action(store, action_id)
        caplog.clear()
        recorder.record([voice.tell(event_type, **(build_body(clock, event_type, action_id) | {key: value}))])
        assert find_action(store, action_id) == before, (event_type, key)
        assert list_recorded(store)[-1] == event_type
        (line,) = caplog.messages
        assert f"recorded, not applied: {key} is {value!r}, " in line


def test_moments_are_kept_in_the_time_of_all(recorder: Recorder, store: Store, clock: FakeClock, voice: AgentVoice) -> None:
    recorder.record([voice.tell("action.received", **build_body(clock, "action.received"), occurred_at="2026-01-01T02:00:00+02:00")])
    row = find_action(store)
    assert row is not None
    assert row.received_at == datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize("key", ["host", "epoch"])
def test_what_names_no_host_or_no_journal_changes_nothing(
    recorder: Recorder, store: Store, clock: FakeClock, voice: AgentVoice, key: str, caplog: pytest.LogCaptureFixture
) -> None:
    recorder.record([voice.tell("action.received", **build_body(clock, "action.received"), **{key: None})])
    assert find_action(store) is None
    assert list_recorded(store) == ["action.received"]
    assert "names no host or no epoch" in caplog.text


def test_each_word_of_a_servers_state_is_taken_with_its_reason_and_its_moment(
    recorder: Recorder, store: Store, clock: FakeClock, voice: AgentVoice
) -> None:
    recorder.record_heartbeats([voice.beat(build_server(clock))])
    reset_at = None
    for event_type, power_state in STATES.items():
        clock.advance(5)
        said_at = clock.now()
        told = voice.tell(event_type, power_state=power_state, reason=f"seen: {event_type}")
        clock.advance(5)
        recorder.record([told])
        row = get_server(store)
        assert (row.power_state, row.state_reason, row.state_at) == (power_state, f"seen: {event_type}", said_at)
        if event_type in ("server.started", "server.stopped", "server.rebooted"):
            reset_at = said_at  # which ends the hold-off of an earlier crash dump
        assert row.reset_at == reset_at


def test_a_word_of_a_servers_state_that_says_too_little_changes_nothing(
    recorder: Recorder, store: Store, clock: FakeClock, voice: AgentVoice
) -> None:
    recorder.record_heartbeats([voice.beat(build_server(clock))])
    before = get_server(store)
    clock.advance(5)
    body: dict[str, Any] = {"power_state": PowerState.SHUTDOWN, "reason": "destroyed"}
    for missing in ({"server": None}, {"power_state": None}, {"reason": 7}, {"occurred_at": None}):
        recorder.record([voice.tell("server.stopped", **(body | missing))])
        assert get_server(store) == before, missing


def test_a_loss_that_does_not_name_its_range_closes_no_gap(
    recorder: Recorder, store: Store, clock: FakeClock, voice: AgentVoice, caplog: pytest.LogCaptureFixture
) -> None:
    recorder.record([voice.tell("server.levitated"), voice.tell("server.levitated", sequence=9)])
    body: dict[str, Any] = {"lost_epoch": JOURNAL, "first": 2, "last": 8, "reason": "pruned"}
    wrong = ({"lost_epoch": None}, {"first": "2"}, {"first": True}, {"first": None}, {"last": 8.0}, {"last": None})
    for sequence, missing in enumerate(wrong, 10):
        caplog.clear()
        recorder.record([voice.tell("events.lost", server=None, sequence=sequence, **(body | missing))])
        with store.read() as c:
            assert [(gap.first, gap.last) for gap in gaps.list_gaps(c, now=clock.now())] == [(2, 8)], missing
        ((key, value),) = missing.items()
        (line,) = caplog.messages
        assert f"recorded, not applied: {key} is {value!r}, " in line


def test_a_loss_is_said_with_its_range_and_how_much_of_it_never_came(
    recorder: Recorder, clock: FakeClock, voice: AgentVoice, caplog: pytest.LogCaptureFixture
) -> None:
    recorder.record([voice.tell("server.levitated"), voice.tell("server.levitated", sequence=9)])
    with caplog.at_level(logging.ERROR):
        recorder.record([voice.tell("events.lost", server=None, sequence=10, lost_epoch=JOURNAL, first=1, last=8, reason="pruned")])
    assert f"host {HOST} epoch {JOURNAL}: events 1 to 8 are lost, 7 of them never came" in caplog.messages


@pytest.mark.parametrize(
    ("event_type", "key", "value", "why"),
    [
        ("server.watchdog.changed", "watchdog", "ib700", "watchdog is 'ib700', not an object"),
        ("server.watchdog.changed", "watchdog", {"configured": 1}, "watchdog cannot be read: "),
        ("server.diagnostics", "report", {"server": SERVER}, "report cannot be read: "),
        ("server.diagnostics", "report", None, "report is None, not an object"),
    ],
)
def test_a_device_or_a_report_that_cannot_be_read_is_recorded_and_it_is_said_why(
    recorder: Recorder,
    store: Store,
    voice: AgentVoice,
    caplog: pytest.LogCaptureFixture,
    event_type: str,
    key: str,
    value: object,
    why: str,
) -> None:
    recorder.record([voice.tell(event_type, **{key: value})])
    assert list_recorded(store) == [event_type]
    (line,) = caplog.messages
    assert f"recorded, not applied: {why}" in line


def test_a_report_about_another_server_than_its_event_is_recorded_and_it_is_said(
    recorder: Recorder, store: Store, clock: FakeClock, voice: AgentVoice, caplog: pytest.LogCaptureFixture
) -> None:
    recorder.record([voice.tell("server.diagnostics", report=build_report(clock, ANOTHER).to_wire())])
    assert list_recorded(store) == ["server.diagnostics"]
    (line,) = caplog.messages
    assert f"recorded, not applied: report is about server {ANOTHER}" in line


@pytest.mark.parametrize("had_it", [False, True], ids=["never-had-it", "had-it-days-ago"])
def test_what_the_host_of_a_mere_copy_tells_is_neither_the_servers_state_nor_anybodys_fault(
    recorder: Recorder, store: Store, clock: FakeClock, voice: AgentVoice, caplog: pytest.LogCaptureFixture, had_it: bool
) -> None:
    """That it runs there too is for the inventory to say: then people are called."""
    other = AgentVoice(clock, "host-2", "journal-2")
    if had_it:
        recorder.record_heartbeats([other.beat(build_server(clock)), other.beat(), voice.beat(build_server(clock))])
        clock.advance(2 * 86_400)
    copy = build_server(clock).model_copy(update={"power_state": PowerState.SHUTDOWN})
    recorder.record_heartbeats([voice.beat(build_server(clock)), other.beat(copy)])
    before = get_server(store)
    clock.advance(1)
    caplog.clear()
    recorder.record([other.tell("server.started", power_state=PowerState.RUNNING, reason="booted")])
    assert get_server(store) == before
    (line,) = caplog.messages
    assert "recorded, not applied, shown to admins only" in line


def test_an_action_that_a_restored_backup_does_not_know_is_believed_of_a_host_that_has_the_server_no_longer(
    recorder: Recorder, store: Store, clock: FakeClock, voice: AgentVoice
) -> None:
    recorder.record_heartbeats([AgentVoice(clock, "host-2", "journal-2").beat(build_server(clock)), voice.beat()])
    told = [voice.tell(event_type, **build_body(clock, event_type)) for event_type in ("action.received", "action.ended")]
    with store.write() as c:
        restoring.mark_restored(c, now=clock.now())
    recorder.record(told)
    row = find_action(store)
    assert row is not None
    assert (row.host, row.ending) == (HOST, "succeeded")


def test_what_the_gateway_said_of_an_action_is_no_word_of_the_agents_when_that_is_known_again(
    recorder: Recorder, store: Store, clock: FakeClock, voice: AgentVoice
) -> None:
    """After a backup was restored that has neither the action nor its ending by the gateway."""
    own = AgentVoice(clock, HOST, store.store_id)
    given_up = build_body(clock, "action.ended") | {"ending": "unknown", "code": "not_reported"}
    recorder.record([own.tell("action.ended", **given_up)])
    recorder.record([voice.tell("action.received", **build_body(clock, "action.received"))])
    row = find_action(store)
    assert row is not None
    assert (row.state, row.ending) == ("received", None)


def test_the_log_tells_once_how_an_action_ended_what_was_observed_and_what_was_ignored(
    recorder: Recorder, voice: AgentVoice, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    def tell(event_type: str, by: AgentVoice = voice, **changes: Any) -> list[tuple[int, str]]:
        caplog.clear()
        recorder.record([by.tell(event_type, **(build_body(clock, event_type) | changes))])
        return [(record.levelno, record.getMessage().partition(HOST)[2]) for record in caplog.records]

    caplog.set_level(logging.INFO)
    assert tell("action.received") == tell("action.started") == []
    assert tell("action.ended") == [(logging.INFO, " action.ended: succeeded")]
    assert tell("action.ended") == []
    assert tell("action.observed") == [(logging.INFO, " action.observed: guest_panicked")]
    assert tell("action.ended", ending="failed") == [(logging.ERROR, f" on action {ACTION} ignored: violation")]
