"""The outbox in a transaction of the journal: events in the order of their ``sequence``, sent or not."""

import json
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any

from compute_agent.contract.events import EVENT_TYPES
from compute_agent.contract.topics import Severity
from compute_agent.contract.versions import EVENT_VERSION
from compute_agent.journal_rows import OutboxRow, to_stored
from compute_agent.journal_statements import NOTHING_SENT, Sending, Statements

PATIENCE = {"action.received": 0.25, "action.started": 0.25, "server.black_box": 3.0}
"""Seconds for which an event may wait for others, and up to one more until the reporter looks, to be confirmed and recorded together with
them: another of the same action follows those of its beginning, mostly within milliseconds, and what was kept of a crash is looked at later
anyway."""
_REPEATED = 0.25
"""The same of an event that is told again in case that it was lost."""


class OutboxStatements(Statements):
    """Appends events, and says which are to be sent."""

    def append_event(
        self, event_type: str, *, server: str | None, occurred_at: datetime, body: dict[str, Any], severity: Severity | None = None
    ) -> int:
        """Append one event and return its sequence; ``body`` holds the payload's own fields, the rest is filled in here.

        :raises KeyError: no such event type.
        :raises pydantic.ValidationError: the body does not fit the type's payload.
        """
        entry = EVENT_TYPES[event_type]
        sequence = self.get_last_sequence() + 1
        payload = entry.payload(
            version=EVENT_VERSION,
            server=server,
            host=self._origin.host,
            epoch=self._origin.journal_id,
            sequence=sequence,
            occurred_at=occurred_at,
            **body,
        ).to_wire()
        self.execute(
            "INSERT INTO outbox (sequence, message_id, event_type, severity, server, action_id, payload, occurred_at)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            sequence,
            self._origin.new_id(),
            event_type,
            severity or entry.severity,
            server,
            payload.get("action_id"),
            json.dumps(payload),
            to_stored(occurred_at),
        )
        self._announce(PATIENCE.get(event_type, 0.0))
        return sequence

    def get_last_sequence(self) -> int:
        """The sequence of the newest event ever appended, 0 before the first; pruning does not lower it."""
        row = self.execute("SELECT seq FROM sqlite_sequence WHERE name = 'outbox'").fetchone()
        return 0 if row is None else int(row["seq"])

    def find_last_event(self, server: str, event_types: Collection[str]) -> OutboxRow | None:
        """The newest of these events of a server that is still kept."""
        marks = ", ".join("?" * len(event_types))
        row = self.execute(
            f"SELECT * FROM outbox WHERE server = ? AND event_type IN ({marks}) ORDER BY sequence DESC LIMIT 1",  # noqa: S608 # marks only
            server,
            *event_types,
        ).fetchone()
        return None if row is None else OutboxRow.read(row)

    def list_unsent(self, limit: int) -> list[OutboxRow]:
        """The oldest events that are to be sent, in order."""
        most = limit + len(self._sent)
        rows = self.execute("SELECT * FROM outbox WHERE sent_at IS NULL ORDER BY sequence LIMIT ?", most).fetchall()
        return OutboxRow.read_all([row for row in rows if row["sequence"] not in self._sent][:limit])

    def list_outbox(self, first: int, last: int) -> list[OutboxRow]:
        """The events with ``first <= sequence <= last`` that are still here, in order; what is missing was pruned."""
        return OutboxRow.read_all(
            self.execute("SELECT * FROM outbox WHERE sequence BETWEEN ? AND ? ORDER BY sequence", first, last).fetchall()
        )

    def list_kept(self, first: int, last: int) -> list[int]:
        """Only the sequences of :meth:`list_outbox`: there may be a hundred thousand of them."""
        return [row[0] for row in self.execute("SELECT sequence FROM outbox WHERE sequence BETWEEN ? AND ? ORDER BY sequence", first, last)]

    def mark_sent(self, sequences: Sequence[int], at: datetime) -> None:
        """The broker confirmed these."""
        self._mark_sent(dict.fromkeys(sequences, Sending(at, self._origin.age.count())))

    @property
    def has_kept_sent(self) -> bool:
        """Whether nothing that was sent is left to be written down."""
        return not self._sent

    def keep_sent(self) -> None:
        """Write down what was sent before this transaction: what it has sent again from here on is sent again."""
        sent, self._sent = self._sent, NOTHING_SENT
        self._mark_sent(sent)

    def _mark_sent(self, sent: Mapping[int, Sending]) -> None:
        for sequence, sending in sent.items():
            self.execute("UPDATE outbox SET sent_at = ?, age = ? WHERE sequence = ?", to_stored(sending.at), sending.age, sequence)

    def mark_range_unsent(self, first: int, last: int) -> int:
        """Send this range again, with the same message ids; returns how many events of it are still here."""
        self.keep_sent()
        count = self.execute("UPDATE outbox SET sent_at = NULL WHERE sequence BETWEEN ? AND ?", first, last).rowcount
        if count:
            self._announce()
        return count

    def repeat_last(self, *, older_than: float) -> None:
        """Send the newest event again, unless it was pruned or was sent less than ``older_than`` seconds ago."""
        count = self.execute(
            "UPDATE outbox SET sent_at = NULL WHERE sequence = ? AND sent_at IS NOT NULL AND age <= ?",
            self.get_last_sequence(),
            self._origin.age.count() - older_than,
        ).rowcount
        if count:
            self._announce(_REPEATED)

    def resend_ending(self, action_id: str) -> bool:
        """Send the ending and the observations of an action again, with the same message ids; False when there is no ending."""
        self.keep_sent()
        count = self.execute(
            "UPDATE outbox SET sent_at = NULL WHERE action_id = ?1 AND event_type IN ('action.ended', 'action.observed')"
            " AND EXISTS (SELECT 1 FROM outbox WHERE action_id = ?1 AND event_type = 'action.ended')",
            action_id,
        ).rowcount
        if count:
            self._announce()
        return count > 0

    def _announce(self, patience: float = 0.0) -> None:
        self.patience = patience if self.patience is None else min(self.patience, patience)
