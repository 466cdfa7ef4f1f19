"""Publishes outbox rows so that "sent" means that the broker has them; the agent's and the gateway's outbox both use it.

A row counts only when the broker confirmed it *and* could route it to a queue. Whatever goes wrong raises, with the number of
leading rows that are certain, and the connection is thrown away: the next try begins on a fresh one and declares exchange and queues
again. A row may thus arrive twice, never not at all; its ``message_id`` stays the same.

A broker in alarm reads from no publisher, for as long as the alarm lasts. :meth:`Publisher.publish` then waits, on the thread
that owns the publisher and on no other; :meth:`Publisher.abort` ends that wait from any thread.
"""

import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from amqp.exceptions import AccessRefused

from compute_agent.contract.broker import BROKER_ERRORS, BrokerAddress, Link
from compute_agent.contract.notifications import DEAD_LETTER_QUEUE, EVENTS_EXCHANGE, HEARTBEAT_QUEUE, RECORDER_QUEUES, Notification, encode
from compute_agent.contract.topics import HEARTBEAT_ROUTING_KEY, Severity, routing_key

LOG = logging.getLogger(__name__)

CONFIRM_TIMEOUT = 30.0
"""Seconds without any confirm, on a connection that is not blocked by an alarm, after which the connection is given up."""
_SLICE = 0.2
"""The longest single wait in seconds, so that abort() is noticed."""
_PERSISTENT, _TRANSIENT = 2, 1


class PublishFailed(Exception):
    """The rows from index ``confirmed`` on are perhaps sent; those before it are certainly with the broker."""

    def __init__(self, confirmed: int, reason: str) -> None:
        super().__init__(reason)
        self.confirmed = confirmed
        self.reason = reason


class LinkOpener(Protocol):
    """What a publisher needs of :class:`BrokerAddress`."""

    label: str

    def open_link(self, *, on_blocked: Any = None, on_unblocked: Any = None) -> Link: ...


