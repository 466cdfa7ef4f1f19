"""Subscriptions: who is told of which events, and how. What each of them is still to be told is in ``deliveries``."""

from dataclasses import dataclass, field
from datetime import datetime

from sqlalchemy import ColumnElement, Connection, and_, bindparam, delete, func, insert, or_, select

from api_gateway.store import counters
from api_gateway.store.columns import columns_of, values_of
from api_gateway.store.event_listing import EventFilters
from api_gateway.store.tables import deliveries, subscriptions


@dataclass(frozen=True)
class SubscriptionRow:
    """One subscription, with what its deliveries have come to.

    :param project: whose events; None: everybody's, and those that are nobody's
    :param types: exact, or with a trailing ``*`` all that begin so; none: every type
    :param severity: at least this one
    :param server: of this server only; None: of any
    :param target_kind: ``webhook`` or ``email``
    :param target: a URL or an address
    :param secret: what a webhook's calls are signed with
    :param shown: words for what its maker may see of events and not everybody may
    :param begins_after: the last position that it is not told of
    :param try_at: when the next delivery is to be tried; while one is in flight, when the lease ends; None: nothing waits
    :param failures: tries in a row that failed, of any of its deliveries
    :param failing_since: when the first of these was
    """

    id: str
    project: str | None
    user: str
    types: tuple[str, ...]
    severity: str
    server: str | None
    target_kind: str
    target: str
    created_at: datetime
    begins_after: int = 0
    secret: str | None = field(default=None, repr=False)
    shown: tuple[str, ...] = ()
    try_at: datetime | None = None
    lease_owner: str | None = None
    failures: int = 0
    failing_since: datetime | None = None

    @property
    def filters(self) -> EventFilters:
        """Which events it is told of."""
        return EventFilters(server=self.server, project=self.project, types=self.types or None, severity=self.severity)


COLUMNS = columns_of(subscriptions, SubscriptionRow)
_BY_ID = select(*COLUMNS).where(subscriptions.c.id == bindparam("key_id"))
_IN_ORDER = (subscriptions.c.created_at, subscriptions.c.id)


class TooManySubscriptions(Exception):
    """A project has as many as it may have."""


def insert_subscription(c: Connection, row: SubscriptionRow, *, most: int) -> SubscriptionRow:
    """Add one that is told of all events recorded from now on. ``row.begins_after`` is replaced.

    :param most: subscriptions that a project may have; those of all projects count as a project's
    :raises TooManySubscriptions: it has them.
    """
    counters.lock_counters(c)  # no event is recorded between our look at the record's end and our commit
    if c.execute(select(func.count()).select_from(subscriptions).where(_is_of(row.project))).scalar_one() >= most:
        raise TooManySubscriptions
    values = values_of(row) | {"begins_after": counters.get_value(c, counters.POSITION)}
    c.execute(insert(subscriptions).values(values))
    return SubscriptionRow(**values)


def find_subscription(c: Connection, subscription: str) -> SubscriptionRow | None:
    row = c.execute(_BY_ID, {"key_id": subscription}).one_or_none()
    return None if row is None else SubscriptionRow(*row)


def list_subscriptions(c: Connection, *, project: str | None, limit: int, marker: str | None = None) -> list[SubscriptionRow]:
    """Oldest first.

    :param project: None: those of all projects
    :param marker: the id of the last one of the page before
    :raises LookupError: there is no such subscription.
    """
    query = select(*COLUMNS)
    if project is not None:
        query = query.where(subscriptions.c.project == project)
    if marker is not None:
        last = find_subscription(c, marker)
        if last is None:
            raise LookupError(marker)
        at, key = _IN_ORDER
        query = query.where(at >= last.created_at, or_(at > last.created_at, and_(at == last.created_at, key > last.id)))
    return [SubscriptionRow(*row) for row in c.execute(query.order_by(*_IN_ORDER).limit(limit))]


def delete_subscription(c: Connection, subscription: str) -> bool:
    """Delete it with all that it was still to be told; whether there was one. Of what is in flight nothing is noted any more."""
    counters.lock_counter(c, counters.MATCHED)  # nothing is matched for it between here and the commit
    found = c.execute(delete(subscriptions).where(subscriptions.c.id == subscription)).rowcount > 0
    c.execute(delete(deliveries).where(deliveries.c.subscription == subscription))
    return found


def _is_of(project: str | None) -> ColumnElement[bool]:
    return subscriptions.c.project.is_(None) if project is None else subscriptions.c.project == project
