"""How much one host may have open, and what becomes of the ids that a request carries."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from api_gateway.cast_slots import ImmediateCasts
from api_gateway.dispatcher import Dispatcher
from api_gateway.store import actions
from tests.http.application import Application, create_application
from tests.http.fleet import CRASHED, DOWN_AGENTS, DUMPED, PAUSED, PENDING_ACTION, RUNNING, end_action
from tests.unit.gateway.engine_parts import NotingCaster

AT_17 = {"OpenStack-API-Version": "compute 2.17"}
GLOBAL_ID = "req-99999999-9999-4999-8999-999999999999"


@pytest.fixture
def application(tmp_path: Path) -> Iterator[Application]:
    """One open action is there already; one more may come."""
    application = create_application(tmp_path, max_open_actions_per_host=2)
    yield application
    application.close()


def trigger(application: Application, server: str, **headers: str) -> Any:
    return application.client.simulate_post(
        f"/v2.1/servers/{server}/action", json={"trigger_crash_dump": None}, headers={**AT_17, **headers}
    )


def test_a_host_takes_so_many_open_actions_and_no_more(application: Application) -> None:
    answers = [trigger(application, server) for server in (RUNNING, PAUSED)]
    native = application.client.simulate_post(f"/v1/servers/{PAUSED}/actions", json={"kind": "trigger_crash_dump", "force": True})

    assert [answer.status_code for answer in (*answers, native)] == [202, 429, 429]
    for refused in (answers[1], native):
        assert refused.headers["retry-after"] == "1"
        assert refused.json["overLimit"]["code"] == 429
        assert refused.json["overLimit"]["retryAfter"] == "1"
        assert "2 open actions" in refused.json["overLimit"]["message"]
    with application.store.read() as c:
        assert actions.list_actions_of_server(c, PAUSED) == []
    assert len(application.wakes) == 1


def test_other_hosts_are_not_concerned(application: Application) -> None:
    assert trigger(application, RUNNING).status_code == 202

    assert trigger(application, DOWN_AGENTS).status_code == 202


def test_an_action_that_ended_makes_room(application: Application) -> None:
    assert trigger(application, RUNNING).status_code == 202
    with application.store.read() as c:
        end_action(application.store, actions.get_action(c, PENDING_ACTION), ending="failed", code="server_not_running")

    assert trigger(application, CRASHED).status_code == 202


def test_locks_are_no_open_actions(application: Application) -> None:
    for _ in range(3):
        for action in ("lock", "unlock"):
            assert application.client.simulate_post(f"/v2.1/servers/{DUMPED}/action", json={action: None}).status_code == 202

    assert trigger(application, RUNNING).status_code == 202


def test_the_state_of_the_server_is_told_before_the_limit(application: Application) -> None:
    assert trigger(application, RUNNING).status_code == 202

    assert trigger(application, RUNNING).status_code == 409


def test_a_lock_keeps_the_callers_own_request_id(application: Application) -> None:
    answer = application.client.simulate_post(
        f"/v2.1/servers/{RUNNING}/action", json={"lock": None}, headers={"X-OpenStack-Request-ID": GLOBAL_ID}
    )

    with application.store.read() as c:
        row = actions.get_action(c, answer.headers["x-openstack-request-id"])
    assert row.id != GLOBAL_ID
    assert row.global_request_id == GLOBAL_ID


@pytest.mark.parametrize("sent", ["nonsense", f"{GLOBAL_ID}\r\nX-Evil: 1", GLOBAL_ID.upper(), "req-" + "9" * 400])
def test_a_global_id_that_is_none_is_neither_kept_nor_echoed(application: Application, sent: str) -> None:
    answer = trigger(application, RUNNING, **{"X-OpenStack-Request-ID": sent})

    with application.store.read() as c:
        assert actions.get_action(c, answer.headers["x-openstack-request-id"]).global_request_id is None
    assert sent not in str(answer.headers)


def test_the_log_names_both_ids(application: Application, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        asked = trigger(application, RUNNING, **{"X-OpenStack-Request-ID": GLOBAL_ID}).headers["x-openstack-request-id"]

    assert any(asked in record.getMessage() and GLOBAL_ID in record.getMessage() for record in caplog.records)


def test_the_callers_own_request_id_goes_down_to_the_agent(application: Application) -> None:
    """What is cast names it, so that the agent's log and whoever reads it find the request that it came from."""
    application.client.simulate_post(f"/v2.1/servers/{DUMPED}/action", json={"lock": None})  # nothing of which an agent hears
    asked = trigger(application, DOWN_AGENTS, **{"X-OpenStack-Request-ID": GLOBAL_ID}).headers["x-openstack-request-id"]
    caster = NotingCaster()

    Dispatcher(application.store, caster, application.clock, owner="one", slots=ImmediateCasts()).step()

    sent = {request.id: request.global_request_id for request in caster.requests}
    assert sent[asked] == GLOBAL_ID
    assert {request.kind for request in caster.requests} == {"trigger_crash_dump"}
