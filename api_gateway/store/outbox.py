"""The gateway's own events, appended in the transaction that makes them true and published from here in order."""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, bindparam, delete, insert, select, update

from api_gateway.store import counters
from api_gateway.store.columns import columns_of
from api_gateway.store.tables import events, outbox, store_identity
from compute_agent.contract import versions
from compute_agent.contract.events import EVENT_TYPES, EventPayload
from compute_agent.contract.topics import Severity


@dataclass(frozen=True)
class OutboxRow:
    """One event to publish; ``payload`` is complete (version, host, epoch, sequence, …)."""

    sequence: int
    message_id: str
    event_type: str
    severity: str
    server: str | None
    payload: dict[str, Any]
    occurred_at: datetime
    sent_at: datetime | None


_OWN_KEYS = frozenset(EventPayload.model_fields)
_COLUMNS = columns_of(outbox, OutboxRow)
_INSERT = insert(outbox)
_STORE_ID = select(store_identity.c.store_id)
_PUBLISHED = (
    select(outbox.c.sequence, outbox.c.occurred_at, outbox.c.sent_at, events.c.position)
    .outerjoin(events, events.c.message_id == outbox.c.message_id)
    .where(outbox.c.sequence > bindparam("after"))
    .order_by(outbox.c.sequence)
    .limit(bindparam("row_limit"))
)
_UNSENT = select(*_COLUMNS).where(outbox.c.sent_at.is_(None)).order_by(outbox.c.sequence).limit(bindparam("row_limit"))


def append_event(
    c: Connection,
    event_type: str,
    *,
    server: str | None,
    host: str,
    occurred_at: datetime,
    body: dict[str, Any],
    severity: Severity | None = None,
) -> int:
    """Append one event; fills version, epoch (the store's id), sequence and a message id.

    :param body: what the type's payload has beyond the fields of every event; plain JSON or anything the payload model takes
    :returns: its sequence.
    :raises ValueError: unknown type, or the body has not the keys of its payload.
    """
    row_of_table = EVENT_TYPES.get(event_type)
    if row_of_table is None:
        raise ValueError(f"there is no event type {event_type}")
    _check_keys(row_of_table.payload, body)
    store_id = c.execute(_STORE_ID).scalar_one()
    sequence = counters.advance(c, counters.OUTBOX_SEQUENCE)
    payload = row_of_table.payload.model_construct(
        version=versions.EVENT_VERSION, server=server, host=host, epoch=store_id, sequence=sequence, occurred_at=occurred_at, **body
    )
    c.execute(
        _INSERT,
        {
            "sequence": sequence,
            "message_id": uuid.uuid4().hex,  # that nobody can foresee: of two events with one id the later one is taken for known
            "event_type": event_type,
            "severity": severity or row_of_table.severity,
            "server": server,
            "payload": payload.model_dump(mode="json", warnings=False),
            "occurred_at": occurred_at,
            "sent_at": None,
        },
    )
    return sequence


def _check_keys(model: type[EventPayload], body: dict[str, Any]) -> None:
    """Words are not checked: one that an agent of a newer release used is repeated as it came."""
    required = {name for name, field in model.model_fields.items() if field.is_required()}
    unknown = body.keys() - (model.model_fields.keys() - _OWN_KEYS)
    missing = required - body.keys() - _OWN_KEYS
    if unknown or missing:
        raise ValueError(f"{model.__name__}: unknown keys {sorted(unknown)}, missing keys {sorted(missing)}")


def list_unsent(c: Connection, limit: int = 100) -> list[OutboxRow]:
    """In order of ``sequence``."""
    return [OutboxRow(*row) for row in c.execute(_UNSENT, {"row_limit": limit})]


def mark_sent(c: Connection, sequences: Sequence[int], *, at: datetime) -> None:
    c.execute(update(outbox).where(outbox.c.sequence.in_(sequences)).values(sent_at=at))


@dataclass(frozen=True)
class Unrecorded:
    """``until``: all own events up to this sequence are in the record. ``lost``: later ones that were published long enough ago to be there
    and are not. ``next_after``: where the next page begins; None: this was the last one."""

    until: int
    lost: tuple[int, ...]
    next_after: int | None = None


def find_unrecorded(c: Connection, *, after: int, now: datetime, patience: timedelta, limit: int = 1000) -> Unrecorded:
    """Hold what was published against the record: an operator who purges the recorder's queue destroys what the broker had confirmed.

    Each time that an event has to be published again it is waited for twice as long.

    :param after: the sequence behind which the page begins
    """
    until, lost, whole = after, [], True
    page = c.execute(_PUBLISHED, {"after": after, "row_limit": limit}).all()
    for sequence, occurred_at, sent_at, position in page:
        if position is not None:
            until = sequence if whole else until
            continue
        whole = False
        if sent_at is not None and now >= sent_at + max(patience, sent_at - occurred_at):
            lost.append(sequence)
    return Unrecorded(until, tuple(lost), page[-1].sequence if len(page) == limit else None)


def reopen(c: Connection, sequences: Sequence[int]) -> None:
    """They are published again, under the same message ids."""
    c.execute(update(outbox).where(outbox.c.sequence.in_(sequences)).values(sent_at=None))


def prune(c: Connection, *, sent_before: datetime, limit: int = 1000) -> int:
    """Delete sent rows older than that; how many went."""
    old = c.execute(select(outbox.c.sequence).where(outbox.c.sent_at < sent_before).order_by(outbox.c.sent_at).limit(limit)).scalars().all()
    return c.execute(delete(outbox).where(outbox.c.sequence.in_(old))).rowcount
