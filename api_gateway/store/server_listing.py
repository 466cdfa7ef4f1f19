"""Lists of servers: filters, any order, and pages that continue behind a marker; one query each, however long the page."""

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any, Literal, TypedDict, Unpack

from sqlalchemy import ColumnElement, Connection, and_, case, exc, exists, false, func, or_, select

from api_gateway.store.patterns import BadPattern, check_pattern
from api_gateway.store.server_rows import COLUMNS, ServerRow, read_server
from api_gateway.store.tables import events, server_tags, servers
from api_gateway.vm_state import POWER_NUMBERS, UNKNOWN, find_vm_states_of_status

Direction = Literal["asc", "desc"]
Condition = ColumnElement[bool]

_POWER_NUMBER = case(POWER_NUMBERS, value=servers.c.power_state, else_=0)
_IS_LOCKED = case((servers.c.locked_by.is_(None), 0), else_=1)
_SORTABLE: dict[str, ColumnElement[Any]] = {
    **{
        name: servers.c[name]
        for name in (
            "id", "name", "project", "user", "host", "description", "vm_state", "task_state", "instance_name",
            "locked_by", "created_at", "started_at", "updated_at", "deleted_at",
        )
    },
    "power_state": _POWER_NUMBER,
    "locked": _IS_LOCKED,
}  # fmt: skip
SORT_KEYS = frozenset(_SORTABLE)
_NULLABLE = frozenset(name for name in SORT_KEYS if name in servers.c and servers.c[name].nullable)
NEWEST_FIRST: tuple[tuple[str, Direction], ...] = (("created_at", "desc"),)


class ServerFilters(TypedDict, total=False):
    """Which servers; each given one narrows the list, a missing or None one does not.

    Collections name what may match (an empty one: nothing). Patterns are regular expressions, unanchored (``patterns``). ``statuses`` are
    words of the Compute API (``ACTIVE``, ``UNKNOWN``, ``DELETED``, …); ``task_states`` may hold None. ``tags``: has all of them,
    ``tags_any``: one of them, ``not_tags``: not all of them, ``not_tags_any``: none of them. ``deleted``: False (the default) living ones,
    True deleted ones, None both. Bounds of time are inclusive, on ``updated_at``. ``event_types``: has had an event of one of these types,
    with ``event_since`` then or later; alone ``event_since`` narrows nothing. With ``project`` only events of when it was that project's.
    """

    project: str | None
    host: str | None
    ids: Collection[str] | None
    users: Collection[str] | None
    name_pattern: str | None
    description_pattern: str | None
    statuses: Collection[str] | None
    vm_states: Collection[str] | None
    task_states: Collection[str | None] | None
    power_states: Collection[str] | None
    locked: bool | None
    tags: Collection[str] | None
    tags_any: Collection[str] | None
    not_tags: Collection[str] | None
    not_tags_any: Collection[str] | None
    missing: bool | None
    deleted: bool | None
    changes_since: datetime | None
    changes_before: datetime | None
    event_types: Collection[str] | None
    event_since: datetime | None


def list_servers(
    c: Connection,
    *,
    sort: Sequence[tuple[str, Direction]] = NEWEST_FIRST,
    limit: int | None = None,
    marker: str | None = None,
    **filters: Unpack[ServerFilters],
) -> list[ServerRow]:
    """Servers in the order of ``sort`` (keys out of SORT_KEYS), equal ones by ``created_at`` and id in the first key's direction.

    A missing value sorts before all others, on every database; texts sort as the database's collation has it.

    :param marker: id of the last server of the page before
    :raises LookupError: there is no server with the marker's id.
    :raises KeyError: there is no such sort key.
    :raises BadPattern: a pattern is no regular expression, for us or for the database.
    """
    order = _complete(sort)
    conditions = _build_conditions(filters)
    if marker is not None:
        conditions.append(_build_behind(c, order, marker))
    by = [(term, direction) for name, direction in order for term in _list_terms(name)]
    if filters.get("deleted", False) is False:
        # Always NULL here, so it orders nothing; but with it the indexes of living servers have the order that is asked for.
        by.insert(0, (servers.c.deleted_at, order[0][1]))
    if filters.get("changes_since") is not None:
        by = [(_unindexed(term), direction) for term, direction in by]  # few changed lately: better found by that and then sorted
    in_order = [term.asc() if direction == "asc" else term.desc() for term, direction in by]
    query = select(*COLUMNS).where(*conditions).order_by(*in_order).limit(limit)
    try:
        return [read_server(row) for row in c.execute(query)]
    except exc.DataError as error:
        if filters.get("name_pattern") is None and filters.get("description_pattern") is None:
            raise
        raise BadPattern(str(error.orig)) from error


# --- filters ----------------------------------------------------------------------------------------------------------


def _build_conditions(filters: ServerFilters) -> list[Condition]:
    s = servers.c
    # A project or a host has few of all servers, a state may have nearly all; SQLite does not know.
    vm_state = s.vm_state if filters.get("project") is None and filters.get("host") is None else _unindexed(s.vm_state)
    found: list[Condition | None] = [
        _equals(s.project, filters.get("project")),
        _equals(s.host, filters.get("host")),
        _is_one_of(s.id, filters.get("ids")),
        _is_one_of(s.user, filters.get("users")),
        _matches(s.name, filters.get("name_pattern")),
        _matches(s.description, filters.get("description_pattern")),
        _is_one_of(vm_state, filters.get("vm_states")),
        _is_one_of(s.task_state, filters.get("task_states")),
        _is_one_of(s.power_state, filters.get("power_states")),
        _is_set(s.locked_by, filters.get("locked")),
        _is_set(s.missing_since, filters.get("missing")),
        _is_set(s.deleted_at, filters.get("deleted", False)),
        *_build_tag_conditions(filters),
        _has_had(filters.get("event_types"), filters.get("event_since"), filters.get("project")),
    ]
    statuses, since, before = filters.get("statuses"), filters.get("changes_since"), filters.get("changes_before")
    if statuses is not None:
        found.append(or_(false(), *(_is_shown_as(status, vm_state) for status in set(statuses))))
    if since is not None:
        found.append(s.updated_at >= since)
    if before is not None:
        found.append(s.updated_at <= before)
    return [condition for condition in found if condition is not None]


