"""The journal's file: opening it, refusing what must not be opened, its tables and their migrations.

A journal decides whether an NMI may be sent, so every doubt about the file is a refusal to start, never a fresh beginning: only a file
that is not there (or has no content at all) begins a new journal.
"""

import errno
import fcntl
import os
import sqlite3
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

APPLICATION_ID = 0x63636A6C
"""Stamped into the file's header ("ccjl"): another program's SQLite file is not taken for a journal."""

_CACHE_KIB = 512
"""Of pages that the process has for itself, beside what the kernel keeps of the file; SQLite's own two MiB would fill up in a day."""

MIGRATIONS: tuple[str, ...] = (
    """
    CREATE TABLE facts (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID;
    CREATE TABLE actions (
        position INTEGER PRIMARY KEY,
        id TEXT NOT NULL UNIQUE,
        server TEXT NOT NULL,
        state TEXT NOT NULL CHECK (state IN ('received', 'started', 'ended')),
        request TEXT NOT NULL,
        deadline INTEGER NOT NULL,
        received_at INTEGER NOT NULL,
        incarnation INTEGER NOT NULL,
        monotonic_limit REAL NOT NULL,
        started_at INTEGER,
        signalled_at INTEGER,
        ended_at INTEGER,
        ending TEXT,
        code TEXT,
        reason TEXT,
        observation TEXT,
        observation_final INTEGER NOT NULL DEFAULT 0,
        observed_at INTEGER,
        observation_text TEXT
    ) STRICT;
    CREATE INDEX actions_by_state ON actions (state, position);
    CREATE INDEX actions_by_server ON actions (server, position);
    CREATE TABLE signals (
        position INTEGER PRIMARY KEY,
        server TEXT NOT NULL,
        action_id TEXT NOT NULL UNIQUE,
        at INTEGER NOT NULL,
        cleared_at INTEGER
    ) STRICT;
    CREATE INDEX signals_by_server ON signals (server, position);
    CREATE TABLE outbox (
        sequence INTEGER PRIMARY KEY AUTOINCREMENT,
        message_id TEXT NOT NULL UNIQUE,
        event_type TEXT NOT NULL,
        severity TEXT NOT NULL,
        server TEXT,
        action_id TEXT,
        payload TEXT NOT NULL,
        occurred_at INTEGER NOT NULL,
        sent_at INTEGER
    ) STRICT;
    CREATE INDEX outbox_unsent ON outbox (sequence) WHERE sent_at IS NULL;
    CREATE INDEX outbox_by_action ON outbox (action_id) WHERE action_id IS NOT NULL;
    CREATE TABLE servers (
        id TEXT PRIMARY KEY,
        generation INTEGER NOT NULL,
        server TEXT NOT NULL,
        removed_at INTEGER,
        departure TEXT
    ) STRICT, WITHOUT ROWID;
    """,
    # What was journalled before there were other kinds can only be a crash dump.
    """
    ALTER TABLE actions ADD COLUMN kind TEXT NOT NULL DEFAULT 'trigger_crash_dump';
    CREATE INDEX actions_awaiting_observation ON actions (position) WHERE observation_final = 0 AND kind = 'trigger_crash_dump';
    CREATE INDEX outbox_by_server ON outbox (server, sequence) WHERE server IS NOT NULL;
    """,
    # A watchdog's NMI holds off crash dumps like an action's; its signal bears the message id of the event that told of the firing.
    """
    ALTER TABLE signals ADD COLUMN cause TEXT NOT NULL DEFAULT 'action' CHECK (cause IN ('action', 'watchdog'));
    CREATE TABLE watchdog_changes (action_id TEXT PRIMARY KEY, former TEXT NOT NULL, begun_at INTEGER NOT NULL) STRICT, WITHOUT ROWID;
    CREATE TABLE wanted_watchdogs (
        server TEXT PRIMARY KEY,
        generation INTEGER NOT NULL,
        device TEXT,
        action_id TEXT NOT NULL,
        set_at INTEGER NOT NULL,
        told TEXT
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE firings (
        position INTEGER PRIMARY KEY,
        server TEXT NOT NULL,
        message_id TEXT NOT NULL UNIQUE,
        at INTEGER NOT NULL,
        expiry_action TEXT,
        driver_word TEXT NOT NULL,
        observed_late INTEGER NOT NULL DEFAULT 0,
        concluded_at INTEGER
    ) STRICT;
    CREATE INDEX firings_open ON firings (server, position) WHERE concluded_at IS NULL;
    CREATE INDEX firings_by_server ON firings (server, position);
    """,
    # How far a platform's own log was read, and what is in it is told.
    """
    CREATE TABLE cursors (server TEXT PRIMARY KEY, cursor TEXT NOT NULL) STRICT, WITHOUT ROWID;
    """,
    # When a signal was sent by a clock that nobody can set.
    """
    ALTER TABLE signals ADD COLUMN monotonic_at REAL NOT NULL DEFAULT 0;
    ALTER TABLE signals ADD COLUMN boot TEXT NOT NULL DEFAULT '';
    """,
    # How old the journal was when a row began to wait until it is forgotten, and a signal's clearing by the clock that nobody can set.
    """
    ALTER TABLE actions ADD COLUMN age REAL NOT NULL DEFAULT 0;
    ALTER TABLE signals ADD COLUMN age REAL NOT NULL DEFAULT 0;
    ALTER TABLE firings ADD COLUMN age REAL NOT NULL DEFAULT 0;
    ALTER TABLE outbox ADD COLUMN age REAL NOT NULL DEFAULT 0;
    ALTER TABLE servers ADD COLUMN age REAL NOT NULL DEFAULT 0;
    ALTER TABLE signals ADD COLUMN cleared_monotonic REAL;
    """,
)
"""One script per schema version, oldest first; a file's ``user_version`` says how many of them it has had."""

