"""What is asked of the driver directly is answered as SQLAlchemy would have answered it, and fails in the same words."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import select, text

from api_gateway.store import Store, StoreRejected, StoreUnavailable, actions, backends
from api_gateway.store.actions import ActionRow
from api_gateway.store.columns import columns_of
from api_gateway.store.prepared import Prepared, PreparedForMany, ask, begin_and_ask
from api_gateway.store.tables import actions as table
from devstack.databases import DatabaseServer
from tests.fakes import FakeClock
from tests.unit.gateway.store_parts import build_action

_ALL = Prepared(select(*columns_of(table, ActionRow)).order_by(table.c.id))


@pytest.fixture(params=["SQLite", "server"])
def store(request: pytest.FixtureRequest) -> Iterator[Store]:
    if request.param == "SQLite":
        database: Path = request.getfixturevalue("database")
        store = Store(f"sqlite:///{database}")
        yield store
        store.dispose()
        return
    server: DatabaseServer = request.getfixturevalue("database_server")
    store = Store(server.create_database("prepared", template=request.getfixturevalue("empty_database")))
    yield store
    store.dispose()
    server.drop_database("prepared")


def build_actions(clock: FakeClock) -> list[ActionRow]:
    names = {"arguments": {"of": ["its", "kind"]}, "force": True, "idempotency_key": "key", "global_request_id": "req-of-somebody"}
    return sorted([build_action(clock), build_action(clock, **names), build_action(clock)], key=lambda row: row.id)


def insert(store: Store, rows: Sequence[ActionRow]) -> None:
    with store.write(begins_later=True) as c:
        begin_and_ask(c, (_ALL, {}))
        actions.insert_new_and_commit(c, rows)


def read_all(store: Store) -> list[ActionRow]:
    with store.read() as c:
        return [ActionRow(*row) for row in ask(c, _ALL, {})]


def test_what_is_written_is_what_is_read(store: Store, clock: FakeClock) -> None:
    rows = build_actions(clock)
    insert(store, rows)
    with store.read() as c:
        assert [ActionRow(*row) for row in c.execute(select(*columns_of(table, ActionRow)).order_by(table.c.id))] == rows
    assert read_all(store) == rows


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_list_may_have_any_length(store: Store, clock: FakeClock, count: int) -> None:
    rows = build_actions(clock)
    insert(store, rows)
    some = PreparedForMany(lambda is_one_of: select(table.c.id).where(is_one_of(table.c.id)).order_by(table.c.id))
    with store.read() as c:
        assert [row[0] for row in ask(c, *some.fit([row.id for row in rows[:count]]))] == [row.id for row in rows[:count]]


def test_all_of_them_or_none_is_written(store: Store, clock: FakeClock) -> None:
    first, second, third = build_actions(clock)
    insert(store, [first])
    with pytest.raises(StoreRejected):
        insert(store, [second, replace(third, id=first.id)])
    assert read_all(store) == [first]
    insert(store, [second])
    assert read_all(store) == [first, second]


def test_what_follows_is_part_of_the_same_transaction(store: Store, clock: FakeClock) -> None:
    first, second, _ = build_actions(clock)
    insert(store, [first])
    with store.write(begins_later=True) as c:
        assert [len(found) for found in begin_and_ask(c, (_ALL, {}), (_ALL, {}))] == [1, 1]
        actions.change_action(c, first.id, {"deadline": first.deadline + timedelta(seconds=1)})
        actions.insert_new_and_commit(c, [second])
    assert read_all(store) == [replace(first, deadline=first.deadline + timedelta(seconds=1)), second]


def test_a_block_that_raises_leaves_nothing_behind(store: Store, clock: FakeClock) -> None:
    def fail() -> None:
        with store.write(begins_later=True) as c:
            begin_and_ask(c, (_ALL, {}))
            actions.insert_action(c, build_action(clock))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert read_all(store) == []


def test_of_a_server_that_was_restarted_one_request_learns_for_all(
    database_server: DatabaseServer, empty_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backends, "_REST_SECONDS", 600.0)
    store = Store(database_server.create_database("closed", template=empty_database))
    try:
        with store.read() as first, store.read() as second:
            own = [c.execute(text("SELECT pg_backend_pid()")).scalar_one() for c in (first, second)]
        other = Store(database_server.build_url("closed"))
        with other.read() as c:
            for each in own:
                c.execute(text("SELECT pg_terminate_backend(:own, 10000)"), {"own": each})
        other.dispose()
        with pytest.raises(StoreUnavailable), store.write(begins_later=True) as c:
            begin_and_ask(c, (_ALL, {}))
        with store.read() as first, store.read() as second:
            assert [ask(c, _ALL, {}) for c in (first, second)] == [[], []]
    finally:
        store.dispose()
        database_server.drop_database("closed")


def test_who_reads_from_a_server_keeps_no_transaction_open(database_server: DatabaseServer, empty_database: str) -> None:
    store = Store(database_server.create_database("read", template=empty_database))
    try:
        with store.read() as c:
            c.execute(text("SELECT 1"))
            connection = c.connection.driver_connection
            assert connection is not None
            assert connection.info.transaction_status.name == "IDLE"
    finally:
        store.dispose()
        database_server.drop_database("read")
