"""Subscriptions over HTTP where the configuration decides: mail, their number, and what their makers may see."""

import logging
from pathlib import Path

import pytest
from falcon import testing

from api_gateway.config import load_config
from api_gateway.deliveries.wiring import create_senders, read_back_off
from api_gateway.store import Store, subscriptions
from api_gateway.wsgi import create_app
from compute_agent.contract.clock import SystemClock
from tests.http.application import AUTHORITY

_HOOK = {"kind": "webhook", "url": "https://hooks.example/"}
_MEMBER = {"X-Roles": "member", "X-Project-Id": "demo"}


@pytest.fixture
def client(database: Path, store: Store, tmp_path: Path) -> testing.TestClient:
    path = tmp_path / "gateway.conf"
    path.write_text("[deliveries]\nmax_subscriptions = 2\n[smtp]\nhost = mail.example\nallowed_domains = example.com\n")
    return testing.TestClient(create_app(load_config([], config_files=[str(path)]), store=store), headers={"Host": AUTHORITY})


def test_with_a_mail_server_one_subscribes_by_mail_and_gets_no_secret(client: testing.TestClient) -> None:
    answer = client.simulate_post("/v1/subscriptions", json={"target": {"kind": "email", "address": "ops@example.com"}})
    assert answer.status_code == 201
    assert answer.json["target"] == {"kind": "email", "address": "ops@example.com"}
    assert "secret" not in answer.json
    answer = client.simulate_post("/v1/subscriptions", json={"target": {"kind": "email", "address": "ops@elsewhere.example"}})
    assert (answer.status_code, "allowed_domains" in answer.text) == (400, True)


def test_a_project_has_no_more_subscriptions_than_it_may(client: testing.TestClient) -> None:
    def subscribe(**more: object) -> int:
        return int(client.simulate_post("/v1/subscriptions", json={"target": _HOOK, **more}).status_code)

    assert [subscribe() for _ in range(3)] == [201, 201, 409]
    assert [subscribe(project="other") for _ in range(3)] == [201, 201, 409]
    assert [subscribe(project=None) for _ in range(3)] == [201, 201, 409]


def test_what_its_maker_may_see_is_kept_with_the_subscription(client: testing.TestClient, store: Store) -> None:
    shown = []
    for headers in (_MEMBER, {"X-Roles": "admin"}):
        answer = client.simulate_post("/v1/subscriptions", json={"target": _HOOK}, headers=headers)
        with store.read() as c:
            row = subscriptions.find_subscription(c, answer.json["id"])
        assert row is not None
        shown.append(row.shown)
    assert shown == [(), ("hosts", "server.black_box", "server.diagnostics", "server.host_dump")]


def test_a_secret_is_logged_nowhere(client: testing.TestClient, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    secret = client.simulate_post("/v1/subscriptions", json={"target": _HOOK}).json["secret"]
    assert secret not in caplog.text
    assert "subscription" in caplog.text


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("[smtp]\nhost = mail.example\nuser = crashcart\nsecurity = none\n", "in the clear"),
        ("[smtp]\nhost = mail.example\nsender = Crash Cart <crashcart@example.com>\n", "sender"),
        ("[deliveries]\nca_file = /nowhere/ca.pem\n", "No such file"),
    ],
)
def test_options_that_cannot_work_are_said_at_start(tmp_path: Path, options: str, words: str) -> None:
    (tmp_path / "gateway.conf").write_text(options)
    conf = load_config([], config_files=[str(tmp_path / "gateway.conf")])
    with pytest.raises((ValueError, OSError), match=words):
        create_senders(conf, SystemClock())


def test_the_help_of_the_options_says_how_long_a_delivery_is_tried() -> None:
    assert 28 * 3600 < read_back_off(load_config([], config_files=[])).span.total_seconds() < 29 * 3600
