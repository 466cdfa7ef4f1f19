"""Servers that there are and that nobody could read yet: shown as they are, and left to their host when something is asked of them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from api_gateway.cast_slots import ImmediateCasts
from api_gateway.recorder import Recorder
from api_gateway.store import servers
from compute_agent.contract.diagnostics import DiagnosticsReply
from compute_agent.contract.errors import Code
from compute_agent.contract.models import PowerState
from tests.fakes import FakeClock
from tests.http.application import Application, create_application
from tests.http.fleet import HOST, RUNNING, Agent, build_server
from tests.unit.gateway.engine_parts import AgentVoice, NotingCaster

UNREAD = RUNNING
REASON = "not read: no answer came in 5 s"
NEWEST = {"OpenStack-API-Version": "compute latest"}


@pytest.fixture
def application(tmp_path: Path, clock: FakeClock) -> Iterator[Application]:
    application = create_application(tmp_path, clock=clock, fleet=False)
    unread = build_server(UNREAD, PowerState.PENDING, clock.now(), name="rack-1").model_copy(update={"state_reason": REASON})
    Agent(HOST, servers={UNREAD: unread}).beat(application.store, clock.now())
    yield application
    application.close()


def get(application: Application, path: str) -> Any:
    answer = application.client.simulate_get(path, headers=NEWEST)
    assert answer.status_code == 200, answer.text
    return answer.json


def test_the_compute_api_shows_a_server_without_a_state_that_is_neither_broken_nor_gone(application: Application) -> None:
    shown = get(application, f"/v2.1/servers/{UNREAD}")["server"]

    assert (shown["status"], shown["OS-EXT-STS:vm_state"], shown["OS-EXT-STS:power_state"]) == ("ACTIVE", "active", 0)
    assert shown["OS-EXT-STS:task_state"] is None
    assert "fault" not in shown


@pytest.mark.parametrize("query", ["", "?status=ACTIVE", "?power_state=0"])
def test_lists_find_it(application: Application, query: str) -> None:
    assert [each["id"] for each in get(application, f"/v2.1/servers/detail{query}")["servers"]] == [UNREAD]


@pytest.mark.parametrize("status", ["ERROR", "SHUTOFF", "UNKNOWN"])
def test_it_is_in_no_other_state(application: Application, status: str) -> None:
    assert get(application, f"/v2.1/servers?status={status}")["servers"] == []


def test_our_own_api_says_why_nobody_knows_its_state(application: Application) -> None:
    (listed,) = get(application, "/v1/servers")["servers"]
    for shown in (listed, get(application, f"/v1/servers/{UNREAD}")):
        assert (shown["status"], shown["power_state"], shown["state_reason"]) == ("ACTIVE", "pending", REASON)


@pytest.mark.parametrize("kind", ["trigger_crash_dump", "reset_watchdog_timer", "collect_diagnostics"])
def test_what_is_asked_of_it_is_for_its_host_to_decide(application: Application, kind: str) -> None:
    answer = application.client.simulate_post(f"/v1/servers/{UNREAD}/actions", json={"kind": kind})

    assert answer.status_code == 202


@pytest.mark.parametrize(("method", "body"), [("PUT", {"model": "i6300esb", "expiry_action": "reset"}), ("DELETE", None)])
def test_so_is_a_change_of_its_watchdog(application: Application, method: str, body: object) -> None:
    assert application.client.simulate_request(method, f"/v1/servers/{UNREAD}/watchdog", json=body).status_code == 202


def test_a_crash_dump_is_accepted_and_ends_with_its_hosts_answer(application: Application, clock: FakeClock) -> None:
    answer = application.client.simulate_post(f"/v2.1/servers/{UNREAD}/action", json={"trigger_crash_dump": None}, headers=NEWEST)
    assert answer.status_code == 202
    action_id = answer.headers["x-openstack-request-id"]
    voice = AgentVoice(clock, host=HOST, journal=f"journal-of-{HOST}")
    ended = voice.tell(
        "action.ended",
        server=UNREAD,
        action_id=action_id,
        kind="trigger_crash_dump",
        ending="failed",
        code=Code.BACKEND_UNAVAILABLE,
        reason=REASON,
        decided_by="agent",
    )
    Recorder(application.store, NotingCaster(), clock, slots=ImmediateCasts()).record([ended])

    shown = get(application, f"/v1/actions/{action_id}")

    assert (shown["ending"], shown["code"], shown["reason"]) == ("failed", "backend_unavailable", REASON)
    assert get(application, f"/v2.1/servers/{UNREAD}")["server"]["status"] == "ACTIVE"


@pytest.mark.parametrize("path", ["/v1/servers/{}/diagnostics", "/v2.1/servers/{}/diagnostics"])
def test_its_diagnostics_are_asked_for_and_not_there_now(application: Application, path: str) -> None:
    application.agents.replies[UNREAD] = lambda: DiagnosticsReply.refuse(Code.BACKEND_UNAVAILABLE, REASON)

    answer = application.client.simulate_get(path.format(UNREAD), headers=NEWEST)

    assert answer.status_code == 503
    assert REASON in answer.json["serviceUnavailable"]["message"]
    assert application.agents.asked == [UNREAD]


def test_once_it_is_read_it_is_as_it_is(application: Application, clock: FakeClock) -> None:
    clock.advance(30)
    read = build_server(UNREAD, PowerState.SHUTDOWN, clock.now(), name="rack-1").model_copy(update={"state_at": clock.now()})
    Agent(HOST, number=1, servers={UNREAD: read}).beat(application.store, clock.now())

    with application.store.read() as c:
        row = servers.find_server(c, UNREAD)
    assert row is not None
    assert (row.power_state, row.vm_state, row.state_reason) == ("shutdown", "stopped", "")
    assert get(application, f"/v2.1/servers/{UNREAD}")["server"]["status"] == "SHUTOFF"
