"""Sightings: each host's own word about each server in its inventory, brought by heartbeats and by ``server.*`` events.

Of two words about a state the later one (by the host's clock, ``state_at``) holds, whichever way it came; so it is with those about a
watchdog.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Select, and_, bindparam, delete, exists, insert, or_, select, update

from api_gateway.store.columns import columns_of, reader_of, values_of
from api_gateway.store.prepared import IsOneOf, PreparedForMany, ask
from api_gateway.store.tables import agents, sightings
from api_gateway.store.tables import servers as servers_table


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


CHUNK = 500
"""Values in one IN list at most: databases limit the parameters of a statement."""

_COLUMNS = columns_of(sightings, Sighting)
read_sighting = reader_of(Sighting)
_INSERT = insert(sightings)
_KEY = and_(sightings.c.host == bindparam("key_host"), sightings.c.server == bindparam("key_server"))
_OF_HOSTS = PreparedForMany(lambda is_one_of: select(*_COLUMNS).where(is_one_of(sightings.c.host)))
_OF_SERVERS = PreparedForMany(lambda is_one_of: select(*_COLUMNS).where(is_one_of(sightings.c.server)))
_WORDS = PreparedForMany(
    lambda is_one_of: (
        select(*_COLUMNS, agents.c.state, agents.c.inventory_readable, agents.c.inventory_revision)
        .outerjoin_from(sightings, agents, agents.c.host == sightings.c.host)
        .where(is_one_of(sightings.c.server))
    )
)
_GENERATIONS = PreparedForMany(
    lambda is_one_of: select(sightings.c.host, sightings.c.server, sightings.c.generation).where(is_one_of(sightings.c.host))
)
_ONE = select(*_COLUMNS).where(_KEY)
_FACTS = [f.name for f in fields(Sighting) if f.name not in ("host", "server")]
_UPDATE = update(sightings).where(_KEY).values({name: bindparam(name) for name in _FACTS})


def find_sighting(c: Connection, host: str, server: str) -> Sighting | None:
    row = c.execute(_ONE, {"key_host": host, "key_server": server}).one_or_none()
    return None if row is None else read_sighting(row)


def list_sightings_of_host(c: Connection, host: str) -> list[Sighting]:
    return list_sightings_of_hosts(c, [host])


def list_sightings_of_hosts(c: Connection, hosts: Sequence[str]) -> list[Sighting]:
    """All that these hosts, at most ``CHUNK``, say."""
    return [read_sighting(row) for row in ask(c, *_OF_HOSTS.fit(hosts))] if hosts else []


def list_sightings_at(c: Connection, servers: Mapping[str, Collection[str]]) -> list[Sighting]:
    """Each host's words about these of its servers."""
    chunks = split({server for of_host in servers.values() for server in of_host})
    found = (read_sighting(row) for chunk in chunks for row in ask(c, *_OF_SERVERS.fit(chunk)))
    return [sighting for sighting in found if sighting.server in servers.get(sighting.host, ())]


def list_generations(c: Connection, hosts: Sequence[str]) -> dict[str, dict[str, int]]:
    """Of all servers that each of these hosts, at most ``CHUNK``, says it has."""
    generations: dict[str, dict[str, int]] = {host: {} for host in hosts}
    for host, server, generation in ask(c, *_GENERATIONS.fit(hosts)) if hosts else ():
        generations[host][server] = generation
    return generations


def list_words(c: Connection, servers: Iterable[str]) -> list[Word]:
    """All hosts' words about these servers."""
    words: list[Word] = []
    for chunk in split(servers):
        for row in ask(c, *_WORDS.fit(chunk)):
            *facts, state, readable, revision = row
            up = state == "up"
            words.append(Word(read_sighting(facts), up=up, current=up and readable and revision is not None))
    return words


def list_contested(c: Connection, hosts: Iterable[str]) -> frozenset[str]:
    """Servers of which one of ``hosts`` has a sighting and at least one other host has one as well, or owned it last."""
    return frozenset(server for chunk in split(hosts) for (server,) in ask(c, *_CONTESTED.fit(chunk)))


def _select_contested(is_one_of: IsOneOf) -> Select[Any]:
    other = sightings.alias("other")
    by_others = exists().where(other.c.server == sightings.c.server, other.c.host != sightings.c.host)
    of_others = exists().where(servers_table.c.id == sightings.c.server, servers_table.c.host != sightings.c.host)
    return select(sightings.c.server).where(is_one_of(sightings.c.host), or_(by_others, of_others))


_CONTESTED = PreparedForMany(_select_contested)


def insert_sightings(c: Connection, sightings: Collection[Sighting]) -> None:
    if sightings:
        c.execute(_INSERT, [values_of(sighting) for sighting in sightings])


def overwrite_sightings(c: Connection, sightings: Collection[Sighting]) -> None:
    """Write existing sightings anew."""
    if sightings:
        c.execute(_UPDATE, [_values_for_update(sighting) for sighting in sightings])


def _values_for_update(sighting: Sighting) -> dict[str, object]:
    values = values_of(sighting)
    return {"key_host": values.pop("host"), "key_server": values.pop("server"), **values}


def remove_sightings(c: Connection, servers: Mapping[str, Iterable[str]]) -> None:
    """Forget what each of these hosts said about these servers.

    In chunks: MariaDB's client would send a statement for each of them, with all that waits for the lock behind it.
    """
    for host, of_host in servers.items():
        for chunk in split(of_host):
            c.execute(delete(sightings).where(sightings.c.host == host, sightings.c.server.in_(chunk)))


def remove_host(c: Connection, host: str) -> None:
    """All that a host ever said."""
    c.execute(delete(sightings).where(sightings.c.host == host))


def split(ids: Iterable[str]) -> list[list[str]]:
    """In chunks for IN lists, in a stable order."""
    ordered = sorted(ids)
    return [ordered[start : start + CHUNK] for start in range(0, len(ordered), CHUNK)]
