"""Transactions over the gateway's database, and what keeps several processes on one SQLite file out of each other's way."""

import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, exc, func, inspect, make_url, select, text

from api_gateway.store import patterns
from api_gateway.store.backends import (
    begins_by_word,
    check_rested_connections,
    is_busy,
    is_rejection,
    list_engine_options,
    raising_as_sqlalchemy,
)
from api_gateway.store.errors import SchemaOutdated, StoreBusy, StoreError, StoreRejected, StoreUnavailable
from api_gateway.store.location import check_local
from api_gateway.store.phases import Migration, Phase
from api_gateway.store.tables import SCHEMA_REVISION, counters, store_identity

_LOOK_AGAIN_SECONDS = 0.001
_CHECKPOINT_PAGES = 4000
"""After so many the log is brought into the file, which whoever commits then waits for. SQLite's own 1,000 come with every fortieth crash
dump, and most of them are changed again soon."""
_CACHE_KIB = 1024
"""Of SQLite's pages that each connection has for itself, beside what the kernel keeps of the file. Enough for what a batch of events
changes; SQLite's own two MiB fill up in each of half a dozen connections, with mostly the same pages."""


class Store:
    """One process's way to the database.

    Connections are opened at first use and never shared over a fork. Thread-safe.

    :param url: an SQLAlchemy URL (``sqlite:////var/lib/crashcart/gateway.sqlite``, ``postgresql+psycopg://…``, or ``mysql+pymysql://…``,
        which is MariaDB)
    :param busy_timeout: how long a transaction may wait for others, in seconds
    :param pool_size: connections at most, which bounds the concurrent transactions of this process; on SQLite there is one more, to write
    :raises UnsafeLocation: when a SQLite file would lie on a network or FUSE file system.
    :raises StoreError: when the URL is none, or asks for SQLite in memory, which no second process could see.
    """

    def __init__(self, url: str, *, busy_timeout: float = 5.0, pool_size: int = 20) -> None:
        try:
            self._url = make_url(url)
        except exc.ArgumentError as error:
            raise StoreError(f"[database] connection is no database URL: {error}") from error
        self._path: Path | None = None
        if self._url.get_backend_name() == "sqlite":
            if self._url.database in (None, "", ":memory:"):
                raise StoreError("[database] connection: SQLite needs a file that all gateway processes can open")
            self._path = Path(str(self._url.database))
            check_local(self._path)
        self._busy_timeout = busy_timeout
        self._pool_size = pool_size
        self._forget_connections()

    def _forget_connections(self) -> None:
        """Start from nothing, as after a fork: the parent's connections and the state of its locks are not ours."""
        self._process = os.getpid()
        self._engine: Engine | None = None
        self._watcher: sqlite3.Connection | None = None
        self._store_id: str | None = None
        self._making = threading.Lock()
        # SQLite's waiters poll; threads of one process queue here instead and go on at once.
        self._writing = threading.Lock()
        self._writer: int | None = None
        self._written_with: Connection | None = None

    def _get_engine(self) -> Engine:
        if self._process != os.getpid():
            self._forget_connections()
        engine = self._engine
        if engine is None:
            with self._making:
                engine = self._engine
                if engine is None:
                    self._check_exists()
                    engine = self._engine = self._create_engine()
        return engine

    def _check_exists(self) -> None:
        """SQLite would make an empty file where nobody wants one: a path may be mistyped."""
        if self._path is not None and not self._path.exists():
            raise SchemaOutdated(f"there is no database {self._path}: run crashcart-manage db upgrade, or mend [database] connection")

    def _create_engine(self, *, is_patient: bool = False) -> Engine:
        if self._path is not None:
            options: dict[str, Any] = {"connect_args": {"timeout": self._busy_timeout, "check_same_thread": False}}
        else:
            options = list_engine_options(self._url, self._busy_timeout, is_patient=is_patient)
        engine = create_engine(
            self._url,
            **options,
            pool_size=self._pool_size,
            max_overflow=0,
            pool_timeout=self._busy_timeout,
            pool_use_lifo=True,  # the one that was used last remembers the most
            hide_parameters=True,  # some are secrets, and errors get into logs
        )
        if self._path is not None:
            event.listen(engine, "connect", _set_up_sqlite)
        else:
            check_rested_connections(engine)
        return engine

    @property
    def needs_statistics(self) -> bool:
        """Whether ``store.statistics`` are of use: no other database plans badly of what it does not know."""
        return self._url.get_backend_name() == "postgresql"

    @property
    def store_id(self) -> str:
        """Made with the schema; the ``epoch`` of the gateway's own events."""
        self._get_engine()
        if self._store_id is None:
            with self.read() as c:
                self._store_id = c.execute(select(store_identity.c.store_id)).scalar_one()
        return self._store_id

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """To read from, and from nothing else: a snapshot on SQLite; on a database server each statement sees what there is.

        :raises StoreBusy: no connection came free in time.
        :raises StoreUnavailable: the database cannot be reached.
        """
        engine = self._get_engine()
        with self._translated_errors(), engine.connect() as c:
            if self._path is not None:
                _say(c, "BEGIN")
            yield c

    @contextmanager
    def write(self, *, begins_later: bool = False) -> Iterator[Connection]:
        """One transaction: committed when the block ends, rolled back when it raises. Never nest two in one thread.

        :param begins_later: ``prepared.begin_and_ask`` is what is called first, and saves a way to the server
        :raises StoreBusy: the lock was not to be had within ``busy_timeout``; nothing was written.
        :raises StoreUnavailable: nothing was written, as far as can be known: an error out of the commit itself is this one too.
        :raises StoreRejected: a constraint refused the values.
        """
        engine = self._get_engine()
        if self._path is None:
            with self._translated_errors(), engine.begin() as c:
                if begins_by_word(c.dialect) and not begins_later:
                    c.exec_driver_sql("BEGIN")
                yield c
            return
        if self._writer == threading.get_ident():
            raise RuntimeError("a write transaction inside a write transaction of the same thread would wait for itself")
        if not self._writing.acquire(timeout=self._busy_timeout):
            raise StoreBusy(f"another thread has been writing for {self._busy_timeout} s")
        try:
            self._writer = threading.get_ident()
            with self._translated_errors(), self._writing_connection(engine) as c, c.begin():
                self._begin_as_writer(c)
                yield c
        finally:
            self._writer = None
            self._writing.release()

    @contextmanager
    def _writing_connection(self, engine: Engine) -> Iterator[Connection]:
        """The one that all write with: its cache holds what was written last, and taking it out of the pool each time would cost as much
        as two statements. After an error it is closed, whatever it may still hold: a lock, or half an answer."""
        c, self._written_with = self._written_with, None
        c = c or engine.connect()
        try:
            if not c.connection.is_detached:
                c.detach()
                _say(c, "PRAGMA busy_timeout = 0")  # see _begin_as_writer
            yield c
        except BaseException:
            c.close()
            raise
        self._written_with = c

    def _begin_as_writer(self, c: Connection) -> None:
        """As one from the start: taking the lock later could only fail.

        SQLite's own way to wait is to look again after 1, 2, 5, 10, … 100 ms: beside another process that writes all the time, who has
        waited longest looks least often.
        """
        give_up_at = time.monotonic() + self._busy_timeout
        while True:
            try:
                _say(c, "BEGIN IMMEDIATE")
            except exc.OperationalError as error:
                if not is_busy(error.orig) or time.monotonic() >= give_up_at:
                    raise
                time.sleep(_LOOK_AGAIN_SECONDS)
            else:
                return

    @contextmanager
    def _translated_errors(self) -> Iterator[None]:
        """Raise the store's own errors in place of SQLAlchemy's and the drivers'."""
        try:
            yield
        except exc.TimeoutError as error:
            raise StoreBusy("no database connection came free in time") from error
        except (OverflowError, UnicodeEncodeError) as error:  # sqlite3 raises these bare: a number or a text that no column can hold
            raise StoreRejected(str(error)) from error
        except exc.DBAPIError as error:
            if is_rejection(error):
                raise StoreRejected(str(error.orig)) from error
            if isinstance(error, exc.ProgrammingError):
                raise  # our own fault, not the database's
            if is_busy(error.orig):
                raise StoreBusy(str(error.orig)) from error
            raise StoreUnavailable(f"{self._url.render_as_string(hide_password=True)}: {error.orig}") from error

    def check_schema(self) -> None:
        """Whether this release can work with these tables: they have all that it needs.

        Newer ones are fine: between neighbouring releases a migration adds, or removes what neither of them uses. So are those that still
        have what a migration is to remove.

        :raises SchemaOutdated: when the tables are missing or older than this release.
        """
        with self.read() as c:
            revision = None
            if inspect(c).has_table("alembic_version"):
                revision = c.execute(text("SELECT version_num FROM alembic_version")).scalar_one_or_none()
        if revision is None or revision < SCHEMA_REVISION:
            raise SchemaOutdated(
                f"the database has {'no tables' if revision is None else f'schema {revision}'}, this release needs {SCHEMA_REVISION}: "
                "run crashcart-manage db upgrade"
            )

    def upgrade_schema(self, phase: Phase | None = None) -> list[Migration]:
        """Bring the tables to this release (alembic), or only through one phase; what was done, which is nothing when they are there.

        Used by ``crashcart-manage db upgrade`` and by tests.

        :raises OutOfOrder: the other phase comes first.
        """
        from api_gateway.store import migrations  # here: alembic is slow to load and no other process needs it

        if self._path is not None:
            self._make_file(self._path)
            with self.write() as c:
                return migrations.upgrade(c, phase)
        engine = self._create_engine(is_patient=True)
        try:
            with self._translated_errors(), engine.begin() as c:
                return migrations.upgrade(c, phase)
        finally:
            engine.dispose()

    @staticmethod
    def _make_file(path: Path) -> None:
        try:
            path.touch()
        except OSError as error:
            raise StoreUnavailable(f"{path} cannot be written: {error.strerror}") from error

    def list_pending_migrations(self) -> list[Migration]:
        """What :meth:`upgrade_schema` would do, oldest first. Slow: it loads alembic."""
        from api_gateway.store import migrations

        with self.read() as c:
            return migrations.list_pending(c)

    def data_version(self) -> int:
        """A number that changes when anybody commits; microseconds to ask on SQLite. A hint for long polls: on a change, read again.

        :raises StoreUnavailable: the database cannot be reached.
        """
        self._get_engine()
        if self._path is None:
            with self.read() as c:
                return int(c.execute(select(func.sum(counters.c.value))).scalar_one())
        with self._making:
            try:
                if self._watcher is None:
                    # A connection that never writes: its data_version moves with everybody else's commits.
                    self._watcher = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False, timeout=self._busy_timeout)
                return int(self._watcher.execute("PRAGMA data_version").fetchone()[0])
            except sqlite3.Error as error:
                raise StoreUnavailable(f"the database cannot be watched: {error}") from error

    def dispose(self) -> None:
        """Close all connections, when nobody writes any more; the store may be used again afterwards."""
        if self._process != os.getpid():
            self._forget_connections()
            return
        with self._writing, self._making:
            if self._watcher is not None:
                self._watcher.close()
                self._watcher = None
            if self._written_with is not None:
                self._written_with.close()
                self._written_with = None
            if self._engine is not None:
                self._engine.dispose()
                self._engine = None


def _say(c: Connection, word: str) -> None:
    """To SQLite itself: what SQLAlchemy does around a word takes ten times as long."""
    connection: Any = c.connection.dbapi_connection
    with raising_as_sqlalchemy(c):
        connection.execute(word).close()


def _set_up_sqlite(connection: sqlite3.Connection, _record: object) -> None:
    """Every new connection: a commit is on the disk, readers do not wait for the writer, no pattern takes long.

    ``read`` and ``write`` say BEGIN themselves: an engine with a listener for it calls listeners around each statement, which made
    transactions of one statement a third longer.
    """
    connection.isolation_level = None
    connection.create_function("regexp", 2, patterns.search, deterministic=True)
    for pragma in (
        "journal_mode=WAL",
        "synchronous=FULL",
        "foreign_keys=ON",
        "journal_size_limit=67108864",
        f"cache_size=-{_CACHE_KIB}",
        f"wal_autocheckpoint={_CHECKPOINT_PAGES}",
    ):
        connection.execute(f"PRAGMA {pragma}").close()
