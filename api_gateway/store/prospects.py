"""Servers that are to be acted on, each with what decides whether it may be, in one statement for all of them."""

from collections.abc import Sequence
from dataclasses import dataclass, fields

from sqlalchemy import Connection, bindparam, func, select

from api_gateway.store.actions import IS_OPEN
from api_gateway.store.server_rows import COLUMNS, ServerRow
from api_gateway.store.tables import actions, agents, servers


@dataclass(frozen=True)
class Spoken:
    """What a host's agent said of its versions in its last heartbeat; its own words, so they may be anything."""

    host: str
    release: str
    rpc_version: str


@dataclass(frozen=True)
class Prospect:
    """One server. ``spoken`` None: its host's agent was never heard. ``open_actions`` are those of all servers of its host."""

    server: ServerRow
    spoken: Spoken | None
    open_actions: int


_FREE = (
    select(
        *COLUMNS,
        select(agents.c.release).where(agents.c.host == servers.c.host).scalar_subquery(),
        select(agents.c.rpc_version).where(agents.c.host == servers.c.host).scalar_subquery(),
        select(func.count()).where(actions.c.host == servers.c.host, IS_OPEN).scalar_subquery(),
    )
    .where(servers.c.id.in_(bindparam("ids", expanding=True)))
    .with_for_update(skip_locked=True)
)
_WIDTH = len(fields(ServerRow))


def hold_free_servers(c: Connection, ids: Sequence[str]) -> list[Prospect]:
    """Those that are there and that nobody else holds, as they are now, kept from others until this transaction ends.

    It never waits for any of them, so it may hold several. As with ``servers.hold_server``, the counters' lock must not be taken
    afterwards; and what an earlier holder wrote is only seen by the statements that follow.
    """
    # Deleted ones are left out here: asked for them, PostgreSQL without fresh statistics goes through all living servers instead of by id.
    rows = [(ServerRow(*row[:_WIDTH]), *row[_WIDTH:]) for row in c.execute(_FREE, {"ids": ids})]
    return [
        Prospect(server, None if rpc_version is None else Spoken(server.host, release, rpc_version), open_actions)
        for server, release, rpc_version, open_actions in rows
        if server.deleted_at is None
    ]