def _equals(column: ColumnElement[Any], value: object | None) -> Condition | None:
    return None if value is None else column == value


def _is_one_of(column: ColumnElement[Any], values: Collection[Any] | None) -> Condition | None:
    if values is None:
        return None
    among = column.in_([value for value in values if value is not None])
    return or_(among, column.is_(None)) if None in values else among


def _is_set(column: ColumnElement[Any], wanted: bool | None) -> Condition | None:
    if wanted is None:
        return None
    return column.is_not(None) if wanted else column.is_(None)


def _matches(column: ColumnElement[Any], pattern: str | None) -> Condition | None:
    if pattern is None:
        return None
    check_pattern(pattern)
    return column.regexp_match(pattern)


def _unindexed(expression: ColumnElement[Any]) -> ColumnElement[Any]:
    """The same value, by which no index is chosen."""
    return func.coalesce(expression, expression)


def _is_shown_as(status: str, vm_state: ColumnElement[str]) -> Condition:
    s = servers.c
    if status == "DELETED":
        return s.deleted_at.is_not(None)
    if status == UNKNOWN:
        return and_(s.deleted_at.is_(None), s.missing_since.is_not(None))
    choices: list[Condition] = []
    for choice in find_vm_states_of_status(status):
        terms: list[Condition] = [vm_state == choice.vm_state]
        if choice.during is not None:
            terms.append(s.task_state.in_(choice.during))
        if choice.except_during:
            terms.append(or_(s.task_state.is_(None), s.task_state.not_in(choice.except_during)))
        choices.append(and_(*terms))
    return and_(s.deleted_at.is_(None), s.missing_since.is_(None), or_(false(), *choices))


def _build_tag_conditions(filters: ServerFilters) -> list[Condition]:
    found: list[Condition] = []
    if (tags := filters.get("tags")) is not None:
        found += [_has_tag(tag) for tag in sorted(set(tags))]
    if (tags := filters.get("tags_any")) is not None:
        found.append(_has_any_tag(tags))
    if (tags := filters.get("not_tags")) is not None:
        found.append(~and_(*(_has_tag(tag) for tag in sorted(set(tags)))) if tags else false())
    if (tags := filters.get("not_tags_any")) is not None:
        found.append(~_has_any_tag(tags))
    return found


def _has_tag(tag: str) -> Condition:
    return servers.c.id.in_(select(server_tags.c.server).where(server_tags.c.tag == tag))


def _has_any_tag(tags: Collection[str]) -> Condition:
    return servers.c.id.in_(select(server_tags.c.server).where(server_tags.c.tag.in_(sorted(tags))))


def _has_had(event_types: Collection[str] | None, since: datetime | None, project: str | None) -> Condition | None:
    """Asked of each server by itself, type by type: the index answers that at once, however many events there are. What happened to it
    while it was another project's is not for the one that is asked for."""
    if event_types is None:
        return None
    had = exists().where(events.c.server == servers.c.id, events.c.event_type.in_(sorted(event_types)))
    had = had if project is None else had.where(events.c.project == project)
    return had if since is None else had.where(events.c.occurred_at >= since)


# --- order and pages --------------------------------------------------------------------------------------------------


def _complete(sort: Sequence[tuple[str, Direction]]) -> list[tuple[str, Direction]]:
    """With the keys that make every order a total one; a key that comes again changes nothing."""
    direction: Direction = sort[0][1] if sort else "desc"
    order: dict[str, Direction] = {}
    for name, wanted in (*sort, ("created_at", direction), ("id", direction)):
        order.setdefault(name, wanted)
    return list(order.items())


def _list_terms(name: str) -> list[ColumnElement[Any]]:
    """What to order by for a key: databases do not agree where NULLs belong."""
    expression = _SORTABLE[name]
    return [case((expression.is_(None), 0), else_=1), expression] if name in _NULLABLE else [expression]


def _build_behind(c: Connection, order: Sequence[tuple[str, Direction]], marker: str) -> Condition:
    """What comes behind the marker's place: for each key, equal in all keys before it and beyond in this one."""
    query = select(*(_SORTABLE[name].label(name) for name, _ in order)).where(servers.c.id == marker)
    place = c.execute(query).one_or_none()
    if place is None:
        raise LookupError(f"there is no server {marker}")
    behind: list[Condition] = []
    equal: list[Condition] = []
    for (name, direction), value in zip(order, place, strict=True):
        behind.append(and_(*equal, _is_beyond(name, direction, value)))
        equal.append(_SORTABLE[name].is_(None) if value is None else _SORTABLE[name] == value)
    first, direction = order[0]
    if first in _NULLABLE:
        return or_(*behind)
    # Says nothing new, but it is what an index can begin at.
    begin = _SORTABLE[first] >= place[0] if direction == "asc" else _SORTABLE[first] <= place[0]
    return and_(begin, or_(*behind))


def _is_beyond(name: str, direction: Direction, value: Any) -> Condition:
    expression = _SORTABLE[name]
    if value is None:
        return expression.is_not(None) if direction == "asc" else false()
    beyond: Condition = expression > value if direction == "asc" else expression < value
    return or_(beyond, expression.is_(None)) if direction == "desc" and name in _NULLABLE else beyond
