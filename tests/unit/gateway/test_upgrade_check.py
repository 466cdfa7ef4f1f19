"""What ``crashcart-manage versions`` shows and ``upgrade-check`` finds: the fleet, the pin, the tables, the queues, and what to do."""

import json
from argparse import Namespace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest import mock

import amqp
import pytest

from api_gateway import manage, queue_checks
from api_gateway.config import load_config
from api_gateway.fleet_report import judge_pin
from api_gateway.manage_upgrade_check import check_upgrade
from api_gateway.pins import parse_pin
from api_gateway.store import Store, agents
from api_gateway.store.agent_versions import AgentVersions
from api_gateway.store.phases import Migration, Phase
from api_gateway.upgrade_checks import Finding, Result, check_agents, check_pin, check_tables, get_worst
from compute_agent.contract import versions
from compute_agent.contract.broker import BrokerAddress
from tests.databases import write_database
from tests.fakes import FakeClock
from tests.unit.gateway.store_parts import FakeHost

NOW = datetime(2026, 11, 22, tzinfo=UTC)
BEFORE, OWN = list(versions.RELEASES)[-2:]
MAJOR, MINOR = OWN.split(".")


def speak(host: str, release: str = OWN, *, rpc_version: str | None = None, down_for: timedelta | None = None) -> AgentVersions:
    """An agent's last word of itself."""
    said = versions.RELEASES.get(release)
    spoken = rpc_version or (said.rpc if said is not None else versions.RPC_API_VERSION)
    return AgentVersions(host, release, spoken, versions.EVENT_VERSION, NOW, None if down_for is None else NOW - down_for)


def say(findings: list[Finding]) -> str:
    """All of one check, with the worst result before it."""
    return f"{get_worst(findings).name}: " + " | ".join(finding.text for finding in findings)


@pytest.fixture
def fleet(tmp_path: Path, clock: FakeClock) -> str:
    """A configuration file under an automatic pin; its store knows two hosts of this release, and one of the one before that is down."""
    database = write_database(tmp_path / "gateway.sqlite")
    store = Store(f"sqlite:///{database}")
    for name, release in (("a", OWN), ("b", OWN), ("old", BEFORE)):
        host = FakeHost(store, clock, name)
        spoken = versions.RELEASES[release]
        told = {"release": release, "rpc_version": spoken.rpc, "event_version": spoken.event}
        host.deliver(host.build_heartbeat(full=True, stopping=release == BEFORE).model_copy(update=told))
    store.dispose()
    path = tmp_path / "gateway.conf"
    path.write_text(f"[database]\nconnection = sqlite:///{database}\n[upgrade_levels]\ncompute_agent = auto\n")
    return str(path)


def run(config_file: str, *command: str) -> int:
    return manage.main(["--config-file", config_file, *command])