SCHEMA_VERSION = len(MIGRATIONS)

OLDEST_READER = 6
"""The schema version of the oldest release that can go on with a file of this one: its host was taken back to the release before. A script
that only adds tables, or columns with defaults, leaves it as it is. It is written into the file, where that older release looks for it."""

_OLDEST_READER_FACT = "oldest_reader"


class JournalInUse(Exception):
    """Another process holds this journal: a second agent over one journal could signal twice."""


class JournalUnusable(Exception):
    """The journal cannot be trusted or written; the text says why and what to do. Nothing may be sent without it."""


class JournalFull(JournalUnusable):
    """The disk has no room for it. Nothing was written and nothing is wrong with what is there: the same may be tried again later."""


_NO_ROOM = {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_SHMSIZE}
"""ENOSPC, in the words in which SQLite passes it on for the journal, its log and the log's index."""


_PROBE_SIZE = 65_536


def explain(error: sqlite3.Error, what: str, path: Path) -> JournalUnusable:
    """What an error of SQLite's means for the journal at ``path``."""
    code = getattr(error, "sqlite_errorcode", None)
    # SQLite tells a quota that is used up (EDQUOT) as it tells a disk that cannot be written: whoever asks the disk itself is told which.
    is_full = code in _NO_ROOM or (code == sqlite3.SQLITE_IOERR_WRITE and not _has_room(path.parent))
    return (JournalFull if is_full else JournalUnusable)(f"{what}: {error}")


def _has_room(directory: Path) -> bool:
    """Whether a little can be written there, for all that quotas and free space say."""
    try:
        with tempfile.TemporaryFile(dir=directory) as file:
            file.write(os.urandom(_PROBE_SIZE))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return error.errno not in (errno.EDQUOT, errno.ENOSPC)
    return True


@dataclass(frozen=True)
class OpenFile:
    """An open journal file: the connection, the lock's file (closing it lets go) and the file's identity on disk."""

    connection: sqlite3.Connection
    lock: IO[bytes]
    identity: tuple[int, int]


