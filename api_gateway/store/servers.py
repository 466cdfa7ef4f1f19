"""Servers: who has which, in which state. Each host's own word is kept (sightings); who owns a server is decided in ``ownership``."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Integer, and_, bindparam, or_, select, update

from api_gateway.store import counters, had, outbox
from api_gateway.store.columns import Moment
from api_gateway.store.overlays import OVERLAY_FIELDS, cover, lock_server, set_overlay, unlock_server
from api_gateway.store.ownership import Claim, Ownership, decide_owner
from api_gateway.store.patterns import BadPattern, check_pattern
from api_gateway.store.server_listing import SORT_KEYS, ServerFilters, list_servers
from api_gateway.store.server_rows import (
    ServerRow,
    find_server,
    get_server_locked,
    hold_server,
    insert_servers,
    list_by_id,
    overwrite_servers,
)
from api_gateway.store.sightings import Sighting, Word, find_sighting, list_words, overwrite_sightings, remove_sightings, split
from api_gateway.store.tables import SERVER_FACTS, agents, servers
from compute_agent.contract.models import Departure, PowerState

__all__ = [
    "OVERLAY_FIELDS",
    "SORT_KEYS",
    "BadPattern",
    "ClaimedTwice",
    "HostIsUp",
    "ServerFilters",
    "ServerRow",
    "StateReport",
    "apply_states",
    "apply_watchdog",
    "check_pattern",
    "decide",
    "expire_missing",
    "find_server",
    "forget_server",
    "give_up",
    "hold_server",
    "list_overdue",
    "list_servers",
    "lock_server",
    "set_overlay",
    "settle",
    "tell_claimed_twice",
    "unlock_server",
]


@dataclass(frozen=True)
class ClaimedTwice:
    """Two hosts run the same server; ``host`` is its owner."""

    server: str
    host: str
    other_host: str

    def is_another_than(self, known: "ClaimedTwice | None") -> bool:
        """Whether somebody else is a party to it."""
        return known is None or {self.host, self.other_host} != {known.host, known.other_host}


class HostIsUp(Exception):
    """An agent that is up reports this server: it would only come again. ``host`` is the agent's."""

    def __init__(self, server: str, host: str) -> None:
        super().__init__(f"the agent of host {host} is up and reports server {server}")
        self.host = host


_RESET_EVENTS = frozenset({"server.rebooted", "server.stopped", "server.started"})
"""After one of these no earlier crash dump can still be running in the guest."""
_STARTED_EVENT = "server.started"
_MOMENT = bindparam("moment", type_=Moment)
_RESET = (
    update(servers)
    .where(servers.c.id == bindparam("of_server"), servers.c.host == bindparam("of_host"), servers.c.deleted_at.is_(None))
    .where(or_(servers.c.reset_at.is_(None), servers.c.reset_at < _MOMENT))
    .values(reset_at=_MOMENT)
)


@dataclass(frozen=True)
class StateReport:
    """A ``server.*`` event of ``host``."""

    server: str
    host: str
    event_type: str
    power_state: str
    reason: str
    at: datetime


def apply_states(c: Connection, reports: Sequence[StateReport], *, now: datetime) -> bool:
    """Each about another server: of two reports of a host the later one holds. Unknown servers are left to the inventory.

    :returns: whether anything changed.
    """
    if not reports:
        return False
    counters.lock_counters(c)
    words = {(word.sighting.server, word.sighting.host): word for word in list_words(c, [report.server for report in reports])}
    later: list[Sighting] = []
    resets: list[dict[str, Any]] = []
    for report in reports:
        key = report.server, report.host
        if key not in words:
            continue
        before = words[key].sighting
        after = before if report.at < before.state_at else _take_over(before, report)
        if after != before:
            words[key] = replace(words[key], sighting=after)
            later.append(after)
        if report.event_type in _RESET_EVENTS:
            resets.append({"of_server": report.server, "of_host": report.host, "moment": report.at})
    overwrite_sightings(c, later)
    if later:
        told = {sighting.server for sighting in later}
        settle(c, told, now=now, said=[word for word in words.values() if word.sighting.server in told])
    has_reset = bool(resets) and c.execute(_RESET, resets).rowcount > 0
    return bool(later) or has_reset


