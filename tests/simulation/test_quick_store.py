"""The store of simulated worlds answers as the production store does."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import bindparam, delete, insert, select, update

from api_gateway.store import Store, StoreRejected
from api_gateway.store.tables import counters
from tests.simulation.quick_store import QuickStore

_INSERT = insert(counters)
_ALL = select(counters.c.name, counters.c.value).where(counters.c.name.like("q%")).order_by(counters.c.name)
_SOME = select(counters.c.value).where(counters.c.name.in_(bindparam("names", expanding=True))).order_by(counters.c.name)
_RAISE = update(counters).where(counters.c.name == bindparam("of_name")).values(value=counters.c.value + bindparam("by"))
_DROP = delete(counters).where(counters.c.name == bindparam("of_name"))


@pytest.fixture
def store(template: Path, folder: Path) -> Iterator[QuickStore]:
    path = folder / "quick.sqlite"
    shutil.copyfile(template, path)
    store = QuickStore(f"sqlite:///{path}")
    yield store
    store.dispose()


def test_a_statement_that_comes_again_does_what_it_did_the_first_time(store: QuickStore, folder: Path) -> None:
    thorough = Store(f"sqlite:///{folder / 'quick.sqlite'}")
    for _ in range(3):
        with store.write() as c:
            c.execute(_INSERT, [{"name": "q1", "value": 1}, {"name": "q2", "value": 2}])
            assert c.execute(_RAISE, {"of_name": "q2", "by": 5}).rowcount == 1
            assert c.execute(_RAISE, {"of_name": "none", "by": 5}).rowcount == 0
        for reader in (store, thorough):
            with reader.read() as c:
                assert [(row.name, row.value) for row in c.execute(_ALL)] == [("q1", 1), ("q2", 7)]
                assert c.execute(_SOME, {"names": ["q2", "q1"]}).scalars().all() == [1, 7]
                assert c.execute(_SOME, {"names": ["q2"]}).scalar_one() == 7
                assert c.execute(_SOME, {"names": []}).one_or_none() is None
                assert c.execute(_ALL).mappings().all()[0] == {"name": "q1", "value": 1}
        with store.write() as c:
            for name in ("q1", "q2"):
                c.execute(_DROP, {"of_name": name})
    thorough.dispose()


def test_what_was_refused_or_broken_off_is_not_there(store: QuickStore) -> None:
    def insert_twice() -> None:
        with store.write() as c:
            c.execute(_INSERT, {"name": "q1", "value": 1})
            c.execute(_INSERT, {"name": "q1", "value": 1})

    def insert_and_die() -> None:
        with store.write() as c:
            c.execute(_INSERT, {"name": "q1", "value": 1})
            raise KeyboardInterrupt

    for _ in range(3):
        with pytest.raises(StoreRejected):
            insert_twice()
        with pytest.raises(KeyboardInterrupt):
            insert_and_die()
    with store.read() as c:
        assert c.execute(_ALL).all() == []


def test_one_may_read_inside_a_transaction_but_not_write(store: QuickStore) -> None:
    with store.write() as c:
        c.execute(_INSERT, {"name": "q1", "value": 1})
        with store.read() as other:
            assert other.execute(_ALL).all() == []
        with pytest.raises(RuntimeError), store.write():
            pass