class Publisher:
    """A confirmed publisher over one connection. One thread uses it; only :meth:`abort` may come from another.

    :param address: the broker; a transport URL is taken as well
    :param publisher_id: the connection's name at the broker, when ``address`` is a URL
    """

    def __init__(self, address: LinkOpener | str, *, publisher_id: str = "crashcart", confirm_timeout: float = CONFIRM_TIMEOUT) -> None:
        self._address: LinkOpener = BrokerAddress(address, name=publisher_id) if isinstance(address, str) else address
        self._confirm_timeout = confirm_timeout
        self._aborted = threading.Event()
        self._blocked = False
        self._link: Link | None = None
        self._channel: Any = None
        self._user: str = ""
        self._last_tag = 0
        self._batch: _Batch | None = None

    def publish(self, rows: Sequence[Notification]) -> int:
        """Publish all rows in order, persistent and mandatory, and wait until the broker has confirmed them all.

        :returns: how many are confirmed, which is all of them
        :raises PublishFailed: otherwise; nothing may be concluded for the rows from ``confirmed`` on.
        """
        if not rows:
            return 0
        batch = _Batch(rows)
        try:
            self._connect()
            batch.first_tag = self._last_tag + 1
            self._batch = batch
            for row in rows:
                self._wait_while_blocked()
                self._send(row, routing_key(Severity(row.severity)), mandatory=True, delivery_mode=_PERSISTENT)
            self._wait_for_confirms(batch)
        except PublishFailed as failure:
            self._drop()
            raise PublishFailed(batch.confirmed, failure.reason) from failure
        except BROKER_ERRORS as error:
            self._drop()
            raise PublishFailed(batch.confirmed, f"broker {self._address.label}: {error!r}") from error
        finally:
            self._batch = None
        if batch.refusal is not None:
            self._drop()  # the next try declares the queues again, which heals a deleted one
            raise PublishFailed(batch.confirmed, f"broker {self._address.label}: {batch.refusal}")
        return len(rows)

    def publish_heartbeat(self, heartbeat: Notification) -> None:
        """Publish a heartbeat: not persistent, not mandatory, without waiting; the next one replaces it.

        :raises PublishFailed: it was not sent; also when the broker is in alarm, where it would only wait and grow old.
        """
        try:
            self._connect()
            self._read(0)
            if self._blocked:
                raise PublishFailed(0, f"broker {self._address.label} is in alarm and takes no publishes")
            self._send(heartbeat, HEARTBEAT_ROUTING_KEY, mandatory=False, delivery_mode=_TRANSIENT)
        except BROKER_ERRORS as error:
            self._drop()
            raise PublishFailed(0, f"broker {self._address.label}: {error!r}") from error

    def keep_alive(self) -> bool:
        """Answer the broker's heartbeats; call it every few seconds while there is nothing to publish.

        :returns: whether there still is a connection. A lost one is no error here: the next publish opens another.
        """
        if self._link is None:
            return False
        try:
            self._read(0)
            self._link.heartbeat_tick()
        except BROKER_ERRORS as error:
            LOG.info("connection to broker %s lost: %r", self._address.label, error)
            self._drop()
        return self._link is not None

    def abort(self) -> None:
        """End a publish that waits, and refuse any later one; from any thread, for good."""
        self._aborted.set()

    def close(self) -> None:
        """Close the connection. In order when possible: then the broker has read everything that was sent."""
        if self._link is not None and not self._blocked and not self._aborted.is_set():
            try:
                self._link.close()
            except BROKER_ERRORS as error:
                LOG.debug("closing the connection to broker %s: %r", self._address.label, error)
        self._drop()

    def _connect(self) -> None:
        if self._aborted.is_set():
            raise PublishFailed(0, "the publisher was stopped")
        if self._link is not None:
            return
        self._blocked = False
        self._link = link = self._address.open_link(on_blocked=self._on_blocked, on_unblocked=self._on_unblocked)
        self._user = link.client.userid
        channel = _declare_queues(link)
        channel.confirm_select()
        channel.events["basic_ack"].add(self._on_ack)
        channel.events["basic_nack"].add(self._on_nack)
        channel.events["basic_return"].add(self._on_return)
        self._channel = channel
        self._last_tag = 0
        LOG.info("connected to broker %s to publish to %s", self._address.label, EVENTS_EXCHANGE.name)

    def _drop(self) -> None:
        """Forget the connection without a word to the broker: it may be frozen, and would not answer."""
        if self._link is not None:
            self._link.collect()
        self._link = self._channel = None
        self._blocked = False

    def _send(self, row: Notification, key: str, *, mandatory: bool, delivery_mode: int) -> None:
        properties = {"user_id": self._user, "message_id": row.message_id, "delivery_mode": delivery_mode}
        message = self._channel.prepare_message(
            encode(row), content_type="application/json", content_encoding="utf-8", properties=properties
        )
        self._channel.basic_publish(message, exchange=EVENTS_EXCHANGE.name, routing_key=key, mandatory=mandatory)
        self._last_tag += 1

    def _read(self, timeout: float) -> bool:
        """Take in what the broker sent; False when nothing came within ``timeout`` seconds."""
        assert self._link is not None
        try:
            self._link.drain_events(timeout=timeout)
        except TimeoutError:
            return False
        return True

    def _read_slice(self, reason: str) -> bool:
        """Wait a moment for the broker, answer its heartbeats, notice abort()."""
        assert self._link is not None
        if self._aborted.is_set():
            raise PublishFailed(0, f"stopped while {reason}")
        progress = self._read(_SLICE)
        self._link.heartbeat_tick()
        return progress

    def _wait_while_blocked(self) -> None:
        while self._blocked:
            self._read_slice("the broker was in alarm")

    def _wait_for_confirms(self, batch: "_Batch") -> None:
        patience = time.monotonic() + self._confirm_timeout
        outstanding = batch.outstanding
        while batch.outstanding:
            self._read_slice("waiting for the broker's confirms")
            if self._blocked or batch.outstanding < outstanding:
                outstanding = batch.outstanding
                patience = time.monotonic() + self._confirm_timeout
            elif time.monotonic() > patience:
                raise PublishFailed(0, f"broker {self._address.label}: no confirm for {self._confirm_timeout:g} s")

    def _on_blocked(self, reason: str) -> None:
        self._blocked = True
        LOG.warning("broker %s is in alarm and takes no publishes: %s", self._address.label, reason)

    def _on_unblocked(self) -> None:
        self._blocked = False
        LOG.info("broker %s takes publishes again", self._address.label)

    def _on_ack(self, delivery_tag: int, multiple: bool) -> None:
        if self._batch is not None:
            self._batch.settle(delivery_tag, multiple)

    def _on_nack(self, delivery_tag: int, multiple: bool) -> None:
        if self._batch is not None:
            self._batch.refuse_tags(delivery_tag, multiple)

    def _on_return(self, error: Exception, exchange: str, key: str, message: Any) -> None:
        # A returned message is acknowledged right after its return: note the refusal first.
        if self._batch is not None:
            self._batch.refuse_message(message.properties.get("message_id"), f"no queue takes {key!r} ({error})")


