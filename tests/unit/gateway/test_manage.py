"""crashcart-manage: says what it did, refuses what would do harm, and exits accordingly."""

from pathlib import Path

import pytest

from api_gateway.manage import main
from api_gateway.store import Store, counters, events
from api_gateway.store.actions import insert_action
from compute_agent.contract.clock import SystemClock
from compute_agent.contract.signing_keys import read_trusted_keys
from tests.unit.gateway.store_parts import FakeHost, build_action


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return tmp_path / "gateway.sqlite"


@pytest.fixture
def config_file(tmp_path: Path, database: Path) -> str:
    path = tmp_path / "gateway.conf"
    path.write_text(f"[database]\nconnection = sqlite:///{database}\n")
    return str(path)


def test_upgrading_makes_a_database_that_can_be_used_and_may_be_repeated(config_file: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--config-file", config_file, "db", "check"]) == 1
    assert "crashcart-manage db upgrade" in capsys.readouterr().err
    assert main(["--config-file", config_file, "db", "upgrade"]) == 0
    assert main(["--config-file", config_file, "db", "upgrade"]) == 0
    assert main(["--config-file", config_file, "db", "check"]) == 0
    assert "can be read and written" in capsys.readouterr().out


def test_checking_shows_what_somebody_should_look_at(config_file: str, database: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["--config-file", config_file, "db", "upgrade"])
    store = Store(f"sqlite:///{database}")
    with store.write() as c:
        counters.count_violation(c, "second_ending")
        events.shelve(c, b"?", reason="no JSON", now=SystemClock().now(), source="crashcart.recorder")
        events.count_refused(c, 7)
    store.dispose()
    assert main(["--config-file", config_file, "db", "check"]) == 0
    shown = capsys.readouterr().out
    assert "second_ending: 1" in shown
    assert "dead_letters): 1" in shown
    assert "had no room for, so that they are lost: 7" in shown


def test_a_database_that_cannot_be_opened_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "gateway.conf"
    path.write_text(f"[database]\nconnection = sqlite:///{tmp_path}/nowhere/gateway.sqlite\n")
    assert main(["--config-file", str(path), "db", "upgrade"]) == 1
    assert "nowhere/gateway.sqlite" in capsys.readouterr().err


def test_a_configuration_file_that_is_not_there_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--config-file", "/nowhere.conf", "db", "check"]) == 1
    assert "/nowhere.conf" in capsys.readouterr().err


def test_forgetting_a_host_that_is_unknown_or_up_is_refused(config_file: str, database: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["--config-file", config_file, "db", "upgrade"])
    assert main(["--config-file", config_file, "host", "forget", "a"]) == 1
    assert "no agent of host a" in capsys.readouterr().err
    store = Store(f"sqlite:///{database}")
    host = FakeHost(store, SystemClock(), "a")
    host.put()
    host.beat(full=True)
    assert main(["--config-file", config_file, "host", "forget", "a"]) == 1
    assert "--force" in capsys.readouterr().err
    host.beat(stopping=True)
    assert main(["--config-file", config_file, "host", "forget", "a"]) == 0
    assert "1 servers" in capsys.readouterr().out
    host.beat(full=True)
    assert main(["--config-file", config_file, "host", "forget", "a", "--force"]) == 0
    store.dispose()


@pytest.mark.parametrize("command", [[], ["db"], ["host", "forget"], ["nonsense"]])
def test_a_wrong_command_line_is_refused_with_the_usage(config_file: str, command: list[str]) -> None:
    with pytest.raises(SystemExit) as exit_info:
        main(["--config-file", config_file, *command])
    assert exit_info.value.code == 2


def test_a_signing_key_is_made_without_a_database_and_never_twice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "gateway.conf"
    path.write_text("[database]\nconnection = sqlite:////nowhere/at/all\n[signing]\nissuer = north\n")
    command = ["--config-file", str(path), "create-signing-key", str(tmp_path)]
    assert main(command) == 0
    told = capsys.readouterr().out
    assert (f"{tmp_path}/north.key" in told, f"{tmp_path}/north.pem" in told, "issuer = north" in told) == (True, True, True)
    assert "PRIVATE KEY" not in told
    assert main(command) == 1
    assert "never overwritten" in capsys.readouterr().err
    assert main([*command, "--issuer", "south"]) == 0
    assert list(read_trusted_keys(tmp_path)) == ["north", "south"]


def test_a_key_that_cannot_be_written_is_said(tmp_path: Path, config_file: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--config-file", config_file, "create-signing-key", str(tmp_path / "nowhere")]) == 1
    assert "nowhere" in capsys.readouterr().err


def test_a_restored_database_is_made_safe_before_it_is_used(config_file: str, database: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["--config-file", config_file, "db", "upgrade"])
    store = Store(f"sqlite:///{database}")
    FakeHost(store, SystemClock(), "a").beat(full=True)
    with store.write() as c:
        insert_action(c, build_action(SystemClock()))
    assert main(["--config-file", config_file, "db", "restored"]) == 0
    assert "1 open actions count as perhaps sent, 1 agents" in capsys.readouterr().out
    store.dispose()
