"""What people say of servers, over what their hosts say: overlays of facts that no hypervisor knows, and locks.

They belong to the server, not to its host: they last through heartbeats, moves, absence and deletion, until somebody takes them back.
"""

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from sqlalchemy import Connection

from api_gateway.store import counters
from api_gateway.store.server_rows import ServerRow, get_server_locked, overwrite_server
from api_gateway.vm_state import derive_vm_state

OVERLAY_FIELDS = ("name", "project", "user", "description", "vm_state", "task_state", "flavor", "tags")
"""What an overlay may cover."""


def cover(facts: Mapping[str, Any], overlay: Mapping[str, Any]) -> dict[str, Any]:
    """A host's ``facts`` (which name every field of OVERLAY_FIELDS but the states) with the overlay over them: the values of a row,
    ``overlay`` and ``overlaid`` among them."""
    told = {**facts, "vm_state": derive_vm_state(facts["power_state"]), "task_state": None}
    known = _list_known(overlay)
    covered = {name: _to_json(told[name]) for name in known}
    effective = {**told, **known}
    return {**effective, "tags": tuple(effective["tags"]), "overlay": dict(overlay), "overlaid": covered}


def set_overlay(c: Connection, server: str, changes: Mapping[str, Any | None], *, now: datetime) -> ServerRow:
    """Set the named fields, take back those that are None, leave the others; the server is what results at once.

    :param changes: values that fit their columns; a flavor as ``ServerRow`` has it, tags as a sequence
    :raises LookupError: there is no such server.
    """
    counters.lock_counters(c)  # a heartbeat must not bring back what was read before this
    before = get_server_locked(c, server)
    kept = {name: value for name, value in before.overlay.items() if name not in changes}
    overlay = kept | {name: _to_json(value) for name, value in changes.items() if value is not None}
    facts = {name: getattr(before, name) for name in OVERLAY_FIELDS} | _list_known(before.overlaid) | {"power_state": before.power_state}
    return _store_change(c, before, cover(facts, overlay), now)


def lock_server(c: Connection, server: str, *, locked_by: str, reason: str | None, now: datetime) -> ServerRow:
    """:param locked_by: ``owner`` or ``admin``
    :raises LookupError: there is no such server.
    """
    counters.lock_counters(c)
    return _store_change(c, get_server_locked(c, server), {"locked_by": locked_by, "locked_reason": reason}, now)


def unlock_server(c: Connection, server: str, *, now: datetime) -> ServerRow:
    """:raises LookupError: there is no such server."""
    counters.lock_counters(c)
    return _store_change(c, get_server_locked(c, server), {"locked_by": None, "locked_reason": None}, now)


def _store_change(c: Connection, before: ServerRow, changes: Mapping[str, Any], now: datetime) -> ServerRow:
    after = replace(before, **changes)
    if after == before:
        return before
    after = replace(after, updated_at=now)
    overwrite_server(c, before, after)
    return after


def _list_known(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Without those that only a newer release knows, which writes to the same database for a while."""
    return {name: value for name, value in fields.items() if name in OVERLAY_FIELDS}


def _to_json(value: Any) -> Any:
    """As it comes back out of its column."""
    return list(value) if isinstance(value, tuple) else value
