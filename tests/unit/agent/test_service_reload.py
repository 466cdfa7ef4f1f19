"""SIGHUP: the driver reads its own files anew, off the signal handler, and the gateway hears of all servers."""

import logging
from dataclasses import replace
from pathlib import Path

import pytest

from compute_agent import service
from compute_agent.config import load_config
from compute_agent.contract.signing import CastRefused, CastSigner
from compute_agent.contract.signing_keys import create_key_files, read_private_key
from compute_agent.drivers.base import Driver, Reload
from compute_agent.drivers.fake import FakeHypervisor
from compute_agent.service import AgentService
from tests.fakes import FakeClock


class CountedReload(Reload):
    def __init__(self) -> None:
        self.count = 0

    def reload(self) -> None:
        self.count += 1


def make_agent(folder: Path, monkeypatch: pytest.MonkeyPatch, driver: Driver, clock: FakeClock) -> AgentService:
    monkeypatch.setattr(service, "load_driver", lambda *_: driver)
    path = folder / "agent.conf"
    path.write_text(
        f"[DEFAULT]\nhost = h1\ntransport_url = rabbit://u:p@127.0.0.1:1/\n[agent]\ndriver = fake\nstate_path = {folder / 'state'}\n"
    )
    return AgentService(load_config(["--config-file", str(path)]), clock)


def test_a_reload_is_done_on_its_own_thread_once_for_all_that_asked_and_tells_all_servers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, reload = FakeClock(), CountedReload()
    agent = make_agent(tmp_path, monkeypatch, replace(FakeHypervisor(clock).driver, reload=reload), clock)
    agent._inventory.refresh()
    assert [agent._inventory.heartbeat().inventory.full for _ in range(2)] == [True, False]
    agent.request_reload()
    agent.request_reload()
    assert reload.count == 0, "a signal handler does no I/O"
    agent._reloads.step()
    agent._reloads.wake()
    agent._reloads.step()
    assert reload.count == 1, "one reading answers all that had asked"
    assert agent._inventory.heartbeat().inventory.full


def test_a_driver_without_files_says_that_there_is_nothing_to_read_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    clock = FakeClock()
    agent = make_agent(tmp_path, monkeypatch, FakeHypervisor(clock).driver, clock)
    agent.request_reload()
    with caplog.at_level(logging.INFO):
        agent._reloads.step()
    assert "the driver fake has no files of its own, there is nothing to read anew" in caplog.text


def test_trusted_keys_are_read_anew_whatever_the_driver_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, folder = FakeClock(), tmp_path / "keys"
    folder.mkdir()
    create_key_files(folder, "old")
    monkeypatch.setenv("OS_SIGNING__TRUSTED_KEYS", str(folder))
    agent = make_agent(tmp_path, monkeypatch, FakeHypervisor(clock).driver, clock)
    private, _ = create_key_files(folder, "new")
    signer = CastSigner("new", read_private_key(private), clock)
    with pytest.raises(CastRefused):
        agent._gate.check("ping", signer.sign("h1", "ping", {}), {})
    agent.request_reload()
    agent._reloads.step()
    agent._gate.check("ping", signer.sign("h1", "ping", {}), {})


def test_an_agent_that_trusts_everybody_says_so_and_one_that_could_trust_nobody_does_not_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    clock = FakeClock()
    make_agent(tmp_path, monkeypatch, FakeHypervisor(clock).driver, clock)
    assert "[signing] trusted_keys is not set" in caplog.text
    monkeypatch.setenv("OS_SIGNING__TRUSTED_KEYS", str(tmp_path / "nowhere"))
    with pytest.raises(ValueError, match="cannot be read"):
        make_agent(tmp_path, monkeypatch, FakeHypervisor(clock).driver, clock)