def _declare_queues(link: Link) -> Any:
    """Have the queues of events, so that nothing is dropped before a recorder ran. An account of one agent alone may not declare them
    (see ``accounts``); then they must be there.

    :returns: a channel for publishing
    :raises BROKER_ERRORS: the broker went away, or they are not there.
    """
    queues = (*RECORDER_QUEUES, HEARTBEAT_QUEUE, DEAD_LETTER_QUEUE)
    channel = link.channel()
    try:
        for queue in queues:
            queue(channel).declare()  # declares the exchange as well, and binds
    except AccessRefused as error:
        LOG.debug("this account may not declare what it publishes to: %s", error)
        channel = link.channel()  # the refusal closed the other one
        for name in {queue.name: None for queue in queues}:
            channel.queue_declare(name, passive=True)
    return channel


class _Batch:
    """Which rows of one publish the broker has settled, and which it refused."""

    def __init__(self, rows: Sequence[Notification]) -> None:
        self.first_tag = 1
        self.refusal: str | None = None
        self._index = {row.message_id: index for index, row in enumerate(rows)}
        self._unsettled = set(range(len(rows)))
        self._refused: set[int] = set()
        self._size = len(rows)

    @property
    def outstanding(self) -> int:
        return len(self._unsettled)

    @property
    def confirmed(self) -> int:
        """The number of leading rows that the broker has for certain."""
        return min(self._unsettled | self._refused, default=self._size)

    def settle(self, tag: int, multiple: bool) -> None:
        self._unsettled -= self._select(tag, multiple)

    def refuse_tags(self, tag: int, multiple: bool) -> None:
        settled = self._select(tag, multiple)
        self._refused |= settled
        self._unsettled -= settled
        self.refusal = self.refusal or "refused by the broker (nack)"

    def refuse_message(self, message_id: str | None, reason: str) -> None:
        if message_id in self._index:
            self._refused.add(self._index[message_id])
        self.refusal = self.refusal or reason

    def _select(self, tag: int, multiple: bool) -> set[int]:
        """Indexes that a confirm speaks of. Heartbeats share the channel: tags before this batch are not ours."""
        last = tag - self.first_tag
        return {index for index in self._unsettled if index == last or (multiple and index <= last)}


@dataclass(frozen=True)
class OutboxEntry:
    """A committed event that waits to be sent."""

    sequence: int
    notification: Notification


class OutboxSource(Protocol):
    """An outbox: the agent's journal or the gateway's store."""

    def list_unsent(self, limit: int) -> Sequence[OutboxEntry]:
        """The oldest rows that are not marked sent, in the order of their sequence."""
        ...

    def mark_sent(self, sequences: Sequence[int]) -> None: ...


class ConfirmedPublisher(Protocol):
    """What an :class:`OutboxPump` needs of :class:`Publisher`."""

    def publish(self, rows: Sequence[Notification]) -> int: ...


class OutboxPump:
    """Moves outbox rows to the broker, in order, and marks them only after their confirm.

    Where marking costs a commit, the rows that came meanwhile should not wait for it: so it is done when nothing is left to send, or for a
    full batch. Rows that a crash finds unmarked are published again, as always under the same message ids.

    :param marks_late: False: marking costs nothing, and is done at once
    """

    def __init__(self, source: OutboxSource, publisher: ConfirmedPublisher, *, batch: int = 100, marks_late: bool = True) -> None:
        self._source = source
        self._publisher = publisher
        self._batch = batch
        self._marks_late = marks_late
        self._unmarked: list[int] = []

    def step(self) -> int:
        """Send one batch, or mark what was sent.

        :returns: how many rows were sent; 0: the outbox has nothing to send, and all that was sent is marked
        :raises PublishFailed: after marking those that were confirmed. Call again later.
        """
        sent = set(self._unmarked)
        entries = [entry for entry in self._source.list_unsent(self._batch + len(sent)) if entry.sequence not in sent][: self._batch]
        confirmed = 0
        try:
            if entries:
                confirmed = self._publisher.publish([entry.notification for entry in entries])
        except PublishFailed as failure:
            confirmed = failure.confirmed
            raise
        finally:
            self._unmarked += [entry.sequence for entry in entries[:confirmed]]
            if not self._marks_late or confirmed < len(entries) or not entries or len(self._unmarked) >= self._batch:
                self._mark()
        return confirmed

    def _mark(self) -> None:
        if self._unmarked:
            self._source.mark_sent(self._unmarked)
            self._unmarked = []
