"""The gateway's own events, appended in the transaction that makes them true and published from here in order."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection

from compute_agent.contract.notifications import Severity


@dataclass(frozen=True)
class OutboxRow:
    """One event to publish; ``payload`` is complete (version, host, epoch, sequence, …)."""

    sequence: int
    message_id: str
    event_type: str
    severity: str
    server: str | None
    payload: dict[str, Any]
    occurred_at: datetime
    sent_at: datetime | None


def append_event(
    c: Connection,
    event_type: str,
    *,
    server: str | None,
    host: str,
    occurred_at: datetime,
    body: dict[str, Any],
    severity: Severity | None = None,
) -> int:
    """Append one event; fills version, epoch (the store's id), sequence and a message id.

    :param body: what the type's payload has beyond the fields of every event; plain JSON or anything the payload model takes
    :returns: its sequence.
    :raises ValueError: unknown type, or the payload does not fit its model.
    """
    raise NotImplementedError


def list_unsent(c: Connection, limit: int = 100) -> list[OutboxRow]:
    """In order of ``sequence``."""
    raise NotImplementedError


def mark_sent(c: Connection, sequences: Sequence[int], *, at: datetime) -> None:
    raise NotImplementedError


def prune(c: Connection, *, sent_before: datetime, limit: int = 1000) -> int:
    """Delete sent rows older than that; how many went."""
    raise NotImplementedError
