"""Machines of an agent's inventory that a test has beside those of its stack, and what it asks of them through HTTP."""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any

from devstack.api_client import Answer
from devstack.bmc_inventory import InventoryEntry
from devstack.ipmi_sim import ADDRESS, ADMINISTRATOR, BmcUser, IpmiSim, SimulatedBmc
from devstack.services import wait_until
from devstack.stack import Stack
from devstack.stack_config import PROJECT, USER
from tests.stack.real_stack import TIMEOUT, Server
from tests.stack.watchdogs_over_http import list_events, wait_events

OS_STOP, RUN_TIME_STOP = 0x20, 1
"""What a kernel that panics has its BMC write into its log: IPMI 2.0, table 42-3."""
PANICKED, STOPPED, STARTED, REBOOTED = "server.panicked", "server.stopped", "server.started", "server.rebooted"
ON, OFF = 1, 4
"""Power states as the Compute API has them."""


@dataclass(frozen=True)
class Lone:
    """A machine that is nothing but its BMC, and how the inventory names it."""

    entry: InventoryEntry
    bmc: SimulatedBmc

    @property
    def uuid(self) -> str:
        return self.entry.uuid

    @property
    def name(self) -> str:
        return self.entry.name


def make_entry(name: str, port: int, login: BmcUser = ADMINISTRATOR, **options: object) -> InventoryEntry:
    """``options`` are further fields, and win over what is written here."""
    fields = {"privilege": login.privilege, **options}
    return InventoryEntry(str(uuid.uuid4()), name, "ipmi", ADDRESS, port, login.name, login.password, PROJECT, USER, fields)


def make_lone(simulator: IpmiSim, names: Sequence[str]) -> dict[str, Lone]:
    """Its BMCs, one after the other, by these names."""
    return {name: Lone(make_entry(name, bmc.port), bmc) for name, bmc in zip(names, simulator.bmcs, strict=True)}


def ask_for(stack: Stack, server: Server, kind: str, **fields: object) -> Answer:
    """POST an action through our own interface."""
    return stack.client.post(f"/v1/servers/{server.uuid}/actions", {"kind": kind, **fields})


def force(stack: Stack, server: Server) -> str:
    """A crash dump of a server that an earlier one holds off; the action's id."""
    answer = ask_for(stack, server, "trigger_crash_dump", force=True)
    assert answer.status == 202, answer.text
    return str(answer.body["id"])


def show(stack: Stack, server: Server) -> dict[str, Any]:
    """Our own view of it; empty where there is none."""
    answer = stack.client.get(f"/v1/servers/{server.uuid}")
    assert answer.status in (200, 404), answer.text
    return answer.body if answer.status == 200 else {}


def wait_reason(stack: Stack, server: Server, text: str) -> None:
    """The API says why it is as it is."""
    wait_until(lambda: text in show(stack, server).get("state_reason", ""), TIMEOUT, f"{server.name} to say {text!r}", interval=0.05)


def wait_read(stack: Stack, *servers: Server) -> None:
    """The agent has read the state of each, and watches it."""

    def is_read(server: Server) -> bool:
        shown = show(stack, server)
        return bool(shown) and shown["power_state"] != "pending" and not shown["state_reason"].startswith("not read")

    for server in servers:
        wait_until(partial(is_read, server), TIMEOUT, f"{server.name} to be read", interval=0.05)


def panic(bmc: SimulatedBmc) -> None:
    """Write what the kernel of a machine writes that panics."""
    bmc.add_log_record(sensor_type=OS_STOP, offset=RUN_TIME_STOP)


def assert_panicked(stack: Stack, server: Server, bmc: SimulatedBmc, times: int) -> None:
    """So many panics are recorded. One more is the barrier: when that is told, all that were before it are."""
    wait_events(stack, server, PANICKED, times)
    panic(bmc)
    wait_events(stack, server, PANICKED, times + 1)
    assert len(list_events(stack, server, PANICKED)) == times + 1


def get_span(action: dict[str, Any]) -> float:
    """Seconds from its acceptance to its ending."""
    return (datetime.fromisoformat(action["ended_at"]) - datetime.fromisoformat(action["accepted_at"])).total_seconds()
