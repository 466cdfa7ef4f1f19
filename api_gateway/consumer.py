"""One queue's messages, in batches, to a recording step; acknowledged after the step has committed them.

Nothing is ever requeued by a nack or a cancel, which changes the order (measured): when a batch cannot be recorded the whole
connection is let go, and the broker gives back everything that was not acknowledged, in order, once the store can be written again.
A message that was recorded and not acknowledged comes twice, and the record knows it by its id.
"""

import logging
import math
import select
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import amqp
import kombu

from api_gateway.received import Received
from api_gateway.store import StoreBusy, StoreUnavailable
from compute_agent.contract.broker import BROKER_ERRORS, Link

LOG = logging.getLogger(__name__)

_IDLE_WAIT = 0.5
"""Seconds that a quiet queue is waited for before the stop signal and the connection's heartbeat are looked at."""
_MORE_WAIT = 0.001
"""Seconds that a begun batch waits for one more message: what was published together comes within less."""
_READ_AHEAD = 8192
"""Bytes: about ten events."""
_FIRST_PAUSE = 0.1
_LONGEST_PAUSE = 0.5
"""Seconds between tries to reach broker or store: what the return of either may cost an event."""
_LONGEST_FULL_PAUSE = 2.0
"""Seconds between tries of a store that seems to be well and takes nothing, as on a full disk: each costs the messages a redelivery."""


