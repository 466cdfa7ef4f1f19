"""Notifications: exchange, queues, and the envelope.

An event travels in the standard oslo.messaging notification envelope 2.0, so that a plain notification listener can read it.
``message_id`` is the event's identity (publishing it again keeps it); ``_unique_id`` is fresh for each attempt, because an
oslo.messaging listener never acknowledges a message whose ``_unique_id`` it has seen (measured; see messaging facts).
"""

import json
import uuid
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from kombu import Exchange, Queue
from pydantic_core import from_json

from compute_agent.contract.topics import (
    DEAD_EXCHANGE_NAME,
    EVENTS_EXCHANGE_NAME,
    HEARTBEAT_ROUTING_KEY,
    Severity,
    build_consumer_exchange_name,
    routing_key,
)

EVENTS_EXCHANGE = Exchange(EVENTS_EXCHANGE_NAME, type="topic", durable=True)
DEAD_EXCHANGE = Exchange(DEAD_EXCHANGE_NAME, type="fanout", durable=True)

HEARTBEAT_TYPE = "agent.heartbeat"
HEARTBEAT_TTL_MS = 60_000

_NO_DELIVERY_LIMIT = 2**31 - 1
"""RabbitMQ 4 drops what a quorum queue delivered 20 times; how often a recorder died says nothing about an event. -1 means the same only
since 4.0: earlier releases refuse it."""

RECORDER_QUEUES: tuple[Queue, ...] = tuple(
    Queue(
        "crashcart.recorder",
        EVENTS_EXCHANGE,
        routing_key=routing_key(severity),
        durable=True,
        queue_arguments={
            "x-queue-type": "quorum",
            "x-single-active-consumer": True,
            "x-delivery-limit": _NO_DELIVERY_LIMIT,
            # What an operator's own policy takes away from here is kept as well; "at-least-once" needs "reject-publish".
            "x-dead-letter-exchange": DEAD_EXCHANGE.name,
            "x-dead-letter-strategy": "at-least-once",
            "x-overflow": "reject-publish",
        },
    )
    for severity in Severity
)
"""The recorder's one queue, once per binding. Agents declare and bind it too: no event is dropped before a recorder ran."""

DEAD_LETTER_QUEUE = Queue(
    "crashcart.recorder.dead",
    DEAD_EXCHANGE,
    durable=True,
    queue_arguments={"x-queue-type": "quorum", "x-delivery-limit": _NO_DELIVERY_LIMIT},
)
"""What the broker gave up on, by an operator's limit on length, age or deliveries; the recorder drains it as well."""

HEARTBEAT_QUEUE = Queue(
    "crashcart.heartbeats",
    EVENTS_EXCHANGE,
    routing_key=HEARTBEAT_ROUTING_KEY,
    durable=True,
    queue_arguments={
        # One reader at a time: what comes back to one says that all before it was read, not that it waits with another one.
        "x-single-active-consumer": True,
        "x-message-ttl": HEARTBEAT_TTL_MS,
        "x-max-length": 100_000,
        "x-overflow": "drop-head",
    },
)


def build_consumer_exchange(name: str) -> Exchange:
    """A consumer's own, to which all events are passed on: an oslo.messaging listener declares the exchange that it listens to, and who may
    declare an exchange may delete it."""
    return Exchange(build_consumer_exchange_name(name), type="topic", durable=True)


@dataclass(frozen=True)
class Notification:
    """One message as read from or given to the broker; ``payload`` is plain JSON, known or not."""

    message_id: str
    event_type: str
    publisher_id: str
    severity: str
    timestamp: str
    payload: dict[str, Any]


_LONGEST_NAME = 255
"""Characters of what names a message, its type and its publisher: what a database and a line of a log take."""


class UnreadableNotification(Exception):
    """Raised when a message is not an envelope that we can read; the message belongs on the dead-letter shelf."""


def encode(notification: Notification) -> bytes:
    """The body to publish; each call makes a fresh ``_unique_id``."""
    message = {
        "message_id": notification.message_id,
        "publisher_id": notification.publisher_id,
        "event_type": notification.event_type,
        "priority": notification.severity.upper(),
        "payload": notification.payload,
        "timestamp": notification.timestamp,
        "_unique_id": uuid.uuid4().hex,
    }
    return json.dumps({"oslo.version": "2.0", "oslo.message": json.dumps(message)}).encode()


def decode(body: bytes | str) -> Notification:
    """Read an envelope 2.0.

    :raises UnreadableNotification: when it is none; the text says what is wrong with it.
    """
    try:
        envelope = _read_json(body)
        message = _read_json(envelope["oslo.message"])
        notification = Notification(
            message_id=message["message_id"],
            event_type=message["event_type"],
            publisher_id=message["publisher_id"],
            severity=message["priority"].lower(),
            timestamp=message["timestamp"],
            payload=message["payload"],
        )
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise UnreadableNotification(f"not an oslo.messaging envelope 2.0: {error!r}") from error
    names = (notification.message_id, notification.event_type, notification.publisher_id)
    for text in (*names, notification.timestamp):
        if not isinstance(text, str):
            raise UnreadableNotification("message_id, event_type, publisher_id, timestamp must be text")
    if not isinstance(notification.payload, dict):
        raise UnreadableNotification("payload must be an object")
    for name in names:
        if len(name) > _LONGEST_NAME or not name.isprintable():
            raise UnreadableNotification(f"message_id, event_type, publisher_id must be {_LONGEST_NAME} printable characters at most")
    return notification


def _read_json(text: bytes | str) -> Any:
    """With pydantic's reader, which takes a third of the time that json's does; what it refuses and json takes (half of a surrogate pair, a
    hundred levels more) is read as well."""
    try:
        return from_json(text, cache_strings="keys")
    except ValueError:
        return json.loads(text)


def format_timestamp(moment: datetime) -> str:
    """The envelope's own time format: UTC without a zone, as oslo.messaging writes it."""
    return moment.strftime("%Y-%m-%d %H:%M:%S.%f")
