"""What the application promises beyond single answers: durability, waking, waiting, limits, who it lets in."""

import socket
import threading
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from sqlalchemy import event

from api_gateway import wsgi
from api_gateway.config import load_config
from api_gateway.fault_names import FAULT_NAMES
from api_gateway.microversion import MAX_VERSION, Since
from api_gateway.microversion_others import OTHERS
from api_gateway.store import SchemaOutdated, StoreBusy, StoreUnavailable, actions
from tests.fakes import FakeClock
from tests.http.application import Application, create_application
from tests.http.fleet import DUMPED, HOST, PAUSED, PENDING_ACTION, RUNNING, SHUTOFF, Agent, build_server, end_action

DUMP = {"trigger_crash_dump": None}
AT_17 = {"OpenStack-API-Version": "compute 2.17"}


@pytest.fixture
def application(tmp_path: Path) -> Iterator[Application]:
    application = create_application(tmp_path)
    yield application
    application.close()


def trigger(application: Application, server: str = RUNNING, **headers: str) -> Any:
    return application.client.simulate_post(f"/v2.1/servers/{server}/action", json=DUMP, headers={**AT_17, **headers})


def find_action(application: Application, action_id: str) -> Any:
    with application.store.read() as c:
        return actions.find_action(c, action_id)


def test_an_accepted_action_is_committed_before_the_dispatcher_is_woken(tmp_path: Path) -> None:
    """202 means durable: whoever is woken finds the row."""
    application = create_application(tmp_path)
    found = []
    conf = load_config([], config_files=[])
    app = wsgi.create_app(conf, store=application.store, wake=lambda: found.append(find_open(application)))
    client = type(application.client)(app, headers={"Host": "localhost"})

    answer = client.simulate_post(f"/v2.1/servers/{RUNNING}/action", json=DUMP, headers=AT_17)

    assert answer.status_code == 202
    assert answer.text == ""
    assert found == [[answer.headers["x-openstack-request-id"]]]
    application.close()


def find_open(application: Application) -> list[str]:
    with application.store.read() as c:
        return [row.id for row in actions.list_actions_of_server(c, RUNNING)]


def test_the_row_says_who_asked_for_what_until_when(tmp_path: Path) -> None:
    clock = FakeClock(datetime(2026, 5, 1, 12, tzinfo=UTC))
    application = create_application(tmp_path, clock=clock, crash_dump_deadline=45)
    global_id = f"req-{uuid.uuid4()}"

    answer = trigger(application, **{"X-User-Id": "alice", "X-Roles": "member", "X-OpenStack-Request-ID": global_id})

    row = find_action(application, answer.headers["x-compute-request-id"])
    assert (row.user, row.project, row.host, row.kind, row.state) == ("alice", "demo", HOST, "trigger_crash_dump", "accepted")
    assert row.accepted_at == row.updated_at == clock.now()
    assert row.deadline - row.accepted_at == timedelta(seconds=45)
    assert row.global_request_id == global_id
    assert row.server_generation == 1
    application.close()


def test_a_refused_request_leaves_no_row_and_wakes_nobody(application: Application) -> None:
    assert trigger(application, SHUTOFF).status_code == 409

    with application.store.read() as c:
        assert actions.list_actions_of_server(c, SHUTOFF) == []
    assert application.wakes == []


def test_two_requests_at_a_time_make_one_action(application: Application) -> None:
    """The check for an earlier crash dump and the new row are one transaction."""
    answers: list[int] = []
    barrier = threading.Barrier(8)

    def ask() -> None:
        barrier.wait()
        answers.append(trigger(application, PAUSED).status_code)

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(answers) == [202] + [409] * 7


def test_a_crash_dump_is_refused_within_the_holdoff_and_taken_after_it(tmp_path: Path) -> None:
    clock = FakeClock(datetime(2026, 5, 1, 12, tzinfo=UTC))
    application = create_application(tmp_path, clock=clock, crash_dump_holdoff=600)
    first = trigger(application).headers["x-openstack-request-id"]
    end_action(application.store, find_action(application, first), observation="nothing_seen_yet", final=False)

    clock.advance(500)
    refused = trigger(application)
    clock.advance(200)
    taken = trigger(application)

    assert refused.status_code == 409
    assert first in refused.json["conflictingRequest"]["message"]
    assert taken.status_code == 202
    application.close()


