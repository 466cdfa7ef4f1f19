"""The record of events: each once, in one order, with its gaps known."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection

from compute_agent.contract.notifications import Notification


@dataclass(frozen=True)
class EventRow:
    """One recorded event. ``position`` is its place in the record: commit order, without holes that fill later.

    What the payload does not say in the expected type is None: unknown types are kept as they came.
    """

    position: int
    message_id: str
    event_type: str
    severity: str
    server: str | None
    host: str | None
    epoch: str | None
    sequence: int | None
    action_id: str | None
    occurred_at: datetime | None
    recorded_at: datetime
    payload: dict[str, Any]


@dataclass(frozen=True)
class GapRow:
    """Sequences ``first`` to ``last`` (inclusive) of a host's epoch that never came. ``tries`` counts how often they were asked for."""

    id: int
    host: str
    epoch: str
    first: int
    last: int
    found_at: datetime
    ask_at: datetime
    tries: int


def record_events(c: Connection, batch: Sequence[Notification], *, now: datetime) -> list[EventRow]:
    """Record a batch, in its order; what is recorded already (by ``message_id``) is left out. Notes and fills gaps per (host, epoch); the
    gateway's own epoch has none.

    :returns: the newly recorded ones, to be applied in the same transaction.
    """
    raise NotImplementedError


def list_events(
    c: Connection, *, after: int = 0, limit: int = 100, server: str | None = None, host: str | None = None
) -> list[EventRow]:
    """In order of ``position``, those behind ``after``."""
    raise NotImplementedError


def list_events_of_action(c: Connection, action_id: str) -> list[EventRow]:
    """In order of ``position``."""
    raise NotImplementedError


def list_gaps(c: Connection, *, now: datetime, limit: int = 100) -> list[GapRow]:
    """Gaps that are due to be asked for. A new one is due at once... its host may be down: asking is the caller's choice."""
    raise NotImplementedError


def mark_gap_asked(c: Connection, gap_id: int, *, ask_at: datetime) -> None:
    """Count one try; the gap is due again at ``ask_at``."""
    raise NotImplementedError


def close_gap(c: Connection, *, host: str, epoch: str, first: int, last: int) -> int:
    """Forget what lies between ``first`` and ``last``: the agent said (``events.lost``) that it is gone.

    :returns: how many missing sequences that were.
    """
    raise NotImplementedError


def record_lost(c: Connection, gap: GapRow, *, reason: str, now: datetime) -> bool:
    """Give a gap up: close it and append ``events.lost`` with its range to the outbox.

    :returns: False when it was filled or closed meanwhile.
    """
    raise NotImplementedError


def shelve(c: Connection, body: bytes, *, reason: str, now: datetime, source: str) -> None:
    """Keep a message that cannot be read or recorded on the dead-letter shelf, for people. ``source`` names its queue."""
    raise NotImplementedError


def count_shelved(c: Connection) -> int:
    raise NotImplementedError
