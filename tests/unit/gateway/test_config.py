"""The gateway's options: defaults that work, values that are refused, secrets that are not shown."""

from pathlib import Path

import pytest
from oslo_config import cfg

from api_gateway.config import list_opts, load_config, register_options
from compute_agent.contract.deadlines import LONGEST_DEADLINE_MS


def load(tmp_path: Path, text: str) -> cfg.ConfigOpts:
    path = tmp_path / "gateway.conf"
    path.write_text(text)
    return load_config(["--config-file", str(path)], prog="test")


def test_without_a_file_the_defaults_hold() -> None:
    conf = load_config([], config_files=[])
    assert (conf.api.listen_host, conf.api.listen_port, conf.api.auth_strategy) == ("127.0.0.1", 8780, "none")
    assert (conf.api.crash_dump_deadline, conf.api.max_deadline, conf.api.crash_dump_holdoff) == (30, 3600, 600)
    assert (conf.sweep.max_clock_skew, conf.sweep.missing_grace, conf.dispatcher.received_timeout) == (2.0, 600.0, 5.0)


def test_a_file_is_read(tmp_path: Path) -> None:
    conf = load(tmp_path, "[api]\nlisten_port = 9000\n[database]\nconnection = sqlite:////x/y.sqlite\n")
    assert (conf.api.listen_port, conf.database.connection) == (9000, "sqlite:////x/y.sqlite")


@pytest.mark.parametrize("text", ["[api]\nauth_strategy = trust", "[api]\nlisten_port = 70000", "[dispatcher]\nreceived_timeout = 0"])
def test_a_value_that_does_not_fit_is_refused_at_start(tmp_path: Path, text: str) -> None:
    with pytest.raises(cfg.Error):
        load(tmp_path, text)


@pytest.mark.parametrize("option", ["max_deadline", "crash_dump_deadline"])
def test_no_deadline_lies_beyond_what_the_broker_keeps_a_cast_for(tmp_path: Path, option: str) -> None:
    most = LONGEST_DEADLINE_MS // 1000
    assert load(tmp_path, f"[api]\n{option} = {most}").api[option] == most
    with pytest.raises(cfg.Error):
        load(tmp_path, f"[api]\n{option} = {most + 1}")


def test_two_configurations_in_one_process_do_not_touch_each_other(tmp_path: Path) -> None:
    other = load(tmp_path, "[api]\nlisten_port = 9000\n")
    register_options(other)
    assert load_config([], config_files=[]).api.listen_port == 8780


def test_every_option_explains_itself_and_what_may_hold_a_password_is_secret() -> None:
    options = [(group, option) for group, group_options in list_opts() for option in group_options]
    assert all(option.help for _, option in options)
    assert [(group, option.name) for group, option in options if option.secret] == [("database", "connection")]