def _take_over(sighting: Sighting, report: StateReport) -> Sighting:
    started_at = report.at if report.event_type == _STARTED_EVENT else sighting.started_at
    return replace(sighting, power_state=report.power_state, state_reason=report.reason, state_at=report.at, started_at=started_at)


def apply_watchdog(c: Connection, server: str, *, host: str, watchdog: dict[str, Any], at: datetime, now: datetime) -> bool:
    """What ``host`` says that the server has since ``at``: of two words the later one holds. Unknown servers are left to the inventory.

    :returns: whether anything changed.
    """
    counters.lock_counters(c)
    sighting = find_sighting(c, host, server)
    if sighting is None or (sighting.watchdog_at is not None and sighting.watchdog_at > at):
        return False
    overwrite_sightings(c, [replace(sighting, watchdog=watchdog, watchdog_at=at)])
    settle(c, [server], now=now)
    return True


_OVERDUE = (
    select(servers.c.id)
    .where(servers.c.missing_since <= bindparam("gone_by", type_=Moment))
    .order_by(servers.c.missing_since)
    .limit(bindparam("at_most", type_=Integer))
)
"""What is deleted is missing no longer. Asked whether it is, SQLite would look through all that are not."""


def list_overdue(c: Connection, *, now: datetime, missing_grace: timedelta, limit: int = 1000) -> list[str]:
    """Ids of servers that have been missing for the grace, the longest first."""
    return list(c.execute(_OVERDUE, {"gone_by": now - missing_grace, "at_most": limit}).scalars())


def expire_missing(c: Connection, *, now: datetime, missing_grace: timedelta, limit: int = 1000) -> list[str]:
    """Mark servers deleted that have been missing for the grace; a shut-off copy elsewhere takes its place instead. Ids of the deleted."""
    counters.lock_counters(c)
    return give_up(c, list_overdue(c, now=now, missing_grace=missing_grace, limit=limit), now=now)


def give_up(c: Connection, ids: Collection[str], *, now: datetime) -> list[str]:
    """Wait no longer for the owners of these servers: whoever has one owns it, the others are deleted; ids of those."""
    settle(c, ids, now=now, grace_over=True)
    deleted: list[str] = []
    for chunk in split(ids):
        missing = and_(servers.c.id.in_(chunk), servers.c.missing_since.is_not(None), servers.c.deleted_at.is_(None))
        gone = list(c.execute(select(servers.c.id).where(missing)).scalars())
        c.execute(
            update(servers).where(servers.c.id.in_(gone)).values(deleted_at=now, missing_since=None, conflict_host=None, updated_at=now)
        )
        had.forget_former_owners(c, gone)
        deleted += gone
    return deleted


def forget_server(c: Connection, server: str, *, now: datetime) -> None:
    """Delete a server that only agents which are down still claim; its history, overlay and lock stay.

    Should such a host come back, it is asked for its whole inventory, which brings the server again.

    :raises LookupError: there is no such server.
    :raises HostIsUp: an agent that is up reports it.
    """
    counters.lock_counters(c)
    get_server_locked(c, server)
    words = sorted(list_words(c, [server]), key=lambda word: word.sighting.host)
    hosts = [word.sighting.host for word in words]
    for host, word in zip(hosts, words, strict=True):
        if word.up:
            raise HostIsUp(server, host)
        remove_sightings(c, {host: [server]})
    c.execute(update(agents).where(agents.c.host.in_(hosts)).values(inventory_revision=None, inventory_hash=None))
    give_up(c, [server], now=now)


def settle(
    c: Connection,
    ids: Iterable[str],
    *,
    now: datetime,
    grace_over: bool = False,
    said: Iterable[Word] | None = None,
) -> None:
    """Decide anew who owns these servers and take over the owners' words: every change of a sighting or of an agent's state ends here or in
    :func:`decide`.

    :param grace_over: an owner that vanished without a word is waited for no longer
    :param said: all hosts' words about these servers; None: they are read
    """
    tell_claimed_twice(c, decide(c, ids, now=now, grace_over=grace_over, said=said), now=now)


