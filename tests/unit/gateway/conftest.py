"""A clock and a store of its own for each test."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from api_gateway.store import Store
from devstack.real_parts import may_skip_real_tests
from tests.databases import write_database
from tests.fakes import FakeClock
from tests.postgresql import NoPostgresql, Postgresql, run_postgresql


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return write_database(tmp_path / "gateway.sqlite")


@pytest.fixture
def store(database: Path) -> Iterator[Store]:
    store = Store(f"sqlite:///{database}", busy_timeout=0.2)
    yield store
    store.dispose()


@pytest.fixture(scope="session")
def postgresql() -> Iterator[Postgresql]:
    try:
        with run_postgresql() as server:
            yield server
    except NoPostgresql as error:
        if not may_skip_real_tests():
            raise
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def empty_postgresql(postgresql: Postgresql) -> str:
    """Names a database with the tables of this release and no rows, to be copied."""
    store = Store(postgresql.create_database("empty"))
    store.upgrade_schema()
    store.dispose()
    return "empty"


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()
