"""Follow a queue of events: in order, each once, acknowledged when the caller is done with it, over a connection that comes back by itself.

What is held back for its order stays unacknowledged, so a consumer that dies loses nothing of a kept queue. What had been given and not
acknowledged when the connection broke comes again and is recognised.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from typing import Any

import amqp
import amqp.exceptions

from compute_agent.consumer.ordering import Event, Ordering, Told, find_key
from compute_agent.consumer.queues import EventQueue, create_kept_queue, create_temporary_queue
from compute_agent.consumer.senders import Senders, find_sender
from compute_agent.contract.broker import BROKER_ERRORS, BrokerAddress, Link, list_accounts
from compute_agent.contract.notifications import Notification, UnreadableNotification, decode

_IDLE_WAIT = 0.5
"""Seconds that a quiet queue is waited for before the stop signal, what was held back and the connection's heartbeat are looked at."""
_LONGEST_PAUSE = 2.0
"""Seconds between tries to reach the broker at most."""
_MORE_THAN_HELD = 100
_LARGEST_PREFETCH = 65_535
_REFUSALS = (amqp.exceptions.AccessRefused, amqp.exceptions.PreconditionFailed, amqp.exceptions.NotAllowed)


class QueueRefused(Exception):
    """The broker does not let this account in, or have this queue, or has it with other limits; trying again will not help."""


@dataclass(frozen=True)
class Unreadable:
    """A message that is no notification; it is acknowledged like any other, or it would come for ever."""

    reason: str
    body: bytes


@dataclass(frozen=True)
class Disbelieved:
    """An event that is not its host's own word (see :class:`Senders`); acknowledged like any other, and put into no order."""

    reason: str
    notification: Notification
    sender: str | None


@dataclass(frozen=True)
class _Waiting:
    """What the caller has not had yet; ``key`` is what its deliveries are found by."""

    told: Told | Unreadable | Disbelieved
    key: Hashable = None


