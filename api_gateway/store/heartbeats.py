"""Heartbeats taken in: what agents say of themselves, and of their inventories.

Those of several hosts share their statements: a fleet sends hundreds in a second, and each way to a database server and back is made with
the lock of the record's end in hand, for which all others wait.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection

from api_gateway.store import counters, restoring
from api_gateway.store.agents import DOWN, OVERDUE_INTERVALS, UP, AgentRow, append_state, find_agents
from api_gateway.store.columns import upsert_several, values_of
from api_gateway.store.inventories import AppliedInventory, Reported, apply_reports
from api_gateway.store.servers import ClaimedTwice, decide, tell_claimed_twice
from api_gateway.store.sightings import list_contested
from api_gateway.store.tables import agents
from compute_agent.contract.models import Departure, Heartbeat
from compute_agent.contract.notifications import HEARTBEAT_TTL_MS

_SHORTEST_INTERVAL = 0.1
_LONGEST_SPAN = 86_400.0
"""Seconds: what one agent says of itself must not overflow the clock of those who judge all agents, nor keep anything open for ever."""

_HEARTBEAT_TTL = timedelta(milliseconds=HEARTBEAT_TTL_MS)


@dataclass(frozen=True)
class HeartbeatOutcome:
    """What a heartbeat brought.

    ``stale``: overtaken by a later one, ignored. ``needs_full``: cast ``report_inventory`` to the host after the commit.
    ``restarted``: another journal or incarnation than before (or a new agent): wake the dispatcher.
    """

    stale: bool = False
    needs_full: bool = False
    came_up: bool = False
    went_down: bool = False
    restarted: bool = False


@dataclass(frozen=True)
class TakenIn:
    """What became of a batch: of each heartbeat in its order, and the conflicts that began; their ``server.claimed_twice`` events are in
    the outbox already."""

    outcomes: tuple[HeartbeatOutcome, ...]
    claimed_twice: tuple[ClaimedTwice, ...]


@dataclass(frozen=True)
class _Round:
    """What became of a round: of each heartbeat, the conflicts that began, and which servers migrated away from which hosts."""

    outcomes: list[HeartbeatOutcome]
    conflicts: list[ClaimedTwice]
    migrated: Collection[tuple[str, str]]

    def explains(self, conflict: ClaimedTwice) -> bool:
        """Whether one of its hosts had let go of the server, and was only heard later."""
        return any((host, conflict.server) in self.migrated for host in (conflict.host, conflict.other_host))


def apply_heartbeats(c: Connection, heartbeats: Sequence[Heartbeat], now: datetime) -> TakenIn:
    """Take heartbeats in, in any order: (journal_id, incarnation, number) says which is a host's latest. Applies their inventories too.

    The last one of an ordered stop (``stopping``) makes the agent down at once, with its ``agent.down`` event; one that is heard again
    within the same incarnation gets an ``agent.up`` (a restarted agent publishes its own). A round is what several hosts said before one of
    them spoke again; of a server that several tell of in a round is decided where the round leaves it: what moved from one to another in
    it was never claimed twice. Nor was one of which a party to the conflict says later in the batch that it migrated: after a while without
    an engine the host that it migrated to may be heard first.
    """
    counters.lock_counters(c)
    outcomes: dict[int, HeartbeatOutcome] = {}
    conflicts: list[ClaimedTwice] = []
    for places in _list_rounds(heartbeats):
        became = _apply_round(c, {heartbeats[place].host: heartbeats[place] for place in places}, now)
        outcomes |= zip(places, became.outcomes, strict=True)
        conflicts = [conflict for conflict in conflicts if not became.explains(conflict)]
        conflicts += became.conflicts
    tell_claimed_twice(c, conflicts, now=now)
    return TakenIn(tuple(outcomes[place] for place in range(len(heartbeats))), tuple(conflicts))


def _list_rounds(heartbeats: Sequence[Heartbeat]) -> list[list[int]]:
    """Their places in the batch, in its order: what a host says again begins another round, for it is held against what was left before.

    Nothing that came later is in an earlier round: of a server that two hosts tell of in turn, each word would be held against a wrong one.
    """
    rounds: list[list[int]] = []
    said: set[str] = set()
    for place, heartbeat in enumerate(heartbeats):
        if not rounds or heartbeat.host in said:
            rounds.append([])
            said.clear()
        rounds[-1].append(place)
        said.add(heartbeat.host)
    return rounds


def _apply_round(c: Connection, heartbeats: Mapping[str, Heartbeat], now: datetime) -> _Round:
    """Take in what hosts said, each of them once.

    :param heartbeats: by host
    """
    known = find_agents(c, list(heartbeats))
    fresh = [
        heartbeat
        for host, heartbeat in heartbeats.items()
        if (before := known.get(host)) is None or not _is_overtaken(heartbeat, before, now)
    ]
    applied = _apply_inventories(c, fresh, known)
    rows = {heartbeat.host: _build_row(heartbeat, known.get(heartbeat.host), applied[heartbeat.host], now) for heartbeat in fresh}
    upsert_several(c, agents, [values_of(row) for row in rows.values()])
    new = {host: row.journal_id for host, row in rows.items() if host not in known or known[host].journal_id != row.journal_id}
    restoring.ask_unknown_journals(c, new, now=now)
    departures = {(host, server): why for host, inventory in applied.items() for server, why in inventory.departures.items()}
    conflicts = _decide(c, applied, departures, known, rows, now)
    outcomes = {host: _conclude(c, known.get(host), row, applied[host], now) for host, row in rows.items()}
    migrated = {place for place, why in departures.items() if why is Departure.MIGRATED}
    return _Round([outcomes.get(host, _STALE) for host in heartbeats], conflicts, migrated)


_STALE = HeartbeatOutcome(stale=True)


def _apply_inventories(c: Connection, heartbeats: Collection[Heartbeat], known: Mapping[str, AgentRow]) -> dict[str, AppliedInventory]:
    """By host; of those who could not read theirs what is known stays."""
    reported = []
    applied: dict[str, AppliedInventory] = {}
    for heartbeat in heartbeats:
        before = known.get(heartbeat.host)
        if not heartbeat.inventory.readable:
            applied[heartbeat.host] = AppliedInventory(complete=before is not None and before.inventory_revision is not None)
            continue
        # Another journal counts its revisions anew: what we hold is no base for its differences.
        same_journal = before is not None and before.journal_id == heartbeat.journal_id
        reported.append(
            Reported(
                host=heartbeat.host,
                report=heartbeat.inventory,
                sent_at=heartbeat.sent_at,
                known_revision=before.inventory_revision if before is not None and same_journal else None,
                known_hash=before.inventory_hash if before is not None else None,
            )
        )
    return applied | apply_reports(c, reported)


def _decide(
    c: Connection,
    applied: Mapping[str, AppliedInventory],
    departures: Mapping[tuple[str, str], Departure],
    known: Mapping[str, AgentRow],
    rows: Mapping[str, AgentRow],
    now: datetime,
) -> list[ClaimedTwice]:
    """Decide over the servers that were told of, and over those whose agents' words are worth more or less than before."""
    touched = {server for inventory in applied.values() for server in (*inventory.changed, *inventory.departures)}
    other_worth = [host for host, row in rows.items() if host not in known or _find_worth(known[host]) != _find_worth(row)]
    touched |= list_contested(c, other_worth)
    return decide(c, touched, now=now, departures=departures) if touched else []


def _conclude(c: Connection, before: AgentRow | None, after: AgentRow, applied: AppliedInventory, now: datetime) -> HeartbeatOutcome:
    restarted = before is None or (before.journal_id, before.incarnation) != (after.journal_id, after.incarnation)
    came_up = after.state == UP and (before is None or before.state == DOWN)
    went_down = after.state == DOWN and before is not None and before.state == UP
    if went_down:
        append_state(c, after, "agent.down", "the agent was stopped in order", now)
    elif came_up and not restarted:
        append_state(c, after, "agent.up", "the agent is heard again", now)
    return HeartbeatOutcome(
        needs_full=after.inventory_readable and not applied.complete and after.state == UP,
        came_up=came_up,
        went_down=went_down,
        restarted=restarted,
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


def _find_worth(agent: AgentRow) -> tuple[str, bool]:
    """What its word about a server is held to be worth: see ``sightings.Word``."""
    return agent.state, agent.inventory_readable and agent.inventory_revision is not None
