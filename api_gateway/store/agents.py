"""Agents: what each is as of its last heartbeat, and whether it is up."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, bindparam, delete, select, update

from api_gateway.store import counters, gaps, outbox
from api_gateway.store.columns import Moment, columns_of, reader_of
from api_gateway.store.prepared import Prepared, PreparedForMany, ask
from api_gateway.store.servers import give_up, settle
from api_gateway.store.sightings import list_contested, list_sightings_of_host, remove_host
from api_gateway.store.tables import agents, servers

OVERDUE_INTERVALS = 3
"""An agent is considered down after so many of its own intervals without a heartbeat."""


@dataclass(frozen=True)
class AgentRow:
    """One agent as of its last heartbeat.

    ``sent_at`` is by its own clock, ``received_at`` by ours. ``interval`` and ``driver_bound`` in seconds. ``inventory_revision`` None:
    what we have of its inventory is not complete, a full one was or must be asked for. ``state`` is ``up`` or ``down``.
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
class Standing:
    """What an agent's servers are shown with; see ``AgentRow``."""

    state: str
    inventory_readable: bool


UP = "up"
DOWN = "down"

_COLUMNS = columns_of(agents, AgentRow)
_read_agent = reader_of(AgentRow)
_BY_HOST = Prepared(select(*_COLUMNS).where(agents.c.host == bindparam("key_host")))
_BY_HOSTS = PreparedForMany(lambda is_one_of: select(*_COLUMNS).where(is_one_of(agents.c.host)))
_STANDINGS = select(agents.c.host, *columns_of(agents, Standing)).where(agents.c.host.in_(bindparam("key_hosts", expanding=True)))


def find_agent(c: Connection, host: str) -> AgentRow | None:
    found = ask(c, _BY_HOST, {"key_host": host})
    return _read_agent(found[0]) if found else None


def find_agents(c: Connection, hosts: Sequence[str]) -> dict[str, AgentRow]:
    """By host, those of these hosts (hundreds, not tens of thousands) that are known."""
    return {row.host: row for row in (_read_agent(found) for found in ask(c, *_BY_HOSTS.fit(hosts)))} if hosts else {}


def list_standings(c: Connection, hosts: Collection[str]) -> dict[str, Standing]:
    """By host, of those of these hosts that are known."""
    return {host: Standing(*standing) for host, *standing in c.execute(_STANDINGS, {"key_hosts": sorted(hosts)})}


def list_agents(c: Connection) -> list[AgentRow]:
    """By host name."""
    return [_read_agent(row) for row in c.execute(select(*_COLUMNS).order_by(agents.c.host))]


_OVERDUE = (
    select(*_COLUMNS).where(agents.c.state == UP, agents.c.overdue_at <= bindparam("now", type_=Moment)).order_by(agents.c.overdue_at)
)


def list_overdue(c: Connection, now: datetime) -> list[AgentRow]:
    """Agents that are up and have not been heard for 3 of their intervals."""
    return [_read_agent(row) for row in c.execute(_OVERDUE, {"now": now})]


def mark_down(c: Connection, host: str, *, now: datetime, reason: str) -> bool:
    """Make an agent down, append ``agent.down`` to the outbox, and let running claimants have its servers.

    :returns: False when it was down already, or has been heard since (not overdue at ``now``).
    """
    counters.lock_counters(c)
    agent = find_agent(c, host)
    if agent is None or agent.state == DOWN or agent.overdue_at > now:
        return False
    c.execute(update(agents).where(agents.c.host == host).values(state=DOWN, down_since=now))
    append_state(c, replace(agent, state=DOWN), "agent.down", reason, now)
    settle(c, list_contested(c, [host]), now=now)
    return True


def forget_host(c: Connection, host: str, *, now: datetime) -> int:
    """Remove an agent that will not come back, and all that it claimed; histories stay, events of it that never came are named lost.

    :returns: how many servers are deleted by that.
    :raises LookupError: there is no such agent.
    """
    counters.lock_counters(c)
    if find_agent(c, host) is None:
        raise LookupError(f"there is no agent of host {host}")
    touched = {sighting.server for sighting in list_sightings_of_host(c, host)}
    owned = set(c.execute(select(servers.c.id).where(servers.c.host == host, servers.c.deleted_at.is_(None))).scalars())
    remove_host(c, host)
    c.execute(delete(agents).where(agents.c.host == host))
    settle(c, touched - owned, now=now)
    for gap in gaps.list_gaps_of_host(c, host):
        gaps.record_lost(c, gap, reason="the host was forgotten", now=now)
    return len(give_up(c, owned, now=now))


def append_state(c: Connection, agent: AgentRow, event_type: str, reason: str, now: datetime) -> None:
    outbox.append_event(
        c,
        event_type,
        server=None,
        host=agent.host,
        occurred_at=now,
        body={"release": agent.release, "journal_id": agent.journal_id, "incarnation": agent.incarnation, "reason": reason},
    )
