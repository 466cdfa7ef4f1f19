"""The accounts that crashcart has at the broker, and what each of them may do there.

An agent's account takes casts and calls for its own host and tells events, heartbeats and replies; a consumer's hears events; a
controller's casts and calls and hears what comes of it; none does anything else. RabbitMQ asks for
*configure* to declare and to delete, for *write* to publish to an exchange and to bind a queue, for *read* to consume a queue and to
bind to an exchange; topic permissions then say which routing keys. What oslo.messaging makes necessary beyond that is told beside it.
"""

import base64
import hashlib
import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass

from compute_agent.contract.topics import (
    CALL_TOPIC,
    CONSUMER_PREFIX,
    CONTROLLER_PREFIX,
    DEAD_EXCHANGE_NAME,
    EVENT_TOPIC,
    EVENTS_EXCHANGE_NAME,
    HEARTBEAT_ROUTING_KEY,
    RPC_EXCHANGE,
    RPC_TOPIC,
    Severity,
    build_consumer_exchange_name,
    build_lock_name,
)

AGENT_PREFIX = "agent."
GATEWAY_ACCOUNT = "gateway"
_NOTHING = "^$"
_REPLIES = r"reply_[0-9a-f]{32}"
"""Queues of oslo.messaging, one for each process that calls."""
_DEFAULT_EXCHANGE = "amq.default"
"""What RabbitMQ calls the exchange without a name where it asks for permissions."""


@dataclass(frozen=True)
class TopicPermission:
    """Which routing keys of one topic exchange may be published with (``write``) and bound to (``read``)."""

    exchange: str
    write: str
    read: str


@dataclass(frozen=True)
class Permissions:
    """Patterns for names of queues and exchanges, as RabbitMQ matches them: anywhere in the name unless anchored."""

    configure: str
    write: str
    read: str
    topics: tuple[TopicPermission, ...] = ()


def build_agent_account(host: str) -> str:
    """The account of one host's agent."""
    return f"{AGENT_PREFIX}{host}"


def build_agent_permissions(host: str) -> Permissions:
    """What the agent of ``host`` needs.

    Declaring the RPC exchange takes *configure*, which would also delete it, and each RPC server of oslo.messaging consumes the topic's
    common queue and a fanout queue of a random name: crashcart sends nothing to either, so that all agents may have all of these.
    """
    host_pattern = re.escape(host)
    topics = _any_of([RPC_TOPIC, CALL_TOPIC])
    fanouts = rf"{topics}_fanout(_[0-9a-f]{{32}})?"
    queues = rf"{topics}(\.{host_pattern})?|{fanouts}"
    severities = _any_of(list(Severity))
    return Permissions(
        configure=_exactly(queues, re.escape(RPC_EXCHANGE), re.escape(build_lock_name(host))),
        write=_exactly(queues, re.escape(EVENTS_EXCHANGE_NAME), re.escape(_DEFAULT_EXCHANGE)),
        read=_exactly(queues, re.escape(RPC_EXCHANGE)),
        topics=(
            TopicPermission(RPC_EXCHANGE, write=_NOTHING, read=_exactly(rf"{topics}(\.{host_pattern})?")),
            TopicPermission(EVENTS_EXCHANGE_NAME, write=_exactly(rf"{EVENT_TOPIC}\.{severities}", HEARTBEAT_ROUTING_KEY), read=_NOTHING),
        ),
    )


def build_consumer_account(name: str) -> str:
    """The account of one program that hears events."""
    return f"{CONSUMER_PREFIX}{name}"


def build_consumer_permissions(name: str) -> Permissions:
    """What the consumer of that name needs: queues and an exchange of its own (see ``notifications.build_consumer_exchange``), named as
    its account or that, a dot and more, bound to events.

    No heartbeats, and nothing is published: not by the exchange without a name either, which reaches every queue. ``#`` as a binding
    would bring heartbeats too.

    :param name: without a dot, so that none is the beginning of another's names
    """
    own = rf"{re.escape(build_consumer_exchange_name(name))}(\..*)?"
    keys = rf"{EVENT_TOPIC}\.{_any_of([*Severity, '*', '#'])}"
    return Permissions(
        configure=_exactly(own),
        write=_exactly(own),
        read=_exactly(own, re.escape(EVENTS_EXCHANGE_NAME)),
        topics=(TopicPermission(EVENTS_EXCHANGE_NAME, write=_NOTHING, read=_exactly(keys)),),
    )


def build_controller_account(name: str) -> str:
    """The account of one program that tells agents itself what to do."""
    return f"{CONTROLLER_PREFIX}{name}"


def build_controller_permissions(name: str) -> Permissions:
    """What the controller of that name needs: to cast to and call any host, to hear events and heartbeats on queues of its own (named as
    its account, or that, a dot and more), and reply queues. It tells no events, and takes nothing out of others' queues.

    Declaring the RPC exchange, which oslo.messaging does before it publishes, takes *configure*: as for agents, it would also delete it.

    :param name: without a dot, so that none is the beginning of another's names
    """
    own = rf"{re.escape(build_controller_account(name))}(\..*)?"
    keys = rf"{EVENT_TOPIC}\.{_any_of([*Severity, '*', '#'])}"
    rpc = re.escape(RPC_EXCHANGE)
    return Permissions(
        configure=_exactly(own, rpc, _REPLIES),
        write=_exactly(own, rpc),
        read=_exactly(own, re.escape(EVENTS_EXCHANGE_NAME), _REPLIES),
        topics=(
            TopicPermission(RPC_EXCHANGE, write=_exactly(rf"{_any_of([RPC_TOPIC, CALL_TOPIC])}\..+"), read=_NOTHING),
            TopicPermission(EVENTS_EXCHANGE_NAME, write=_NOTHING, read=_exactly(keys, HEARTBEAT_ROUTING_KEY)),
        ),
    )


def build_gateway_permissions() -> Permissions:
    """What API and engine need: to cast and call, to hear everything, and a reply queue for each process that calls."""
    own = rf"{re.escape(RPC_EXCHANGE)}(\..*)?"  # the exchanges and queues of events are all named so
    assert all(name.startswith(f"{RPC_EXCHANGE}.") for name in (EVENTS_EXCHANGE_NAME, DEAD_EXCHANGE_NAME))
    return Permissions(configure=_exactly(own, _REPLIES), write=_exactly(own), read=_exactly(own, _REPLIES))


def hash_password(password: str) -> str:
    """RabbitMQ's rabbit_password_hashing_sha256: four bytes of salt before the digest of salt and password."""
    salt = secrets.token_bytes(4)
    return base64.b64encode(salt + hashlib.sha256(salt + password.encode()).digest()).decode()


def _any_of(words: Iterable[str]) -> str:
    return f"({'|'.join(re.escape(word) for word in words)})"


def _exactly(*patterns: str) -> str:
    return f"^({'|'.join(patterns)})$"