class QueueConsumer:
    """Consumes one queue until it is told to stop; lives through a broker or a store that is away.

    :param open_link: connects to the broker, once
    :param bindings: the queue to consume, once per binding; declared at each connection
    :param record: takes a batch of messages in; has committed it when it returns. May be called again with the same messages.
    :param try_store: raises StoreBusy or StoreUnavailable as long as the store cannot be written
    :param batch_size: messages at most in one call of ``record``; twice as many are on their way to us at most
    :param gathering: seconds at most that a begun batch waits for more, of what is in no hurry: each batch costs a commit
    :param spacing: seconds between two batches at least, unless the later one is full: what comes alone is recorded at once
    """

    def __init__(
        self,
        open_link: Callable[[], Link],
        bindings: Sequence[kombu.Queue],
        record: Callable[[Sequence[Received]], None],
        *,
        try_store: Callable[[], None],
        batch_size: int = 100,
        gathering: float = 0.0,
        spacing: float = 0.0,
    ) -> None:
        self._open_link = open_link
        self._bindings = bindings
        self._record = record
        self._try_store = try_store
        self._batch_size = batch_size
        self._gathering = gathering
        self._spacing = spacing
        self._recorded_at = -spacing
        self._arrived: deque[amqp.Message] = deque()
        self._is_listening = False
        self._has_recorded = False
        self._stop = threading.Event()
        self.name: str = bindings[0].name

    @property
    def is_listening(self) -> bool:
        """Whether this queue is consumed now."""
        return self._is_listening

    def stop(self) -> None:
        """Make ``run`` return after the batch at hand; from any thread."""
        self._stop.set()

    def run(self) -> None:
        """Consume until :meth:`stop`."""
        pause = full_pause = 0.0
        while not self._stop.is_set():
            try:
                self._await_store()
                self._consume()
            except (StoreBusy, StoreUnavailable) as error:
                is_news = full_pause == 0.0 or self._has_recorded
                full_pause = _FIRST_PAUSE if is_news else min(2 * full_pause, _LONGEST_FULL_PAUSE)
                level = logging.WARNING if is_news else logging.DEBUG
                LOG.log(level, "%s: not consuming, the store cannot be written: %s", self.name, error)
                self._has_recorded = False
                self._stop.wait(full_pause)
            except BROKER_ERRORS as error:
                is_news = pause == 0.0 or self._is_listening
                pause = _FIRST_PAUSE if is_news else min(2 * pause, _LONGEST_PAUSE)
                LOG.log(logging.WARNING if is_news else logging.DEBUG, "%s: not consuming, the broker is away: %r", self.name, error)
                self._is_listening = False
                self._stop.wait(pause)
            finally:
                self._is_listening = False

    def _await_store(self) -> None:
        """Return when the store can be written or we are to stop: each connection that fails costs its messages one redelivery."""
        pause = _FIRST_PAUSE
        while not self._stop.is_set():
            try:
                self._try_store()
            except (StoreBusy, StoreUnavailable):
                self._stop.wait(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
            else:
                return

    def _consume(self) -> None:
        """One connection's life.

        :raises StoreBusy, StoreUnavailable: out of ``record``; what it had is not acknowledged.
        :raises BROKER_ERRORS: the broker went away.
        """
        if self._stop.is_set():
            return
        self._arrived.clear()
        link = self._open_link()
        read_ahead(link)
        try:
            channel = link.channel()
            for queue in self._bindings:
                queue(channel).declare()
            channel.basic_qos(0, 2 * self._batch_size, False)
            # Not with kombu's own consumer: it uncompresses what a header says is compressed, and raises on what is not.
            channel.basic_consume(self.name, callback=self._arrived.append)
            LOG.info("%s: consuming", self.name)
            self._is_listening = True
            while not self._stop.is_set():
                self._step(link, channel)
            link.close()  # without a basic.cancel: after one, RabbitMQ gives back the rest behind newer messages (measured)
        finally:
            # Lets the socket go without a farewell that a frozen broker would not answer; after close() it does nothing.
            link.collect()

    def _step(self, link: Link, channel: Any) -> None:
        """Collect one batch, record it, acknowledge it."""
        if not self._arrived:
            _await_message(link, _IDLE_WAIT)
        gathered_at = max(time.monotonic() + self._gathering, self._recorded_at + self._spacing)
        while 0 < len(self._arrived) < self._batch_size and not self._stop.is_set():
            left = gathered_at - time.monotonic()
            if not has_more(link, max(left, _MORE_WAIT)) or not _read_frame(link):
                break
        link.heartbeat_tick()
        batch = [self._arrived.popleft() for _ in range(min(len(self._arrived), self._batch_size))]
        if batch:
            self._record([_receive(message) for message in batch])
            self._has_recorded = True
            self._recorded_at = time.monotonic()
            channel.basic_ack(batch[-1].delivery_tag, multiple=True)


def read_ahead(link: Link) -> None:
    """Have py-amqp read what has arrived at once: it reads each of a message's frames in three pieces, and each piece is two calls of the
    system. What is more than the piece it keeps for the next one, as after a read that timed out."""
    receive = link.transport._quick_recv
    link.transport._quick_recv = lambda size: receive(max(size, _READ_AHEAD))


def has_more(link: Link, seconds: float) -> bool:
    """Whether something can be read within a time that may be too short for the socket's own timeout."""
    if link.transport._read_buffer or (isinstance(link.sock, ssl.SSLSocket) and link.sock.pending()):
        return True
    poll = select.poll()  # unlike select(), for any descriptor: the readers of an event stream may have the first thousand
    poll.register(link.sock, select.POLLIN)
    return bool(poll.poll(math.ceil(seconds * 1000)))


def _await_message(link: Link, timeout: float) -> None:
    """Read until a message is there, or nothing has come for ``timeout`` seconds."""
    with suppress(TimeoutError):
        link.drain_events(timeout=timeout)


def _read_frame(link: Link) -> bool:
    """Read a frame of which something has arrived; False when the rest does not come in the time that all reads of a link have."""
    try:
        link.blocking_read()
    except TimeoutError:
        return False
    return True


def _receive(message: amqp.Message) -> Received:
    """With the body as it was sent: py-amqp decodes those with a content encoding."""
    body = message.body
    return Received(body.encode() if isinstance(body, str) else bytes(body), message.properties.get("user_id"))
