"""Actions that are no crash dumps, on their way down and back: what differs by kind, and what must not."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from api_gateway.acceptance import Asked, Refused, Terms, TooManyOpen, accept_action
from api_gateway.cast_slots import ImmediateCasts
from api_gateway.dispatcher import CAPABILITY_OF_KIND, Dispatcher
from api_gateway.native.asking import RULE_OF_KIND
from api_gateway.recorder import Recorder
from api_gateway.store import Store, actions, diagnostics, servers, tables
from api_gateway.store.actions import ActionRow
from api_gateway.sweep import Sweep
from compute_agent.contract.errors import Ending
from compute_agent.contract.models import ActionKind
from compute_agent.contract.watchdogs import WatchdogDevice
from tests.fakes import FakeClock
from tests.http.answering_agents import build_report
from tests.http.application import Application, create_application
from tests.http.fleet import (
    CRASHED,
    DUMPED,
    HOST,
    PANICKED_ACTION,
    PAUSED,
    RUNNING,
    SHUTOFF,
    SILENT_ACTION,
    SUSPENDED,
    add_action,
    end_action,
)
from tests.unit.gateway import engine_parts
from tests.unit.gateway.engine_parts import SERVER, AgentVoice, NotingCaster, add_agent, build_server, get_action

COLLECT, HOST_DUMP, CRASH_DUMP = ActionKind.COLLECT_DIAGNOSTICS, ActionKind.TAKE_HOST_DUMP, ActionKind.TRIGGER_CRASH_DUMP
SET_WATCHDOG, REMOVE_WATCHDOG, RESUME = ActionKind.SET_WATCHDOG, ActionKind.REMOVE_WATCHDOG, ActionKind.RESUME
RESET_TIMER = ActionKind.RESET_WATCHDOG_TIMER
OTHERS = (COLLECT, HOST_DUMP, SET_WATCHDOG, REMOVE_WATCHDOG, RESUME, RESET_TIMER)
ARGUMENTS: dict[ActionKind, dict[str, Any]] = {
    SET_WATCHDOG: {"watchdog": {"model": "i6300esb", "expiry_action": "inject-nmi"}, "replace": True},
}
HOLDOFF = timedelta(seconds=600)


@pytest.fixture
def voice(store: Store, clock: FakeClock) -> AgentVoice:
    voice = AgentVoice(clock)
    voice.diagnostics = voice.host_dump = voice.watchdog = voice.resume = voice.watchdog_timer = True
    add_agent(store, voice, clock)
    return voice


@pytest.fixture
def recorder(store: Store, caster: NotingCaster, clock: FakeClock, voice: AgentVoice) -> Recorder:
    recorder = Recorder(store, caster, clock, slots=ImmediateCasts())
    recorder.record_heartbeats([voice.beat(build_server(clock))])
    return recorder


@pytest.fixture
def sweep(store: Store, caster: NotingCaster, clock: FakeClock, voice: AgentVoice) -> Sweep:
    return Sweep(store, caster, clock, slots=ImmediateCasts(), host_dump_bound=300.0)


@pytest.fixture
def application(tmp_path: Path) -> Iterator[Application]:
    application = create_application(tmp_path)
    yield application
    application.close()


def accept(application: Application, server: str, kind: ActionKind, *, max_open: int | None = None, force: bool = False) -> ActionRow:
    asked = Asked(f"req-{kind}-{server}", kind, "demo", "admin", timedelta(seconds=30), force=force, arguments=ARGUMENTS.get(kind, {}))
    with application.store.write() as c:
        row = servers.find_server(c, server)
        assert row is not None
        return accept_action(c, row, asked, now=application.clock.now(), terms=Terms(HOLDOFF, max_open)).action


def add_signalled(application: Application, server: str, observation: str | None) -> None:
    """A crash dump whose signal was delivered a moment ago."""
    now = application.clock.now()
    row = add_action(application.store, "req-00000000-0000-4000-8000-0000000000aa", server, now - timedelta(seconds=1))
    end_action(application.store, row, observation=observation)


def test_every_kind_is_known_at_every_hop() -> None:
    assert set(CAPABILITY_OF_KIND) == set(RULE_OF_KIND) == set(ActionKind)


@pytest.mark.parametrize("kind", OTHERS)
def test_another_kind_is_cast_as_what_it_is(
    dispatcher: Dispatcher, store: Store, caster: NotingCaster, clock: FakeClock, kind: str
) -> None:
    engine_parts.add_action(store, clock, kind=kind)

    dispatcher.step()

    assert [request.kind for request in caster.requests] == [kind]


def test_what_only_its_kind_has_is_cast_with_an_action(
    dispatcher: Dispatcher, store: Store, caster: NotingCaster, clock: FakeClock
) -> None:
    asked = {"watchdog": {"model": "i6300esb", "expiry_action": "dump"}, "replace": False}
    engine_parts.add_action(store, clock, kind=SET_WATCHDOG, arguments=asked)

    dispatcher.step()

    (request,) = caster.requests
    assert (request.watchdog, request.replace) == (WatchdogDevice(model="i6300esb", expiry_action="dump"), False)


@pytest.mark.parametrize("kind", OTHERS)
def test_what_the_driver_cannot_do_ends_without_a_cast(
    dispatcher: Dispatcher, store: Store, caster: NotingCaster, clock: FakeClock, voice: AgentVoice, kind: str
) -> None:
    voice.diagnostics = voice.host_dump = voice.watchdog = voice.resume = voice.watchdog_timer = False
    add_agent(store, voice, clock)
    action = engine_parts.add_action(store, clock, kind=kind)

    dispatcher.step()

    row = get_action(store, action)
    assert (row.ending, row.code, caster.requests) == (Ending.FAILED, "not_supported", [])


@pytest.mark.parametrize(("earlier", "urgent"), [(COLLECT, CRASH_DUMP), (RESET_TIMER, CRASH_DUMP), (COLLECT, RESET_TIMER)])
def test_what_is_urgent_is_cast_before_what_was_asked_for_of_a_whole_fleet(
    dispatcher: Dispatcher, store: Store, caster: NotingCaster, clock: FakeClock, earlier: ActionKind, urgent: ActionKind
) -> None:
    for _ in range(3):
        engine_parts.add_action(store, clock, kind=earlier)
        clock.advance(0.1)
    engine_parts.add_action(store, clock, kind=urgent)

    dispatcher.step()

    assert caster.requests[0].kind == urgent


def test_what_was_collected_is_kept_and_shown(recorder: Recorder, store: Store, clock: FakeClock, voice: AgentVoice) -> None:
    action = engine_parts.add_action(store, clock, kind=COLLECT)
    report = build_report(clock, SERVER)
    told = voice.tell("server.diagnostics", action_id=action.id, report=report.to_wire())

    recorder.record([voice.tell_received(action), told, voice.tell_ended(action, code="diagnostics_collected")])

    assert get_action(store, action).code == "diagnostics_collected"
    with store.read() as c:
        known = diagnostics.find_report(c, SERVER)
    assert known is not None
    assert (known.report, known.received_at) == (report, clock.now())


@pytest.mark.parametrize("report", [None, {}, {"server": SERVER}, "text"])
def test_diagnostics_that_cannot_be_read_stop_nobody(
    recorder: Recorder, store: Store, clock: FakeClock, voice: AgentVoice, report: object
) -> None:
    action = engine_parts.add_action(store, clock, kind=COLLECT)

    recorder.record([voice.tell("server.diagnostics", action_id=action.id, report=report), voice.tell_ended(action)])

    assert get_action(store, action).ending == Ending.SUCCEEDED
    with store.read() as c:
        assert diagnostics.find_report(c, SERVER) is None


def test_diagnostics_of_another_server_than_the_event_names_are_not_kept(
    recorder: Recorder, store: Store, clock: FakeClock, voice: AgentVoice
) -> None:
    report = build_report(clock, RUNNING).to_wire()

    recorder.record([voice.tell("server.diagnostics", action_id=PANICKED_ACTION, report=report)])

    with store.read() as c:
        assert diagnostics.find_report(c, SERVER) is diagnostics.find_report(c, RUNNING) is None


def test_a_memory_dump_that_was_begun_has_the_time_that_it_takes(
    recorder: Recorder, sweep: Sweep, store: Store, clock: FakeClock, voice: AgentVoice
) -> None:
    action = engine_parts.add_action(store, clock, kind=HOST_DUMP)
    recorder.record([voice.tell_received(action), voice.tell("action.started", action_id=action.id, kind=action.kind)])

    clock.advance(330)
    sweep.end_actions_past_deadline()
    assert get_action(store, action).ending is None

    clock.advance(3)
    sweep.end_actions_past_deadline()
    assert get_action(store, action).ending == Ending.UNKNOWN


@pytest.mark.parametrize("kind", OTHERS)
def test_what_was_never_reported_says_nothing_of_an_nmi(
    dispatcher: Dispatcher, sweep: Sweep, store: Store, clock: FakeClock, kind: str
) -> None:
    action = engine_parts.add_action(store, clock, kind=kind)
    dispatcher.step()

    clock.advance(60)
    sweep.end_actions_past_deadline()

    row = get_action(store, action)
    assert (row.ending, row.code) == (Ending.UNKNOWN, "not_reported")
    assert "NMI" not in str(row.reason)


def test_a_begun_change_of_a_watchdog_has_the_time_to_be_taken_back(
    recorder: Recorder, sweep: Sweep, store: Store, clock: FakeClock, voice: AgentVoice
) -> None:
    """30 s of its deadline, and twice the clocks' difference and the driver's bound."""
    action = engine_parts.add_action(store, clock, kind=SET_WATCHDOG)
    recorder.record([voice.tell_received(action), voice.tell("action.started", action_id=action.id, kind=action.kind)])

    clock.advance(30 + 43)
    sweep.end_actions_past_deadline()
    assert get_action(store, action).ending is None

    clock.advance(1)
    sweep.end_actions_past_deadline()
    assert get_action(store, action).ending == Ending.UNKNOWN


def test_a_memory_dump_leaves_a_guest_alone_that_may_be_writing_its_own(application: Application) -> None:
    add_signalled(application, RUNNING, "crash_kernel_started")

    with pytest.raises(Refused, match="crash_dump_in_progress"):
        accept(application, RUNNING, HOST_DUMP)
    assert accept(application, RUNNING, HOST_DUMP, force=True).force


@pytest.mark.parametrize("observation", ["nothing_seen_yet", "pending_until_resume", None])
def test_silence_is_no_leave_for_a_memory_dump(application: Application, observation: str | None) -> None:
    add_signalled(application, RUNNING, observation)

    with pytest.raises(Refused, match="crash_dump_in_progress"):
        accept(application, RUNNING, HOST_DUMP)


def test_the_memory_of_a_guest_that_panicked_may_be_read(application: Application) -> None:
    add_signalled(application, RUNNING, "guest_panicked")
    accept(application, RUNNING, HOST_DUMP)


def test_so_may_that_of_one_whose_processors_were_stopped_for_it(application: Application) -> None:
    add_signalled(application, CRASHED, None)
    accept(application, CRASHED, HOST_DUMP)


def test_a_signal_that_is_still_to_be_sent_keeps_a_memory_dump_off(application: Application) -> None:
    accept(application, CRASHED, CRASH_DUMP)

    with pytest.raises(Refused, match="crash_dump_in_progress"):
        accept(application, CRASHED, HOST_DUMP)


def test_a_dump_that_stands_still_with_its_server_keeps_a_second_nmi_off(application: Application, clock: FakeClock) -> None:
    add_signalled(application, RUNNING, "nothing_seen_yet")
    with application.store.write() as c:
        c.execute(update(tables.servers).values(power_state="paused", state_at=clock.now()).where(tables.servers.c.id == RUNNING))
    clock.advance(86_400)

    with pytest.raises(Refused, match="crash_dump_in_progress"):
        accept(application, RUNNING, CRASH_DUMP)


def test_neither_a_lock_nor_a_task_keeps_a_reading_off_or_who_feeds_a_watchdog(application: Application, clock: FakeClock) -> None:
    with application.store.write() as c:
        c.exec_driver_sql("UPDATE servers SET locked_by = 'admin', task_state = 'rebooting' WHERE id = ?", (RUNNING,))

    accept(application, RUNNING, COLLECT)
    accept(application, RUNNING, RESET_TIMER)  # else the lock would have it reset
    for kind in (CRASH_DUMP, HOST_DUMP):
        with pytest.raises(Refused, match="is locked"):
            accept(application, RUNNING, kind)


def test_readings_leave_half_of_a_hosts_room_for_crash_dumps(application: Application) -> None:
    """The host has one open action already."""
    with pytest.raises(TooManyOpen, match="has 1 open actions already"):
        accept(application, RUNNING, COLLECT, max_open=2)

    accept(application, RUNNING, CRASH_DUMP, max_open=2)


def test_who_feeds_watchdogs_finds_room_beside_readings_and_leaves_some_for_crash_dumps(application: Application) -> None:
    """The host has one open action already."""
    accept(application, RUNNING, COLLECT, max_open=4)
    accept(application, RUNNING, RESET_TIMER, max_open=4)

    with pytest.raises(TooManyOpen, match="has 3 open actions already"):
        accept(application, CRASHED, RESET_TIMER, max_open=4)
    accept(application, CRASHED, CRASH_DUMP, max_open=4)


@pytest.mark.parametrize("server", [RUNNING, PAUSED, SHUTOFF, SUSPENDED, CRASHED])
def test_whether_a_watchdog_can_be_fed_is_for_its_host_to_say(application: Application, server: str) -> None:
    accept(application, server, RESET_TIMER)


def test_a_fleet_is_collected_page_by_page(application: Application, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("api_gateway.native.diagnostics.MOST_COLLECTED", 4)
    seen: list[str] = []
    marker: str | None = None
    pages = 0
    while pages == 0 or marker is not None:
        answer = application.client.simulate_post("/v1/diagnostics", json={"host": HOST, "marker": marker})
        assert answer.status_code == 202
        seen += [item["server"] for item in answer.json["actions"] + answer.json["refused"]]
        marker, pages = answer.json["next_marker"], pages + 1

    with application.store.read() as c:
        living = [row.id for row in servers.list_servers(c, host=HOST)]
    assert sorted(seen) == sorted(living)
    assert pages == 3


def test_each_of_many_actions_leads_back_to_its_request(application: Application) -> None:
    answer = application.client.simulate_post("/v1/diagnostics", json={"servers": [RUNNING, DUMPED]})

    with application.store.read() as c:
        rows = [actions.get_action(c, item["id"]) for item in answer.json["actions"]]
    assert {row.global_request_id for row in rows} == {answer.headers["x-openstack-request-id"]}
    assert len({row.id for row in rows} | {answer.headers["x-openstack-request-id"]}) == 3
    assert application.wakes == [True]


def show_result(application: Application, action: str, **headers: str) -> Any:
    answer = application.client.simulate_get(f"/v1/actions/{action}", headers=headers)
    assert answer.status_code == 200
    return answer.json["result"]


@pytest.mark.parametrize(
    ("event_type", "body", "result"),
    [
        ("server.diagnostics", {"report": {"server": DUMPED, "age": 0}}, {"report": {"server": DUMPED, "age": 0}}),
        (
            "server.host_dump",
            {"path": "/var/dumps/a.kdump", "bytes": 5, "duration": 0.5},
            {"path": "/var/dumps/a.kdump", "bytes": 5, "duration": 0.5},
        ),
        ("server.host_dump", {"path": "/var/dumps/a.kdump"}, None),
    ],
)
def test_an_action_shows_what_came_of_it_to_those_who_may_see_that(
    application: Application, clock: FakeClock, event_type: str, body: dict[str, object], result: object
) -> None:
    voice = AgentVoice(clock, host=HOST, journal="journal-of-compute-1")
    recorder = Recorder(application.store, NotingCaster(), application.clock, slots=ImmediateCasts())

    recorder.record([voice.tell(event_type, server=DUMPED, action_id=SILENT_ACTION, **body)])

    assert show_result(application, SILENT_ACTION) == result
    assert show_result(application, SILENT_ACTION, **{"X-Roles": "member"}) is None


@pytest.mark.parametrize("kind", OTHERS)
def test_clients_of_the_compute_api_see_the_other_kinds_by_their_names(application: Application, kind: ActionKind) -> None:
    server = PAUSED if kind == RESUME else CRASHED
    row = accept(application, server, kind)
    with application.store.write() as c:
        c.exec_driver_sql(
            "UPDATE actions SET id = ?, state = 'ended', ending = 'failed', code = 'no_space', reason = 'Full.', ended_at = accepted_at "
            "WHERE id = ?",
            (PANICKED_ACTION.replace("01", "bb"), row.id),
        )

    shown = application.client.simulate_get(
        f"/v2.1/servers/{server}/os-instance-actions/{PANICKED_ACTION.replace('01', 'bb')}",
        headers={"OpenStack-API-Version": "compute 2.84"},
    ).json["instanceAction"]

    assert (shown["action"], shown["message"]) == (kind, "Error")
    assert [(event["event"], event["result"], event["details"]) for event in shown["events"]] == [
        (f"compute_{kind}", "Error", "no_space: Full.")
    ]


def test_who_waits_for_another_kind_waits_for_its_ending_only(application: Application) -> None:
    row = add_action(application.store, "req-00000000-0000-4000-8000-0000000000cc", RUNNING, application.clock.now())
    with application.store.write() as c:
        c.exec_driver_sql("UPDATE actions SET kind = 'take_host_dump' WHERE id = ?", (row.id,))
    end_action(application.store, row, code="host_dump_taken")

    answer = application.client.simulate_get(f"/v1/actions/{row.id}?wait=30")

    assert (answer.json["ending"], answer.json["observation"]) == ("succeeded", None)
