"""The record of events: each once, in one order. What is missing in it is in ``gaps``."""

import json
import logging
import uuid
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, and_, delete, exists, func, insert, select

from api_gateway.store import counters, gaps, had
from api_gateway.store.actions import OPEN_STATES
from api_gateway.store.columns import columns_of, reader_of, values_of
from api_gateway.store.prepared import Prepared, PreparedForMany, ask, write
from api_gateway.store.tables import actions, dead_letters, events, servers, store_identity
from api_gateway.store.tables import counters as counters_table
from compute_agent.contract.models import OPEN_END
from compute_agent.contract.notifications import Notification

LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class EventRow:
    """One recorded event. ``position`` is its place in the record: commit order, without holes that fill later.

    What the payload does not say in the expected type is None: unknown types are kept as they came.
    """

    position: int
    message_id: str
    event_type: str
    severity: str
    server: str | None
    host: str | None
    epoch: str | None
    sequence: int | None
    action_id: str | None
    occurred_at: datetime | None
    recorded_at: datetime
    payload: dict[str, Any]
    project: str | None = None
    """Whose server it was when the event was recorded; None for events about hosts, for what an older release recorded, and for what a
    host tells of a server that another one owns (see ``had``)."""


COLUMNS = columns_of(events, EventRow)
read_event = reader_of(EventRow)
_INSERT = Prepared(insert(events), [column.name for column in COLUMNS])
_END = Prepared(
    select(counters_table.c.value, select(store_identity.c.store_id).scalar_subquery())
    .where(counters_table.c.name == counters.POSITION)
    .with_for_update()
)
"""Where the record ends, locked, and the epoch of the gateway's own events."""
_KNOWN = PreparedForMany(lambda is_one_of: select(events.c.message_id, events.c.host, events.c.epoch).where(is_one_of(events.c.message_id)))
_OWNERS = PreparedForMany(
    lambda is_one_of: select(servers.c.id, servers.c.project, servers.c.host, servers.c.deleted_at).where(is_one_of(servers.c.id))
)
_LAST = select(func.max(events.c.position))
_SHELF_SIZE = select(func.count(), func.coalesce(func.sum(func.length(dead_letters.c.body) + func.length(dead_letters.c.reason)), 0))
_REFUSED = "shelf_refused"
_LONGEST_ID = 64
_LONGEST_NAME = 255
_LARGEST_POSITION = 2**63 - 1
_CLASH = "message_id_clash"
_CLASH_PREFIX = "clash-"
"""Of ids that we made ourselves; a message that comes with such an id is given another."""
_CLASH_SPACE = uuid.UUID("0f0d36a8-6a1f-4a55-8a0e-5d8b4a6d8f5c")

_Origin = tuple[str | None, str | None]
"""Host and epoch, as far as a message names them."""


def record_events(c: Connection, batch: Sequence[Notification], *, now: datetime) -> list[EventRow]:
    """Record a batch, in its order; what is recorded already (by ``message_id``, of the same host and epoch) is left out. What comes under
    an id that another host or epoch had is counted as a violation, and recorded under one of its own: nobody who knows an id can keep
    another's event away. Notes and fills gaps per (host, epoch); the gateway's own epoch has none.

    :returns: the newly recorded ones, to be applied in the same transaction.
    """
    if not batch:
        return []
    # Locked first: another recorder must not record the same messages between our look and our insert.
    ((end, own_epoch),) = ask(c, _END, {})
    fresh = _list_fresh(c, batch)
    if not fresh:
        return []
    counters.set_value(c, counters.POSITION, end + len(fresh))
    owners = _find_owners(c, fresh)
    rows = [_read_row(notification, position, owners, now) for position, notification in enumerate(fresh, end + 1)]
    rows = _hide_foreign(c, rows, owners, own_epoch)
    write(c, _INSERT, [values_of(row) for row in rows])
    places = [(row.host, row.epoch, row.sequence) for row in rows if row.host and row.epoch and row.sequence and row.epoch != own_epoch]
    gaps.note_sequences(c, places, now=now)
    return rows


