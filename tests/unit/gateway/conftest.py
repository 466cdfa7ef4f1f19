"""A clock, a store and a caster of its own for each test."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from api_gateway.store import Store
from devstack.databases import DatabaseKind, DatabaseServer
from tests.database_servers import start_database_server
from tests.databases import write_database
from tests.fakes import FakeClock
from tests.unit.gateway.engine_parts import NotingCaster


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return write_database(tmp_path / "gateway.sqlite")


@pytest.fixture
def store(database: Path) -> Iterator[Store]:
    store = Store(f"sqlite:///{database}", busy_timeout=0.2)
    yield store
    store.dispose()


@pytest.fixture(scope="session")
def database_server() -> Iterator[DatabaseServer]:
    """Of the kind that is to be had soonest; what is true of it alone has tests of its own."""
    yield from start_database_server(DatabaseKind.POSTGRESQL)


@pytest.fixture(scope="session")
def empty_database(database_server: DatabaseServer) -> str:
    """Names a database with the tables of this release and no rows, to be copied."""
    store = Store(database_server.create_database("empty"))
    store.upgrade_schema()
    store.dispose()
    return "empty"


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def caster() -> NotingCaster:
    return NotingCaster()
