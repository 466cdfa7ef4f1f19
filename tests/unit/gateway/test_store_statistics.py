"""PostgreSQL is told of tables that grow faster than its own autovacuum looks, and of no others."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from sqlalchemy import text

from api_gateway.cast_slots import ImmediateCasts
from api_gateway.store import Store
from api_gateway.store.statistics import list_outgrown
from api_gateway.sweep import Sweep
from devstack.databases import DatabaseServer
from tests.fakes import FakeClock
from tests.unit.gateway.engine_parts import NotingCaster

_ADD = text(
    "INSERT INTO counters (name, value) SELECT 'number ' || n, n FROM generate_series(CAST(:first AS integer), CAST(:last AS integer)) AS n"
)
_KNOWN = text("SELECT reltuples FROM pg_class WHERE relname = 'counters'")


class Growing:
    """A database, and what has been written to it when all is told that was counted: at the end of the connection that wrote it."""

    def __init__(self, url: str) -> None:
        self._url = url

    @contextmanager
    def connected(self) -> Iterator[Store]:
        store = Store(self._url)
        yield store
        store.dispose()

    def keep_autovacuum_away(self) -> None:
        """It would be quicker by chance."""
        with self.connected() as store, store.write() as c:
            c.execute(text("ALTER TABLE counters SET (autovacuum_enabled = false)"))

    def add(self, first: int, last: int) -> None:
        with self.connected() as store, store.write() as c:
            c.execute(_ADD, {"first": first, "last": last})

    def list_outgrown(self) -> list[str]:
        with self.connected() as store, store.read() as c:
            return list(list_outgrown(c))

    def count_known(self) -> int:
        with self.connected() as store, store.read() as c:
            return int(c.execute(_KNOWN).scalar_one())


@pytest.fixture
def growing(database_server: DatabaseServer, empty_database: str) -> Iterator[Growing]:
    growing = Growing(database_server.create_database("growing", template=empty_database))
    growing.keep_autovacuum_away()
    yield growing
    database_server.drop_database("growing")


def test_a_table_that_doubled_gets_new_statistics(growing: Growing, clock: FakeClock, caster: NotingCaster) -> None:
    with growing.connected() as store:
        sweep = Sweep(store, caster, clock, slots=ImmediateCasts())
        for first, last in ((1, 1500), (1501, 3500)):
            growing.add(first, last)
            assert growing.list_outgrown() == ["counters"]
            clock.advance(5)
            sweep.take_statistics()
            assert growing.list_outgrown() == []
            assert growing.count_known() >= last
        growing.add(3501, 6000)
        assert growing.list_outgrown() == [], "it has not doubled since"


def test_it_is_looked_for_every_five_seconds(growing: Growing, clock: FakeClock, caster: NotingCaster) -> None:
    with growing.connected() as store:
        sweep = Sweep(store, caster, clock, slots=ImmediateCasts())
        sweep.take_statistics()
        growing.add(1, 1500)
        clock.advance(4)
        sweep.take_statistics()
        assert growing.list_outgrown() == ["counters"]
        clock.advance(1)
        sweep.take_statistics()
        assert growing.list_outgrown() == []


def test_a_table_that_is_only_written_again_is_left_to_autovacuum(growing: Growing) -> None:
    growing.add(1, 900)
    with growing.connected() as store:
        for _ in range(3):
            with store.write() as c:
                c.execute(text("UPDATE counters SET value = value + 1"))
    assert growing.list_outgrown() == []


def test_another_database_is_left_alone(store: Store, sweep: Sweep) -> None:
    assert not store.needs_statistics
    sweep.take_statistics()  # it would not understand the question
