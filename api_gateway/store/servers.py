"""Servers: who has which, in which state. Each host's own word is kept (sightings); who owns a server is decided in ``ownership``."""

from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, and_, bindparam, insert, or_, select, update

from api_gateway.store import counters, outbox
from api_gateway.store.columns import columns_of, values_of
from api_gateway.store.ownership import Claim, Ownership, decide_owner
from api_gateway.store.sightings import Sighting, find_sighting, list_sightings_of_servers, overwrite_sighting, split
from api_gateway.store.tables import SERVER_FACTS, agents, servers
from compute_agent.contract.models import Departure, PowerState


@dataclass(frozen=True)
class ServerRow:
    """One server as its owner reports it.

    ``generation`` is the owner's own count of this UUID's lives. ``conflict_host`` is the second host that runs it: no actions then.
    ``missing_since``: its owner has it no longer and nobody else does; after the grace ``deleted_at`` follows. ``host_released``: the
    owner said why (migrated, undefined). ``reset_at`` is when it was last seen to reboot or stop, which ends a crash dump's hold-off.
    """

    id: str
    name: str
    project: str
    user: str | None
    host: str
    generation: int
    power_state: str
    state_reason: str
    state_at: datetime
    instance_name: str
    vcpus: int | None
    memory_mib: int | None
    created_at: datetime
    started_at: datetime | None
    updated_at: datetime
    reset_at: datetime | None = None
    conflict_host: str | None = None
    missing_since: datetime | None = None
    host_released: bool = False
    deleted_at: datetime | None = None


_COLUMNS = columns_of(servers, ServerRow)
_BY_ID = select(*_COLUMNS).where(servers.c.id == bindparam("server_id"))
_RESET_EVENTS = frozenset({"server.rebooted", "server.stopped", "server.started"})
"""After one of these no earlier crash dump can still be running in the guest."""
_STARTED_EVENT = "server.started"


def find_server(c: Connection, server: str, *, include_deleted: bool = False) -> ServerRow | None:
    row = c.execute(_BY_ID, {"server_id": server}).one_or_none()
    found = None if row is None else ServerRow(*row)
    return None if found is None or (found.deleted_at is not None and not include_deleted) else found


def list_servers(
    c: Connection,
    *,
    project: str | None = None,
    host: str | None = None,
    name_pattern: str | None = None,
    power_states: Collection[str] | None = None,
    missing: bool | None = None,
    deleted: bool | None = False,
    changes_since: datetime | None = None,
    changes_before: datetime | None = None,
    limit: int | None = None,
    marker: str | None = None,
) -> list[ServerRow]:
    """Newest first (``created_at``, id). ``project`` None: of all projects. ``deleted``: False living ones, True deleted ones, None both.

    :param name_pattern: a regular expression, unanchored; the caller has made sure that it compiles
    :param marker: id of the last server of the page before
    :raises LookupError: there is no server with the marker's id.
    """
    conditions = []
    if project is not None:
        conditions.append(servers.c.project == project)
    if host is not None:
        conditions.append(servers.c.host == host)
    if name_pattern is not None:
        conditions.append(servers.c.name.regexp_match(name_pattern))
    if power_states is not None:
        conditions.append(servers.c.power_state.in_(power_states))
    if missing is not None:
        conditions.append(servers.c.missing_since.is_not(None) if missing else servers.c.missing_since.is_(None))
    if deleted is not None:
        conditions.append(servers.c.deleted_at.is_not(None) if deleted else servers.c.deleted_at.is_(None))
    if changes_since is not None:
        conditions.append(servers.c.updated_at >= changes_since)
    if changes_before is not None:
        conditions.append(servers.c.updated_at <= changes_before)
    if marker is not None:
        last = find_server(c, marker, include_deleted=True)
        if last is None:
            raise LookupError(f"there is no server {marker}")
        older = and_(servers.c.created_at == last.created_at, servers.c.id < last.id)
        conditions.append(or_(servers.c.created_at < last.created_at, older))
    query = select(*_COLUMNS).where(*conditions).order_by(servers.c.created_at.desc(), servers.c.id.desc()).limit(limit)
    return [ServerRow(*row) for row in c.execute(query)]


