"""The store's outbox as the confirmed publisher wants it."""

from collections.abc import Sequence

from api_gateway.store import Store
from api_gateway.store import outbox as stored_outbox
from api_gateway.store.outbox import OutboxRow
from compute_agent.contract.clock import Clock
from compute_agent.contract.notifications import Notification, format_timestamp
from compute_agent.contract.publisher import OutboxEntry


class StoredOutbox:
    """The gateway's own events, oldest first. Implements OutboxSource.

    :param publisher_id: who publishes, as notification listeners are told
    """

    def __init__(self, store: Store, clock: Clock, *, publisher_id: str) -> None:
        self._store = store
        self._clock = clock
        self._publisher_id = publisher_id

    def list_unsent(self, limit: int) -> Sequence[OutboxEntry]:
        """:raises StoreError: the store cannot be read now."""
        with self._store.read() as c:
            return [self._build_entry(row) for row in stored_outbox.list_unsent(c, limit)]

    def mark_sent(self, sequences: Sequence[int]) -> None:
        """:raises StoreError: not marked; the rows are published again, under the same message ids."""
        with self._store.write() as c:
            stored_outbox.mark_sent(c, sequences, at=self._clock.now())

    def _build_entry(self, row: OutboxRow) -> OutboxEntry:
        return OutboxEntry(
            row.sequence,
            Notification(
                message_id=row.message_id,
                event_type=row.event_type,
                publisher_id=self._publisher_id,
                severity=row.severity,
                timestamp=format_timestamp(row.occurred_at),
                payload=row.payload,
            ),
        )
