"""Agents: what their heartbeats say, and whether they are up. A heartbeat's inventory is applied with it."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection

from compute_agent.contract.models import Heartbeat

OVERDUE_INTERVALS = 3
"""An agent is considered down after so many of its own intervals without a heartbeat."""


@dataclass(frozen=True)
class AgentRow:
    """One agent as of its last heartbeat.

    ``sent_at`` is by its own clock, ``received_at`` by ours. ``interval`` and ``driver_bound`` in seconds. ``inventory_revision`` None: what we have
    of its inventory is not complete, a full one was or must be asked for. ``state`` is ``up`` or ``down``.
    """

    host: str
    release: str
    rpc_version: str
    event_version: str
    journal_id: str
    incarnation: int
    heartbeat_number: int
    sent_at: datetime
    received_at: datetime
    overdue_at: datetime
    interval: float
    driver_bound: float
    capabilities: dict[str, Any]
    inventory_revision: int | None
    inventory_hash: str | None
    inventory_readable: bool
    state: str
    down_since: datetime | None = None


@dataclass(frozen=True)
class HeartbeatOutcome:
    """What a heartbeat brought.

    ``stale``: overtaken by a later one, ignored. ``needs_full``: cast ``report_inventory`` to the host after the commit.
    ``restarted``: another journal or incarnation than before (or a new agent): wake the dispatcher. ``claimed_twice``: servers of which a conflict
    began; their ``server.claimed_twice`` events are in the outbox already.
    """

    stale: bool = False
    needs_full: bool = False
    came_up: bool = False
    went_down: bool = False
    restarted: bool = False
    claimed_twice: tuple[str, ...] = ()


def find_agent(c: Connection, host: str) -> AgentRow | None:
    raise NotImplementedError


def list_agents(c: Connection) -> list[AgentRow]:
    """By host name."""
    raise NotImplementedError


def apply_heartbeat(c: Connection, heartbeat: Heartbeat, now: datetime) -> HeartbeatOutcome:
    """Take a heartbeat in, in any order: (journal_id, incarnation, number) says which is the latest. Applies its inventory too.

    The last one of an ordered stop (``stopping``) makes the agent down at once, with its ``agent.down`` event; one that is heard again within
    the same incarnation gets an ``agent.up`` (a restarted agent publishes its own).
    """
    raise NotImplementedError


def list_overdue(c: Connection, now: datetime) -> list[AgentRow]:
    """Agents that are up and have not been heard for 3 of their intervals."""
    raise NotImplementedError


def mark_down(c: Connection, host: str, *, now: datetime, reason: str) -> bool:
    """Make an agent down, append ``agent.down`` to the outbox, and let running claimants have its servers.

    :returns: False when it was down already, or has been heard since (not overdue at ``now``).
    """
    raise NotImplementedError


def forget_host(c: Connection, host: str, *, now: datetime) -> int:
    """Remove an agent that will not come back, and all that it claimed; histories stay.

    :returns: how many servers are deleted by that.
    :raises LookupError: there is no such agent.
    """
    raise NotImplementedError
