"""What a stack consists of."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from devstack.databases import DatabaseKind
from devstack.guests import GuestKind
from devstack.ports import BLOCK
from devstack.stack_config import HOST, Options


@dataclass(frozen=True)
class GuestSpec:
    """A guest that a stack shall have, in the words of `Guest`. Without a uuid it keeps the one of the last start in the same directory."""

    name: str
    kind: GuestKind = GuestKind.PANICKING
    running: bool = True
    uuid: str = ""
    on_crash: str = "preserve"
    watchdog: str = ""
    machine: str = "pc"
    pci_room: bool = True
    second_monitor: bool = False


DEFAULT_GUESTS = (GuestSpec("web-1", GuestKind.KDUMP), GuestSpec("web-2", GuestKind.PANICKING, running=False))


@dataclass(frozen=True)
class Installation:
    """Where crashcart is installed: the directory of its commands, and variables with which these find their code."""

    commands: Path
    environment: Mapping[str, str] = field(default_factory=dict)

    def find_command(self, name: str) -> list[str]:
        return [str(self.commands / name)]


RUNNING = Installation(Path(sys.executable).parent)
"""The commands beside this interpreter."""


@dataclass(frozen=True)
class AgentProgram:
    """What a stack runs as its agent instead of the installed command: one over a hypervisor of its own."""

    argv: Sequence[str]
    environment: Mapping[str, str]


@dataclass(frozen=True)
class AgentSpec:
    """One host's agent. Without a ``program`` it is the installed command, over the stack's own guests or machines, or over the driver that
    ``options`` name."""

    host: str
    program: AgentProgram | None = None
    options: Options = field(default_factory=dict)


@dataclass(frozen=True)
class Deployment:
    """How many of each part, and which database.

    The n-th API and the n-th engine are one gateway, and stand for a machine of their own: several need a database server. ``gateway``
    says where their commands are installed.
    """

    database: DatabaseKind = DatabaseKind.SQLITE
    broker_nodes: int = 1
    apis: int = 1
    engines: int = 1
    agents: Sequence[AgentSpec] = (AgentSpec(HOST),)
    gateway: Installation = RUNNING

    def __post_init__(self) -> None:
        if min(self.broker_nodes, self.apis, self.engines, len(self.agents)) < 1:
            raise ValueError("a deployment has at least one of each part")
        if self.database is DatabaseKind.SQLITE and max(self.apis, self.engines) > 1:
            raise ValueError("several gateways stand for several machines, which need PostgreSQL or MariaDB")
        if len({agent.host for agent in self.agents}) < len(self.agents):
            raise ValueError("two agents of one host")

    @property
    def port_blocks(self) -> int:
        """Blocks of ports that it needs."""
        return max(self.broker_nodes, self.apis, self.engines, math.ceil(len(self.agents) / BLOCK))


@dataclass(frozen=True)
class FaultPoints:
    """Where a stack can be struck besides its processes; what cannot be had here is left out of it.

    :param links: every process has its own link to the broker, and the gateways' to the database server, which can be cut
    :param islands: every agent is on a network of its own, and its link to the broker is a cable that can be pulled
    :param clocks: every agent, engine and API has a wall clock of its own, which can be moved
    :param disk_bytes: every agent's journal, and SQLite's file, lie on a disk of this size, which can be filled; None: on the machine's own
    """

    links: bool = False
    islands: bool = False
    clocks: bool = False
    disk_bytes: int | None = None