class Follower:
    """One reader of one queue; one thread at a time calls :meth:`follow`.

    While the caller works on an event nothing is read, and after some 20 s the broker gives the connection up. Nothing is lost by that: of
    a temporary queue, within a minute.

    :param open_link: connects to the broker, once
    :param ordering: by default one that remembers nothing from before
    :param on_state: told in a sentence when the broker is away, and when the queue is read (again)
    :param senders: whom to believe; None: whoever may publish
    :param first_pause: seconds until the broker is tried again; doubled from try to try
    """

    def __init__(
        self,
        open_link: Callable[[], Link],
        queue: EventQueue,
        *,
        ordering: Ordering | None = None,
        on_state: Callable[[str], None] = lambda _sentence: None,
        senders: Senders | None = None,
        clock: Callable[[], float] = time.monotonic,
        first_pause: float = 0.1,
    ) -> None:
        self.queue = queue
        self.ordering = ordering or Ordering()
        self._open_link = open_link
        self._on_state = on_state
        self._senders = senders
        self._clock = clock
        self._first_pause = first_pause
        self._arrived: deque[amqp.Message] = deque()
        self._waiting: deque[_Waiting] = deque()
        self._given: _Waiting | None = None
        self._unfinished: set[Hashable] = set()
        self._tags: dict[Hashable, list[int]] = {}
        self._channel: Any = None
        self._has_listened = False
        self._away_since: float | None = None
        self._time_away = 0.0
        self._stop = threading.Event()

    def stop(self) -> None:
        """Make :meth:`follow` end within a second or, with a broker that hangs, within ten; from any thread, or a signal."""
        self._stop.set()

    def save(self) -> dict[str, Any]:
        """For ``Ordering(saved=…)`` at the next start: all up to what was given last, when the work on that is done. In the loop over
        :meth:`follow`; behind it what the loop was left with counts as not done."""
        left = (one.told.notification for one in self._waiting if one is not self._given and isinstance(one.told, Event))
        return self.ordering.save(left)

    def follow(self) -> Iterator[Told | Unreadable | Disbelieved]:
        """What happens, until :meth:`stop`. Asking for the next one acknowledges the one before; leaving the loop does not.

        :raises QueueRefused: at the begin only; later the broker is taken for one that is being repaired.
        """
        pause = self._first_pause
        while not self._stop.is_set():
            try:
                yield from self._follow_link()
            except BROKER_ERRORS as error:
                if isinstance(error, _REFUSALS) and not self._has_listened:
                    raise QueueRefused(f"the broker refuses queue {self.queue.name}: {error}") from error
                pause = self._first_pause if self._away_since is None else min(2 * pause, _LONGEST_PAUSE)
                if self._away_since is None:
                    self._away_since = self._clock()
                    if not self._stop.is_set():
                        self._on_state(f"the broker is away ({error}); trying again")
                self._stop.wait(pause)
        if not self.queue.is_kept:
            self._put(*self.ordering.give_up())
        while self._waiting and not self.queue.is_kept:
            yield self._waiting.popleft().told  # the queue is gone: nothing is left to acknowledge

    def _follow_link(self) -> Iterator[Told | Unreadable | Disbelieved]:
        """One connection's life; raises BROKER_ERRORS."""
        link = self._open_link()
        try:
            channel = link.channel()
            self.queue.declare(channel)
            channel.basic_qos(0, min(self.ordering.max_held + _MORE_THAN_HELD, _LARGEST_PREFETCH), False)
            self._arrived.clear()
            self._tags.clear()
            channel.basic_consume(self.queue.name, callback=self._arrived.append)
            self._channel, self._has_listened = channel, True
            self._end_absence()
            self._on_state(f"following {self.queue.name}")
            expires_at = self._clock()
            while not self._stop.is_set():
                while self._waiting and not self._stop.is_set():
                    self._given = self._waiting[0]
                    yield self._given.told
                    self._finish(self._waiting.popleft())
                self._read(link)
                if self._clock() >= expires_at:
                    self._put(*self.ordering.expire(self._count_time()))
                    expires_at = self._clock() + _IDLE_WAIT
            if not self.queue.is_kept:
                channel.queue_delete(self.queue.name)
            link.close()  # without a basic.cancel: after one, RabbitMQ gives back the rest behind newer messages (measured)
        finally:
            self._given = None
            link.collect()

    def _end_absence(self) -> None:
        if self._away_since is not None:
            self._time_away += self._clock() - self._away_since
            self._away_since = None

    def _count_time(self) -> float:
        """Seconds, but for those without a broker: what waits for an earlier event needs no patience while none can come."""
        return self._clock() - self._time_away

    def _read(self, link: Link) -> None:
        """Wait a moment for messages and take what came."""
        if not self._arrived:
            try:
                link.drain_events(timeout=_IDLE_WAIT)
            except TimeoutError:
                pass
        link.heartbeat_tick()
        while self._arrived:
            self._take(self._arrived.popleft())

    def _take(self, message: amqp.Message) -> None:
        body = message.body.encode() if isinstance(message.body, str) else bytes(message.body)
        try:
            notification = decode(body)
        except UnreadableNotification as error:
            self._put_aside(Unreadable(str(error), body), message)
            return
        sender = find_sender(message)
        objection = None if self._senders is None else self._senders.find_objection(notification, sender)
        if objection is not None:
            self._put_aside(Disbelieved(objection, notification, sender), message)
            return
        key = find_key(notification)
        self._tags.setdefault(key, []).append(message.delivery_tag)
        self._put(*self.ordering.take(notification, self._count_time(), sender=sender))
        if self.ordering.is_held(notification):
            self._unfinished.add(key)
        if key not in self._unfinished:
            self._acknowledge(key)

    def _put_aside(self, told: Unreadable | Disbelieved, message: amqp.Message) -> None:
        """What has no place among the others: it is given as it comes."""
        key: Hashable = object()
        self._tags[key] = [message.delivery_tag]
        self._waiting.append(_Waiting(told, key))

    def _put(self, *told: Told) -> None:
        for one in told:
            key = find_key(one.notification) if isinstance(one, Event) else None
            if key is not None:
                self._unfinished.add(key)
            self._waiting.append(_Waiting(one, key))

    def _finish(self, waiting: _Waiting) -> None:
        """The caller is done with it."""
        self._unfinished.discard(waiting.key)
        self._acknowledge(waiting.key)

    def _acknowledge(self, key: Hashable) -> None:
        for tag in self._tags.pop(key, ()):
            self._channel.basic_ack(tag)


def create_follower(
    transport_url: str,
    queue: str | None = None,
    *,
    tls: dict[str, Any] | None = None,
    ordering: Ordering | None = None,
    on_state: Callable[[str], None] = lambda _sentence: None,
    senders: Senders | None = None,
) -> Follower:
    """A follower of all events at a broker.

    :param transport_url: ``rabbit://account:password@host:5672/``, several hosts separated by commas
    :param queue: the name of a queue that is kept; None for a temporary one, which begins now
    :param tls: what kombu takes for ``ssl``
    :param senders: whom to believe; None: whoever may publish events
    :raises ValueError: the URL names no broker.
    """
    address = BrokerAddress(transport_url, name="crashcart-consumer", tls=tls)
    account = min(list_accounts(transport_url))
    made = create_temporary_queue(account) if queue is None else create_kept_queue(queue)
    return Follower(address.open_link, made, ordering=ordering, on_state=on_state, senders=senders)
