"""What peers of two releases must agree on beside messages: RPC methods with their arguments, and what is declared at the broker.

``golden.py`` records both with each release; the comparisons say what a release must not do to the one before it.
"""

import inspect
from collections.abc import Mapping
from typing import Any

from kombu import Exchange, Queue
from oslo_config import cfg

from compute_agent.consumer import create_kept_queue
from compute_agent.contract import notifications, versions
from compute_agent.contract.topics import CALL_TOPIC, RPC_EXCHANGE, RPC_TOPIC
from compute_agent.contract.transport import oslo_messaging, register_messaging_options
from compute_agent.endpoint import Endpoint
from tests.contract import compatibility, event_schemas, schemas

impl_rabbit: Any = oslo_messaging._drivers.impl_rabbit

Described = dict[str, Any]
_HOST = "HOST"
_NO_DEFAULT = "required"


def describe_methods(endpoint: type = Endpoint) -> Described:
    """What an agent takes: each method with the version that a caller must speak for it, and its arguments."""
    methods = {method: version.number for version in versions.RPC_HISTORY for method in version.methods}
    return {
        "serves": endpoint.target.version,  # type: ignore[attr-defined]
        "methods": {
            method: {"needs": number, "arguments": _describe_arguments(getattr(endpoint, method))} for method, number in methods.items()
        },
    }


def describe_models() -> dict[str, Described]:
    """The schema of everything that travels as an argument or a reply, without prose."""
    return {model.__name__: schemas.drop_prose(model.model_json_schema()) for model in sorted(schemas.RPC_MODELS, key=str)}


def describe_declarations() -> dict[str, Described]:
    """Exchanges and queues as agents, gateways and consumers declare them; all of them exist while a fleet is upgraded."""
    declared = _list_declared_by_rpc()
    exchanges = [notifications.EVENTS_EXCHANGE, notifications.DEAD_EXCHANGE, *(queue.exchange for queue in declared)]
    kept = create_kept_queue("consumer.NAME")
    queues = [notifications.DEAD_LETTER_QUEUE, notifications.HEARTBEAT_QUEUE, *notifications.RECORDER_QUEUES, *declared]
    return {
        "exchanges": {exchange.name: _describe_exchange(exchange) for exchange in exchanges},
        "queues": {queue.name: _describe_queue(queue, queues) for queue in queues}
        | {kept.name: {"durable": True, "auto_delete": False, "arguments": dict(kept.arguments)}},
    }


def list_method_breaks(before: Described, after: Described) -> list[str]:
    """What ``after`` may not have done to callers and agents of ``before``; both from :func:`describe_methods`."""
    breaks = []
    if _get_major(after["serves"]) != _get_major(before["serves"]):
        breaks.append(f"an agent serves {after['serves']}, and callers of the release before speak {before['serves']}")
    for method, old in before["methods"].items():
        new = after["methods"].get(method)
        if new is None:
            breaks.append(f"{method} is gone")
            continue
        if new["needs"] != old["needs"]:
            breaks.append(f"{method} needs {new['needs']} and needed {old['needs']}: agents of the release before refuse it")
        for argument, default in new["arguments"].items():
            if default == _NO_DEFAULT and old["arguments"].get(argument) != _NO_DEFAULT:
                breaks.append(f"{method} needs the argument {argument}, and did not before")
        breaks += [f"{method} does not take {argument} any more" for argument in old["arguments"] if argument not in new["arguments"]]
    return breaks


def list_model_breaks(before: Mapping[str, Described], after: Mapping[str, Described]) -> list[str]:
    """The same for :func:`describe_models`. Where a minor version may add words to events it may here as well; a further kind of action is
    a method of its own, whose version says who takes it."""
    may_come = tuple(f"the word {word.value!r} came, where none may" for words in event_schemas.OPEN_WORDS for word in words)
    return [line for line in compatibility.list_breaks(before, after) if not line.endswith(may_come)]


def list_declaration_breaks(before: Described, after: Described) -> list[str]:
    """The same for :func:`describe_declarations`: RabbitMQ refuses a declaration that differs in anything from what exists (406)."""
    return [
        f"{kind[:-1]} {name}: {key} was {was.get(key)!r} and is {now.get(key)!r}; take another name, or keep it"
        for kind in ("exchanges", "queues")
        for name, was in before[kind].items()
        for now in [after[kind].get(name, {})]
        for key in sorted(was.keys() | now.keys())
        if was.get(key) != now.get(key)
    ]


def _describe_arguments(method: Any) -> dict[str, Any]:
    """Behind ``self`` and the context."""
    parameters = list(inspect.signature(method).parameters.values())[2:]
    return {one.name: _NO_DEFAULT if one.default is inspect.Parameter.empty else {"default": one.default} for one in parameters}


def _describe_exchange(exchange: Exchange) -> Described:
    return {"type": exchange.type, "durable": bool(exchange.durable), "auto_delete": bool(exchange.auto_delete)}


def _describe_queue(queue: Any, queues: list[Any]) -> Described:
    bindings = sorted({f"{one.exchange.name} {one.routing_key}".strip() for one in queues if one.name == queue.name})
    arguments = dict(queue.queue_arguments or {})
    return {"durable": bool(queue.durable), "auto_delete": bool(queue.auto_delete), "arguments": arguments, "bindings": bindings}


class _NotedConnection(impl_rabbit.Connection):  # type: ignore[misc]
    """oslo.messaging's own way from options to declarations, without a broker."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        self.__dict__.update(options)
        self._q_manager = None
        self.rabbit_quorum_queue_config = impl_rabbit.QuorumMemConfig(
            options["rabbit_quorum_delivery_limit"],
            options["rabbit_quorum_max_memory_length"],
            options["rabbit_quorum_max_memory_bytes"],
        )
        self.noted: list[Any] = []

    def declare_consumer(self, consumer: Any) -> None:
        self.noted.append(consumer)


def _list_declared_by_rpc() -> list[Queue]:
    """What an agent's RPC servers declare (``AMQPDriverBase.listen``)."""
    conf = cfg.ConfigOpts()
    register_messaging_options(conf)
    conf(args=[], default_config_files=[])
    connection = _NotedConnection(dict(conf.oslo_messaging_rabbit))
    for topic in (RPC_TOPIC, CALL_TOPIC):
        connection.declare_topic_consumer(RPC_EXCHANGE, topic)
        connection.declare_topic_consumer(RPC_EXCHANGE, f"{topic}.{_HOST}")
        connection.declare_fanout_consumer(topic, None)
    return [
        Queue(
            f"{one.routing_key}_fanout_ID" if one.type == "fanout" else one.queue_name,
            one.exchange,
            routing_key=one.routing_key,
            durable=one.durable,
            auto_delete=one.queue_auto_delete,
            queue_arguments=one.queue_arguments,
        )
        for one in connection.noted
    ]


def _get_major(version: str) -> str:
    return version.partition(".")[0]
