"""What every part of a journal's transaction stands on: its one connection, and who writes."""

import sqlite3
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType

from compute_agent.contract.clock import Clock
from compute_agent.journal_age import JournalAge
from compute_agent.journal_rows import SignalCause, to_stored


@dataclass(frozen=True)
class Sending:
    """When the broker confirmed an event, and how old the journal was then."""

    at: datetime
    age: float


NOTHING_SENT: Mapping[int, Sending] = MappingProxyType({})


@dataclass(frozen=True)
class Origin:
    """Who writes: what every event and action carries of its journal, and where time and ids come from."""

    host: str
    journal_id: str
    incarnation: int
    clock: Clock
    new_id: Callable[[], str]
    age: JournalAge


class Statements:
    """Runs statements of one transaction; valid only inside its ``with`` block.

    ``patience``: seconds that what is new in the outbox may wait to be sent; None: nothing is new.

    :param sent: events that the broker has and whose rows do not say so yet: see ``Journal.note_sent``
    """

    def __init__(self, origin: Origin, connection: sqlite3.Connection, sent: Mapping[int, Sending] = NOTHING_SENT) -> None:
        self._origin = origin
        self._connection: sqlite3.Connection | None = connection
        self._sent = sent
        self.patience: float | None = None

    def execute(self, statement: str, *values: str | int | float | None) -> sqlite3.Cursor:
        """One statement of the journal's own; nobody else knows the tables."""
        if self._connection is None:
            raise RuntimeError("this transaction is over")
        return self._connection.execute(statement, values)

    def add_signal(self, server: str, source_id: str, at: datetime, cause: SignalCause) -> None:
        """An NMI was, or perhaps will have been, sent to a server at ``at``: the hold-off counts from there."""
        self.execute(
            "INSERT INTO signals (server, action_id, at, monotonic_at, boot, cause, age) VALUES (?, ?, ?, ?, ?, ?, ?)",
            server,
            source_id,
            to_stored(at),
            *self.locate(at),
            cause,
            self._origin.age.count(),
        )

    def locate(self, at: datetime) -> tuple[float, str]:
        """A moment of the wall clock as it is now set, by the monotonic one, with the run of the machine in which that counts."""
        clock = self._origin.clock
        return clock.monotonic() - (clock.now() - at).total_seconds(), clock.boot()

    def keep_age(self) -> None:
        """Let the next life of the agent go on from how old the journal is now."""
        self.execute(
            "INSERT INTO facts (key, value) VALUES ('age', ?1) ON CONFLICT (key) DO UPDATE SET value = ?1", self._origin.age.to_stored()
        )

    def close(self) -> None:
        """The block is over: whoever kept the transaction cannot write outside one."""
        self._connection = None
