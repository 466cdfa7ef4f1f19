"""The least that can answer 202 after a commit: a bare falcon application under the gateway's own server, whose every POST commits one row.

``python -m tests.bench.floor_app PORT THREADS URL``: one worker, as ``crashcart-api`` by default. No SQLAlchemy, no checks, no log.
"""

from __future__ import annotations

import multiprocessing
import sqlite3
import sys
import threading
import uuid
from collections.abc import Callable
from functools import partial
from typing import Any

import falcon
from granian import Granian
from granian.constants import Interfaces
from sqlalchemy import URL, make_url

from compute_agent.contract.threads import take_short_turns

_BUSY_TIMEOUT = 5.0


class _Commits:
    """``POST /``."""

    def __init__(self, commit: Callable[[], None]) -> None:
        self._commit = commit

    def on_post(self, request: falcon.Request, response: falcon.Response) -> None:
        request.bounded_stream.read()
        self._commit()
        response.status = 202


def _create(url: URL) -> falcon.App[Any, Any]:
    """Runs in the worker, which makes its own connections."""
    take_short_turns()
    app: falcon.App[Any, Any] = falcon.App()
    app.add_route("/", _Commits(_open_sqlite(str(url.database)) if url.get_backend_name() == "sqlite" else _open_postgresql(url)))
    return app


def _open_sqlite(path: str) -> Callable[[], None]:
    """All threads share one connection, the fastest way there is: one writes at a time, and nobody polls for a lock."""
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=_BUSY_TIMEOUT)
    for pragma in ("journal_mode=WAL", "synchronous=FULL"):
        connection.execute(f"PRAGMA {pragma}").close()
    connection.execute("CREATE TABLE IF NOT EXISTS floor (id TEXT PRIMARY KEY) WITHOUT ROWID")
    writing = threading.Lock()

    def commit() -> None:
        row = (str(uuid.uuid4()),)
        with writing:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("INSERT INTO floor VALUES (?)", row)
            connection.execute("COMMIT")

    return commit


def _open_postgresql(url: URL) -> Callable[[], None]:
    """Each thread keeps a connection; a statement by itself is a transaction, in one message there and back."""
    import psycopg  # only where PostgreSQL is measured

    place = {name: str(value) for name, value in url.query.items()}
    conninfo = psycopg.conninfo.make_conninfo(dbname=url.database, user=url.username, password=url.password, **place)
    with psycopg.connect(conninfo, autocommit=True) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS floor (id varchar(64) PRIMARY KEY)")
    own = threading.local()

    def commit() -> None:
        if not hasattr(own, "connection"):
            own.connection = psycopg.connect(conninfo, autocommit=True)
        own.connection.execute("INSERT INTO floor VALUES (%s)", (str(uuid.uuid4()),))

    return commit


def main() -> int:
    port, threads, url = int(sys.argv[1]), int(sys.argv[2]), make_url(sys.argv[3])
    multiprocessing.set_start_method("fork", force=True)
    server = Granian(
        "tests.bench.floor_app", address="127.0.0.1", port=port, interface=Interfaces.WSGI, blocking_threads=threads, log_enabled=False
    )
    server.serve(target_loader=partial(_create, url), wrap_loader=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
