"""The queue of one consumer: its name, its limits, and what of the events goes into it. The exchange is everybody's and not declared here.

An account has the queues that its name allows: a consumer's, ``consumer.NAME``, those called ``consumer.NAME`` and ``consumer.NAME.*``,
and a controller's likewise; the gateway's what begins with ``crashcart.``.
"""

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from compute_agent.contract.notifications import EVENTS_EXCHANGE
from compute_agent.contract.topics import CONSUMER_PREFIX, CONTROLLER_PREFIX, Severity, routing_key

MAX_LENGTH = 100_000
"""Events in a queue at most; the oldest make room for new ones, and are then missed as a gap."""
MAX_BYTES = 256 * 2**20
TEMPORARY_KEEP_MS = 60_000
"""That a temporary queue outlives its reader, so that a connection which breaks loses nothing if it comes back within."""
KEEP_MS = 7 * 24 * 3_600_000
"""That a kept queue which nobody reads stays."""
_NO_DELIVERY_LIMIT = 2**31 - 1
"""As of the recorder's queue: how often a reader died says nothing about an event."""


@dataclass(frozen=True)
class EventQueue:
    """A queue as :class:`~compute_agent.consumer.follower.Follower` declares and binds it at each connection.

    :param is_kept: it stays when its reader ends, and what it has not acknowledged comes again to the next one
    """

    name: str
    is_kept: bool
    arguments: Mapping[str, Any] = field(hash=False)

    def declare(self, channel: Any) -> None:
        """Declare and bind, all severities: with fewer the sequences would have holes that say nothing.

        :raises amqp.exceptions.NotFound: there is no exchange of events yet: the first agent or gateway makes it.
        :raises amqp.exceptions.PreconditionFailed: it exists with other limits.
        :raises amqp.exceptions.AccessRefused: the account may not.
        """
        channel.queue_declare(self.name, durable=True, auto_delete=False, arguments=dict(self.arguments))
        for severity in Severity:
            channel.queue_bind(self.name, EVENTS_EXCHANGE.name, routing_key(severity))


def create_temporary_queue(account: str = "") -> EventQueue:
    """A queue of a name of its own that goes a minute after its reader is gone.

    :param account: who will declare it, because what an account may use goes by names
    """
    owner = account if account.startswith((CONSUMER_PREFIX, CONTROLLER_PREFIX)) else "crashcart.consumer"
    arguments = {
        "x-expires": TEMPORARY_KEEP_MS,
        "x-max-length": MAX_LENGTH,
        "x-max-length-bytes": MAX_BYTES,
        "x-overflow": "drop-head",
    }
    return EventQueue(f"{owner}.{uuid.uuid4().hex}", is_kept=False, arguments=arguments)


def create_kept_queue(name: str) -> EventQueue:
    """A queue that collects while its reader is away, up to its limits, and is gone a week after the last one.

    A second reader waits until the first one is gone: of two at once each would see half of the events.
    """
    arguments = {
        "x-queue-type": "quorum",
        "x-single-active-consumer": True,
        "x-delivery-limit": _NO_DELIVERY_LIMIT,
        "x-expires": KEEP_MS,
        "x-max-length": MAX_LENGTH,
        "x-max-length-bytes": MAX_BYTES,
        "x-overflow": "drop-head",
    }
    return EventQueue(name, is_kept=True, arguments=arguments)
