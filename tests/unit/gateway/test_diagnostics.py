"""Diagnostics when all is not well: agents that refuse or do not answer, and what is told of a server then."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from falcon import testing

from api_gateway.agent_calls import NoAnswer
from api_gateway.cast_slots import ImmediateCasts
from api_gateway.config import load_config
from api_gateway.recorder import Recorder
from api_gateway.store import agents, diagnostics, servers
from api_gateway.wsgi import create_app
from compute_agent.contract import versions
from compute_agent.contract.diagnostics import DiagnosticsReply, Hardware
from compute_agent.contract.errors import Code
from compute_agent.contract.models import PowerState
from tests.contract import golden
from tests.fakes import FakeClock
from tests.http.answering_agents import build_report
from tests.http.application import Application, create_application
from tests.http.fleet import DOWN_AGENTS, DOWN_HOST, DUMPED, HOST, OLD_AGENTS, OLD_HOST, OTHERS, RUNNING, SECOND_HOST, SILENT_ACTION
from tests.unit.gateway.engine_parts import AgentVoice, NotingCaster

NEW = {"OpenStack-API-Version": "compute 2.48"}


@pytest.fixture
def application(tmp_path: Path, clock: FakeClock) -> Iterator[Application]:
    application = create_application(tmp_path, clock=clock, diagnostics_max_age=600)
    yield application
    application.close()


def show(application: Application, server: str = RUNNING, query: str = "") -> Any:
    return application.client.simulate_get(f"/v1/servers/{server}/diagnostics", query_string=query)


def show_compute(application: Application, server: str = RUNNING, headers: dict[str, str] = NEW) -> Any:
    return application.client.simulate_get(f"/v2.1/servers/{server}/diagnostics", headers=headers)


def refuse(application: Application, code: Code, reason: str = "As it is.", server: str = RUNNING) -> None:
    application.agents.replies[server] = lambda: DiagnosticsReply.refuse(code, reason)


def fall_silent(application: Application, server: str = RUNNING) -> None:
    def raise_error() -> DiagnosticsReply:
        raise NoAnswer("gone")

    application.agents.replies[server] = raise_error


def keep_event(application: Application, server: str = RUNNING, *, host: str = HOST, uptime: int = 60) -> None:
    """As the recorder does with ``server.diagnostics``."""
    with application.store.write() as c:
        report = build_report(application.clock, server, uptime=uptime)
        diagnostics.keep_report(c, report, host=host, now=application.clock.now())


def test_a_host_that_does_not_answer_is_told_of_by_its_last_answer_with_its_age(application: Application, clock: FakeClock) -> None:
    first = show(application).json
    fall_silent(application)
    clock.advance(90)

    told = show(application)

    assert told.status_code == 200
    assert (told.json["source"], told.json["stale"], told.json["age"], told.json["history"]) == ("last_known", True, 90.0, [])
    assert (told.json["collected_at"], told.json["diagnostics"]) == (first["collected_at"], first["diagnostics"])


def test_the_compute_api_tells_the_last_answer_in_both_formats(application: Application) -> None:
    new, old = show_compute(application).json, show_compute(application, headers={}).json
    fall_silent(application)

    assert show_compute(application).json == new
    assert show_compute(application, headers={}).json == old


def test_without_a_last_answer_it_is_503_at_once(application: Application) -> None:
    fall_silent(application)

    for answer in (show(application), show_compute(application)):
        assert answer.status_code == 503
        assert answer.headers["retry-after"] == "5"
        assert answer.json["serviceUnavailable"]["message"] == f"The agent of host {HOST} gave no answer."


def test_what_came_as_an_event_is_told_as_well(application: Application, clock: FakeClock) -> None:
    keep_event(application, uptime=77)
    fall_silent(application)
    clock.advance(10)

    told = show(application).json

    assert (told["source"], told["age"], told["diagnostics"]["uptime"]) == ("last_known", 10.0, 77)


def test_of_two_that_are_known_the_later_one_is_told(application: Application, clock: FakeClock) -> None:
    show(application)
    clock.advance(10)
    keep_event(application, uptime=77)
    fall_silent(application)

    assert show(application).json["diagnostics"]["uptime"] == 77


def test_a_last_answer_is_not_told_for_ever(application: Application, clock: FakeClock) -> None:
    show(application)
    fall_silent(application)
    clock.advance(600)
    assert show(application).status_code == 200

    clock.advance(1)

    assert show(application).status_code == 503


@pytest.mark.parametrize("event_type", ["server.started", "server.rebooted"])
def test_a_last_answer_says_nothing_of_another_run(application: Application, clock: FakeClock, event_type: str) -> None:
    show(application)
    clock.advance(1)
    with application.store.write() as c:
        state = PowerState.RUNNING
        servers.apply_states(c, [servers.StateReport(RUNNING, HOST, event_type, state, "", clock.now())], now=clock.now())
    fall_silent(application)

    assert show(application).status_code == 503


def test_a_last_answer_says_nothing_of_a_server_that_moved(application: Application) -> None:
    show(application)
    with application.store.write() as c:
        c.exec_driver_sql("UPDATE servers SET host = ? WHERE id = ?", (SECOND_HOST, RUNNING))
    fall_silent(application)

    assert show(application).status_code == 503


def test_a_server_whose_agent_is_down_is_told_of_without_asking(application: Application) -> None:
    keep_event(application, DOWN_AGENTS, host=DOWN_HOST)

    told = show(application, DOWN_AGENTS).json

    assert (told["source"], told["stale"]) == ("last_known", True)
    assert application.agents.asked == []


@pytest.mark.parametrize(
    ("code", "status"),
    [
        (Code.NOT_SUPPORTED, 501),
        (Code.SERVER_NOT_FOUND, 409),
        (Code.SERVER_MOVED, 409),
        (Code.SERVER_NOT_RUNNING, 409),
        (Code.BACKEND_UNAVAILABLE, 503),
        (Code.FORBIDDEN, 503),
        (Code.DRIVER_FAULT, 503),
    ],
)
def test_a_refusal_is_never_a_500(application: Application, code: Code, status: int) -> None:
    refuse(application, code)

    assert show(application).status_code == status
    assert show_compute(application).status_code == status


def test_what_a_host_cannot_read_now_is_told_as_it_was(application: Application) -> None:
    show(application)
    refuse(application, Code.BACKEND_UNAVAILABLE)

    assert show(application).json["source"] == "last_known"


def test_a_server_that_stopped_a_moment_ago_is_409_in_the_compute_api_only(application: Application, clock: FakeClock) -> None:
    report = build_report(clock, RUNNING, PowerState.SHUTDOWN)
    application.agents.replies[RUNNING] = lambda: DiagnosticsReply(report=report)

    answer = show_compute(application)

    assert answer.status_code == 409
    assert answer.json["conflictingRequest"]["message"].endswith("while it is in power state shutdown")
    assert show(application).json["diagnostics"]["state"] == "shutdown"


def test_an_agent_whose_driver_can_tell_nothing_is_not_asked(application: Application) -> None:
    with application.store.write() as c:
        agent = agents.find_agent(c, HOST)
        assert agent is not None
        c.exec_driver_sql('UPDATE agents SET capabilities = \'{"driver": "fake"}\' WHERE host = ?', (HOST,))

    assert show_compute(application).status_code == 501
    assert application.agents.asked == []


def test_a_gateway_that_is_pinned_to_an_older_release_tells_the_inventory(application: Application) -> None:
    conf = load_config([], config_files=[])
    conf.set_override("compute_agent", f"rpc-{versions.RPC_HISTORY[0].number}", group="upgrade_levels")
    client = testing.TestClient(create_app(conf, store=application.store, clock=application.clock), headers={"Host": "127.0.0.1"})

    assert client.simulate_get(f"/v1/servers/{RUNNING}/diagnostics").json["source"] == "inventory"
    refused = client.simulate_post("/v1/diagnostics", json={"servers": [RUNNING]}).json["refused"][0]
    assert refused["code"] == 400
    assert "This gateway is pinned to RPC version 1.0" in refused["message"]


@pytest.mark.parametrize(("vcpus", "told"), [(-3, 0), (2**31 - 1, 8192)])
def test_an_inventory_that_says_odd_things_is_bounded(application: Application, vcpus: int, told: int) -> None:
    with application.store.write() as c:
        c.exec_driver_sql("UPDATE servers SET vcpus = ?, memory_mib = -1 WHERE id = ?", (vcpus, OLD_AGENTS))

    diagnosed = show_compute(application, OLD_AGENTS).json

    assert (diagnosed["num_cpus"], len(diagnosed["cpu_details"]), diagnosed["memory_details"]["maximum"]) == (told, told, 0)


def test_machines_are_told_of_in_the_formats_word_for_them(application: Application) -> None:
    with application.store.write() as c:
        c.exec_driver_sql('UPDATE agents SET capabilities = \'{"driver": "of_machines"}\' WHERE host = ?', (OLD_HOST,))

    assert show_compute(application, OLD_AGENTS).json["driver"] == "ironic"


HARDWARE = golden.REPORT.hardware
assert HARDWARE is not None


def tell_hardware(application: Application, hardware: Hardware | None = HARDWARE) -> None:
    """From now on its host says this of it too, and that it is no VM."""
    plain = build_report(application.clock, RUNNING)
    machine = plain.diagnostics.model_copy(update={"driver": "ironic", "hypervisor": None, "hypervisor_os": None})
    report = plain.model_copy(update={"hardware": hardware, "diagnostics": machine})
    application.agents.replies[RUNNING] = lambda: DiagnosticsReply(report=report, history=(report,))


def test_the_envelope_tells_of_the_hardware(application: Application) -> None:
    assert show(application).json["hardware"] is None
    tell_hardware(application)

    told = show(application, query="history=1").json

    assert told["hardware"] == {
        "power": "on",
        "power_watts": 212.5,
        "health": "warning",
        "sensors": [
            {"name": "CPU1 Temp", "kind": "temperature", "value": 41.0, "unit": "°C", "health": "ok"},
            {"name": "FAN2", "kind": "fan", "value": None, "unit": "RPM", "health": None},
        ],
        "firmware": {"controller": "2.14", "bios": "3.1"},
        "log": [{"id": "17", "at": "2026-03-01T12:30:00.250000Z", "text": "Watchdog 2: Hard reset", "severity": "critical"}],
    }
    assert sorted(told["history"][0]) == ["collected_at", "diagnostics", "errors"]


def test_hardware_is_told_of_as_it_last_was_when_its_host_is_silent(application: Application, clock: FakeClock) -> None:
    tell_hardware(application)
    hardware = show(application).json["hardware"]
    fall_silent(application)
    clock.advance(10)

    told = show(application).json

    assert (told["stale"], told["age"], told["hardware"]) == (True, 10.0, hardware)


def test_the_compute_api_learns_nothing_of_hardware(application: Application) -> None:
    new, old = show_compute(application).json, show_compute(application, headers={}).json
    tell_hardware(application)

    assert show_compute(application).json == new | {"driver": "ironic", "hypervisor": None, "hypervisor_os": None}
    assert show_compute(application, headers={}).json == old


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ({"power_watts": float("nan")}, {"power_watts": None}),
        (
            {"sensors": [{"name": "RH", "kind": "humidity", "value": float("inf")}]},
            {"sensors": [{"name": "RH", "kind": "other", "value": None, "unit": "", "health": None}]},
        ),
        (
            {"log": [{"id": "1", "at": "0001-01-01T00:00:00+02:00", "text": "Boot"}]},
            {"log": [{"id": "1", "at": None, "text": "Boot", "severity": None}]},
        ),
        (
            {"log": [{"id": "1", "at": "9999-12-31T23:59:59-02:00", "text": "Boot"}]},
            {"log": [{"id": "1", "at": None, "text": "Boot", "severity": None}]},
        ),
        (
            {"log": [{"id": "1", "at": "2026-01-01T01:00:00+02:00", "text": "Boot"}]},
            {"log": [{"id": "1", "at": "2025-12-31T23:00:00.000000Z", "text": "Boot", "severity": None}]},
        ),
    ],
)
def test_what_machines_say_that_makes_no_sense_is_told_as_nothing(
    application: Application, said: dict[str, Any], told: dict[str, Any]
) -> None:
    tell_hardware(application, Hardware.from_wire(said))

    hardware = show(application).json["hardware"]

    assert {name: hardware[name] for name in told} == told


def test_who_may_not_see_diagnostics_sees_no_hardware_in_events_or_results_either(application: Application, clock: FakeClock) -> None:
    voice = AgentVoice(clock, host=HOST, journal=f"journal-of-{HOST}")
    report = build_report(clock, DUMPED).model_copy(update={"hardware": HARDWARE})
    told = voice.tell("server.diagnostics", server=DUMPED, sequence=100, action_id=SILENT_ACTION, report=report.to_wire())
    Recorder(application.store, NotingCaster(), clock, slots=ImmediateCasts()).record([told])
    member = {"X-Roles": "member"}

    for path in (f"/v1/servers/{DUMPED}/diagnostics", f"/v1/events/{voice.journal}-100", f"/v1/actions/{SILENT_ACTION}"):
        assert "FAN2" not in application.client.simulate_get(path, headers=member).text
    for path in (f"/v1/events/{voice.journal}-100", f"/v1/actions/{SILENT_ACTION}"):
        assert "FAN2" in application.client.simulate_get(path).text


def test_reading_writes_nothing(application: Application) -> None:
    before = application.store.data_version()

    show(application)
    show_compute(application)

    assert application.store.data_version() == before


def test_a_report_of_a_server_of_another_host_is_not_kept(application: Application, clock: FakeClock) -> None:
    with application.store.write() as c:
        assert not diagnostics.keep_report(c, build_report(clock, OTHERS), host=SECOND_HOST, now=clock.now())
        assert diagnostics.find_report(c, OTHERS) is None


def test_of_two_reports_the_later_one_is_kept(application: Application, clock: FakeClock) -> None:
    early = build_report(clock, RUNNING, uptime=1)
    clock.advance(5)
    late = build_report(clock, RUNNING, uptime=6)
    with application.store.write() as c:
        for report in (early, late, early):
            diagnostics.keep_report(c, report, host=HOST, now=clock.now())
        known = diagnostics.find_report(c, RUNNING)

    assert known is not None
    assert known.report == late


def test_reports_are_forgotten(application: Application, clock: FakeClock) -> None:
    keep_event(application)
    with application.store.write() as c:
        assert diagnostics.prune(c, recorded_before=clock.now()) == 0
        assert diagnostics.prune(c, recorded_before=clock.now() + timedelta(seconds=1)) == 1
        assert diagnostics.find_report(c, RUNNING) is None
