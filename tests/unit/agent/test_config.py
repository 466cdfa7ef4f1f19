"""The agent's options: defaults, file, environment."""

from pathlib import Path

import pytest
from oslo_config import cfg

from compute_agent.config import list_opts, load_config


def test_defaults_are_the_documented_ones() -> None:
    agent = load_config([], config_files=[]).agent
    assert (agent.driver, agent.heartbeat_interval, agent.crash_dump_holdoff) == ("libvirt", 30, 600)
    assert (agent.max_clock_skew, agent.first_look, agent.observation_limit, agent.workers) == (2, 60, 1800, 8)
    assert agent.state_path == "/var/lib/crashcart"


def test_a_file_and_the_environment_set_options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "agent.conf"
    path.write_text("[DEFAULT]\nhost = host-7\ntransport_url = rabbit://u:p@broker:5672/\n[agent]\nworkers = 3\nfirst_look = 1.5\n")
    monkeypatch.setenv("OS_AGENT__WORKERS", "5")
    conf = load_config(["--config-file", str(path)])
    assert (conf.host, conf.transport_url, conf.agent.first_look, conf.agent.workers) == ("host-7", "rabbit://u:p@broker:5672/", 1.5, 5)


def test_a_file_that_is_missing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(cfg.ConfigFilesNotFoundError):
        load_config(["--config-file", str(tmp_path / "none.conf")])


@pytest.mark.parametrize("host", ["has space", "-dash", "a/b", ""])
def test_a_host_name_that_cannot_name_a_queue_is_refused(tmp_path: Path, host: str) -> None:
    path = tmp_path / "agent.conf"
    path.write_text(f"[DEFAULT]\nhost = {host}\n")
    conf = load_config(["--config-file", str(path)])
    with pytest.raises(cfg.ConfigFileValueError):
        conf.host  # noqa: B018


def test_two_configurations_share_nothing() -> None:
    one, other = load_config([], config_files=[]), load_config([], config_files=[])
    one.set_override("host", "one")
    assert other.host != "one"


def test_the_reference_lists_every_option_once_with_its_help() -> None:
    groups = dict(list_opts())
    assert {"agent", "fake", "libvirt"} <= {group for group in groups if group}
    assert all(option.help for options in groups.values() for option in options)
