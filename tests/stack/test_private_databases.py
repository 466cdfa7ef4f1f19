"""The devstack's own database servers: what an interrupted first start leaves, and what comes back of a backup."""

from collections.abc import Iterator

import pytest
from sqlalchemy import NullPool, create_engine, text

from devstack.databases import DatabaseKind, DatabaseServer
from devstack.private_database import PrivateDatabase
from tests.database_servers import start_database_server

KINDS = [DatabaseKind.POSTGRESQL, DatabaseKind.MARIADB]


@pytest.fixture(scope="module", params=KINDS)
def server(request: pytest.FixtureRequest) -> Iterator[DatabaseServer]:
    yield from start_database_server(request.param)


def run(url: str, *statements: str) -> list[int]:
    """The rows of the last statement, of one column."""
    with create_engine(url, poolclass=NullPool).begin() as connection:
        results = [connection.execute(text(statement)) for statement in statements]
        return list(results[-1].scalars()) if results[-1].returns_rows else []


def test_a_restored_database_is_what_it_was_at_its_last_dump(server: DatabaseServer) -> None:
    url = server.create_database("kept")
    run(url, "CREATE TABLE seen (number INTEGER)", "INSERT INTO seen VALUES (1)")
    server.back_up_database("kept")
    run(url, "INSERT INTO seen VALUES (2)", "CREATE TABLE later (number INTEGER)")
    server.back_up_database("kept")
    run(url, "INSERT INTO seen VALUES (3)", "DROP TABLE later")
    server.restore_database("kept")
    assert run(url, "SELECT number FROM seen ORDER BY number") == [1, 2]
    assert run(url, "SELECT count(*) FROM later") == [0]
    server.drop_database("kept")


def test_a_first_start_that_was_interrupted_is_begun_anew(server: DatabaseServer) -> None:
    assert isinstance(server, PrivateDatabase)
    server.create_database("half")
    server.whole.unlink()  # as a start leaves it that is killed while it makes the files or the accounts
    server.start()
    url = server.create_database("half")
    assert run(url, "SELECT 1") == [1]
    server.restart()
    assert run(url, "SELECT 1") == [1]
