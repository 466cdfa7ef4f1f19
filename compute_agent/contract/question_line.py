"""Questions to agents and their answers over one connection to the broker, in the form of oslo.messaging's calls.

oslo.messaging's own client holds the caller's thread for as long as the broker likes (a call with a timeout of 5 s came back after 81 s),
so that each call which is to be bounded needs one more; and it never finds its answers again when the broker lost their queue in a crash.
Here one thread does all that the connection needs; who asks only waits for what comes back, by the clock. The queue for answers lives as
long as the connection does, and each connection has a new one.

A broker that is frozen or in alarm says nothing at all. So when an answer is overdue the broker is asked for a sign of life, and who waits
in vain learns whether it was the agent that did not answer, or the broker that did not carry the question.
"""

import json
import logging
import os
import queue
import select
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import amqp
import amqp.spec

from compute_agent.contract.broker import BROKER_ERRORS, Link

LOG = logging.getLogger(__name__)

_LOOK_EVERY = 3.0
"""Seconds between two looks at the connection when nothing is asked: it has to answer the broker's heartbeats."""
_PROBE_AFTER = 0.2
"""The part of a question's time after which the broker is asked for a sign of life, if none has come since it was sent."""
_READ_AT_ONCE = 1 << 16
"""py-amqp asks the kernel for seven bytes, then for some more, then for one; what is read beyond that it keeps."""
_ENVELOPE_VERSION = "2.0"


class NoReply(Exception):
    """Nothing came back in time, though the broker is there."""


class BrokerAway(Exception):
    """The question was not carried, as far as is known: the broker is away, frozen or in alarm."""


class NobodyThere(Exception):
    """The broker knows no queue of that name."""


class AskedInVain(Exception):
    """The other side failed, or refused; the text is what it says of that, which is for the log."""


class _Question:
    """``outcome`` gets the result or an exception, once."""

    def __init__(self, routing_key: str, message: Mapping[str, Any], timeout: float) -> None:
        self.id = uuid.uuid4().hex
        self.routing_key = routing_key
        self.message = message
        self.timeout = timeout
        self.asked_at = time.monotonic()
        self.sent_at: float | None = None
        self.outcome: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def encode(self, reply_queue: str) -> amqp.Message:
        """As oslo.messaging reads it."""
        inner = {**self.message, "_msg_id": self.id, "_reply_q": reply_queue, "_timeout": None, "_unique_id": uuid.uuid4().hex}
        body = json.dumps({"oslo.version": _ENVELOPE_VERSION, "oslo.message": json.dumps(inner)})
        expiration = str(int(self.timeout * 1000))  # nobody waits for it any longer
        properties = {"content_type": "application/json", "content_encoding": "utf-8", "message_id": self.id, "expiration": expiration}
        return amqp.Message(body, delivery_mode=1, **properties)


