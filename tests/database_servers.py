"""Database servers of one's own in a temporary directory, where the machine has their programs."""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from devstack.databases import DatabaseKind, DatabaseServer
from devstack.mariadb import PrivateMariaDB
from devstack.postgresql import PrivatePostgreSQL
from devstack.real_parts import may_skip_real_tests
from devstack.steps import NotInstalled


@contextmanager
def run_database_server(kind: DatabaseKind, *, durable: bool = False) -> Iterator[DatabaseServer]:
    """Started for the block, gone behind it; reached through its socket alone.

    :param durable: a commit waits for the disk, as in real use: for what measures it

    :raises NotInstalled: its programs are not there.
    """
    directory = Path(tempfile.mkdtemp(prefix=f"crashcart-{kind}-"))
    servers: dict[DatabaseKind, Callable[..., DatabaseServer]] = {
        DatabaseKind.POSTGRESQL: PrivatePostgreSQL,
        DatabaseKind.MARIADB: PrivateMariaDB,
    }
    try:
        server = servers[kind](directory, durable=durable)
        try:
            server.start()
            yield server
        finally:
            server.end()
    finally:
        shutil.rmtree(directory)


def start_database_server(kind: DatabaseKind) -> Iterator[DatabaseServer]:
    """What a fixture yields from: without its programs a test is skipped on a laptop and fails in CI."""
    try:
        with run_database_server(kind) as server:
            yield server
    except NotInstalled as error:
        if not may_skip_real_tests():
            raise
        pytest.skip(str(error))
