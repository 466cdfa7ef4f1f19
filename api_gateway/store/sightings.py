"""Sightings: each host's own word about each server in its inventory, brought by heartbeats and by ``server.*`` events.

Of two words about a state the later one (by the host's clock, ``state_at``) holds, whichever way it came; so it is with those about a
watchdog.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field, fields
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, and_, bindparam, delete, insert, select, update

from api_gateway.store.columns import columns_of, values_of
from api_gateway.store.tables import agents, sightings
from api_gateway.store.tables import servers as servers_table
from compute_agent.contract.models import Departure, Flavor, InventoryReport, Server, hash_inventory


@dataclass(frozen=True)
class Sighting:
    """One server as one host reports it; see ``compute_agent.contract.models.Server``. ``flavor`` in the form that ``ServerRow`` names.

    ``watchdog_at`` is when the last event told of its watchdog; heartbeats that were sent before know less.
    """

    host: str
    server: str
    name: str
    project: str
    user: str | None
    generation: int
    power_state: str
    state_reason: str
    state_at: datetime
    instance_name: str
    vcpus: int | None
    memory_mib: int | None
    created_at: datetime
    started_at: datetime | None
    description: str | None = None
    flavor: dict[str, Any] | None = None
    tags: tuple[str, ...] = ()
    foreign_owner: str | None = None
    watchdog: dict[str, Any] | None = None
    watchdog_at: datetime | None = None


@dataclass(frozen=True)
class Word:
    """A host's word about a server, and what it is worth: whether its agent is ``up``, and whether what we have of it is ``current``."""

    sighting: Sighting
    up: bool
    current: bool


@dataclass(frozen=True)
class AppliedInventory:
    """What an inventory report changed. ``complete`` False: what we hold is not the host's whole inventory; ask for a full report."""

    complete: bool
    changed: frozenset[str] = frozenset()
    departures: dict[str, Departure] = field(default_factory=dict)


CHUNK = 500
"""Values in one IN list at most: databases limit the parameters of a statement."""

_COLUMNS = columns_of(sightings, Sighting)
_INSERT = insert(sightings)
_KEY = and_(sightings.c.host == bindparam("key_host"), sightings.c.server == bindparam("key_server"))
_OF_HOST = select(*_COLUMNS).where(sightings.c.host == bindparam("key_host"))
_OF_SERVERS = (
    select(*_COLUMNS, agents.c.state, agents.c.inventory_readable, agents.c.inventory_revision)
    .outerjoin_from(sightings, agents, agents.c.host == sightings.c.host)
    .where(sightings.c.server.in_(bindparam("servers", expanding=True)))
)
_AT_HOST = _OF_HOST.where(sightings.c.server.in_(bindparam("servers", expanding=True)))
_GENERATIONS = select(sightings.c.server, sightings.c.generation).where(sightings.c.host == bindparam("key_host"))
_ONE = select(*_COLUMNS).where(_KEY)
_FACTS = [f.name for f in fields(Sighting) if f.name not in ("host", "server")]
_UPDATE = update(sightings).where(_KEY).values({name: bindparam(name) for name in _FACTS})


def find_sighting(c: Connection, host: str, server: str) -> Sighting | None:
    row = c.execute(_ONE, {"key_host": host, "key_server": server}).one_or_none()
    return None if row is None else Sighting(*row)


def list_sightings_of_host(c: Connection, host: str) -> list[Sighting]:
    return [Sighting(*row) for row in c.execute(_OF_HOST, {"key_host": host})]


def _list_sightings_at(c: Connection, host: str, servers: Iterable[str]) -> list[Sighting]:
    """One host's words about these servers: of a host with many, most heartbeats tell of few."""
    return [Sighting(*row) for chunk in split(servers) for row in c.execute(_AT_HOST, {"key_host": host, "servers": chunk})]


def list_words(c: Connection, servers: Iterable[str]) -> list[Word]:
    """All hosts' words about these servers."""
    words: list[Word] = []
    for chunk in split(servers):
        for *facts, state, readable, revision in c.execute(_OF_SERVERS, {"servers": chunk}):
            up = state == "up"
            words.append(Word(Sighting(*facts), up=up, current=up and readable and revision is not None))
    return words


def list_contested(c: Connection, host: str) -> list[str]:
    """Servers of which ``host`` has a sighting and at least one other host has one as well, or owned it last."""
    other = sightings.alias("other")
    seen = select(sightings.c.server).where(sightings.c.host == host)
    by_others = seen.join(other, and_(other.c.server == sightings.c.server, other.c.host != sightings.c.host))
    of_others = seen.join(servers_table, and_(servers_table.c.id == sightings.c.server, servers_table.c.host != sightings.c.host))
    return list(c.execute(by_others.union(of_others)).scalars())


