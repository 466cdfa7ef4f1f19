"""The whole agent as it is composed, stepped by hand: who queues what a change of a watchdog leaves to be done."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from compute_agent import service
from compute_agent.config import load_config
from compute_agent.contract.models import ActionKind, ActionRequest
from compute_agent.contract.watchdogs import WatchdogDevice
from compute_agent.drivers.fake import FakeHypervisor
from compute_agent.drivers.fake_behaviours import go_away
from compute_agent.drivers.fake_server import Call
from compute_agent.service import AgentService
from tests.fakes import FakeClock
from tests.unit.agent.action_parts import make_id
from tests.unit.agent.watchdog_parts import PAUSE, RESET


class Host:
    """An agent none of whose threads run, and its hypervisor."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.clock = FakeClock()
        self.hypervisor = FakeHypervisor(self.clock)
        monkeypatch.setattr(service, "load_driver", lambda *_: self.hypervisor.driver)
        path = folder / "agent.conf"
        path.write_text(
            f"[DEFAULT]\nhost = h1\ntransport_url = rabbit://u:p@127.0.0.1:1/\n"
            f"[agent]\ndriver = fake\nstate_path = {folder / 'state'}\n[watchdog]\nreapply = true\n"
        )
        self.agent = AgentService(load_config(["--config-file", str(path)]), self.clock)
        self.agent._sweep_loop.stopping.set()  # a step of it waits for nothing then
        self.server = self.hypervisor.make_server(watchdog=RESET)
        self.beat()

    def beat(self) -> None:
        self.clock.advance(1)
        self.agent._inventory.refresh()

    def sweep(self) -> None:
        self.clock.advance(2)
        self.agent._sweep()

    def work(self) -> str | None:
        """What a worker does with the next action; its code, None when it has not ended."""
        action_id = self.agent._queue.take(0)
        assert action_id is not None
        self.agent._actions.run(action_id)
        self.agent._queue.done(action_id)
        with self.agent._journal.transaction("test") as transaction:
            result = transaction.get_action(action_id).result
        return None if result is None else result.code

    def ask(self, device: WatchdogDevice) -> None:
        now = self.clock.now()
        request = ActionRequest(
            id=make_id(),
            kind=ActionKind.SET_WATCHDOG,
            server=self.server,
            server_generation=1,
            host="h1",
            sent_at=now,
            deadline=now + timedelta(seconds=30),
            journal_id=self.agent._journal.journal_id,
            watchdog=device,
        )
        with self.agent._journal.transaction("test") as transaction:
            transaction.add_action(request, now)
        self.agent._queue_action(request)


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    host = Host(tmp_path, monkeypatch)
    yield host
    host.agent._journal.close()


def test_the_sweep_gives_out_again_what_was_begun_and_could_not_be_ended(host: Host) -> None:
    host.hypervisor.behave(host.server, go_away(host.hypervisor.lose_backend), call=Call.ATTACH_WATCHDOG)
    host.ask(PAUSE)
    assert host.work() is None
    host.hypervisor.restore_backend()
    host.sweep()
    assert host.work() == "watchdog_set"


def test_what_drifted_is_queued_to_be_set_again(host: Host) -> None:
    host.ask(PAUSE)
    assert host.work() == "watchdog_set"
    host.hypervisor.change_device(host.server, configured=None, live=None)
    host.beat()
    assert host.work() == "watchdog_set"
    watchdog = host.hypervisor.get_server(host.server).watchdog
    assert watchdog is not None
    assert (watchdog.configured, watchdog.live) == (PAUSE, PAUSE)


def test_a_new_start_gives_out_what_was_begun(host: Host) -> None:
    host.hypervisor.behave(host.server, go_away(host.hypervisor.lose_backend), call=Call.ATTACH_WATCHDOG)
    host.ask(PAUSE)
    assert host.work() is None
    host.hypervisor.restore_backend()
    host.agent._give_out(host.agent._actions.recover())
    assert host.work() == "watchdog_set"
