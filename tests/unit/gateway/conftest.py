"""A clock and a store of its own for each test."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from api_gateway.store import Store
from devstack.real_parts import may_skip_real_tests
from tests.fakes import FakeClock
from tests.postgresql import NoPostgresql, Postgresql, run_postgresql


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated database without rows; copying it is faster than migrating again."""
    path = tmp_path_factory.mktemp("store") / "empty.sqlite"
    store = Store(f"sqlite:///{path}")
    store.upgrade_schema()
    store.dispose()
    return path


@pytest.fixture
def database(empty_database: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(empty_database, tmp_path / "gateway.sqlite"))


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


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()
