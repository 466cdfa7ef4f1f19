"""The rows of ``servers``: read, and written together with their tags."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, bindparam, delete, insert, select, update

from api_gateway.store.columns import columns_of, reader_of, values_of
from api_gateway.store.prepared import Prepared, PreparedForMany, ask
from api_gateway.store.tables import server_tags, servers


@dataclass(frozen=True)
class ServerRow:
    """One server: its owner's word, where no admin's overlay covers it.

    ``generation`` is the owner's own count of this UUID's lives. ``conflict_host`` is the second host that runs it: no actions then.
    ``missing_since``: its owner has it no longer and nobody else does; after the grace ``deleted_at`` follows. ``host_released``: the
    owner said why (migrated, undefined). ``reset_at`` is when it was last seen to reboot or stop, which ends a crash dump's hold-off.

    ``vm_state`` is derived from the power state, and only the overlay knows a ``task_state``. ``flavor``: ``name``, ``vcpus``, ``ram``
    (MiB), ``disk`` (GiB), ``ephemeral`` (GiB), ``swap`` (MiB), ``extra_specs``; None: nobody says more than ``vcpus`` and ``memory_mib``.
    ``foreign_owner`` is another control plane that manages it too. ``watchdog`` is the contract's ``Watchdog`` as its host told it,
    None: it does not say. ``locked_by`` is ``owner`` or ``admin``.

    ``overlay`` is what an admin set, ``overlaid`` what the host says of the same fields.
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
    vm_state: str
    task_state: str | None = None
    description: str | None = None
    flavor: dict[str, Any] | None = None
    tags: tuple[str, ...] = ()
    foreign_owner: str | None = None
    watchdog: dict[str, Any] | None = None
    reset_at: datetime | None = None
    conflict_host: str | None = None
    missing_since: datetime | None = None
    host_released: bool = False
    deleted_at: datetime | None = None
    locked_by: str | None = None
    locked_reason: str | None = None
    overlay: dict[str, Any] = field(default_factory=dict)
    overlaid: dict[str, Any] = field(default_factory=dict)


COLUMNS = columns_of(servers, ServerRow)
read_server = reader_of(ServerRow)
_BY_ID = select(*COLUMNS).where(servers.c.id == bindparam("server_id"))
_FIND = Prepared(_BY_ID)
_HELD = select(servers.c.id).where(servers.c.id == bindparam("server_id")).with_for_update()
_BY_ID_LOCKED = _BY_ID.where(servers.c.deleted_at.is_(None)).with_for_update()


def find_server(c: Connection, server: str, *, include_deleted: bool = False) -> ServerRow | None:
    found = [read_server(row) for row in ask(c, _FIND, {"server_id": server})]
    return found[0] if found and (found[0].deleted_at is None or include_deleted) else None


def hold_server(c: Connection, server: str) -> None:
    """Keep others from this server until this transaction ends. It must be its first statement, and must not take the counters' lock
    afterwards, which others take before a server."""
    if c.dialect.name != "sqlite":
        c.execute(_HELD, {"server_id": server})


def get_server_locked(c: Connection, server: str) -> ServerRow:
    """The newest row, kept from other transactions until this one ends.

    :raises LookupError: there is none, or it is deleted.
    """
    row = c.execute(_BY_ID_LOCKED, {"server_id": server}).one_or_none()
    if row is None:
        raise LookupError(f"there is no server {server}")
    return read_server(row)


_BY_IDS = PreparedForMany(lambda is_one_of: select(*COLUMNS).where(is_one_of(servers.c.id)))


def list_by_id(c: Connection, ids: Sequence[str]) -> list[ServerRow]:
    """At most ``sightings.CHUNK`` of them, in any order."""
    return [read_server(row) for row in ask(c, *_BY_IDS.fit(ids))]


def insert_servers(c: Connection, rows: Sequence[ServerRow]) -> None:
    if not rows:
        return
    c.execute(insert(servers), [values_of(row) for row in rows])
    _insert_tags(c, rows)


_CHANGE = update(servers).where(servers.c.id == bindparam("changed_server"))


def overwrite_server(c: Connection, before: ServerRow, after: ServerRow) -> None:
    """Write the columns that differ; the tags as well."""
    overwrite_servers(c, [(before, after)])


def overwrite_servers(c: Connection, rows: Iterable[tuple[ServerRow, ServerRow]]) -> None:
    """The same for rows before and after; those of which the same columns differ in one statement."""
    alike: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for before, after in rows:
        old = values_of(before)
        changes = {name: value for name, value in values_of(after).items() if value != old[name]}
        if changes:
            alike.setdefault(tuple(changes), []).append({"changed_server": after.id, **changes})
        if "tags" in changes:
            c.execute(delete(server_tags).where(server_tags.c.server == after.id))
            _insert_tags(c, [after])
    for changed in alike.values():
        c.execute(_CHANGE, changed)


def _insert_tags(c: Connection, rows: Iterable[ServerRow]) -> None:
    tags = [{"server": row.id, "tag": tag} for row in rows for tag in row.tags]
    if tags:
        c.execute(insert(server_tags), tags)
