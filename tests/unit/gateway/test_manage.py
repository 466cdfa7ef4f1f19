"""crashcart-manage: says what it did, refuses what would do harm, and exits accordingly."""

from pathlib import Path

import pytest

from api_gateway.manage import main
from api_gateway.store import Store, counters, events
from compute_agent.contract.clock import SystemClock
from tests.unit.gateway.store_parts import FakeHost


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
    store.dispose()
    assert main(["--config-file", config_file, "db", "check"]) == 0
    shown = capsys.readouterr().out
    assert "second_ending: 1" in shown
    assert "dead_letters): 1" in shown


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