def apply_state(
    c: Connection, server: str, *, host: str, event_type: str, power_state: str, reason: str, at: datetime, now: datetime
) -> bool:
    """A ``server.*`` event of ``host``: of two reports the later one holds. Unknown servers are left to the inventory.

    :returns: whether anything changed.
    """
    counters.lock_counters(c)
    sighting = find_sighting(c, host, server)
    if sighting is None:
        return False
    changed = False
    if at >= sighting.state_at:
        started_at = at if event_type == _STARTED_EVENT else sighting.started_at
        later = replace(sighting, power_state=power_state, state_reason=reason, state_at=at, started_at=started_at)
        if later != sighting:
            overwrite_sighting(c, later)
            settle(c, [server], now=now)
            changed = True
    row = find_server(c, server)
    if event_type in _RESET_EVENTS and row is not None and row.host == host and (row.reset_at is None or row.reset_at < at):
        c.execute(update(servers).where(servers.c.id == server).values(reset_at=at))
        changed = True
    return changed


def expire_missing(c: Connection, *, now: datetime, missing_grace: timedelta, limit: int = 1000) -> list[str]:
    """Mark servers deleted that have been missing for the grace; a shut-off copy elsewhere takes its place instead. Ids of the deleted."""
    counters.lock_counters(c)
    overdue = and_(servers.c.missing_since <= now - missing_grace, servers.c.deleted_at.is_(None))
    ids = list(c.execute(select(servers.c.id).where(overdue).order_by(servers.c.missing_since).limit(limit)).scalars())
    return give_up(c, ids, now=now)


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
        deleted += gone
    return deleted


def settle(
    c: Connection,
    ids: Iterable[str],
    *,
    now: datetime,
    departed_from: str | None = None,
    departures: dict[str, Departure] | None = None,
    grace_over: bool = False,
) -> list[str]:
    """Decide anew who owns these servers and take over the owners' words; every change of a sighting or of an agent's state ends here.

    :param departed_from: the host whose ``departures`` these are
    :param grace_over: an owner that vanished without a word is waited for no longer
    :returns: servers of which a conflict began; their ``server.claimed_twice`` is in the outbox.
    """
    departures = departures or {}
    wanted = set(ids)
    words: dict[str, list[Sighting]] = defaultdict(list)
    for sighting in list_sightings_of_servers(c, wanted):
        words[sighting.server].append(sighting)
    standing = _read_standing(c, {sighting.host for found in words.values() for sighting in found})
    rows = {row.id: row for chunk in split(wanted) for row in _list_by_id(c, chunk)}
    made: list[ServerRow] = []
    claimed_twice: list[str] = []
    for server in sorted(wanted):
        before, heard = rows.get(server), words[server]
        owned = before is not None and before.deleted_at is None
        released = before is not None and before.host_released
        if owned and before is not None and before.host == departed_from and server in departures:
            released = departures[server] is not Departure.GONE
        claims = [Claim(s.host, s.power_state, s.state_at, *standing.get(s.host, (False, False))) for s in heard]
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
            values = values_of(after)
            c.execute(update(servers).where(servers.c.id == values.pop("id")).values(**values))
        if after.conflict_host is not None and (before is None or before.conflict_host is None):
            claimed_twice.append(server)
            _append_claimed_twice(c, after, now)
    if made:
        c.execute(insert(servers), [values_of(row) for row in made])
    return claimed_twice


def _list_by_id(c: Connection, ids: list[str]) -> list[ServerRow]:
    return [ServerRow(*row) for row in c.execute(select(*_COLUMNS).where(servers.c.id.in_(ids)))]


def _read_standing(c: Connection, hosts: Iterable[str]) -> dict[str, tuple[bool, bool]]:
    """For each known host: whether its agent is up, and whether its word is current."""
    standing = {}
    query = select(agents.c.host, agents.c.state, agents.c.inventory_readable, agents.c.inventory_revision)
    for chunk in split(hosts):
        for host, state, readable, revision in c.execute(query.where(agents.c.host.in_(chunk))):
            standing[host] = (state == "up", state == "up" and readable and revision is not None)
    return standing


def _build_row(
    server: str, before: ServerRow | None, words: list[Sighting], decision: Ownership, *, released: bool, now: datetime
) -> ServerRow | None:
    """The server's row after a decision; ``before`` itself when nothing a client could see changed."""
    word = next((sighting for sighting in words if sighting.host == decision.host), None)
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
        **facts,
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


def _append_claimed_twice(c: Connection, row: ServerRow, now: datetime) -> None:
    outbox.append_event(
        c,
        "server.claimed_twice",
        server=row.id,
        host=row.host,
        occurred_at=now,
        body={"hosts": (row.host, row.conflict_host)},
    )
