"""Lists of events: each filter, both directions, pages without gap or repeat, and never more work than a page may be."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import delete, event, insert, text

from api_gateway.store import Connection, Store, event_listing
from api_gateway.store.columns import values_of
from api_gateway.store.event_listing import EventFilters, list_page
from api_gateway.store.events import EventRow
from api_gateway.store.tables import events as events_table
from devstack.databases import DatabaseServer
from tests.fakes import FakeClock

NOW = FakeClock().now()
_TYPES = ("action.ended", "server.started", "server.watchdog.fired", "server.watchdog.outcome", "server.watchdogs", "agent.up")
_SEVERITIES = ("info", "warn", "error", "info", "urgent")
COUNT = 60


@pytest.fixture(scope="module")
def server_store(database_server: DatabaseServer, empty_database: str) -> Iterator[Store]:
    store = Store(database_server.create_database("event_listing", template=empty_database))
    yield store
    store.dispose()
    database_server.drop_database("event_listing")


@pytest.fixture(params=["sqlite", "server"])
def store(request: pytest.FixtureRequest) -> Iterator[Store]:
    if request.param == "sqlite":
        store = Store(f"sqlite:///{request.getfixturevalue('database')}")
        yield store
        store.dispose()
        return
    shared: Store = request.getfixturevalue("server_store")
    yield shared
    with shared.write() as c:
        c.execute(delete(events_table))


def build_row(position: int) -> EventRow:
    """Happened ``position`` minutes after NOW, recorded a second later; every other one of ten came two hours late."""
    at = NOW + timedelta(minutes=position)
    event_type = _TYPES[position % len(_TYPES)]
    about_host = event_type.startswith("agent.")
    return EventRow(
        position=position,
        message_id=f"m{position}",
        event_type=event_type,
        severity=_SEVERITIES[position % len(_SEVERITIES)],
        server=None if about_host else f"s{position % 4}",
        host=f"h{position % 3}",
        epoch="e",
        sequence=position,
        action_id=f"req-{position // 3}" if position % 2 else None,
        occurred_at=None if position == 50 else at - timedelta(hours=2 * (position % 10 == 7)),
        recorded_at=at + timedelta(seconds=1),
        payload={},
        project=None if about_host else ("demo", "other")[position % 4 // 2],
    )


@pytest.fixture
def rows(store: Store) -> list[EventRow]:
    """The record, from which a few were pruned."""
    made = [build_row(position) for position in range(1, COUNT + 1) if position not in (1, 2, 30)]
    with store.write() as c:
        c.execute(insert(events_table), [values_of(row) for row in made])
        if c.dialect.name == "postgresql":
            c.execute(text("ANALYZE events"))
    return made


FILTERS: dict[str, dict[str, Any]] = {
    "everything": {},
    "a server": {"server": "s1"},
    "a host": {"host": "h1"},
    "an action": {"action_id": "req-5"},
    "a project": {"project": "demo"},
    "a type": {"types": ("server.started",)},
    "a prefix": {"types": ("server.watchdog.*",)},
    "a prefix and a type": {"types": ("server.watchdog.*", "agent.up", "agent.up")},
    "everything by a prefix": {"types": ("*",)},
    "a type that there is not": {"types": ("nothing.*", "never")},
    "no type": {"types": ()},
    "at least warn": {"severity": "warn"},
    "at least info, so no word of a newer release": {"severity": "info"},
    "since": {"since": NOW + timedelta(minutes=45)},
    "until": {"until": NOW + timedelta(minutes=20)},
    "a span": {"since": NOW + timedelta(minutes=40), "until": NOW + timedelta(minutes=52)},
    "since ever": {"since": datetime.min.replace(tzinfo=UTC)},
    "since after all": {"since": NOW + timedelta(days=9)},
    "a server and a type": {"server": "s1", "types": ("server.started",)},
    "a project and a prefix": {"project": "demo", "types": ("server.*",), "severity": "error"},
    "a host and a span": {"host": "h2", "since": NOW + timedelta(minutes=30), "until": NOW + timedelta(minutes=55)},
    "all": {
        "server": "s1",
        "host": "h1",
        "action_id": "req-1",
        "project": "demo",
        "types": ("server.*",),
        "severity": "info",
        "since": NOW,
        "until": NOW + timedelta(days=1),
    },
}


def test_every_page_together_is_what_the_filters_match_in_both_directions(store: Store, rows: list[EventRow]) -> None:
    for name, wanted in FILTERS.items():
        filters = EventFilters(**wanted)
        expected = [row for row in rows if filters.match(row)]
        assert read(store, filters, effort=5) == expected, name
        assert read(store, filters, effort=5, newest_first=True) == expected[::-1], name


def read(store: Store, filters: EventFilters, *, effort: int, newest_first: bool = False, limit: int = 5) -> list[EventRow]:
    found: list[EventRow] = []
    after: int | None = None
    with store.read() as c:
        while True:
            page = list_page(c, filters, after=after, limit=limit, newest_first=newest_first, effort=effort)
            assert len(page.events) <= limit
            found += page.events
            if page.reached is None:
                return found
            assert after is None or (page.reached < after if newest_first else page.reached > after), "it gets on"
            after = page.reached


def test_a_type_that_comes_up_while_a_page_is_read_is_on_the_next_one(
    store: Store, rows: list[EventRow], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a database shows each statement what is committed by then, the types may be older than the page."""
    list_types = event_listing._list_exact_types
    fresh = [replace(build_row(COUNT + number), event_type=word) for number, word in ((1, "server.of_tomorrow"), (2, "server.started"))]

    def list_types_before_more_comes(c: Connection, patterns: Sequence[str] | None) -> list[str] | None:
        found = list_types(c, patterns)
        with store.write() as other:
            other.execute(insert(events_table), [values_of(row) for row in fresh])
        return found

    with monkeypatch.context() as patch, store.read() as c:
        patch.setattr(event_listing, "_list_exact_types", list_types_before_more_comes)
        page = list_page(c, EventFilters(types=("server.*",)), after=COUNT - 10, limit=100)
    with store.read() as c:
        following = list_page(c, EventFilters(types=("server.*",)), after=page.events[-1].position)
    assert [*page.events, *following.events][-2:] == fresh


