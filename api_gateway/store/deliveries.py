"""Deliveries: each event that a subscriber is to be told of, from the try that is due to the one that settles it.

A subscription has at most one of them in flight, under a lease of its own; after a failed try all of them wait, because they have the same
target. ``matching`` adds them.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Connection, and_, bindparam, delete, select, update

from api_gateway.store import counters
from api_gateway.store.columns import columns_of
from api_gateway.store.matching import DeliveryState
from api_gateway.store.subscriptions import COLUMNS as SUBSCRIPTION_COLUMNS
from api_gateway.store.subscriptions import SubscriptionRow
from api_gateway.store.tables import deliveries, events, subscriptions


@dataclass(frozen=True)
class DeliveryRow:
    """One event for one subscriber.

    ``try_at`` is the earliest moment of the next try, ``last_error`` says why the last one failed, ``settled_at`` when it came to its end.
    """

    subscription: str
    position: int
    state: str
    created_at: datetime
    tries: int
    try_at: datetime
    last_tried_at: datetime | None
    last_error: str | None
    settled_at: datetime | None


@dataclass(frozen=True)
class Claim:
    """A delivery that its claimer may try until ``subscription.try_at``: afterwards somebody else may."""

    subscription: SubscriptionRow
    delivery: DeliveryRow


@dataclass(frozen=True)
class ListedDelivery:
    """With what is still known of its event; None: it is not kept any more."""

    delivery: DeliveryRow
    message_id: str | None
    event_type: str | None
    severity: str | None
    server: str | None


_COLUMNS = columns_of(deliveries, DeliveryRow)
_DUE = (
    select(subscriptions.c.id).where(subscriptions.c.try_at <= bindparam("now")).order_by(subscriptions.c.try_at).limit(bindparam("most"))
)
_FIRST_WAITING = (
    select(*_COLUMNS)
    .where(deliveries.c.subscription == bindparam("of"), deliveries.c.state == DeliveryState.WAITING)
    .order_by(deliveries.c.try_at)
    .limit(1)
)
_SUBSCRIPTION = select(*SUBSCRIPTION_COLUMNS).where(subscriptions.c.id == bindparam("of"))


def is_due(c: Connection, *, now: datetime) -> bool:
    """Whether there is something to claim. Reads only."""
    return c.execute(_DUE, {"now": now, "most": 1}).first() is not None


def claim(c: Connection, *, owner: str, now: datetime, lease: timedelta, limit: int) -> list[Claim]:
    """Lease up to ``limit`` subscriptions that have something to try, those that have waited longest first, each with one delivery.

    :param owner: a name that no other claimer has
    :param lease: how long nobody else tries any of a subscription's deliveries
    """
    counters.lock_counter(c, counters.MATCHED)  # two claimers never wait for each other's rows
    found: list[Claim] = []
    for key in c.execute(_DUE, {"now": now, "most": limit}).scalars().all():
        first = _find_first_waiting(c, key)
        if first is None or first.try_at > now:  # it was given up, or put off, by whoever had the lease before
            _set(c, key, {"lease_owner": None, "try_at": None if first is None else first.try_at})
        else:
            _set(c, key, {"lease_owner": owner, "try_at": now + lease})
            found.append(Claim(SubscriptionRow(*c.execute(_SUBSCRIPTION, {"of": key}).one()), first))
    return found


def settle_delivered(c: Connection, claimed: Claim, *, now: datetime) -> None:
    """The subscriber was told; its target works."""
    is_ours = _return_lease(c, claimed)
    _end(c, claimed.delivery, DeliveryState.DELIVERED, None, now, tries=1)
    if is_ours:
        _go_on(c, claimed, failures=0, failing_since=None)


def settle_dead(c: Connection, claimed: Claim, reason: str, *, now: datetime, tries: int) -> None:
    """This one is given up, which says nothing about the others of its subscription.

    :param tries: 1 when it was tried, 0 when there was nothing to try
    """
    if _return_lease(c, claimed):
        _end(c, claimed.delivery, DeliveryState.DEAD, reason, now, tries=tries)
        _go_on(c, claimed, failures=claimed.subscription.failures, failing_since=claimed.subscription.failing_since)


def settle_failed(
    c: Connection,
    claimed: Claim,
    reason: str,
    *,
    now: datetime,
    resume_at: datetime,
    again_at: datetime | None,
    give_up_before: datetime,
) -> None:
    """The try failed.

    :param resume_at: when the subscription's target may be tried again
    :param again_at: when this delivery may be; None: it was tried often enough
    :param give_up_before: a target that has failed since before that moment is not told any more of what has waited for as long
    """
    if not _return_lease(c, claimed):
        return  # whoever has the lease by now has tried it again, and knows better
    row, delivery = claimed.subscription, claimed.delivery
    if again_at is None:
        _end(c, delivery, DeliveryState.DEAD, reason, now, tries=1)
    else:
        values = {"tries": delivery.tries + 1, "try_at": again_at, "last_tried_at": now, "last_error": reason}
        c.execute(update(deliveries).where(_is(delivery), deliveries.c.state == DeliveryState.WAITING).values(values))
    failing_since = row.failing_since or now
    if failing_since < give_up_before:
        old = (deliveries.c.subscription == row.id, deliveries.c.state == DeliveryState.WAITING, deliveries.c.created_at < give_up_before)
        c.execute(update(deliveries).where(*old).values(state=DeliveryState.DEAD, last_error=reason, settled_at=now))
    _go_on(c, claimed, failures=row.failures + 1, failing_since=failing_since, not_before=resume_at)


def _return_lease(c: Connection, claimed: Claim) -> bool:
    """Whether it was still ours. From here to the commit nothing else of the subscription changes."""
    row = claimed.subscription
    ours = (subscriptions.c.id == row.id, subscriptions.c.lease_owner == row.lease_owner, subscriptions.c.try_at == row.try_at)
    return c.execute(update(subscriptions).where(*ours).values(lease_owner=None)).rowcount > 0


def _end(c: Connection, row: DeliveryRow, state: DeliveryState, reason: str | None, now: datetime, *, tries: int) -> None:
    values = {"state": state, "last_error": reason, "settled_at": now, "tries": row.tries + tries}
    tried = {"last_tried_at": now} if tries else {}
    c.execute(update(deliveries).where(_is(row), deliveries.c.state == DeliveryState.WAITING).values(values | tried))


def _go_on(c: Connection, claimed: Claim, *, failures: int, failing_since: datetime | None, not_before: datetime | None = None) -> None:
    """When the subscription's next delivery is to be tried."""
    first = _find_first_waiting(c, claimed.subscription.id)
    try_at = None if first is None else first.try_at if not_before is None else max(first.try_at, not_before)
    _set(c, claimed.subscription.id, {"failures": failures, "failing_since": failing_since, "try_at": try_at})


