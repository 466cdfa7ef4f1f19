"""Servers that are to be acted on, each with what decides whether it may be, in one statement for all of them."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Select, func, select

from api_gateway.store.actions import IS_OPEN, ActionRow, ask_for_blocking_crash_dumps, read_blocking_crash_dumps
from api_gateway.store.prepared import IsOneOf, PreparedForMany, begin_and_ask
from api_gateway.store.tables import actions, agents, servers


@dataclass(frozen=True)
class Spoken:
    """What a host's agent said of its versions in its last heartbeat; its own words, so they may be anything."""

    host: str
    release: str
    rpc_version: str


@dataclass(frozen=True)
class Prospect:
    """One server. ``spoken`` None: its host's agent was never heard. ``open_actions`` are those of all servers of its host. ``blocking``
    is the crash dump that forbids another one now, if the server does not stand still."""

    id: str
    project: str
    host: str
    generation: int
    power_state: str
    vm_state: str
    task_state: str | None
    conflict_host: str | None
    missing_since: datetime | None
    deleted_at: datetime | None
    locked_by: str | None
    spoken: Spoken | None
    open_actions: int
    blocking: ActionRow | None


_FACTS = [servers.c[field.name] for field in fields(Prospect) if field.name in servers.c]


def _select_free(is_one_of: IsOneOf) -> Select[Any]:
    return (
        select(
            *_FACTS,
            select(agents.c.release).where(agents.c.host == servers.c.host).scalar_subquery(),
            select(agents.c.rpc_version).where(agents.c.host == servers.c.host).scalar_subquery(),
            select(func.count()).where(actions.c.host == servers.c.host, IS_OPEN).scalar_subquery(),
        )
        .where(is_one_of(servers.c.id))
        .with_for_update(skip_locked=True)
    )


_FREE = PreparedForMany(_select_free)


def hold_free_servers(c: Connection, ids: Sequence[str], *, now: datetime, holdoff: timedelta) -> list[Prospect]:
    """Those that are there and that nobody else holds, as they are now, kept from others until this transaction ends. It must have been
    made with ``begins_later``.

    It never waits for any of them, so it may hold several. As with ``servers.hold_server``, the counters' lock must not be taken
    afterwards.

    :param holdoff: how long after a crash dump's signal the dump may still be running; 0 = off
    """
    # The crash dumps are asked for by a statement of their own: the one that takes the locks sees nothing of what an earlier holder wrote.
    free, crash_dumps = begin_and_ask(c, _FREE.fit(ids), ask_for_blocking_crash_dumps(ids, now=now, holdoff=holdoff))
    blocking = read_blocking_crash_dumps(crash_dumps)
    prospects = []
    for server, project, host, *facts, release, rpc_version, open_actions in free:
        spoken = None if rpc_version is None else Spoken(host, release, rpc_version)
        values: list[Any] = [server, project, host, *facts, spoken, open_actions, blocking.get(server)]
        prospects.append(Prospect(*values))
    # Deleted ones are left out here: asked for them, PostgreSQL without fresh statistics goes through all living servers instead of by id.
    return [prospect for prospect in prospects if prospect.deleted_at is None]
