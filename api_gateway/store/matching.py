"""Which subscribers are to be told of which events: each event is held once against all subscriptions, in the order of the record.

How far that has come is a counter, which moves in the transaction that adds the deliveries. Positions are committed in their order, so
nothing that this counter has passed can still come.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from enum import StrEnum
from itertools import chain
from typing import Any

from sqlalchemy import Connection, and_, bindparam, insert, or_, select, update

from api_gateway.store import counters
from api_gateway.store.event_listing import EventFilters
from api_gateway.store.events import COLUMNS as EVENT_COLUMNS
from api_gateway.store.events import EventRow
from api_gateway.store.subscriptions import COLUMNS, SubscriptionRow
from api_gateway.store.tables import deliveries, events, subscriptions


class DeliveryState(StrEnum):
    """What became of a delivery. ``dead``: the subscriber was not told, and is not going to be."""

    WAITING = "waiting"
    DELIVERED = "delivered"
    DEAD = "dead"


_Wanted = tuple[str, int, EventFilters]
"""A subscription's id, the last position that it is not told of, and its filters."""

_BATCH = 200
_MOST_DELIVERIES = 2000
"""Rows after which a transaction takes no further event."""
_ANY = select(subscriptions.c.id).limit(1)
_ALL = select(*COLUMNS).order_by(subscriptions.c.id).with_for_update()
"""Locked, where a database locks rows: a try that is settled meanwhile sees what is added here, or is seen as settled."""
_HEADS = (
    select(*(column for column in EVENT_COLUMNS if column is not events.c.payload))
    .where(events.c.position > bindparam("behind"), events.c.position <= bindparam("end"))
    .order_by(events.c.position)
    .limit(_BATCH)
)
_WAKE = (
    update(subscriptions)
    .where(
        subscriptions.c.id == bindparam("key_id"),
        subscriptions.c.lease_owner.is_(None),
        or_(subscriptions.c.try_at.is_(None), and_(subscriptions.c.failures == 0, subscriptions.c.try_at > bindparam("at"))),
    )
    .values(try_at=bindparam("at"))
)
"""One that is being tried comes to it by itself, as does one that waits because its target has failed."""


def is_behind(c: Connection) -> bool:
    """Whether there are events to match. Without a subscription there are none, however many are recorded. Reads only."""
    return counters.get_value(c, counters.MATCHED) < counters.get_value(c, counters.POSITION) and c.execute(_ANY).first() is not None


def match_events(c: Connection, *, now: datetime) -> int:
    """Add a delivery for each subscription that is to be told of each of the next events.

    :returns: how many events were looked at; 0: all of them have been.
    """
    counters.lock_counter(c, counters.MATCHED)  # one engine at a time
    matched = counters.get_value(c, counters.MATCHED)
    end = counters.get_value(c, counters.POSITION)  # before the subscriptions: one that is not there yet begins behind it
    known = [SubscriptionRow(*row) for row in c.execute(_ALL)]
    begin = max(matched, min((row.begins_after for row in known), default=end))
    page = [EventRow(**row, payload={}) for row in c.execute(_HEADS, {"behind": begin, "end": end}).mappings()]
    rows, looked_at = _build_rows(known, page, now)
    reached = page[looked_at - 1].position if looked_at < len(page) or len(page) == _BATCH else end
    if reached > matched:
        counters.advance(c, counters.MATCHED, reached - matched)
    if rows:
        c.execute(insert(deliveries), rows)
        c.execute(_WAKE, [{"key_id": key, "at": now} for key in sorted({row["subscription"] for row in rows})])
    return looked_at


def _build_rows(known: Sequence[SubscriptionRow], page: Sequence[EventRow], now: datetime) -> tuple[list[dict[str, Any]], int]:
    """The deliveries, and of how many events of the page they are."""
    of_project: dict[str | None, list[_Wanted]] = {None: []}
    for row in known:
        of_project.setdefault(row.project, []).append((row.id, row.begins_after, row.filters))
    rows: list[dict[str, Any]] = []
    for number, event in enumerate(page):
        if len(rows) >= _MOST_DELIVERIES:
            return rows, number
        rows += [
            {"subscription": key, "position": event.position, "state": DeliveryState.WAITING, "created_at": now, "tries": 0, "try_at": now}
            for key, begins_after, filters in _list_concerned(of_project, event.project)
            if event.position > begins_after and filters.match(event)
        ]
    return rows, len(page)


def _list_concerned(of_project: Mapping[str | None, Sequence[_Wanted]], project: str | None) -> Iterable[_Wanted]:
    """Those that ask for everybody's events, and those of the event's own project: not all that there are, which others wait for."""
    return of_project[None] if project is None else chain(of_project[None], of_project.get(project, ()))
