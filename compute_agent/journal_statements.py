"""What every part of a journal's transaction stands on: its one connection, and who writes."""

import sqlite3
from collections.abc import Callable
from dataclasses import dataclass

from compute_agent.contract.clock import Clock


@dataclass(frozen=True)
class Origin:
    """Who writes: what every event and action carries of its journal, and where time and ids come from."""

    host: str
    journal_id: str
    incarnation: int
    clock: Clock
    new_id: Callable[[], str]


class Statements:
    """Runs statements of one transaction; valid only inside its ``with`` block. ``has_news``: the outbox has something to send."""

    def __init__(self, origin: Origin, connection: sqlite3.Connection) -> None:
        self._origin = origin
        self._connection: sqlite3.Connection | None = connection
        self.has_news = False

    def execute(self, statement: str, *values: str | int | float | None) -> sqlite3.Cursor:
        """One statement of the journal's own; nobody else knows the tables."""
        if self._connection is None:
            raise RuntimeError("this transaction is over")
        return self._connection.execute(statement, values)

    def close(self) -> None:
        """The block is over: whoever kept the transaction cannot write outside one."""
        self._connection = None