def test_a_guest_that_rebooted_may_be_dumped_again_at_once(application: Application) -> None:
    first = trigger(application).headers["x-openstack-request-id"]
    end_action(application.store, find_action(application, first), observation="guest_rebooted")

    assert trigger(application).status_code == 202


@pytest.mark.parametrize("error", [StoreBusy("locked"), StoreUnavailable("gone")])
def test_a_store_that_is_away_is_a_503_with_retry_after(
    application: Application, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def refuse(**_: object) -> Any:
        raise error

    monkeypatch.setattr(application.store, "write", refuse)
    monkeypatch.setattr(application.store, "read", refuse)

    for answer in (trigger(application), application.client.simulate_get("/healthcheck")):
        assert answer.status_code == 503
        assert answer.headers["retry-after"] == "1"
        assert "serviceUnavailable" in answer.json
    assert application.wakes == []


def test_an_error_of_ours_is_a_500_in_the_envelope_and_names_the_request(
    application: Application, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(application.store, "read", lambda: 1 / 0)

    answer = application.client.simulate_get("/v2.1/servers")

    assert answer.status_code == 500
    assert answer.json["computeFault"]["message"].endswith("<class 'ZeroDivisionError'>")
    assert answer.headers["x-openstack-request-id"] in caplog.text


def test_a_long_poll_ends_when_the_observation_is_known(application: Application) -> None:
    """Not with the ending: what the guest did is what the caller waits for."""
    row = find_action(application, PENDING_ACTION)
    reporter = threading.Timer(0.1, lambda: end_action(application.store, row, observation="guest_panicked"))
    reporter.start()

    answer = application.client.simulate_get(f"/v1/actions/{PENDING_ACTION}", params={"wait": "20"})

    reporter.join()
    assert answer.json["ending"] == "succeeded"
    assert answer.json["observation"]["observation"] == "guest_panicked"


def test_an_ending_after_which_nothing_was_sent_ends_a_long_poll(application: Application) -> None:
    row = find_action(application, PENDING_ACTION)
    reporter = threading.Timer(0.05, lambda: end_action(application.store, row, ending="failed", code="not_supported"))
    reporter.start()

    answer = application.client.simulate_get(f"/v1/actions/{PENDING_ACTION}", params={"wait": "20"})

    reporter.join()
    assert (answer.json["ending"], answer.json["observation"]) == ("failed", None)


def test_no_more_requests_wait_than_there_are_places(tmp_path: Path) -> None:
    """The others are answered at once with what is known, so that waiting never uses up the threads."""
    application = create_application(tmp_path, long_poll_waiters=1)
    row = find_action(application, PENDING_ACTION)
    waiting = threading.Event()
    answers: list[Any] = []
    ask_version = application.store.data_version

    def note_and_ask() -> int:
        waiting.set()
        return ask_version()

    first = threading.Thread(
        target=lambda: answers.append(application.client.simulate_get(f"/v1/actions/{PENDING_ACTION}", params={"wait": "20"}))
    )
    application.store.data_version = note_and_ask  # type: ignore[method-assign]
    first.start()
    assert waiting.wait(60)
    waiting.clear()
    assert waiting.wait(60)  # it asked a second time: it holds the place

    second = application.client.simulate_get(f"/v1/actions/{PENDING_ACTION}", params={"wait": "20"})

    assert second.json["ending"] is None
    end_action(application.store, row, observation="guest_panicked")
    first.join(60)
    assert answers[0].json["ending"] == "succeeded"
    application.close()


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.1", "example.org"])
def test_without_authentication_only_loopback_is_served(tmp_path: Path, host: str) -> None:
    conf = load_config([], config_files=[])
    conf.set_override("listen_host", host, group="api")

    with pytest.raises(wsgi.NotAllowed, match="loopback"):
        wsgi.check_startable(conf)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.1", "::1", "localhost"])
def test_a_store_without_tables_is_refused_with_the_command_that_makes_them(tmp_path: Path, host: str) -> None:
    conf = load_config([], config_files=[])
    conf.set_override("listen_host", host, group="api")
    conf.set_override("listen_port", 0, group="api")
    conf.set_override("connection", f"sqlite:///{tmp_path / 'gateway.sqlite'}", group="database")

    with pytest.raises(SchemaOutdated, match="crashcart-manage db upgrade"):
        wsgi.check_startable(conf)


def test_a_port_that_somebody_else_listens_on_is_refused() -> None:
    conf = load_config([], config_files=[])
    with socket.create_server(("127.0.0.1", 0), reuse_port=True) as other:
        conf.set_override("listen_port", other.getsockname()[1], group="api")

        with pytest.raises(OSError, match=r"cannot listen on 127\.0\.0\.1 port"):
            wsgi.check_startable(conf)


def test_the_workers_of_a_predecessor_that_was_killed_may_still_let_go_of_the_port() -> None:
    conf = load_config([], config_files=[])
    with socket.create_server(("127.0.0.1", 0), reuse_port=True) as other:
        conf.set_override("listen_port", other.getsockname()[1], group="api")
        looks = iter([other.close])
        with (
            mock.patch("api_gateway.wsgi.time.sleep", side_effect=lambda pause: next(looks)()),
            mock.patch("api_gateway.wsgi._open_store"),
        ):
            assert wsgi.check_startable(conf, patience=10.0) == "127.0.0.1"


def test_the_advertised_maximum_is_the_last_row_of_the_table() -> None:
    minors = [member.value for member in Since]

    assert minors == sorted(set(minors))
    assert f"2.{minors[-1]}" == MAX_VERSION
    assert all(member.reason for member in Since)


def test_every_microversion_up_to_the_maximum_was_looked_at() -> None:
    assert sorted([*Since, *OTHERS]) == list(range(1, max(Since) + 1))


def test_every_fault_name_is_one_that_clients_know() -> None:
    assert set(FAULT_NAMES) == {400, 401, 403, 404, 405, 406, 409, 413, 415, 429, 500, 501, 503}


def test_a_page_takes_as_many_queries_whatever_its_size(tmp_path: Path) -> None:
    """One for the servers, one for the agents."""
    application = create_application(tmp_path, fleet=False)
    agent = Agent(HOST)
    now = datetime.now(UTC)
    for number in range(1, 60):
        server = f"00000000-0000-4000-8000-0000000000{number:02x}"
        agent.servers[server] = build_server(server, "running", now, name=f"server-{number}")  # type: ignore[arg-type]
    agent.beat(application.store, now)
    statements: list[str] = []
    with application.store.read() as c:
        engine = c.engine
    event.listen(engine, "before_cursor_execute", lambda *arguments: statements.append(arguments[2]))

    counts = []
    for limit in (1, 50):
        statements.clear()
        answer = application.client.simulate_get(f"/v2.1/servers/detail?limit={limit}", headers={"OpenStack-API-Version": "compute 2.16"})
        assert len(answer.json["servers"]) == limit
        counts.append(len([statement for statement in statements if statement.startswith("SELECT")]))

    assert counts == [2, 2]
    application.close()


def test_actions_of_a_server_are_open_to_its_owner_whoever_asked(application: Application) -> None:
    """An admin of another project triggered it; the server's owner reads how it went."""
    asked = trigger(application, **{"X-Project-Id": "operators"}).headers["x-openstack-request-id"]

    own = application.client.simulate_get(f"/v1/actions/{asked}", headers={"X-Roles": "reader"})
    foreign = application.client.simulate_get(f"/v1/actions/{asked}", headers={"X-Roles": "reader", "X-Project-Id": "operators"})

    assert own.json["project"] == "operators"
    assert foreign.status_code == 404
    assert application.client.simulate_get(f"/v2.1/servers/{DUMPED}").status_code == 200