def test_a_rare_type_is_found_at_once_however_much_else_there_is(store: Store, rows: list[EventRow]) -> None:
    """The way by the type leads through fewer entries than that by the project or the record."""
    with store.read() as c:
        page = list_page(c, EventFilters(project="demo", types=("server.watchdogs",)), effort=40)
    assert page.reached is None
    assert page.events == tuple(row for row in rows if row.project == "demo" and row.event_type == "server.watchdogs")


def test_a_page_looks_at_no_more_than_its_effort(store: Store, rows: list[EventRow]) -> None:
    with store.read() as c:
        page = list_page(c, EventFilters(severity="error", host="h1"), effort=10)
    assert page.reached is not None
    looked_at = [row for row in rows if row.position <= page.reached and row.host == "h1"]
    assert len(looked_at) == 10
    assert page.events == tuple(row for row in looked_at if row.severity == "error")


def test_nothing_is_asked_for_what_cannot_be(store: Store) -> None:
    with store.read() as c:
        asked: list[str] = []
        event.listen(c, "before_cursor_execute", lambda _c, _cursor, statement, _v, _x, _m: asked.append(statement))
        assert list_page(c, EventFilters(types=())).events == ()
        assert list_page(c, EventFilters(), limit=0).reached is None
    assert asked == []


def test_match_knows_what_no_time_is_known_of(store: Store) -> None:
    nameless = replace(build_row(50), occurred_at=None)
    assert EventFilters().match(nameless)
    assert not EventFilters(since=NOW).match(nameless)
