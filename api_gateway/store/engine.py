"""Transactions over the gateway's database, and what keeps several processes on one SQLite file out of each other's way."""

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Connection


class Store:
    """One process's way to the database.

    Connections are opened at first use and never shared over a fork. Thread-safe.

    :param url: an SQLAlchemy URL (``sqlite:////var/lib/crashcart/gateway.sqlite``, ``postgresql+psycopg://…``)
    :param busy_timeout: how long a transaction may wait for others, in seconds
    :param pool_size: connections at most, which bounds the concurrent transactions of this process
    :raises UnsafeLocation: when a SQLite file would lie on a network or FUSE file system.
    """

    def __init__(self, url: str, *, busy_timeout: float = 5.0, pool_size: int = 20) -> None:
        raise NotImplementedError

    @property
    def store_id(self) -> str:
        """Made with the schema; the ``epoch`` of the gateway's own events."""
        raise NotImplementedError

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A snapshot to read from; what is written in it is lost.

        :raises StoreBusy: no connection came free in time.
        :raises StoreUnavailable: the database cannot be reached.
        """
        raise NotImplementedError

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """One transaction: committed when the block ends, rolled back when it raises. Never nest two in one thread.

        :raises StoreBusy: the lock was not to be had within ``busy_timeout``; nothing was written.
        :raises StoreUnavailable: nothing was written, as far as can be known: an error out of the commit itself is this one too.
        :raises StoreRejected: a constraint refused the values.
        """
        raise NotImplementedError

    def check_schema(self) -> None:
        """:raises SchemaOutdated: when the tables are missing or older than this release."""
        raise NotImplementedError

    def upgrade_schema(self) -> None:
        """Bring the tables to this release (alembic); does nothing when they are. Used by ``crashcart-manage db upgrade`` and by tests."""
        raise NotImplementedError

    def data_version(self) -> int:
        """A number that changes when anybody commits; microseconds to ask on SQLite. A hint for long polls: on a change, read again."""
        raise NotImplementedError

    def dispose(self) -> None:
        """Close all connections; the store may be used again afterwards."""
        raise NotImplementedError
