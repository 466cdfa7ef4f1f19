"""Agents: what their heartbeats say, and whether they are up. A heartbeat's inventory is applied with it."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, bindparam, delete, select, update

from api_gateway.store import counters, gaps, outbox, restoring
from api_gateway.store.columns import Moment, columns_of, upsert, values_of
from api_gateway.store.prepared import Prepared, ask
from api_gateway.store.servers import give_up, settle
from api_gateway.store.sightings import AppliedInventory, apply_report, list_contested, list_sightings_of_host, remove_host
from api_gateway.store.tables import agents, servers
from compute_agent.contract.models import Heartbeat
from compute_agent.contract.notifications import HEARTBEAT_TTL_MS

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


@dataclass(frozen=True)
class HeartbeatOutcome:
    """What a heartbeat brought.

    ``stale``: overtaken by a later one, ignored. ``needs_full``: cast ``report_inventory`` to the host after the commit.
    ``restarted``: another journal or incarnation than before (or a new agent): wake the dispatcher. ``claimed_twice``: servers of which a
    conflict began; their ``server.claimed_twice`` events are in the outbox already.
    """

    stale: bool = False
    needs_full: bool = False
    came_up: bool = False
    went_down: bool = False
    restarted: bool = False
    claimed_twice: tuple[str, ...] = ()


UP = "up"
DOWN = "down"

_SHORTEST_INTERVAL = 0.1
_LONGEST_SPAN = 86_400.0
"""Seconds: what one agent says of itself must not overflow the clock of those who judge all agents, nor keep anything open for ever."""

_COLUMNS = columns_of(agents, AgentRow)
_BY_HOST = Prepared(select(*_COLUMNS).where(agents.c.host == bindparam("key_host")))
_BY_HOSTS = select(*_COLUMNS).where(agents.c.host.in_(bindparam("key_hosts", expanding=True)))
_STANDINGS = select(agents.c.host, *columns_of(agents, Standing)).where(agents.c.host.in_(bindparam("key_hosts", expanding=True)))
_HEARTBEAT_TTL = timedelta(milliseconds=HEARTBEAT_TTL_MS)


def find_agent(c: Connection, host: str) -> AgentRow | None:
    found = ask(c, _BY_HOST, {"key_host": host})
    return AgentRow(*found[0]) if found else None


def find_agents(c: Connection, hosts: Sequence[str]) -> dict[str, AgentRow]:
    """By host, those of these hosts that are known."""
    return {row.host: AgentRow(*row) for row in c.execute(_BY_HOSTS, {"key_hosts": hosts})}


def list_standings(c: Connection, hosts: Collection[str]) -> dict[str, Standing]:
    """By host, of those of these hosts that are known."""
    return {host: Standing(*standing) for host, *standing in c.execute(_STANDINGS, {"key_hosts": sorted(hosts)})}


def list_agents(c: Connection) -> list[AgentRow]:
    """By host name."""
    return [AgentRow(*row) for row in c.execute(select(*_COLUMNS).order_by(agents.c.host))]


def apply_heartbeat(c: Connection, heartbeat: Heartbeat, now: datetime) -> HeartbeatOutcome:
    """Take a heartbeat in, in any order: (journal_id, incarnation, number) says which is the latest. Applies its inventory too.

    The last one of an ordered stop (``stopping``) makes the agent down at once, with its ``agent.down`` event; one that is heard again
    within the same incarnation gets an ``agent.up`` (a restarted agent publishes its own).
    """
    counters.lock_counters(c)
    before = find_agent(c, heartbeat.host)
    if before is not None and _is_overtaken(heartbeat, before, now):
        return HeartbeatOutcome(stale=True)
    report = heartbeat.inventory
    applied = AppliedInventory(complete=before is not None and before.inventory_revision is not None)
    if report.readable:
        # Another journal counts its revisions anew: what we hold is no base for its differences.
        same_journal = before is not None and before.journal_id == heartbeat.journal_id
        applied = apply_report(
            c,
            heartbeat.host,
            report,
            sent_at=heartbeat.sent_at,
            known_revision=before.inventory_revision if before is not None and same_journal else None,
            known_hash=before.inventory_hash if before is not None else None,
        )
    after = _build_row(heartbeat, before, applied, now)
    upsert(c, agents, values_of(after))
    if before is None or before.journal_id != heartbeat.journal_id:
        restoring.ask_unknown_journal(c, host=heartbeat.host, journal_id=heartbeat.journal_id, now=now)
    touched = set(applied.changed) | set(applied.departures)
    if before is None or (before.state, _is_current(before)) != (after.state, _is_current(after)):
        touched.update(list_contested(c, heartbeat.host))
    claimed_twice = settle(c, touched, now=now, departed_from=heartbeat.host, departures=applied.departures) if touched else []
    restarted = before is None or (before.journal_id, before.incarnation) != (heartbeat.journal_id, heartbeat.incarnation)
    came_up = after.state == UP and (before is None or before.state == DOWN)
    went_down = after.state == DOWN and before is not None and before.state == UP
    if went_down:
        _append_state(c, after, "agent.down", "the agent was stopped in order", now)
    elif came_up and not restarted:
        _append_state(c, after, "agent.up", "the agent is heard again", now)
    return HeartbeatOutcome(
        needs_full=report.readable and not applied.complete and after.state == UP,
        came_up=came_up,
        went_down=went_down,
        restarted=restarted,
        claimed_twice=tuple(claimed_twice),
    )


def _is_overtaken(heartbeat: Heartbeat, known: AgentRow, now: datetime) -> bool:
    if heartbeat.journal_id == known.journal_id:
        return (heartbeat.incarnation, heartbeat.number) <= (known.incarnation, known.heartbeat_number)
    # Journals have no order of their own. After the TTL none of the other one's heartbeats is still on its way, whatever the clocks say.
    return heartbeat.sent_at <= known.sent_at and now - known.received_at <= _HEARTBEAT_TTL


def _build_row(heartbeat: Heartbeat, before: AgentRow | None, applied: AppliedInventory, now: datetime) -> AgentRow:
    report = heartbeat.inventory
    interval = max(_limit(heartbeat.interval), _SHORTEST_INTERVAL)
    revision = before.inventory_revision if before is not None else None
    digest = before.inventory_hash if before is not None else None
    if report.readable:
        revision, digest = (report.revision, report.hash) if applied.complete else (None, None)
    down_since = None
    if heartbeat.stopping:
        down_since = now if before is None or before.down_since is None else before.down_since
    return AgentRow(
        host=heartbeat.host,
        release=heartbeat.release,
        rpc_version=heartbeat.rpc_version,
        event_version=heartbeat.event_version,
        journal_id=heartbeat.journal_id,
        incarnation=heartbeat.incarnation,
        heartbeat_number=heartbeat.number,
        sent_at=heartbeat.sent_at,
        received_at=now,
        overdue_at=now + OVERDUE_INTERVALS * timedelta(seconds=interval),
        interval=interval,
        driver_bound=_limit(heartbeat.driver_bound),
        capabilities=heartbeat.capabilities.to_wire(),
        inventory_revision=revision,
        inventory_hash=digest,
        inventory_readable=report.readable,
        state=DOWN if heartbeat.stopping else UP,
        down_since=down_since,
    )


def _limit(seconds: float) -> float:
    """Between none and the longest span; what is no number is none."""
    return min(seconds, _LONGEST_SPAN) if seconds > 0 else 0.0


def _is_current(agent: AgentRow) -> bool:
    return agent.inventory_readable and agent.inventory_revision is not None


_OVERDUE = (
    select(*_COLUMNS).where(agents.c.state == UP, agents.c.overdue_at <= bindparam("now", type_=Moment)).order_by(agents.c.overdue_at)
)


def list_overdue(c: Connection, now: datetime) -> list[AgentRow]:
    """Agents that are up and have not been heard for 3 of their intervals."""
    return [AgentRow(*row) for row in c.execute(_OVERDUE, {"now": now})]


def mark_down(c: Connection, host: str, *, now: datetime, reason: str) -> bool:
    """Make an agent down, append ``agent.down`` to the outbox, and let running claimants have its servers.

    :returns: False when it was down already, or has been heard since (not overdue at ``now``).
    """
    counters.lock_counters(c)
    agent = find_agent(c, host)
    if agent is None or agent.state == DOWN or agent.overdue_at > now:
        return False
    c.execute(update(agents).where(agents.c.host == host).values(state=DOWN, down_since=now))
    _append_state(c, replace(agent, state=DOWN), "agent.down", reason, now)
    settle(c, list_contested(c, host), now=now)
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


def _append_state(c: Connection, agent: AgentRow, event_type: str, reason: str, now: datetime) -> None:
    outbox.append_event(
        c,
        event_type,
        server=None,
        host=agent.host,
        occurred_at=now,
        body={"release": agent.release, "journal_id": agent.journal_id, "incarnation": agent.incarnation, "reason": reason},
    )
