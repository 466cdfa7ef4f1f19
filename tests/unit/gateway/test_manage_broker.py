"""What an operator imports into RabbitMQ: the right accounts, and no password."""

import io
import json
import re
from pathlib import Path
from typing import Any

import pytest

from api_gateway.manage import main
from compute_agent.contract.accounts import hash_password

ACCOUNTS = "# made today\ngateway  first-secret\n\nagent.compute-1 second-secret\nagent.compute-1.example third secret\n"


@pytest.fixture
def accounts(tmp_path: Path) -> Path:
    path = tmp_path / "accounts"
    path.write_text(ACCOUNTS)
    path.chmod(0o600)
    return path


def run(*arguments: str) -> int:
    return main(["--config-file", "/dev/null", "broker-definitions", *arguments])


def find(definitions: dict[str, Any], section: str, user: str) -> dict[str, Any]:
    return next(entry for entry in definitions[section] if entry["user"] == user)


def test_each_account_gets_the_permissions_of_its_role_and_no_password_is_printed(
    accounts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(str(accounts)) == 0
    printed = capsys.readouterr().out
    assert "secret" not in printed
    definitions = json.loads(printed)
    assert [user["name"] for user in definitions["users"]] == ["gateway", "agent.compute-1", "agent.compute-1.example"]
    assert {user["tags"] for user in definitions["users"]} == {""}
    of_agent = find(definitions, "permissions", "agent.compute-1")
    assert re.search(of_agent["read"], "compute_agent.compute-1")
    for name in ("compute_agent.compute-10", "compute_agent.compute-1.example", "compute_agent.compute-2", "crashcart.recorder"):
        assert not re.search(of_agent["read"], name)
        assert not re.search(of_agent["configure"], name)
    assert not re.search(find(definitions, "permissions", "agent.compute-1.example")["read"], "compute_agent.compute-1xexample")
    assert {policy["name"] for policy in definitions["policies"]} == {"crashcart-agents", "crashcart-consumers"}
    assert {queue["name"] for queue in definitions["queues"]} == {"crashcart.recorder", "crashcart.recorder.dead", "crashcart.heartbeats"}


def test_a_consumer_has_queues_and_an_exchange_of_its_own_and_nothing_else(accounts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    accounts.write_text("consumer.dash-board secret\nconsumer.dash secret\n")
    assert run(str(accounts)) == 0
    definitions = json.loads(capsys.readouterr().out)
    granted = find(definitions, "permissions", "consumer.dash")
    mine = ("consumer.dash", "consumer.dash.2")
    others = (
        "consumer.dash-board",
        "consumer.",
        "crashcart",
        "crashcart.recorder",
        "compute_agent.h",
        "amq.default",
        "",
    )
    for asked in ("configure", "write", "read"):
        assert all(re.search(granted[asked], name) for name in mine)
        assert not any(re.search(granted[asked], name) for name in others)
    topics = find(definitions, "topic_permissions", "consumer.dash")
    assert [key for key in ("notifications.info", "notifications.*", "#", "heartbeats") if re.search(topics["read"], key)] == [
        "notifications.info",
        "notifications.*",
    ]
    assert {(one["source"], one["destination"]) for one in definitions["bindings"] if one["destination_type"] == "exchange"} == {
        ("crashcart.events", "consumer.dash"),
        ("crashcart.events", "consumer.dash-board"),
    }
    assert {"consumer.dash", "consumer.dash-board"} <= {exchange["name"] for exchange in definitions["exchanges"]}


def test_a_controller_casts_to_hosts_and_hears_what_comes_of_it(accounts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    accounts.write_text("controller.soc secret\n")
    assert run(str(accounts)) == 0
    definitions = json.loads(capsys.readouterr().out)
    granted = find(definitions, "permissions", "controller.soc")
    others = ("controller.soc2", "consumer.soc", "crashcart.recorder", "compute_agent", "compute_agent.h", "amq.default", "")
    for asked in ("configure", "write", "read"):
        assert re.search(granted[asked], "controller.soc.1")
        assert not any(re.search(granted[asked], name) for name in others)
    casts, told = (
        next(one for one in definitions["topic_permissions"] if one["exchange"] == exchange)
        for exchange in ("crashcart", "crashcart.events")
    )
    may_cast = [key for key in ("compute_agent.h", "compute_agent_calls.h", "compute_agent", "x.h") if re.search(casts["write"], key)]
    assert may_cast == ["compute_agent.h", "compute_agent_calls.h"]
    assert not re.search(casts["read"], "compute_agent.h")
    assert [key for key in ("notifications.info", "heartbeats", "#") if re.search(told["read"], key)] == [
        "notifications.info",
        "heartbeats",
    ]
    assert not re.search(told["write"], "notifications.info")
    (bounded,) = (policy["pattern"] for policy in definitions["policies"] if policy["name"] == "crashcart-consumers")
    assert re.search(bounded, "controller.soc.1")


def test_accounts_come_from_standard_input_as_well(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("agent.h secret\n"))
    assert run("-", "--vhost", "crash") == 0
    definitions = json.loads(capsys.readouterr().out)
    assert definitions["vhosts"] == [{"name": "crash"}]
    assert {entry["vhost"] for section in ("permissions", "policies", "queues", "bindings") for entry in definitions[section]} == {"crash"}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no account"),
        ("gateway\n", "line 1: account 'gateway' has no password"),
        ("agent. x\n", "names no host"),
        ("agent.h x\n\nagent.h y\n", "line 3: account 'agent.h' is there twice"),
        ("consumer. x\n", "line 1: account 'consumer.' is none: a consumer's name has letters"),
        ("consumer.a.b x\n", "account 'consumer.a.b' is none: a consumer's name has letters"),
        ("controller.a.b x\n", "account 'controller.a.b' is none: a controller's name has letters"),
        ("consumer.a x\nconsumer.a y\n", "line 2: account 'consumer.a' is there twice"),
    ],
)
def test_a_list_with_a_fault_is_refused_as_a_whole(text: str, says: str, accounts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    accounts.write_text(text)
    assert run(str(accounts)) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert says in printed.err


def test_a_list_that_others_may_read_is_refused(accounts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    accounts.chmod(0o640)
    assert run(str(accounts)) == 1
    assert "chmod 0600" in capsys.readouterr().err


def test_the_same_password_has_another_hash_each_time() -> None:
    assert hash_password("secret") != hash_password("secret")
