"""Names of what RPC and events use at the broker, for those who need the names alone: oslo.messaging takes half a second to import."""

from enum import StrEnum

RPC_EXCHANGE = "crashcart"
RPC_TOPIC = "compute_agent"
"""Casts: what agents are to do."""
CALL_TOPIC = "compute_agent_calls"
"""Calls: what agents are asked. A topic of their own, so that a reply which hangs holds up no cast."""

EVENTS_EXCHANGE_NAME = "crashcart.events"
DEAD_EXCHANGE_NAME = "crashcart.dead"
EVENT_TOPIC = "notifications"
"""Topic for listeners: oslo.messaging turns it into the routing keys ``notifications.<severity>``."""
HEARTBEAT_ROUTING_KEY = "heartbeats"

CONSUMER_PREFIX = "consumer."
"""Of the names of others' accounts, and of the queues of events that these may have, which the broker's policy bounds."""
CONTROLLER_PREFIX = "controller."
"""The same of those who tell agents themselves what to do, beside the gateway."""


class Severity(StrEnum):
    """The notification's priority, which is also the tail of its routing key."""

    INFO = "info"
    WARN = "warn"
    ERROR = "error"


def routing_key(severity: Severity) -> str:
    return f"{EVENT_TOPIC}.{severity}"


def build_lock_name(host: str) -> str:
    """The exclusive queue that only one agent of a host can have."""
    return f"compute_agent_lock.{host}"


def build_consumer_exchange_name(name: str) -> str:
    """Of a consumer's own exchange, see ``notifications.build_consumer_exchange``."""
    return f"{CONSUMER_PREFIX}{name}"
