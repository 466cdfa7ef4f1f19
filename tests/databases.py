"""Gateway databases for tests, made fast: the migrations run once per test process, and so does the compiling of each statement."""

import functools
import tempfile
from pathlib import Path
from typing import Any

from sqlalchemy import Engine
from sqlalchemy.dialects import registry
from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite

from api_gateway.store import Store

PATIENT = 60.0
"""Seconds that a transaction, or a question, waits where none shall wait in vain, however long the machine or its disk stands still."""


def write_database(path: Path) -> Path:
    """A SQLite file with the tables of this release and no rows, unless it is there already; all of one process have the same ``store_id``.

    Migrating takes 0.1 s, which hundreds of tests would pay. ``upgrade_schema`` itself has tests of its own.
    """
    if not path.exists():
        path.write_bytes(_migrate())
    return path


@functools.cache
def _migrate() -> bytes:
    with tempfile.TemporaryDirectory(prefix="crashcart-template-") as directory:
        path = Path(directory) / "gateway.sqlite"
        store = Store(f"sqlite:///{path}")
        store.upgrade_schema()
        store.dispose()  # the last connection leaves nothing in the write-ahead log
        return path.read_bytes()


def share_compiled_statements() -> None:
    """From now on all SQLite engines of this process use what one of them has compiled.

    SQLAlchemy keeps compiled statements per engine. A process of ours has one engine, a test process hundreds, for which compiling
    would be a fifth of the work.
    """
    registry.register("sqlite", __name__, _SharingDialect.__name__)


_COMPILED: dict[Any, Any] = {}


class _SharingDialect(SQLiteDialect_pysqlite):
    """Equal to any other of its kind, because the dialect is part of the key under which a compiled statement is kept."""

    supports_statement_cache = True

    @classmethod
    def engine_created(cls, engine: Engine) -> None:
        engine.update_execution_options(compiled_cache=_COMPILED)

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self)

    def __hash__(self) -> int:
        return hash(type(self))