def _list_fresh(c: Connection, batch: Sequence[Notification]) -> list[Notification]:
    """Each that is not recorded yet, once, under an id that is free."""
    first: dict[tuple[str, _Origin], Notification] = {}
    for notification in batch:
        first.setdefault((notification.message_id, _find_origin(notification)), notification)
    owners = _find_origins(c, {message_id for message_id, _ in first})
    fresh: dict[str, Notification] = {}
    clashes: set[str] = set()
    for (message_id, origin), notification in first.items():
        if message_id.startswith(_CLASH_PREFIX) or owners.get(message_id, origin) != origin:
            derived = _derive_id(message_id, origin)
            clashes.add(derived)
            fresh[derived] = replace(notification, message_id=derived)
        elif message_id not in owners:
            owners[message_id] = origin
            fresh[message_id] = notification
    if clashes:
        for known in _find_origins(c, clashes):
            clashes.remove(known)
            del fresh[known]
    if clashes:
        counters.count_violation(c, _CLASH, len(clashes))
        LOG.error("%d events came under ids of others' events: recorded under ids of their own, the one as %s", len(clashes), min(clashes))
    return list(fresh.values())


def _find_origin(notification: Notification) -> _Origin:
    return _find_text(notification.payload, "host", _LONGEST_NAME), _find_text(notification.payload, "epoch", _LONGEST_ID)


def _find_origins(c: Connection, message_ids: Collection[str]) -> dict[str, _Origin]:
    """Whose events these ids are, of those that are recorded."""
    return {message_id: (host, epoch) for message_id, host, epoch in ask(c, *_KNOWN.fit(sorted(message_ids)))}


def _derive_id(message_id: str, origin: _Origin) -> str:
    """The same each time that this message comes, and no other message's."""
    return f"{_CLASH_PREFIX}{uuid.uuid5(_CLASH_SPACE, json.dumps([message_id, *origin]))}"


@dataclass(frozen=True)
class _Owner:
    """Who has a server; ``host`` None: nobody any more."""

    project: str
    host: str | None


def _find_owners(c: Connection, batch: Sequence[Notification]) -> dict[str, _Owner]:
    """Of the servers that a batch is about, as far as the store knows these servers, deleted ones among them."""
    about = {server for notification in batch if (server := _find_text(notification.payload, "server", _LONGEST_ID))}
    found = ask(c, *_OWNERS.fit(sorted(about))) if about else ()
    return {server: _Owner(project, host if deleted_at is None else None) for server, project, host, deleted_at in found}


def _hide_foreign(c: Connection, rows: list[EventRow], owners: dict[str, _Owner], own_epoch: str) -> list[EventRow]:
    """Without the project where a host tells of a server that another one owns and that it did not have then; these are counted."""
    shown = [row if row.epoch == own_epoch or not _is_foreign(c, row, owners) else replace(row, project=None) for row in rows]
    hidden = sum(row is not before for row, before in zip(shown, rows, strict=True))
    if hidden:
        counters.advance(c, had.FOREIGN_EVENTS, hidden)
    return shown


def _is_foreign(c: Connection, row: EventRow, owners: dict[str, _Owner]) -> bool:
    owner = None if row.server is None else owners.get(row.server)
    if row.server is None or row.host is None or owner is None or owner.host in (None, row.host):
        return False
    if had.has_had(c, row.host, row.server, occurred_at=row.occurred_at, recorded_at=row.recorded_at):
        return False
    return row.action_id is None or not had.was_asked(c, row.host, row.server, row.action_id)


def _find_project(payload: dict[str, Any], server: str | None, action_id: str | None, owners: dict[str, _Owner]) -> str | None:
    """The server's, or of an action on one that no inventory has told of yet the project that asked for it."""
    if server is None:
        return None
    known = owners.get(server)
    if known is not None:
        return known.project
    return None if action_id is None else _find_text(payload, "project", _LONGEST_NAME)


def _read_row(notification: Notification, position: int, owners: dict[str, _Owner], now: datetime) -> EventRow:
    payload = notification.payload
    server, action_id = _find_text(payload, "server", _LONGEST_ID), _find_text(payload, "action_id", _LONGEST_ID)
    return EventRow(
        position=position,
        message_id=notification.message_id,
        event_type=notification.event_type,
        severity=notification.severity,
        server=server,
        host=_find_text(payload, "host", _LONGEST_NAME),
        epoch=_find_text(payload, "epoch", _LONGEST_ID),
        sequence=_find_sequence(payload),
        action_id=action_id,
        occurred_at=_find_moment(payload),
        recorded_at=now,
        payload=payload,
        project=_find_project(payload, server, action_id, owners),
    )


