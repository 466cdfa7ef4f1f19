"""The agent's side of publishing: the journal as an outbox, ranges that the gateway asks for again, and heartbeats."""

import logging
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import pairwise
from typing import Protocol

from compute_agent.contract.clock import Clock
from compute_agent.contract.models import EventRange, Heartbeat
from compute_agent.contract.notifications import HEARTBEAT_TYPE, Notification, format_timestamp
from compute_agent.contract.publisher import ConfirmedPublisher, OutboxEntry, OutboxPump, PublishFailed
from compute_agent.contract.topics import Severity
from compute_agent.inventory import Inventory
from compute_agent.journal import Journal, JournalFull, JournalTransaction

LOG = logging.getLogger(__name__)

_UNKEPT = 3.0
"""Seconds after which what was sent is written down although nothing else is written."""
_ON_ITS_WAY = 30.0
"""Seconds for which an event that was sent is not missed yet by anybody."""


def make_publisher_id(host: str) -> str:
    """Who the envelope says that it comes from, in oslo.messaging's form ``service.host``."""
    return f"compute_agent.{host}"


class JournalOutbox:
    """The journal's outbox as the pump wants it. One thread uses it."""

    def __init__(self, journal: Journal, clock: Clock) -> None:
        self._journal = journal
        self._clock = clock
        self._publisher_id = make_publisher_id(journal.host)
        self._listed: set[int] = set()
        """Of what was read last, what is not sent."""
        self._complete_at: int | None = None
        """Up to which change of the journal that was all there is to send; None: there was more."""

    def list_unsent(self, limit: int) -> list[OutboxEntry]:
        changes = self._journal.count_changes()
        if changes == self._complete_at and not self._listed:
            self._journal.keep_sent(older_than=_UNKEPT)
            return []
        with self._journal.transaction("outbox.read") as transaction:
            rows = transaction.list_unsent(limit)
        self._listed = {row.sequence for row in rows}
        self._complete_at = changes if len(rows) < limit else None
        return [
            OutboxEntry(
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
            for row in rows
        ]

    def mark_sent(self, sequences: Sequence[int]) -> None:
        self._journal.note_sent(sequences, self._clock.now())
        self._listed.difference_update(sequences)
        with suppress(JournalFull):  # they are marked all the same, and written down when there is room
            self._journal.keep_sent(older_than=_UNKEPT)


class Reporter:
    """Sends committed events, in order, until none is left; one thread calls :meth:`step`."""

    def __init__(self, journal: Journal, publisher: ConfirmedPublisher, clock: Clock, *, batch: int = 100) -> None:
        self._journal = journal
        self._clock = clock
        self._pump = OutboxPump(JournalOutbox(journal, clock), publisher, batch=batch, marks_late=False)

    def step(self) -> int:
        """Send one batch; 0: nothing is left.

        :raises PublishFailed: those that the broker confirmed are marked; call again later.
        """
        return self._pump.step()

    def resend(self, events: EventRange) -> None:
        """Send a range again, with the same message ids; what is gone is named by ``events.lost``. From any thread."""
        with self._journal.transaction("outbox.resend") as transaction:
            if events.epoch != self._journal.journal_id:
                LOG.warning("host %s: events %d to %d of another journal are asked for", self._journal.host, events.first, events.last)
                self._append_lost(transaction, events, events.first, events.last, "the journal that held them is gone")
                return
            last = min(events.last, transaction.get_last_sequence())
            if last < events.first:
                return  # a gateway that went back to a backup asks for all that may have followed
            kept = transaction.list_kept(events.first, last)
            transaction.mark_range_unsent(events.first, last)
            for first, final in _list_gaps(kept, events.first, last):
                self._append_lost(transaction, events, first, final, "they were sent and their time to be kept is over")
        LOG.info("host %s: events %d to %d are sent again, as asked", self._journal.host, events.first, last)

    def repeat_last(self) -> None:
        """Send the newest event again, if it is still kept: who lost it, or events before it, sees so although nothing else happens on this
        host. From any thread.

        :raises JournalFull, JournalUnusable: it is not sent again this time.
        """
        with self._journal.transaction("outbox.repeat") as transaction:
            transaction.repeat_last(older_than=_ON_ITS_WAY)

    def _append_lost(self, transaction: JournalTransaction, events: EventRange, first: int, last: int, reason: str) -> None:
        body = {"lost_epoch": events.epoch, "first": first, "last": last, "reason": reason}
        transaction.append_event("events.lost", server=None, occurred_at=self._clock.now(), body=body)


class HeartbeatPublisher(Protocol):
    """What heartbeats need of a publisher."""

    def publish_heartbeat(self, heartbeat: Notification) -> None: ...


class Heartbeats:
    """Sends what the inventory says; one thread calls :meth:`step`.

    :param on_missed: told of servers whose changes no event told of
    :param on_all_told: called after each heartbeat that carried all servers
    """

    def __init__(
        self,
        inventory: Inventory,
        publisher: HeartbeatPublisher,
        *,
        on_missed: Callable[[frozenset[str]], None],
        on_all_told: Callable[[], None],
    ) -> None:
        self._inventory = inventory
        self._publisher = publisher
        self._on_missed = on_missed
        self._on_all_told = on_all_told

    def step(self, *, stopping: bool = False) -> None:
        """Read the servers, send one heartbeat.

        :raises PublishFailed: it was not sent; the next one carries everything.
        """
        if not stopping:
            self._refresh()
        heartbeat = self._inventory.heartbeat(stopping=stopping)
        try:
            self._publisher.publish_heartbeat(_wrap(heartbeat))
        except PublishFailed:
            self._inventory.request_full()
            raise
        if heartbeat.inventory.full and not stopping:
            self._tell_again()

    def _tell_again(self) -> None:
        try:
            self._on_all_told()
        except JournalFull as error:  # the next full inventory's turn
            LOG.debug("the newest event is not told again: %s", error)

    def _refresh(self) -> None:
        try:
            missed = self._inventory.refresh()
        except JournalFull as error:  # the host is there all the same, with the servers that are known
            LOG.debug("what is new on this host is not told: %s", error)
            return
        if missed:
            self._on_missed(missed)


def _wrap(heartbeat: Heartbeat) -> Notification:
    return Notification(
        message_id=uuid.uuid4().hex,
        event_type=HEARTBEAT_TYPE,
        publisher_id=make_publisher_id(heartbeat.host),
        severity=Severity.INFO,
        timestamp=format_timestamp(heartbeat.sent_at),
        payload=heartbeat.to_wire(),
    )


def _list_gaps(kept: Sequence[int], first: int, last: int) -> list[tuple[int, int]]:
    """The runs of numbers from ``first`` to ``last`` that are not among those ``kept`` of them, which ascend."""
    edges = (first - 1, *kept, last + 1)
    return [(before + 1, after - 1) for before, after in pairwise(edges) if after - before > 1]
