"""What somebody else does to a watchdog that was set through here is told of once, and undone where that is wanted."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from compute_agent.contract.errors import Code
from compute_agent.contract.models import ActionRequest
from compute_agent.contract.watchdogs import WatchdogDevice
from compute_agent.drivers.fake_behaviours import go_away
from compute_agent.drivers.fake_server import Call
from compute_agent.inventory import Inventory
from compute_agent.observer import Observer
from compute_agent.watchdog_drift import WatchdogDrift
from tests.unit.agent.action_parts import Agent, make_id
from tests.unit.agent.watchdog_parts import ISA, PAUSE, RESET, ask, find_wanted, get_devices, make_watched


class Host:
    """An agent whose inventory is read."""

    def __init__(self, agent: Agent) -> None:
        self.agent = agent
        self.reapply = False
        self.began: list[ActionRequest] = []

    def beat(self) -> None:
        """One heartbeat: the driver is read and compared."""
        agent = self.agent
        agent.clock.advance(1)
        drift = WatchdogDrift(agent.journal, agent.clock, reapply=self.reapply, queue_action=self._begin)
        Inventory(agent.journal, agent.driver, agent.clock, drift=drift).refresh()
        agent.work()

    def set(self, server: str, device: WatchdogDevice | None, number: int = 1) -> None:
        self.agent.do(ask(self.agent, server, device, number))

    def tamper(self, server: str, device: WatchdogDevice | None) -> None:
        """Another tool gives it this, now and for its next start."""
        self.agent.hypervisor.change_device(server, configured=device, live=device)

    def list_told(self) -> list[dict[str, Any]]:
        return [row.payload for row in self.agent.list_events("server.watchdog.drifted")]

    def _begin(self, request: ActionRequest) -> None:
        self.began.append(request)
        self.agent.queue.add(request.server, request.id)


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    agent = Agent(tmp_path / "journal.sqlite")
    yield Host(agent)
    agent.journal.close()


@pytest.mark.parametrize(("wanted", "found"), [(RESET, PAUSE), (RESET, None), (None, ISA)])
def test_each_difference_is_told_of_once(host: Host, wanted: WatchdogDevice | None, found: WatchdogDevice | None) -> None:
    server = make_watched(host.agent)
    host.set(server, wanted)
    host.beat()
    assert not host.list_told()
    host.tamper(server, found)
    for _ in range(3):
        host.beat()
    told = host.list_told()
    assert len(told) == 1
    assert told[0]["wanted"] == (None if wanted is None else wanted.to_wire())
    assert told[0]["found"]["configured"] == (None if found is None else found.to_wire())
    assert (told[0]["server"], told[0]["action_id"]) == (server, None)
    assert get_devices(host.agent, server) == (found, found), "nothing is touched unless that is wanted"


def test_the_same_difference_after_it_was_gone_is_told_of_again_and_so_is_another_one(host: Host) -> None:
    server = make_watched(host.agent)
    host.set(server, RESET)
    for found in (PAUSE, ISA, RESET, ISA):
        host.tamper(server, found)
        host.beat()
    assert [told["found"]["configured"]["model"] for told in host.list_told()] == ["i6300esb", "ib700", "ib700"]


def test_what_was_told_is_not_told_again_after_a_restart(host: Host) -> None:
    server = make_watched(host.agent)
    host.set(server, RESET)
    host.tamper(server, PAUSE)
    host.beat()
    host.agent.restart()
    host.beat()
    assert len(host.list_told()) == 1


def test_a_watchdog_that_was_never_set_through_here_is_nobodys_concern(host: Host) -> None:
    server = make_watched(host.agent, RESET)
    host.tamper(server, None)
    host.beat()
    assert not host.list_told()


def test_a_change_that_waits_for_the_next_start_is_no_drift(host: Host) -> None:
    server = make_watched(host.agent, ISA)
    host.set(server, RESET)
    host.beat()
    assert not host.list_told()


def test_a_server_that_has_no_next_start_is_compared_by_what_it_has_live(host: Host) -> None:
    server = make_watched(host.agent)
    host.agent.hypervisor.change(server, persistent=False)
    host.set(server, RESET)
    host.beat()
    assert not host.list_told()
    host.tamper(server, PAUSE)
    host.beat()
    assert len(host.list_told()) == 1


def test_while_a_change_is_begun_nothing_is_called_drift(host: Host) -> None:
    agent = host.agent
    server = make_watched(agent)
    host.set(server, RESET, 1)
    agent.hypervisor.behave(server, go_away(agent.hypervisor.lose_backend), call=Call.ATTACH_WATCHDOG)
    host.set(server, PAUSE, 2)
    agent.hypervisor.restore_backend()
    host.tamper(server, None)
    host.beat()
    assert not host.list_told()


def test_a_list_that_was_read_before_the_change_ended_is_not_believed(host: Host) -> None:
    agent = host.agent
    server = make_watched(agent, PAUSE)
    listed, read_at = agent.driver.servers.list_servers(), agent.clock.now()
    host.set(server, RESET)
    drift = WatchdogDrift(agent.journal, agent.clock, reapply=True, queue_action=host.began.append)
    with agent.change() as transaction:
        assert drift.compare(transaction, listed, read_at) == []
    assert not host.list_told()


@pytest.mark.parametrize("wanted", [RESET, None])
def test_where_it_is_to_be_reapplied_an_action_of_the_agents_own_does_that_and_the_event_names_it(
    host: Host, wanted: WatchdogDevice | None
) -> None:
    agent = host.agent
    host.reapply = True
    server = make_watched(agent)
    host.set(server, wanted)
    host.tamper(server, PAUSE)
    host.beat()
    (request,) = host.began
    assert [told["action_id"] for told in host.list_told()] == [request.id]
    assert (request.user, request.project, request.replace) == (None, "demo", True)
    assert agent.code(request.id) == (Code.WATCHDOG_SET if wanted else Code.WATCHDOG_REMOVED)
    assert get_devices(agent, server) == (wanted, wanted)
    assert find_wanted(agent, server) == (wanted,)
    host.beat()
    assert len(host.began) == 1
    assert [row.payload["user"] for row in agent.list_events("action.received")] == ["ann", None]


def test_an_action_that_was_journalled_and_not_queued_is_run_after_a_restart(host: Host) -> None:
    agent = host.agent
    server = make_watched(agent)
    host.set(server, RESET)
    host.tamper(server, None)
    agent.clock.advance(1)
    drift = WatchdogDrift(agent.journal, agent.clock, reapply=True, queue_action=host.began.append)
    with agent.change() as transaction:
        (request,) = drift.compare(transaction, agent.driver.servers.list_servers(), agent.clock.now())
    assert agent.restart() == [request.id]


def test_actions_that_have_ended_are_not_read_again_at_each_heartbeat(host: Host) -> None:
    """A week of them, in a transaction that keeps every crash dump waiting."""
    server = make_watched(host.agent)
    host.set(server, RESET)
    with host.agent.change() as transaction:
        transaction.execute("UPDATE actions SET request = 'whoever reads this fails' WHERE state = 'ended'")
    host.tamper(server, PAUSE)
    host.beat()
    assert len(host.list_told()) == 1


def test_the_next_life_of_a_server_has_no_wanted_watchdog(host: Host) -> None:
    agent = host.agent
    server = make_watched(agent)
    host.set(server, RESET)
    observer = Observer(agent.journal, agent.driver, agent.clock)
    agent.hypervisor.subscribe(observer.enqueue)
    agent.hypervisor.open()
    agent.hypervisor.remove(server)
    while observer.step(0):
        pass
    assert find_wanted(agent, server) is None
    assert agent.code(make_id()) == Code.WATCHDOG_SET
