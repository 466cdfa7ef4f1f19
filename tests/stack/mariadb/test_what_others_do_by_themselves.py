"""Where MariaDB would go its own way: texts, values that do not fit, locks, lost connections."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from threading import Barrier, Event

import pytest
from sqlalchemy import Connection, select, update

from api_gateway.store import Store, StoreBusy, StoreRejected, StoreUnavailable, actions, counters
from api_gateway.store.tables import actions as actions_table
from api_gateway.store.tables import counters as counters_table
from devstack.databases import DatabaseServer
from devstack.services import wait_until
from tests.fakes import FakeClock
from tests.unit.gateway.store_parts import build_action

NAME = "alone"


@pytest.fixture(scope="module")
def made(database_server: DatabaseServer, empty_database: str) -> Iterator[Store]:
    store = Store(database_server.create_database(NAME, template=empty_database), busy_timeout=1)
    yield store
    store.dispose()
    database_server.drop_database(NAME)


@pytest.fixture
def store(made: Store) -> Iterator[Store]:
    yield made
    with made.write() as c:
        c.execute(actions_table.delete())


def test_keys_that_differ_by_case_or_a_space_at_the_end_are_different(store: Store, clock: FakeClock) -> None:
    keys = ("key", "Key", "key ", "kéy", "ключ 🛒")
    with store.write() as c:
        for number, key in enumerate(keys):
            actions.insert_action(c, replace(build_action(clock), id=f"req-{number}", idempotency_key=key))
    with store.read() as c:
        assert set(c.execute(select(actions_table.c.idempotency_key)).scalars()) == set(keys)
        assert len(c.execute(select(actions_table).where(actions_table.c.idempotency_key == "key")).all()) == 1


def test_the_same_key_twice_is_refused_and_none_at_all_is_not(store: Store, clock: FakeClock) -> None:
    with store.write() as c:
        for number in range(2):
            actions.insert_action(c, replace(build_action(clock), id=f"req-none-{number}", idempotency_key=None))
        actions.insert_action(c, replace(build_action(clock), id="req-1", idempotency_key="same"))
    with pytest.raises(StoreRejected), store.write() as c:
        actions.insert_action(c, replace(build_action(clock), id="req-2", idempotency_key="same"))


def test_what_does_not_fit_is_refused_and_not_cut_off(store: Store, clock: FakeClock) -> None:
    with pytest.raises(StoreRejected), store.write() as c:
        actions.insert_action(c, replace(build_action(clock), id="req-1", host="h" * 256))


def test_times_keep_their_microseconds(store: Store, clock: FakeClock) -> None:
    at = clock.now().replace(microsecond=123_457)
    with store.write() as c:
        actions.insert_action(c, replace(build_action(clock), id="req-1", deadline=at))
    with store.read() as c:
        assert actions.get_action(c, "req-1").deadline == at


def lock(c: Connection, name: str) -> None:
    c.execute(update(counters_table).where(counters_table.c.name == name).values(value=counters_table.c.value))


def test_who_waits_too_long_for_others_is_told_that_the_store_is_busy(store: Store) -> None:
    is_locked, may_end = Event(), Event()

    def hold() -> None:
        with store.write() as c:
            lock(c, counters.POSITION)
            is_locked.set()
            may_end.wait(30)

    with ThreadPoolExecutor() as pool:
        holding = pool.submit(hold)
        is_locked.wait(30)
        try:
            with pytest.raises(StoreBusy), store.write() as c:
                lock(c, counters.POSITION)
        finally:
            may_end.set()
        holding.result()


def test_one_of_two_that_wait_for_each_other_is_told_that_the_store_is_busy(store: Store) -> None:
    both = Barrier(2)

    def take(first: str, second: str) -> str:
        try:
            with store.write() as c:
                lock(c, first)
                both.wait(30)
                lock(c, second)
        except StoreBusy:
            return "busy"
        return "done"

    with ThreadPoolExecutor() as pool:
        names = (counters.POSITION, counters.MATCHED)
        ended = [pool.submit(take, *order) for order in (names, names[::-1])]
        assert sorted(future.result() for future in ended) == ["busy", "done"]


def test_while_the_server_is_away_the_store_is_unavailable_and_then_goes_on(store: Store, database_server: DatabaseServer) -> None:
    def read() -> int:
        with store.read() as c:
            return counters.get_value(c, counters.POSITION)

    def write_while_it_dies() -> None:
        with store.write() as c:
            lock(c, counters.POSITION)
            database_server.kill()
            lock(c, counters.MATCHED)

    before = read()
    with pytest.raises(StoreUnavailable):
        write_while_it_dies()
    with pytest.raises(StoreUnavailable):
        read()
    database_server.start()
    wait_until(lambda: read() == before, 10, "the store to go on")
