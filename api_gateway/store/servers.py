"""Servers: who has which, in which state. Each host's own word is kept (sightings); who owns a server is decided in ``ownership``."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection


@dataclass(frozen=True)
class ServerRow:
    """One server as its owner reports it.

    ``generation`` is the owner's own count of this UUID's lives. ``conflict_host`` is the second host that runs it, if any: no actions then.
    ``missing_since``: its owner has it no longer and nobody else does; after the grace ``deleted_at`` follows. ``host_released``: the owner
    said why (migrated, undefined). ``reset_at`` is when it was last seen to reboot or stop, which ends a crash dump's hold-off.
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


def find_server(c: Connection, server: str, *, include_deleted: bool = False) -> ServerRow | None:
    raise NotImplementedError


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
    raise NotImplementedError


def apply_state(
    c: Connection, server: str, *, host: str, event_type: str, power_state: str, reason: str, at: datetime, now: datetime
) -> bool:
    """A ``server.*`` event of ``host``: of two reports the later one holds. Unknown servers are left to the inventory.

    :returns: whether anything changed.
    """
    raise NotImplementedError


def expire_missing(c: Connection, *, now: datetime, missing_grace: timedelta, limit: int = 1000) -> list[str]:
    """Mark servers deleted that have been missing for the grace; a shut-off copy elsewhere takes its place instead. Ids of the deleted."""
    raise NotImplementedError