def _find_text(payload: dict[str, Any], key: str, longest: int) -> str | None:
    value = payload.get(key)
    return value if isinstance(value, str) and len(value) <= longest else None


def _find_sequence(payload: dict[str, Any]) -> int | None:
    value = payload.get("sequence")
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 < value <= OPEN_END else None


def _find_moment(payload: dict[str, Any]) -> datetime | None:
    try:
        moment = datetime.fromisoformat(payload["occurred_at"])
        return None if moment.tzinfo is None else moment.astimezone(UTC)
    except (KeyError, TypeError, ValueError, OverflowError):
        return None


def list_events(c: Connection, *, after: int = 0, limit: int = 100) -> list[EventRow]:
    """In order of ``position``, those behind ``after``; whose and what is asked for narrows the list in ``event_listing``."""
    return [
        read_event(row) for row in c.execute(select(*COLUMNS).where(events.c.position > after).order_by(events.c.position).limit(limit))
    ]


def get_last_position(c: Connection) -> int:
    """Of the event that was recorded last; 0 before the first one."""
    return int(c.execute(_LAST).scalar_one() or 0)


def list_events_of_action(c: Connection, action_id: str) -> list[EventRow]:
    """In order of ``position``."""
    query = select(*COLUMNS).where(events.c.action_id == action_id).order_by(events.c.position)
    return [read_event(row) for row in c.execute(query)]


def list_latest_of_action(c: Connection, action_id: str, host: str, event_types: Collection[str]) -> list[EventRow]:
    """The last event of each of these types that the action's own host told of it: no other host has a say in what came of it."""
    of_action = and_(events.c.action_id == action_id, events.c.host == host, events.c.event_type.in_(event_types))
    latest = select(func.max(events.c.position)).where(of_action).group_by(events.c.event_type)
    return [read_event(row) for row in c.execute(select(*COLUMNS).where(events.c.position.in_(latest)).order_by(events.c.position))]


def find_event(c: Connection, event_id: str) -> EventRow | None:
    """By its position or its ``message_id``; an id in digits that no position can be is looked up as the latter."""
    is_position = event_id.isascii() and event_id.isdecimal() and len(event_id) < 20 and int(event_id) <= _LARGEST_POSITION
    found = events.c.position == int(event_id) if is_position else events.c.message_id == event_id
    row = c.execute(select(*COLUMNS).where(found)).one_or_none()
    return None if row is None else read_event(row)


def prune(c: Connection, *, recorded_before: datetime, limit: int = 1000) -> int:
    """Delete the oldest events, of those recorded before that, except those of actions that have not ended; looks at ``limit`` rows only,
    so that a call that finds nothing to delete costs as little as any other.

    :returns: how many went
    """
    oldest = select(events.c.position, events.c.recorded_at, events.c.action_id).order_by(events.c.position).limit(limit).subquery()
    is_open = exists().where(actions.c.id == oldest.c.action_id, actions.c.state.in_(OPEN_STATES))
    old = c.execute(select(oldest.c.position).where(oldest.c.recorded_at < recorded_before, ~is_open)).scalars().all()
    return c.execute(delete(events).where(events.c.position.in_(old))).rowcount


def shelve(c: Connection, body: bytes, *, reason: str, now: datetime, source: str) -> None:
    """Keep a message that cannot be read or recorded on the dead-letter shelf, for people. ``source`` names its queue."""
    c.execute(insert(dead_letters).values(source=source, reason=reason, body=body, shelved_at=now))


def count_shelved(c: Connection) -> int:
    return c.execute(select(func.count()).select_from(dead_letters)).scalar_one()


def measure_shelf(c: Connection) -> tuple[int, int]:
    """How many messages lie there, and how many bytes they and their reasons have."""
    messages, size = c.execute(_SHELF_SIZE).one()
    return messages, int(size)


def count_refused(c: Connection, times: int = 1) -> int:
    """Add to the messages that the shelf had no room for.

    :returns: how many there were so far.
    """
    counters.lock_counters(c)  # two that count it for the first time must not both make its row
    return counters.advance(c, _REFUSED, times)
