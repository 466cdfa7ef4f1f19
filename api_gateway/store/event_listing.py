"""Pages of the record, narrowed by filters, none of which makes a page look at more than so many events.

Each filter that has an index is a *way* through the record; so is the record itself. All ways are tried as far as ``EFFORT`` entries of
their index lead, and the one that gets farthest is taken; what the other filters say is looked at on that way only. A page may therefore
hold less than was asked for, even nothing, and still have a next one.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import BigInteger, Column, ColumnElement, Connection, Select, bindparam, func, literal, or_, select, union_all

from api_gateway.store.columns import Moment
from api_gateway.store.events import COLUMNS, EventRow, get_last_position, read_event
from api_gateway.store.tables import events
from compute_agent.contract.topics import Severity

Condition = ColumnElement[bool]

EFFORT = 10_000
"""Index entries that one page may lead through."""
_MOST_WAYS = 32
"""More event types than that are not looked for one by one."""
_LATE_CLOCKS = timedelta(hours=1)
"""How far ahead of ours a host's clock may be so that ``since`` still finds its events."""
_BEFORE_ALL = datetime(1970, 1, 2, tzinfo=UTC)
_AT_LEAST: dict[str, tuple[str, ...]] = {
    word: tuple(other.value for other in tuple(Severity)[place:]) for place, word in enumerate(severity.value for severity in Severity)
}


@dataclass(frozen=True)
class EventFilters:
    """Which events; each given one narrows the list, None does not.

    :param project: whose server it was when the event was recorded
    :param types: exact, or with a trailing ``*`` all that begin so; an empty one: nothing
    :param severity: at least this one; a word that we do not know is below all others
    :param since: on ``occurred_at``, inclusive; what is recorded more than an hour before it is not looked at
    :param until: on ``occurred_at``, exclusive
    """

    server: str | None = None
    host: str | None = None
    action_id: str | None = None
    project: str | None = None
    types: tuple[str, ...] | None = None
    severity: str | None = None
    since: datetime | None = None
    until: datetime | None = None

    def match(self, event: EventRow) -> bool:
        """Whether a list with these filters has the event."""
        wanted = ((self.server, event.server), (self.host, event.host), (self.action_id, event.action_id), (self.project, event.project))
        if any(word is not None and word != found for word, found in wanted):
            return False
        if self.types is not None and not any(_is_of_type(event.event_type, pattern) for pattern in self.types):
            return False
        if self.severity is not None and event.severity not in _AT_LEAST[self.severity]:
            return False
        if self.since is None and self.until is None:
            return True
        at = event.occurred_at
        return at is not None and (self.since is None or at >= self.since) and (self.until is None or at < self.until)


@dataclass(frozen=True)
class EventPage:
    """``reached``: the list goes on behind this position; None: it has no more."""

    events: tuple[EventRow, ...]
    reached: int | None


def list_page(
    c: Connection, filters: EventFilters, *, after: int | None = None, limit: int = 100, newest_first: bool = False, effort: int = EFFORT
) -> EventPage:
    """In order of ``position`` those behind ``after``; with ``newest_first`` backwards those before it. None: from the beginning.

    :raises KeyError: there is no such severity.
    """
    if filters.types == () or limit < 1:
        return EventPage((), None)
    begin = _find_begin(c, filters.since)
    if not newest_first:
        after = begin if after is None else max(after, begin)
    # Before the types are looked up: what is recorded meanwhile may be of one that is not among them.
    last = get_last_position(c) if _has_prefix(filters.types) else None
    walk = _Walk(after, begin, last, newest_first)
    found = _list_exact_types(c, filters.types)
    if found is not None and not found:
        return EventPage((), None)
    ways, conditions = _list_ways(filters, found), _build_conditions(filters, found)
    leads_only_there = conditions.keys() <= {ways[0].answers}
    way, end = (ways[0], None) if leads_only_there else _choose_way(c, walk, ways, effort)
    others = [condition for name, condition in conditions.items() if name != way.answers]
    positions = _select_positions(walk, way, end, others, limit)
    query = walk.order(select(*COLUMNS).where(events.c.position.in_(positions)))
    rows = tuple(read_event(row) for row in c.execute(query))
    return EventPage(rows, rows[-1].position if len(rows) == limit else end)


@dataclass(frozen=True)
class _Walk:
    """Where a page begins, and in which direction it goes; never to ``begin`` or below, nor above ``last``."""

    after: int | None
    begin: int
    last: int | None
    newest_first: bool

    def restrict(self, end: int | None) -> list[Condition]:
        """What lies behind ``after`` and up to ``end``."""
        position, found = events.c.position, []
        if self.last is not None:
            found.append(position <= self.last)
        if self.newest_first:
            found.append(position > self.begin if end is None else position >= end)
            if self.after is not None:
                found.append(position < self.after)
        else:
            found.append(position > (self.after or 0))
            if end is not None:
                found.append(position <= end)
        return found

    def order(self, query: Select[Any]) -> Select[Any]:
        return query.order_by(events.c.position.desc() if self.newest_first else events.c.position)


@dataclass(frozen=True)
class _Way:
    """Disjoint conditions, each of which an index answers in the order of ``position``; none: the record itself. ``answers`` is the filter
    that has nothing left to say on this way."""

    answers: str = ""
    arms: tuple[Condition, ...] = ()


def _list_ways(filters: EventFilters, types: Sequence[str] | None) -> list[_Way]:
    ways = [_Way(column.name, (column == value,)) for column, value in _list_equal(filters)]
    if types is not None and len(types) <= _MOST_WAYS:
        ways.append(_Way("types", tuple(events.c.event_type == word for word in types)))
    return [*ways, _Way()]


