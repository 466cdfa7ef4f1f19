"""What a RabbitMQ vhost needs for crashcart, in the form that ``rabbitmqctl import_definitions`` and ``load_definitions`` take.

Users with hashes of their passwords, permissions, the policies, and the exchanges and queues of events: agents with accounts of their
own may not declare these, because a queue's dead-letter exchange cannot be declared by who may not read the queue. And an exchange for
each consumer, to which events are passed on.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from compute_agent.contract import accounts
from compute_agent.contract.accounts import Permissions
from compute_agent.contract.deadlines import LONGEST_DEADLINE_MS
from compute_agent.contract.notifications import (
    DEAD_EXCHANGE,
    DEAD_LETTER_QUEUE,
    EVENTS_EXCHANGE,
    HEARTBEAT_QUEUE,
    RECORDER_QUEUES,
    build_consumer_exchange,
)
from compute_agent.contract.topics import CONSUMER_PREFIX, CONTROLLER_PREFIX, EVENT_TOPIC

_AGENT_QUEUE_LENGTH = 10_000
_CONSUMER_KEEP_MS = 7 * 24 * 3_600_000
_CONSUMER_QUEUE_BYTES = 256 * 2**20
_NOBODY: Mapping[str, str] = MappingProxyType({})


def build_definitions(
    gateways: Mapping[str, str],
    agents: Mapping[str, str],
    consumers: Mapping[str, str] = _NOBODY,
    *,
    controllers: Mapping[str, str] = _NOBODY,
    vhost: str = "/",
) -> dict[str, Any]:
    """Everything, for the accounts that are given; others that the broker has stay as they are.

    :param gateways: the gateway's accounts and their passwords
    :param agents: hosts, and the passwords of their agents' accounts
    :param consumers: names of programs that hear events, and the passwords of their accounts
    :param controllers: names of programs that tell agents themselves what to do, and the passwords of their accounts
    """
    roles = {name: (password, accounts.build_gateway_permissions()) for name, password in gateways.items()}
    roles |= {accounts.build_agent_account(host): (password, accounts.build_agent_permissions(host)) for host, password in agents.items()}
    roles |= {
        accounts.build_consumer_account(name): (password, accounts.build_consumer_permissions(name)) for name, password in consumers.items()
    }
    roles |= {
        accounts.build_controller_account(name): (password, accounts.build_controller_permissions(name))
        for name, password in controllers.items()
    }
    permissions = {name: granted for name, (_, granted) in roles.items()}
    return {
        "users": [
            {
                "name": name,
                "password_hash": accounts.hash_password(password),
                "hashing_algorithm": "rabbit_password_hashing_sha256",
                "tags": "",
            }
            for name, (password, _) in roles.items()
        ],
        "vhosts": [{"name": vhost}],
        "permissions": [_describe(name, vhost, granted) for name, granted in permissions.items()],
        "topic_permissions": [topic for name, granted in permissions.items() for topic in _describe_topics(name, vhost, granted)],
        "policies": list_policies(vhost),
        **_list_event_routes(vhost, consumers),
    }


def list_policies(vhost: str = "/") -> list[dict[str, Any]]:
    """The shipped policies, also what an operator applies to a broker of theirs (see doc/operations.rst)."""
    return [
        {
            # An agent that is away for long must not fill the broker: what is dropped here is sent again by the
            # dispatcher as long as its deadline allows.
            "vhost": vhost,
            "name": "crashcart-agents",
            "pattern": r"^compute_agent(\.|_fanout|$)",
            "apply-to": "queues",
            "priority": 10,
            "definition": {
                "message-ttl": LONGEST_DEADLINE_MS,
                "max-length": _AGENT_QUEUE_LENGTH,
                "overflow": "drop-head",
            },
        },
        {
            # Queues of others on the exchange of events: one that nobody reads any more must not fill the disk of the broker, whose
            # alarm would stop everybody. What its reader misses is in the gateway's record.
            "vhost": vhost,
            "name": "crashcart-consumers",
            "pattern": rf"^({re.escape(CONSUMER_PREFIX)}|{re.escape(CONTROLLER_PREFIX)})",
            "apply-to": "queues",
            "priority": 10,
            "definition": {
                "message-ttl": _CONSUMER_KEEP_MS,
                "max-length-bytes": _CONSUMER_QUEUE_BYTES,
                "overflow": "drop-head",
            },
        },
    ]


def _describe(name: str, vhost: str, granted: Permissions) -> dict[str, str]:
    return {"user": name, "vhost": vhost, "configure": granted.configure, "write": granted.write, "read": granted.read}


def _describe_topics(name: str, vhost: str, granted: Permissions) -> Sequence[dict[str, str]]:
    return [
        {"user": name, "vhost": vhost, "exchange": topic.exchange, "write": topic.write, "read": topic.read} for topic in granted.topics
    ]


def _list_event_routes(vhost: str, consumers: Iterable[str]) -> dict[str, Any]:
    bindings = (*RECORDER_QUEUES, DEAD_LETTER_QUEUE, HEARTBEAT_QUEUE)
    of_consumers = [build_consumer_exchange(name) for name in consumers]
    queues: dict[str, Any] = {queue.name: queue for queue in bindings}  # kombu does not type its attributes
    return {
        "exchanges": [
            {"vhost": vhost, "name": exchange.name, "type": exchange.type, "durable": True, "auto_delete": False, "internal": False}
            | {"arguments": {}}
            for exchange in (EVENTS_EXCHANGE, DEAD_EXCHANGE, *of_consumers)
        ],
        "queues": [
            {"vhost": vhost, "name": queue.name, "durable": True, "auto_delete": False, "arguments": queue.queue_arguments}
            for queue in queues.values()
        ],
        "bindings": [
            {"vhost": vhost, "source": queue.exchange.name, "destination": queue.name, "destination_type": "queue"}
            | {"routing_key": queue.routing_key, "arguments": {}}
            for queue in bindings
        ]
        + [
            {"vhost": vhost, "source": EVENTS_EXCHANGE.name, "destination": exchange.name, "destination_type": "exchange"}
            | {"routing_key": f"{EVENT_TOPIC}.*", "arguments": {}}
            for exchange in of_consumers
        ],
    }