def test_versions_shows_who_runs_what_and_what_holds_the_pin_back(fleet: str, clock: FakeClock, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(fleet, "versions") == 0
    rpc, event, old = versions.RPC_API_VERSION, versions.EVENT_VERSION, versions.RELEASES[BEFORE]
    assert capsys.readouterr().out.splitlines() == [
        f"this gateway: {versions.VERSION}, RPC version {rpc}, event version {event}",
        f"[upgrade_levels] compute_agent = auto: agents are told no more than RPC version {old.rpc}, held back by old (release {BEFORE})",
        "agents: 3",
        f"  release {BEFORE}, RPC version {old.rpc}, event version {old.event}: 1, 1 of them down",
        f"  release {OWN}, RPC version {rpc}, event version {event}: 2",
        f"  old (release {BEFORE}) is down since {clock.now().isoformat(timespec='seconds')}",
    ]


def test_versions_are_there_for_programs_too(fleet: str, clock: FakeClock, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(fleet, "versions", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["gateway"] == {
        "version": versions.VERSION,
        "release": OWN,
        "rpc_version": versions.RPC_API_VERSION,
        "event_version": versions.EVENT_VERSION,
    }
    assert (told["pin"]["configured"], told["pin"]["rpc_version"], told["pin"]["held_back_by"], told["pin"]["needless"]) == (
        "auto",
        versions.RELEASES[BEFORE].rpc,
        ["old"],
        False,
    )
    assert [(group["release"], group["hosts"], group["down"]) for group in told["fleet"]] == [
        (BEFORE, 1, [{"host": "old", "since": clock.now().isoformat()}]),
        (OWN, 2, []),
    ]


def test_a_fleet_of_thousands_and_agents_that_say_odd_things_fit_on_a_screen(
    tmp_path: Path, clock: FakeClock, fleet: str, capsys: pytest.CaptureFixture[str]
) -> None:
    store = Store(f"sqlite:///{tmp_path}/gateway.sqlite")
    with store.write() as c:
        row = agents.find_agent(c, "old")
        assert row is not None
        c.exec_driver_sql(
            "CREATE TABLE numbers AS WITH RECURSIVE n(i) AS (SELECT 1 UNION SELECT i + 1 FROM n WHERE i < 40) SELECT i FROM n"
        )
        columns = [name[1] for name in c.exec_driver_sql("PRAGMA table_info(agents)") if name[1] != "host"]
        copied = ", ".join(columns)
        c.exec_driver_sql(f"INSERT INTO agents (host, {copied}) SELECT 'h' || i, {copied} FROM agents, numbers WHERE host = 'old'")
        c.exec_driver_sql("UPDATE agents SET release = 'x' || char(27) || '[2J', rpc_version = '?' WHERE host = 'h1'")
    store.dispose()
    assert run(fleet, "versions") == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "this release can tell nothing to: h1 (release x [2J)" in out
    assert "h10, h11, h12, h13, h14 and 35 more" in out
    assert "and 31 more that have not been down for as long" in out


def test_a_pin_that_names_nothing_is_refused_by_versions_and_found_by_the_check(
    fleet: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OS_UPGRADE_LEVELS__COMPUTE_AGENT", "juno")
    assert run(fleet, "versions") == 1
    assert "compute_agent = juno: neither auto" in capsys.readouterr().err
    assert run(fleet, "upgrade-check") == 2
    assert "failure  pin: [upgrade_levels] compute_agent = juno: neither auto" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("level", "hosts", "cap", "needless", "text"),
    [
        ("", {}, OWN, False, "no pin: each agent is told as much as its own release takes"),
        ("", {"a": BEFORE}, OWN, False, f"own release takes; not all of this release's: a (release {BEFORE})"),
        ("auto", {}, OWN, False, "all of this release's"),
        ("auto", {"a": OWN, "b": BEFORE}, BEFORE, False, f"held back by b (release {BEFORE})"),
        (BEFORE, {"a": OWN, "b": BEFORE}, BEFORE, False, f"which is what b (release {BEFORE}) speak"),
        (BEFORE, {"a": OWN}, BEFORE, True, "lower than any of them needs"),
        (BEFORE, {}, BEFORE, False, "and none was heard yet"),
        (OWN, {"a": OWN}, OWN, False, "all of this release's"),
        (
            OWN,
            {"a": OWN, "b": BEFORE},
            OWN,
            False,
            f"higher than some speak, which are refused the rest all the same: b (release {BEFORE})",
        ),
    ],
)
def test_a_pin_is_held_against_the_fleet(level: str, hosts: dict[str, str], cap: str, needless: bool, text: str) -> None:
    standing = judge_pin(parse_pin(level), [speak(host, release) for host, release in hosts.items()])
    assert (standing.cap, standing.is_needless) == (versions.RELEASES[cap].rpc, needless)
    assert standing.text.endswith(text) or text in standing.text


def test_tables_are_ready_when_they_are_expanded_and_remind_of_what_is_left() -> None:
    expand, contract = Migration("0007", Phase.EXPAND, "adds"), Migration("0008", Phase.CONTRACT, "removes")
    assert say(check_tables([])).startswith("SUCCESS: ")
    assert "db upgrade --expand, which makes 0007" in say(check_tables([expand, contract]))
    assert get_worst(check_tables([expand, contract])) is Result.FAILURE
    assert get_worst(check_tables([contract])) is Result.WARNING
    assert "db upgrade --contract, which makes 0008 (contract): removes" in say(check_tables([contract]))


FAR = timedelta(days=2)


@pytest.mark.parametrize(
    ("agents", "said"),
    [
        ([], "SUCCESS: none was heard yet"),
        ([speak("a"), speak("b")], "SUCCESS: 2 known, none more than one minor release away"),
        ([speak("a", BEFORE), speak("b")], "SUCCESS: 2 known, none more than one minor release away, 1 of the release before"),
        ([speak("a", f"{MAJOR}.{int(MINOR) + 1}")], "SUCCESS: 1 known, none more than one minor release away, 1 of the release after"),
        ([speak("a", BEFORE, down_for=timedelta(hours=1))], "SUCCESS"),
        ([speak("a", OWN, down_for=FAR)], "SUCCESS"),
        ([speak("a", BEFORE, down_for=FAR)], f"WARNING: of the release before, and down for more than a day: a (release {BEFORE})"),
        ([speak("a", f"{MAJOR}.{int(MINOR) + 2}"), speak("b")], f"FAILURE: agents more than one minor release away from {OWN}: a (release"),
        ([speak("a", "unreadable"), speak("b")], "FAILURE: agents more than one minor release away"),
        ([speak("a", "2.0", rpc_version="2.0")], "FAILURE: this release can tell nothing to the agents of: a (release 2.0)"),
        ([speak("a", rpc_version="?")], "FAILURE: this release can tell nothing to the agents of: a"),
    ],
)
def test_agents_are_ready_when_each_is_a_neighbour_that_can_be_told_something(agents: list[AgentVersions], said: str) -> None:
    assert say(check_agents(agents, now=NOW)).startswith(said)


def test_a_release_two_minors_ago_is_too_far(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(versions, "RELEASE", f"{MAJOR}.{int(MINOR) + 1}")
    assert say(check_agents([speak("a", BEFORE), speak("b")], now=NOW)).startswith("FAILURE: agents more than one minor release away")


@pytest.mark.parametrize(
    ("level", "result", "text"),
    [
        ("", Result.SUCCESS, "no pin"),
        ("auto", Result.SUCCESS, "held back by b"),
        (BEFORE, Result.SUCCESS, "which is what b"),
        (f"rpc-{versions.RPC_HISTORY[0].number}", Result.WARNING, "take the pin out"),
        (versions.RPC_API_VERSION, Result.WARNING, f"write rpc-{versions.RPC_API_VERSION}, or the name of a release"),
        ("juno", Result.FAILURE, "neither API nor engine will start"),
    ],
)
def test_a_pin_is_judged_by_what_it_is_needed_for(level: str, result: Result, text: str) -> None:
    findings = check_pin(level, [speak("a"), speak("b", BEFORE)])
    assert get_worst(findings) is result
    assert text in say(findings)


def check(config_file: str, clock: FakeClock, *, queues: Result = Result.SUCCESS, as_json: bool = False) -> tuple[str, int]:
    conf = load_config(["--config-file", config_file], prog="test")
    store = Store(conf.database.connection)
    try:
        finding = Finding("queues", queues, "As the broker has them.")
        return check_upgrade(conf, store, Namespace(json=as_json), clock, lambda _conf: [finding])
    finally:
        store.dispose()


def test_the_worst_finding_is_the_exit_status(fleet: str, clock: FakeClock) -> None:
    assert check(fleet, clock)[1] == 0
    assert check(fleet, clock)[0].endswith("\nready")
    assert check(fleet, clock, queues=Result.WARNING)[1] == 1
    assert check(fleet, clock, queues=Result.FAILURE)[1] == 2
    clock.advance(86_401)
    text, status = check(fleet, clock)
    assert (status, text.splitlines()[-1]) == (1, "ready, and somebody should look at the warnings")


def test_the_check_is_there_for_programs_too(fleet: str, clock: FakeClock) -> None:
    told: dict[str, Any] = json.loads(check(fleet, clock, queues=Result.FAILURE, as_json=True)[0])
    assert (told["result"], told["status"]) == ("failure", 2)
    assert [(finding["check"], finding["result"]) for finding in told["checks"]] == [
        ("database", "success"),
        ("agents", "success"),
        ("pin", "success"),
        ("queues", "failure"),
    ]


def test_a_database_without_tables_is_not_ready_and_one_that_cannot_be_opened_is_not_judged(
    tmp_path: Path, clock: FakeClock, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "gateway.conf"
    (tmp_path / "new.sqlite").touch()
    path.write_text(f"[database]\nconnection = sqlite:///{tmp_path}/new.sqlite\n")
    text, status = check(str(path), clock)
    assert (status, text.splitlines()[-1]) == (2, "not ready")
    assert "run crashcart-manage db upgrade --expand" in text
    assert run(str(path), "versions") == manage.EXIT_FAILED
    assert "the database has no tables, this release needs" in capsys.readouterr().err
    path.write_text(f"[database]\nconnection = sqlite:///{tmp_path}/mistyped.sqlite\n")
    assert run(str(path), "upgrade-check") == manage.EXIT_IMPOSSIBLE
    assert run("/nowhere.conf", "upgrade-check") == manage.EXIT_IMPOSSIBLE
    assert "mistyped.sqlite" in capsys.readouterr().err
    assert not (tmp_path / "mistyped.sqlite").exists()


def test_a_broker_that_is_away_or_not_configured_is_a_warning(fleet: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(fleet, "upgrade-check") == 1
    out = capsys.readouterr().out
    assert "warning  queues: the broker's queues were not looked at: transport_url names no broker" in out
    assert {line.partition(" ")[0] for line in out.splitlines()} == {"success", "warning", "ready,"}, "the log goes elsewhere"
    findings = queue_checks.check_queues(BrokerAddress("rabbit://127.0.0.1:1", name="test"))
    assert say(findings).startswith("WARNING: the broker 127.0.0.1:1 could not be asked for its queues (ConnectionRefusedError")
    refused = mock.Mock(label="127.0.0.1:1", open_link=mock.Mock(side_effect=amqp.AccessRefused("login was refused")))
    assert say(queue_checks.check_queues(refused)).startswith("WARNING: the broker 127.0.0.1:1 refuses the account of transport_url")


@pytest.mark.parametrize("command", ["versions", "upgrade-check"])
def test_looking_writes_nothing(tmp_path: Path, fleet: str, command: str, capsys: pytest.CaptureFixture[str]) -> None:
    store = Store(f"sqlite:///{tmp_path}/gateway.sqlite")
    before = store.data_version()
    with mock.patch.object(Store, "write", side_effect=AssertionError("written")):
        run(fleet, command)
    assert store.data_version() == before
    store.dispose()