def _list_equal(filters: EventFilters) -> list[tuple[Column[Any], str]]:
    """Columns with the value that they must have, those with the fewest events first."""
    e = events.c
    pairs = ((e.action_id, filters.action_id), (e.server, filters.server), (e.host, filters.host), (e.project, filters.project))
    return [(column, value) for column, value in pairs if value is not None]


def _choose_way(c: Connection, walk: _Walk, ways: Sequence[_Way], effort: int) -> tuple[_Way, int | None]:
    """The way that gets farthest, and how far; None: to the end."""
    best: tuple[_Way, int] | None = None
    for way in ways:
        ends = [end for arm in (way.arms or [None]) if (end := _find_end(c, walk, arm, effort // max(len(way.arms), 1))) is not None]
        if not ends:
            return way, None
        end = max(ends) if walk.newest_first else min(ends)
        if best is None or (end < best[1] if walk.newest_first else end > best[1]):
            best = way, end
    assert best is not None
    return best


def _find_end(c: Connection, walk: _Walk, arm: Condition | None, effort: int) -> int | None:
    """How far so many entries of an index lead; None: they are more than there are."""
    conditions = [*walk.restrict(None), *([] if arm is None else [arm])]
    found: int | None = c.execute(walk.order(select(events.c.position).where(*conditions)).limit(1).offset(max(effort - 1, 0))).scalar()
    return found


def _select_positions(walk: _Walk, way: _Way, end: int | None, conditions: Sequence[Condition], limit: int) -> Any:
    """Those on the way that fit: at most ``limit`` of each arm, at most that in all."""
    arms = [
        walk.order(select(events.c.position).where(*walk.restrict(end), *([] if arm is None else [arm]), *conditions)).limit(limit)
        for arm in (way.arms or [None])
    ]
    if len(arms) == 1:
        return select(arms[0].subquery().c.position)
    found = union_all(*(select(arm.subquery().c.position) for arm in arms)).subquery()
    nearest = select(found.c.position).order_by(found.c.position.desc() if walk.newest_first else found.c.position).limit(limit)
    return select(nearest.subquery().c.position)


def _build_conditions(filters: EventFilters, types: Sequence[str] | None) -> dict[str, Condition]:
    """All filters by name, said so that no index is chosen by them: that is for the way to say."""
    e = events.c
    found: dict[str, Condition] = {column.name: _unindexed(column) == value for column, value in _list_equal(filters)}
    if filters.types is not None:
        found["types"] = _is_of_types(filters.types) if types is None else _unindexed(e.event_type).in_(types)
    if filters.severity is not None:
        found["severity"] = e.severity.in_(_AT_LEAST[filters.severity])
    if filters.since is not None:
        found["since"] = _unindexed(e.occurred_at) >= literal(filters.since, Moment)
    if filters.until is not None:
        found["until"] = _unindexed(e.occurred_at) < literal(filters.until, Moment)
    return found


def _unindexed(column: ColumnElement[Any]) -> ColumnElement[Any]:
    """The same value, by which no index is chosen."""
    return func.coalesce(column, column)


# --- types ------------------------------------------------------------------------------------------------------------


def _is_of_type(event_type: str, pattern: str) -> bool:
    return event_type.startswith(pattern[:-1]) if pattern.endswith("*") else event_type == pattern


def _has_prefix(patterns: Collection[str] | None) -> bool:
    return any(pattern.endswith("*") for pattern in patterns or ())


def _is_of_types(patterns: Collection[str]) -> Condition:
    column = _unindexed(events.c.event_type)
    exact = [pattern for pattern in patterns if not pattern.endswith("*")]
    prefixes = [pattern[:-1] for pattern in patterns if pattern.endswith("*")]
    return or_(column.in_(exact), *(func.substr(column, 1, len(prefix)) == prefix for prefix in prefixes))


def _list_exact_types(c: Connection, patterns: Sequence[str] | None) -> list[str] | None:
    """The types in the record that fit; None where nothing is asked for, or the record has too many different ones to look at."""
    if patterns is None:
        return None
    if not _has_prefix(patterns):
        return sorted(set(patterns))
    known = list(c.execute(_TYPES).scalars())
    if len(known) > _MOST_TYPES:
        return None
    return [event_type for event_type in known if any(_is_of_type(event_type, pattern) for pattern in patterns)]


_MOST_TYPES = 200


def _build_types() -> Select[Any]:
    """Every type that the record has, by one look into the index for each, however many events there are."""
    first = select(func.min(events.c.event_type).label("event_type")).cte("types", recursive=True)
    following = select(func.min(events.c.event_type)).where(events.c.event_type > first.c.event_type).scalar_subquery()
    every = first.union_all(select(following).where(first.c.event_type.is_not(None)))
    return select(every.c.event_type).where(every.c.event_type.is_not(None)).limit(_MOST_TYPES + 1)


_TYPES = _build_types()


# --- times ------------------------------------------------------------------------------------------------------------

_NEAREST = (
    select(events.c.position, events.c.recorded_at)
    .where(events.c.position >= bindparam("at_least", type_=BigInteger))
    .order_by(events.c.position)
    .limit(1)
)


def _find_begin(c: Connection, since: datetime | None) -> int:
    """A position up to which all was recorded well before ``since``: found by halving, as positions are in the order of recording."""
    if since is None or since <= _BEFORE_ALL:
        return 0
    earliest = since - _LATE_CLOCKS
    low, high = 0, get_last_position(c) + 1  # recorded too early; recorded late enough, or behind the last one
    while high - low > 1:
        middle = (low + high) // 2
        found = c.execute(_NEAREST, {"at_least": middle}).one_or_none()
        if found is not None and found.recorded_at < earliest:
            low = found.position
        else:
            high = middle
    return low
