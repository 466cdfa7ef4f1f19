"""The journal: what this agent was asked, did and has to tell, on disk before it acts and before it answers.

One SQLite file per agent (WAL, ``synchronous=FULL``), held with flock. All changes of one decision are one transaction: the ending of
an action and its event are committed together or not at all. Thread-safe: one connection, one lock; transactions are short.

Who may move an action is decided here by compare-and-set (``start_action``, ``end_action``), so workers, the sweep, duplicates of a cast
and a restart may race: exactly one of them wins and appends the event; the others are told so.
"""

import sqlite3
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Self

from compute_agent.contract.clock import Clock
from compute_agent.contract.outage import Outage
from compute_agent.journal_age import JournalAge
from compute_agent.journal_rows import ActionState, JournalledAction, KnownServer, OutboxRow, Signal, WantedWatchdog
from compute_agent.journal_schema import JournalFull, JournalInUse, JournalUnusable, OpenFile, explain, identify, open_file
from compute_agent.journal_statements import Origin, Sending
from compute_agent.journal_transaction import JournalTransaction

__all__ = [
    "ActionState",
    "Journal",
    "JournalFull",
    "JournalInUse",
    "JournalTransaction",
    "JournalUnusable",
    "JournalledAction",
    "KnownServer",
    "OutboxRow",
    "Signal",
    "WantedWatchdog",
]


_MOST_UNKEPT = 500
"""Events that were sent and are not written down as such."""


def _new_id() -> str:
    return uuid.uuid4().hex


class Journal:
    """An open journal. ``journal_id`` was made with the file, ``incarnation`` counts its openings; both are in every heartbeat."""

    def __init__(self, path: Path, file: OpenFile, *, host: str, clock: Clock, new_id: Callable[[], str]) -> None:
        """Use :meth:`open`."""
        self.path = path
        self._file_name = str(path)
        self.host = host
        self._file = file
        self._connection = file.connection
        self._lock = threading.RLock()
        self._closed = False
        self._callbacks: list[Callable[[float], None]] = []
        self._sent: dict[int, Sending] = {}
        self._sent_since = 0.0
        self._no_room = Outage(f"journal {path}: nothing is taken up that cannot be written")
        facts = self._read_facts()
        self.journal_id = facts["journal_id"]
        self.incarnation = int(facts["incarnation"]) + 1
        self._origin = Origin(host, self.journal_id, self.incarnation, clock, new_id, JournalAge.read(clock, facts.get("age")))

    @classmethod
    def open(cls, path: Path, *, host: str, clock: Clock, new_id: Callable[[], str] = _new_id) -> Self:
        """Open the journal at ``path`` (made when there is none), migrate it forward and count this opening.

        :raises JournalInUse: another process holds it.
        :raises JournalUnusable: it must not be used; the text says why and what to do.
        """
        file = open_file(path, host=host, new_id=new_id)
        journal = cls(path, file, host=host, clock=clock, new_id=new_id)
        try:
            with journal.transaction("journal.opened") as transaction:
                transaction.execute("UPDATE facts SET value = ? WHERE key = 'incarnation'", str(journal.incarnation))
                transaction.keep_age()
        except BaseException:
            journal.close()
            raise
        return journal

    @contextmanager
    def transaction(self, label: str) -> Iterator["JournalTransaction"]:
        """BEGIN IMMEDIATE … COMMIT, rolled back when the block raises. Never nested; keep the block short and free of driver calls.

        :param label: names the commit point, for logs and for simulations that crash at it
        :raises JournalFull: there is no room for it on the disk; nothing was committed, it may be tried again.
        :raises JournalUnusable: the file was deleted or replaced under us, or could not be written; nothing was committed as far
            as is known.
        """
        with self._lock:
            if self._closed:
                raise JournalUnusable(f"journal {self.path} is closed")
            if self._connection.in_transaction:
                raise RuntimeError(f"transaction {label!r} inside another one of the same thread")
            self._check_file()
            transaction = JournalTransaction(self._origin, self._connection, self._sent)
            changes_before = self._connection.total_changes
            try:
                self._connection.execute("BEGIN IMMEDIATE")
                try:
                    yield transaction
                    if self._connection.total_changes != changes_before:
                        transaction.keep_sent()
                    self._commit(label)
                finally:
                    transaction.close()
                    if self._connection.in_transaction:
                        self._connection.execute("ROLLBACK")
            except sqlite3.IntegrityError:
                raise  # the caller's mistake (an id added twice, say), not the file's
            except sqlite3.Error as error:
                failure = explain(error, f"journal {self.path}, {label}", self.path)
                if isinstance(failure, JournalFull):
                    self._no_room.begin(error)
                raise failure from error
            if self._connection.total_changes != changes_before:
                self._no_room.end()
            if transaction.has_kept_sent:
                self._sent.clear()
        if transaction.patience is not None:
            for callback in self._callbacks:
                callback(transaction.patience)

    def count_changes(self) -> int:
        """Rows that were written since it was opened: as long as that stays the same, so does all that can be read.

        :raises JournalUnusable: as :meth:`transaction`: who need not read must learn of it all the same.
        """
        with self._lock:
            if self._closed:
                raise JournalUnusable(f"journal {self.path} is closed")
            self._check_file()
            return self._connection.total_changes

    def on_new_events(self, callback: Callable[[float], None]) -> None:
        """Call ``callback`` after each commit that left something to send, with the seconds that this may wait for more. It runs in the
        committing thread: it must only wake."""
        self._callbacks.append(callback)

    def note_sent(self, sequences: Iterable[int], at: datetime) -> None:
        """The broker confirmed these events. That is written down by the next transaction that writes, or by :meth:`keep_sent`: a commit
        of its own would cost as much as one of an action's. What a crash finds unwritten is sent again, under the same message ids.
        """
        with self._lock:
            if not self._sent:
                self._sent_since = self._origin.clock.monotonic()
            self._sent.update(dict.fromkeys(sequences, Sending(at, self._origin.age.count())))

    def keep_sent(self, *, older_than: float = 0.0) -> None:
        """Write down what was sent, if the first of it was so many seconds ago, or if it is much: who reads the outbox passes over it.

        :raises JournalFull, JournalUnusable: it is not written; it is still known.
        """
        with self._lock:
            is_due = self._origin.clock.monotonic() - self._sent_since >= older_than or len(self._sent) >= _MOST_UNKEPT
            if self._sent and is_due:
                with self.transaction("outbox.sent") as transaction:
                    transaction.keep_sent()

    def close(self) -> None:
        """Let go of the file; an open transaction is rolled back. Safe to call twice."""
        with self._lock:
            self._closed = True
            self._connection.close()
            self._file.lock.close()

    def _commit(self, label: str) -> None:
        """The commit itself; a simulation overrides it to crash before or after."""
        del label
        self._connection.execute("COMMIT")

    def _read_facts(self) -> dict[str, str]:
        return {row["key"]: row["value"] for row in self._connection.execute("SELECT key, value FROM facts")}

    def _check_file(self) -> None:
        """What is written to a deleted file is lost with the process: refuse to go on as if it were a journal."""
        try:
            same = identify(self._file_name) == self._file.identity
        except OSError:
            same = False
        if not same:
            raise JournalUnusable(
                f"journal {self.path} was deleted or replaced under the running agent; restart the agent (open actions then end as unknown)"
            )
