"""What a connection to each kind of database server is asked for, and what its errors mean.

Nobody may keep others waiting for long: neither a statement, nor a process that stopped in the middle of a transaction (frozen, or cut
off by the network), whose locks the server then takes away. SQLite is not here: it has none of this, and `Store` knows it itself.
"""

import math
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import URL, Connection, Dialect, Engine, event, exc
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.pool import ConnectionPoolEntry

_CONNECT_SECONDS = 10
_STATEMENT_SECONDS = 30
"""No statement of ours comes near it: what takes longer is a pattern that somebody thought up, or a server that does not answer."""
_IDLE_SECONDS = 10
"""How long a transaction may do nothing before the server ends it. Ours do nothing for microseconds."""
_REST_SECONDS = 1.0
_MARIADB_MODE = "STRICT_ALL_TABLES,ERROR_FOR_DIVISION_BY_ZERO,NO_ENGINE_SUBSTITUTION"
"""Whatever the server's own is: values that do not fit are refused, not cut off."""

_PSYCOPG = "psycopg"
_USED_AT = "crashcart.used_at"

# Lock time-outs, deadlocks and lost races by SQLSTATE (PostgreSQL) and error number (MariaDB).
_BUSY_SQLSTATES = {"55P03", "40001", "40P01"}
_BUSY_NUMBERS = {1020, 1205, 1213}
_TOO_LARGE = 1153
"""MariaDB's max_allowed_packet: the same row will never go in."""


def list_engine_options(url: URL, busy_timeout: float, *, is_patient: bool = False) -> dict[str, Any]:
    """Arguments for ``create_engine`` of a server's URL; what the URL itself says wins.

    :param busy_timeout: how long a transaction may wait for others, in seconds
    :param is_patient: a statement may take as long as it takes, as those of migrations do
    """
    if url.get_backend_name() == "postgresql":
        wanted = _list_postgresql_arguments(busy_timeout, is_patient)
        options: dict[str, Any] = {}
        if url.get_driver_name() == _PSYCOPG and not is_patient:
            # A statement that reads is a way to the server and back, not three: with a beginning and an end of its own, which it needs not.
            options = {"isolation_level": "AUTOCOMMIT"}
    elif url.get_backend_name() in ("mysql", "mariadb"):
        wanted = _list_mariadb_arguments(busy_timeout, is_patient)
        # Its own default would show a transaction what was there at its first statement, and lock more than is read.
        options = {"isolation_level": "READ COMMITTED"}
    else:
        return {}
    return options | {"connect_args": {name: value for name, value in wanted.items() if name not in url.query}}


def _list_postgresql_arguments(busy_timeout: float, is_patient: bool) -> dict[str, Any]:
    limits = {
        "lock_timeout": round(busy_timeout * 1000),
        "statement_timeout": 0 if is_patient else _STATEMENT_SECONDS * 1000,
        "idle_in_transaction_session_timeout": _IDLE_SECONDS * 1000,
    }
    return {
        "options": " ".join(f"-c {name}={value}" for name, value in limits.items()),
        "connect_timeout": _CONNECT_SECONDS,
        # A server that vanished without a word is noticed in about this time, and not after TCP's quarter of an hour.
        "tcp_user_timeout": _STATEMENT_SECONDS * 1000,
        "keepalives_idle": _CONNECT_SECONDS,
        "keepalives_interval": _CONNECT_SECONDS,
        "keepalives_count": 2,
    }


def _list_mariadb_arguments(busy_timeout: float, is_patient: bool) -> dict[str, Any]:
    limits = {
        "innodb_lock_wait_timeout": max(1, math.ceil(busy_timeout)),
        "max_statement_time": 0 if is_patient else _STATEMENT_SECONDS,
        "idle_transaction_timeout": _IDLE_SECONDS,
        "sql_mode": f"'{_MARIADB_MODE}'",
    }
    return {
        "charset": "utf8mb4",
        "init_command": "SET SESSION " + ", ".join(f"{name} = {value}" for name, value in limits.items()),
        "connect_timeout": _CONNECT_SECONDS,
        **({} if is_patient else {"read_timeout": _STATEMENT_SECONDS + 5, "write_timeout": _STATEMENT_SECONDS + 5}),
    }


def begins_by_word(dialect: Dialect) -> bool:
    """Whether a transaction begins with a word of ours, which may go out together with its first statement."""
    return dialect.driver == _PSYCOPG


@contextmanager
def raising_as_sqlalchemy(c: Connection) -> Iterator[None]:
    """For what is asked of a driver directly: its errors as SQLAlchemy would have raised them. When the server is gone, no connection that
    was made before is used again: each would cost somebody a request to find that out."""
    module = c.dialect.loaded_dbapi
    try:
        yield
    except module.Error as error:
        is_gone = c.dialect.is_disconnect(error, c.connection.dbapi_connection, None)
        if is_gone:
            c.invalidate(error)
            c.engine.dispose()
        raise exc.DBAPIError.instance(None, None, error, module.Error, connection_invalidated=is_gone, dialect=c.dialect) from error


def check_rested_connections(engine: Engine) -> None:
    """Ask of each connection that nobody used for a second whether it still is one, before it is used again: the server may have been
    restarted. One that was used a moment ago is not asked: that way to the server and back would be one in five of a short transaction's,
    and would show no more than the first statement does.
    """

    def note_use(_connection: DBAPIConnection | None, entry: ConnectionPoolEntry) -> None:
        entry.info[_USED_AT] = time.monotonic()

    def check(connection: DBAPIConnection, entry: ConnectionPoolEntry, _borrowed: object) -> None:
        used_at = entry.info.get(_USED_AT)
        if used_at is None or time.monotonic() - used_at < _REST_SECONDS:
            return
        try:
            engine.dialect.do_ping(connection)
        except engine.dialect.loaded_dbapi.Error as error:
            raise exc.InvalidatePoolError(str(error)) from error  # the pool makes a new one, and so it does of all that are as old

    event.listen(engine, "checkin", note_use)
    event.listen(engine, "checkout", check)


def is_busy(error: BaseException | None) -> bool:
    """Somebody else was in the way; the same may go well later."""
    if isinstance(error, sqlite3.Error):
        return error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
    if getattr(error, "sqlstate", None) in _BUSY_SQLSTATES:
        return True
    return error is not None and not _BUSY_NUMBERS.isdisjoint(error.args[:1])


def is_rejection(error: exc.DBAPIError) -> bool:
    """The values themselves were refused."""
    if isinstance(error, exc.IntegrityError | exc.DataError):
        return True
    if isinstance(error, exc.InterfaceError):  # sqlite3's word for a value of a type that it has none for; servers': not connected
        return isinstance(error.orig, sqlite3.Error)
    return error.orig is not None and error.orig.args[:1] == (_TOO_LARGE,)
