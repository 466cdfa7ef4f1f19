"""Tests of the store that need a database server, once more with MariaDB in place of PostgreSQL; it takes seconds to make one."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from devstack.databases import DatabaseKind, DatabaseServer
from tests.database_servers import start_database_server
from tests.unit.gateway.conftest import clock, empty_database

__all__ = ["clock", "empty_database"]


@pytest.fixture(scope="session")
def database_server() -> Iterator[DatabaseServer]:
    yield from start_database_server(DatabaseKind.MARIADB)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """What the unit tests ask of SQLite they have asked already."""
    here = Path(__file__).parent
    again = [item for item in items if item.path.is_relative_to(here) and "[sqlite" in item.name]
    items[:] = [item for item in items if item not in again]
    config.hook.pytest_deselected(items=again)