class QuestionLine:
    """Thread-safe. Neither a connection nor a thread is there before the first question.

    :param open_link: connects once, as :meth:`compute_agent.contract.broker.BrokerAddress.open_link`
    :param exchange: the topic exchange of RPC
    """

    def __init__(self, open_link: Callable[..., Link], *, exchange: str) -> None:
        self._open_link = open_link
        self._exchange = exchange
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._wake = -1
        self._unsent: deque[_Question] = deque()
        self._waiting: dict[str, _Question] = {}
        self._heard_at = 0.0
        self._probed_at = 0.0
        self._is_blocked = False

    def ask(self, routing_key: str, message: Mapping[str, Any], timeout: float) -> Any:
        """Wait for the answer, ``timeout`` seconds at most.

        :param message: what oslo.messaging's dispatcher wants: ``method``, ``args``, ``version``, and ``_context_…``
        :raises NoReply, BrokerAway, NobodyThere, AskedInVain: there is none.
        """
        question = _Question(routing_key, message, timeout)
        self._unsent.append(question)
        with self._lock:
            if self._thread is None:
                self._start()
        os.eventfd_write(self._wake, 1)
        try:
            outcome = question.outcome.get(timeout=timeout)
        except queue.Empty:
            outcome = self._give_up(question)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def _start(self) -> None:
        self._wake = os.eventfd(0, os.EFD_NONBLOCK)
        self._thread = threading.Thread(target=self._run, name="agent-questions", daemon=True)
        self._thread.start()

    def _give_up(self, question: _Question) -> Exception:
        self._waiting.pop(question.id, None)
        if question.sent_at is None or self._heard_at <= question.sent_at:
            return BrokerAway(f"no sign of the broker for {question.timeout:g} s")
        return NoReply(f"no answer within {question.timeout:g} s")

    # What follows is done by the line's own thread.

    def _run(self) -> None:
        while True:
            select.select([self._wake], [], [])  # a connection is made for a question, and not before
            os.eventfd_read(self._wake)
            try:
                self._serve()
            except BROKER_ERRORS as error:
                LOG.warning("questions to agents have no connection to the broker: %r", error)
                self._fail_all(error)
            except Exception as error:
                LOG.exception("questions to agents: a fault of this thread; it goes on with a new connection")
                self._fail_all(error)

    def _fail_all(self, error: Exception) -> None:
        for question_id in list(self._waiting):
            question = self._waiting.pop(question_id, None)
            if question is not None:
                question.outcome.put(BrokerAway(repr(error)))
        while self._unsent:
            self._unsent.popleft().outcome.put(BrokerAway(repr(error)))

    def _serve(self) -> None:
        """:raises BROKER_ERRORS: the connection is lost, or could not be made."""
        self._is_blocked = False
        link = self._open_link(on_blocked=self._note_blocked, on_unblocked=self._note_unblocked)
        try:
            channel = link.channel()
            reply_queue = f"reply_{uuid.uuid4().hex}"
            channel.exchange_declare(self._exchange, "topic", passive=True)
            channel.queue_declare(reply_queue, exclusive=True, auto_delete=True)
            channel.events["basic_return"].add(self._note_returned)
            channel.basic_consume(reply_queue, no_ack=True, callback=self._take)
            self._exchange_words(link, channel, reply_queue)
        finally:
            link.collect()

    def _exchange_words(self, link: Link, channel: amqp.Channel, reply_queue: str) -> None:
        transport = link.transport
        read = transport._quick_recv
        transport._quick_recv = lambda _size: read(_READ_AT_ONCE)
        count_decrypted = getattr(link.sock, "pending", lambda: 0)
        poll = select.poll()
        poll.register(link.sock, select.POLLIN)
        poll.register(self._wake, select.POLLIN)
        due = 0.0
        while True:
            readable = [descriptor for descriptor, _ in poll.poll(self._find_pause() * 1000)]
            if self._wake in readable:
                os.eventfd_read(self._wake)
            self._send(channel, reply_queue)
            if link.sock.fileno() in readable:
                link.blocking_read()
                self._heard_at = time.monotonic()
            while transport._read_buffer or count_decrypted():
                link.blocking_read()
            now = time.monotonic()
            self._probe(channel, now)
            if now >= due:
                due = now + _LOOK_EVERY
                link.heartbeat_tick()

    def _find_pause(self) -> float:
        """Seconds until there is something to do although nothing happens."""
        timeouts = [question.timeout for question in list(self._waiting.values())]
        return min([_LOOK_EVERY, *(timeout * _PROBE_AFTER for timeout in timeouts[:1])])

    def _send(self, channel: amqp.Channel, reply_queue: str) -> None:
        while self._unsent:
            question = self._unsent.popleft()
            if self._is_blocked:
                question.outcome.put(BrokerAway("the broker is in alarm"))
                continue
            if time.monotonic() - question.asked_at >= question.timeout:
                continue
            self._waiting[question.id] = question
            question.sent_at = time.monotonic()
            # Not basic_publish: it looks for what has come first, which is done here anyway.
            arguments = (0, self._exchange, question.routing_key, True, False)  # mandatory, not immediate
            channel.send_method(amqp.spec.Basic.Publish, "Bssbb", arguments, question.encode(reply_queue))

    def _probe(self, channel: amqp.Channel, now: float) -> None:
        """Ask for something that changes nothing, when an answer is overdue and nothing at all was heard since the question."""
        oldest = next(iter(list(self._waiting.values())), None)
        if oldest is None or oldest.sent_at is None or self._heard_at > oldest.sent_at or self._probed_at > oldest.sent_at:
            return
        if now - oldest.sent_at >= oldest.timeout * _PROBE_AFTER:
            self._probed_at = now
            channel.send_method(amqp.spec.Basic.Qos, "lBb", (0, 0, False))

    def _take(self, message: amqp.Message) -> None:
        reply = json.loads(json.loads(message.body)["oslo.message"])
        if not reply["ending"]:
            return
        question = self._waiting.pop(reply["_msg_id"], None)
        if question is not None:
            failure = reply["failure"]
            question.outcome.put(reply["result"] if failure is None else AskedInVain(str(failure)))

    def _note_returned(self, error: Exception, _exchange: str, routing_key: str, message: amqp.Message) -> None:
        question = self._waiting.pop(message.properties["message_id"], None)
        if question is not None:
            question.outcome.put(NobodyThere(f"the broker has no queue for {routing_key}: {error}"))

    def _note_blocked(self, reason: str) -> None:
        LOG.warning("agents cannot be asked, the broker is in alarm: %s", reason)
        self._is_blocked = True
        self._fail_all(BrokerAway(reason))

    def _note_unblocked(self) -> None:
        self._is_blocked = False