def _find_first_waiting(c: Connection, subscription: str) -> DeliveryRow | None:
    row = c.execute(_FIRST_WAITING, {"of": subscription}).one_or_none()
    return None if row is None else DeliveryRow(*row)


def _set(c: Connection, subscription: str, values: dict[str, Any]) -> None:
    c.execute(update(subscriptions).where(subscriptions.c.id == subscription).values(values))


def _is(row: DeliveryRow) -> ColumnElement[bool]:
    return and_(deliveries.c.subscription == row.subscription, deliveries.c.position == row.position)


def list_deliveries(
    c: Connection, subscription: str, *, limit: int, before: int | None = None, state: DeliveryState | None = None
) -> list[ListedDelivery]:
    """Newest first.

    :param before: the position of the last one of the page before
    """
    query = (
        select(*_COLUMNS, events.c.message_id, events.c.event_type, events.c.severity, events.c.server)
        .outerjoin(events, events.c.position == deliveries.c.position)
        .where(deliveries.c.subscription == subscription)
    )
    if before is not None:
        query = query.where(deliveries.c.position < before)
    if state is not None:
        query = query.where(deliveries.c.state == state)
    found = c.execute(query.order_by(deliveries.c.position.desc()).limit(limit))
    return [ListedDelivery(DeliveryRow(*row[: len(_COLUMNS)]), *row[len(_COLUMNS) :]) for row in found]


def prune(c: Connection, *, settled_before: datetime, limit: int = 1000) -> int:
    """Delete what was settled before that, about ``limit`` of it at most.

    :returns: how many went
    """
    at = deliveries.c.settled_at
    last = c.execute(select(at).where(at < settled_before).order_by(at).limit(1).offset(limit - 1)).scalar_one_or_none()
    return c.execute(delete(deliveries).where(at < settled_before if last is None else at <= last)).rowcount