def apply_report(
    c: Connection, host: str, report: InventoryReport, *, sent_at: datetime, known_revision: int | None, known_hash: str | None
) -> AppliedInventory:
    """Apply a readable inventory report.

    A full one replaces all; a difference is applied on top of its base only, and must lead to the hash that it names.

    :param sent_at: by the host's clock
    :param known_revision: the revision that our sightings of the host are at; None when they are not complete
    """
    if report.full:
        departures = {removed.id: removed.departure for removed in report.removed}
        return _replace_all(c, host, report.servers, departures, sent_at)
    if known_revision is None or known_revision != report.base_revision:
        repeated = known_revision == report.revision and known_hash == report.hash
        return AppliedInventory(complete=repeated)
    if not report.servers and not report.removed:
        return AppliedInventory(complete=known_hash == report.hash)
    named = {server.id for server in report.servers} | {removed.id for removed in report.removed}
    before = {sighting.server: sighting for sighting in _list_sightings_at(c, host, named)}
    changed = _put(c, host, report.servers, before, sent_at)
    departures = {removed.id: removed.departure for removed in report.removed if removed.id in before}
    remove_sightings(c, host, departures)
    if departures or any(server.id not in before or before[server.id].generation != server.generation for server in report.servers):
        known_hash = hash_inventory({row.server: row.generation for row in c.execute(_GENERATIONS, {"key_host": host})})
    return AppliedInventory(complete=known_hash == report.hash, changed=changed, departures=departures)


def _replace_all(c: Connection, host: str, servers: Collection[Server], said: dict[str, Departure], sent_at: datetime) -> AppliedInventory:
    """What is not in a full report is gone; why, if the report says it."""
    before = {sighting.server: sighting for sighting in list_sightings_of_host(c, host)}
    changed = _put(c, host, servers, before, sent_at)
    departures = {server: said.get(server, Departure.GONE) for server in before.keys() - {server.id for server in servers}}
    remove_sightings(c, host, departures)
    return AppliedInventory(complete=True, changed=changed, departures=departures)


def _put(c: Connection, host: str, servers: Iterable[Server], before: dict[str, Sighting], sent_at: datetime) -> frozenset[str]:
    """Insert or overwrite; ids of those that are another word than before."""
    new: list[Sighting] = []
    other: list[Sighting] = []
    for server in servers:
        old = before.get(server.id)
        sighting = _merge(host, server, old, sent_at)
        if old is None:
            new.append(sighting)
        elif sighting != old:
            other.append(sighting)
    if new:
        c.execute(_INSERT, [values_of(sighting) for sighting in new])
    overwrite_sightings(c, other)
    return frozenset(sighting.server for sighting in (*new, *other))


def _merge(host: str, server: Server, old: Sighting | None, sent_at: datetime) -> Sighting:
    state, reason, state_at = server.power_state.value, server.state_reason, server.state_at
    watchdog = None if server.watchdog is None else server.watchdog.to_wire()
    watchdog_at = None
    if old is not None and old.generation == server.generation:
        # Where an event overtook the heartbeat.
        if old.state_at > server.state_at:
            state, reason, state_at = old.power_state, old.state_reason, old.state_at
        if old.watchdog_at is not None and old.watchdog_at > sent_at:
            watchdog = old.watchdog
        watchdog_at = old.watchdog_at
    return Sighting(
        host=host,
        server=server.id,
        name=server.name,
        project=server.project,
        user=server.user,
        generation=server.generation,
        power_state=state,
        state_reason=reason,
        state_at=state_at,
        instance_name=server.instance_name,
        vcpus=server.vcpus,
        memory_mib=server.memory_mib,
        created_at=server.created_at,
        started_at=server.started_at,
        description=server.description,
        flavor=None if server.flavor is None else _convert_flavor(server.flavor),
        tags=server.tags,
        foreign_owner=server.foreign_owner,
        watchdog=watchdog,
        watchdog_at=watchdog_at,
    )


def _convert_flavor(flavor: Flavor) -> dict[str, Any]:
    return {
        "name": flavor.name,
        "vcpus": flavor.vcpus,
        "ram": flavor.ram_mib,
        "disk": flavor.disk_gib,
        "ephemeral": flavor.ephemeral_gib,
        "swap": flavor.swap_mib,
        "extra_specs": {},
    }


def overwrite_sightings(c: Connection, sightings: Collection[Sighting]) -> None:
    """Write existing sightings anew."""
    if sightings:
        c.execute(_UPDATE, [_values_for_update(sighting) for sighting in sightings])


def _values_for_update(sighting: Sighting) -> dict[str, object]:
    values = values_of(sighting)
    return {"key_host": values.pop("host"), "key_server": values.pop("server"), **values}


def remove_sightings(c: Connection, host: str, servers: Iterable[str]) -> None:
    for chunk in split(servers):
        c.execute(delete(sightings).where(sightings.c.host == host, sightings.c.server.in_(chunk)))


def remove_host(c: Connection, host: str) -> None:
    """All that a host ever said."""
    c.execute(delete(sightings).where(sightings.c.host == host))


def split(ids: Iterable[str]) -> list[list[str]]:
    """In chunks for IN lists, in a stable order."""
    ordered = sorted(ids)
    return [ordered[start : start + CHUNK] for start in range(0, len(ordered), CHUNK)]
