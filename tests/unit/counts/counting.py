"""Counts what is asked of SQLite files: by whichever library it is asked, and per file."""

import sqlite3
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

_BRACKETS = ("BEGIN", "COMMIT", "ROLLBACK", "END")


@dataclass
class Work:
    """What was asked of one file. ``commits`` are those that changed something: each of them waits for the disk."""

    transactions: int = 0
    statements: int = 0
    commits: int = 0


class Counts:
    """By the name of the file."""

    def __init__(self) -> None:
        self._work: defaultdict[str, Work] = defaultdict(Work)

    def of(self, name: str) -> Work:
        return self._work[name]

    def take(self, name: str) -> dict[str, int]:
        """What was asked of that file since the last time, for the table."""
        work, self._work[name] = self._work[name], Work()
        return vars(work)


class _Cursor(sqlite3.Cursor):
    connection: "_Connection"

    def execute(self, statement: str, *values: Any) -> "_Cursor":
        self.connection.note(statement)
        super().execute(statement, *values)
        return self

    def executemany(self, statement: str, values: Any) -> "_Cursor":
        """One statement, however many rows it has: that is one way to the library and back."""
        self.connection.note(statement)
        super().executemany(statement, values)
        return self


class _Connection(sqlite3.Connection):
    counts: Counts
    name: str
    _changes = 0

    def cursor(self, _factory: Any = None) -> _Cursor:  # type: ignore[override]
        return super().cursor(_Cursor)

    def execute(self, statement: str, *values: Any) -> _Cursor:
        """Over a cursor of ours, which the library's own shortcut is not."""
        return self.cursor().execute(statement, *values)

    def commit(self) -> None:
        if self.in_transaction:
            self.note("COMMIT")
        super().commit()

    def note(self, statement: str) -> None:
        work = self.counts.of(self.name)
        if statement.startswith("BEGIN"):
            work.transactions += 1
            self._changes = self.total_changes
        elif statement.startswith("COMMIT"):
            work.commits += self.total_changes != self._changes
        elif not statement.startswith(_BRACKETS):
            work.statements += 1


def _connect(connect: Any, counts: Counts, path: Any, **options: Any) -> _Connection:
    connection: _Connection = connect(path, factory=_Connection, **options)
    connection.counts, connection.name = counts, Path(path).name
    return connection


@contextmanager
def counting_sqlite() -> Iterator[Counts]:
    """Of all connections that are made while the block lasts."""
    counts = Counts()
    counted = partial(_connect, sqlite3.connect, counts)
    with mock.patch("sqlite3.connect", counted), mock.patch("sqlite3.dbapi2.connect", counted):
        yield counts