def decide(
    c: Connection,
    ids: Iterable[str],
    *,
    now: datetime,
    departures: Mapping[tuple[str, str], Departure] | None = None,
    grace_over: bool = False,
    said: Iterable[Word] | None = None,
) -> list[ClaimedTwice]:
    """As :func:`settle`, where more is heard before conflicts are told.

    :param departures: why hosts have servers no longer, by host and server
    :returns: the conflicts that began; they are for :func:`tell_claimed_twice`.
    """
    wanted = set(ids)
    departures = departures or {}
    words: dict[str, list[Word]] = defaultdict(list)
    for word in list_words(c, wanted) if said is None else said:
        words[word.sighting.server].append(word)
    rows = {row.id: row for chunk in split(wanted) for row in list_by_id(c, chunk)}
    made: list[ServerRow] = []
    overwritten: list[tuple[ServerRow, ServerRow]] = []
    conflicts: list[ClaimedTwice] = []
    for server in sorted(wanted):
        before, heard = rows.get(server), words[server]
        owned = before is not None and before.deleted_at is None
        released = before is not None and before.host_released
        if owned and before is not None and (before.host, server) in departures:
            released = departures[before.host, server] is not Departure.GONE
        claims = [Claim(word.sighting.host, word.sighting.power_state, word.sighting.state_at, word.up, word.current) for word in heard]
        decision = decide_owner(
            before.host if owned and before is not None and not grace_over else None,
            claims,
            released=released,
            conflict_host=before.conflict_host if before is not None else None,
        )
        after = _build_row(server, before, heard, decision, released=released, now=now)
        if after is None or after == before:
            continue
        if before is None:
            made.append(after)
        else:
            overwritten.append((before, after))
            if before.deleted_at is not None or (after.host == before.host and after.generation != before.generation):
                had.forget_former_owners(c, [server])
            elif after.host != before.host:
                had.note_move(c, server, left=before.host, owner=after.host, project=after.project, now=now)
        conflict = _find_conflict(after)
        if conflict is not None and (before is None or conflict.is_another_than(_find_conflict(before))):
            conflicts.append(conflict)
    overwrite_servers(c, overwritten)
    insert_servers(c, made)
    return conflicts


def tell_claimed_twice(c: Connection, conflicts: Iterable[ClaimedTwice], *, now: datetime) -> None:
    """Put a ``server.claimed_twice`` into the outbox for each of them."""
    for conflict in conflicts:
        hosts = (conflict.host, conflict.other_host)
        outbox.append_event(c, "server.claimed_twice", server=conflict.server, host=conflict.host, occurred_at=now, body={"hosts": hosts})


def _build_row(
    server: str, before: ServerRow | None, words: list[Word], decision: Ownership, *, released: bool, now: datetime
) -> ServerRow | None:
    """The server's row after a decision; ``before`` itself when nothing a client could see changed."""
    word = next((word.sighting for word in words if word.sighting.host == decision.host), None)
    if word is None:
        if before is None or before.deleted_at is not None or before.missing_since is not None:
            return before
        return replace(before, missing_since=now, host_released=released, conflict_host=None, updated_at=now)
    facts: dict[str, Any] = {name: getattr(word, name) for name in SERVER_FACTS}
    alive = before is not None and before.deleted_at is None
    if before is not None and alive:
        facts["created_at"] = before.created_at  # a host that takes it over saw it first only now
    after = ServerRow(
        id=server,
        host=word.host,
        updated_at=before.updated_at if before is not None else now,
        reset_at=_find_reset(before, word),
        conflict_host=decision.conflict_host,
        locked_by=before.locked_by if before is not None else None,
        locked_reason=before.locked_reason if before is not None else None,
        **cover(facts, before.overlay if before is not None else {}),
    )
    return after if after == before else replace(after, updated_at=now)


def _find_reset(before: ServerRow | None, word: Sighting) -> datetime | None:
    """When the server last rebooted or stopped, as far as states tell it: their event may be lost or still on its way."""
    if before is None:
        return None
    if before.host != word.host or before.generation != word.generation:
        return before.reset_at
    seen = [moment for moment in (before.reset_at,) if moment is not None]
    if word.power_state == PowerState.SHUTDOWN and before.power_state != PowerState.SHUTDOWN:
        seen.append(word.state_at)
    if word.started_at is not None and before.started_at is not None and word.started_at > before.started_at:
        seen.append(word.started_at)
    return max(seen, default=None)


def _find_conflict(row: ServerRow) -> ClaimedTwice | None:
    return None if row.conflict_host is None else ClaimedTwice(row.id, row.host, row.conflict_host)