def open_file(path: Path, *, host: str, new_id: Callable[[], str]) -> OpenFile:
    """Lock, open, migrate and check the journal at ``path``; make it when there is none.

    :raises JournalInUse: another process holds it.
    :raises JournalUnusable: it cannot be read or written, is damaged, newer than this release, of another host, or a copy.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = _lock(path)
    except OSError as error:
        raise JournalUnusable(f"journal {path}: {error.strerror or error}") from error
    connection: sqlite3.Connection | None = None
    try:
        _make_private(path)
        connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=5.0)
        connection.row_factory = sqlite3.Row
        identity = identify(path)
        _migrate(connection, path, host, new_id, identity)
        _check_identity(connection, path, host, identity)
        # Only now, when the tables are in the main file: a journal whose whole content sits in the WAL would look empty without it.
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
        return OpenFile(connection, lock, identity)
    except sqlite3.Error as error:
        _close(connection, lock)
        raise explain(error, f"journal {path} cannot be used", path) from error
    except OSError as error:
        _close(connection, lock)
        raise JournalUnusable(f"journal {path} cannot be used: {error}") from error
    except JournalUnusable:
        _close(connection, lock)
        raise


def identify(path: Path | str) -> tuple[int, int]:
    """Device and inode of the file now at ``path``.

    :raises OSError: there is none.
    """
    status = os.stat(path)
    return status.st_dev, status.st_ino


def _lock(path: Path) -> IO[bytes]:
    lock = open(f"{path}.lock", "ab")  # noqa: SIM115 (held for the journal's life)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        lock.close()
        raise JournalInUse(f"journal {path} is held by another process; is another agent running here?") from error
    except OSError:
        lock.close()
        raise
    return lock


def _close(connection: sqlite3.Connection | None, lock: IO[bytes]) -> None:
    if connection is not None:
        connection.close()
    lock.close()


def _make_private(path: Path) -> None:
    """Make the file for its owner alone. A write-ahead log left behind by a deleted journal is dropped by SQLite: its file is empty."""
    if not path.exists():
        path.touch(mode=0o600)


def _migrate(connection: sqlite3.Connection, path: Path, host: str, new_id: Callable[[], str], identity: tuple[int, int]) -> None:
    connection.execute("BEGIN IMMEDIATE")
    try:
        version = int(connection.execute("PRAGMA user_version").fetchone()[0])
        tables = int(connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0])
        application = int(connection.execute("PRAGMA application_id").fetchone()[0])
        if tables and application != APPLICATION_ID:
            raise JournalUnusable(f"{path} is not a journal of crashcart; move it away or set another [agent] state_path")
        if version > SCHEMA_VERSION and not _is_readable_here(connection):
            raise JournalUnusable(
                f"journal {path} has schema version {version}, this release knows {SCHEMA_VERSION}: it was written by a newer release; "
                "start that release, or move the file away (open actions then end as unknown)"
            )
        if version:
            problem = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
            if problem != "ok":
                raise JournalUnusable(f"journal {path} is damaged ({problem}); move it away (open actions then end as unknown)")
        for script in MIGRATIONS[version:]:
            for statement in script.split(";"):
                if statement.strip():
                    connection.execute(statement)
        if not tables:
            facts = {"journal_id": new_id(), "incarnation": "0", "host": host, "inode": str(identity[1])}
            connection.executemany("INSERT INTO facts (key, value) VALUES (?, ?)", facts.items())
        if version <= SCHEMA_VERSION:
            connection.execute("INSERT OR REPLACE INTO facts (key, value) VALUES (?, ?)", (_OLDEST_READER_FACT, str(OLDEST_READER)))
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _is_readable_here(connection: sqlite3.Connection) -> bool:
    """Whether the newer release that made this file says that this one can go on with it."""
    row = connection.execute("SELECT value FROM facts WHERE key = ?", (_OLDEST_READER_FACT,)).fetchone()
    return row is not None and str(row["value"]).isdecimal() and int(row["value"]) <= SCHEMA_VERSION


def _check_identity(connection: sqlite3.Connection, path: Path, host: str, identity: tuple[int, int]) -> None:
    """Refuse the journal of another host, and a copy: an old copy forgot signals that were sent since it was taken."""
    facts = {row["key"]: row["value"] for row in connection.execute("SELECT key, value FROM facts")}
    if facts["host"] != host:
        raise JournalUnusable(
            f"journal {path} belongs to host {facts['host']}, this agent serves {host}; move it away (open actions then end as unknown)"
        )
    if facts["inode"] != str(identity[1]):
        raise JournalUnusable(
            f"journal {path} is a copy or was restored from one: it may have forgotten signals that were sent; "
            "move it away (open actions then end as unknown)"
        )
