"""Watchdogs and requests about them, for the tests of their changes."""

from typing import Any

import pytest

from compute_agent.contract.errors import Code
from compute_agent.contract.models import ActionKind, ActionRequest
from compute_agent.contract.watchdogs import Watchdog, WatchdogDevice
from compute_agent.drivers.fake_server import Call
from tests.unit.agent.action_parts import Agent

RESET = WatchdogDevice(model="i6300esb", expiry_action="reset")
PAUSE = WatchdogDevice(model="i6300esb", expiry_action="pause")
ISA = WatchdogDevice(model="ib700", expiry_action="reset")


def make_watched(agent: Agent, device: WatchdogDevice | None = None) -> str:
    """A running server that has this watchdog, known to the inventory."""
    server = agent.hypervisor.make_server(watchdog=device)
    agent.know(server)
    return server


def ask(agent: Agent, server: str, device: WatchdogDevice | None, number: int = 1, **fields: Any) -> ActionRequest:
    """A request to set this, or to remove what is there."""
    kind = ActionKind.REMOVE_WATCHDOG if device is None else ActionKind.SET_WATCHDOG
    return agent.make_request(server, number, kind=kind, watchdog=device, **fields)


def get_watchdog(agent: Agent, server: str) -> Watchdog:
    watchdog = agent.hypervisor.get_server(server).watchdog
    assert watchdog is not None
    return watchdog


def get_devices(agent: Agent, server: str) -> tuple[WatchdogDevice | None, WatchdogDevice | None]:
    """What is configured and what is live."""
    return get_watchdog(agent, server).configured, get_watchdog(agent, server).live


def find_wanted(agent: Agent, server: str) -> tuple[WatchdogDevice | None] | None:
    """Which device the journal says is wanted, in a tuple; None: nothing is."""
    with agent.change() as transaction:
        found = [wanted for wanted in transaction.list_wanted_watchdogs() if wanted.server == server]
    return (found[0].device,) if found else None


def count_begun(agent: Agent) -> int:
    with agent.change() as transaction:
        return int(transaction.execute("SELECT count(*) FROM watchdog_changes").fetchone()[0])


def sweep(agent: Agent) -> None:
    """What the service's sweep does, and what the workers do then."""
    agent.actions.end_overdue()
    for action_id in agent.actions.list_due():
        agent.queue.add(agent.get(action_id).request.server, action_id)
    agent.work()


def recover(agent: Agent) -> None:
    """A new start over the same journal and hypervisor, and what the workers do then."""
    for action_id in agent.restart():
        agent.queue.add(agent.get(action_id).request.server, action_id)
    agent.work()


def forbid_changes(agent: Agent, server: str) -> None:
    """From now on every step of a change breaks the test."""
    for call in (Call.DETACH_WATCHDOG, Call.ATTACH_WATCHDOG, Call.CONFIGURE_WATCHDOG):
        agent.hypervisor.behave(server, lambda deliver: pytest.fail("the driver was asked to change something"), call=call)


def do(agent: Agent, server: str, device: WatchdogDevice | None, number: int = 1, *, replace: bool = True) -> tuple[Code, str]:
    """Cast it, work it off; the code and the reason of its ending."""
    action = agent.do(ask(agent, server, device, number, replace=replace))
    assert action.result is not None
    assert not count_begun(agent), "nothing is begun after the ending"
    return action.result.code, action.result.reason
