"""The AsyncAPI document: built from the published schemas and the contract's names, the same in every process of a release.

It says what crashcart sends. The schemas are in it, so that it needs nothing else; ``x-schema-id`` is the ``$id`` of the published one.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from compute_agent.contract import versions
from compute_agent.contract.notifications import EVENTS_EXCHANGE, HEARTBEAT_TYPE
from compute_agent.contract.schema_files import ENVELOPE, read_schemas
from compute_agent.contract.topics import EVENT_TOPIC, HEARTBEAT_ROUTING_KEY, Severity

Schema = dict[str, Any]
"""A JSON Schema in the words that drafts 07 and 2020-12 have in common, or another object of the document."""

_AMQP_BINDING = "0.3.0"
_MESSAGE = "Message"
_DEFINITIONS = "#/$defs/"
_COMPONENTS = "#/components/schemas/"


def build_document() -> Schema:
    """The document, as JSON can hold it."""
    schemas = read_schemas(versions.EVENT_VERSION)
    payloads = {name: schema for name, schema in schemas.items() if name != ENVELOPE}
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "crashcart notifications",
            "version": versions.EVENT_VERSION,
            "description": (
                f"What crashcart tells at its broker, in event version {versions.EVENT_VERSION}. Each message is an envelope of "
                "oslo.messaging, with the message as JSON text in it. Events come at least once, and in order for each server and host: "
                "sort out repeated ones by message_id. Who consumes them declares a queue of their own, with a limit. A minor version adds "
                "keys, types, and words where others are allowed: ignore those that you do not know."
            ),
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/json",
        "channels": {
            "events": {
                **_describe_channel(
                    f"{EVENT_TOPIC}.{{severity}}",
                    "What happened. Bind a queue of your own with the routing key of each severity that you want.",
                    (name for name in payloads if name != HEARTBEAT_TYPE),
                ),
                "parameters": {
                    "severity": {
                        "enum": [severity.value for severity in Severity],
                        "description": "How urgent it is. x-severity says which is usual for a type; bad outcomes are more severe.",
                    }
                },
            },
            "heartbeats": _describe_channel(
                HEARTBEAT_ROUTING_KEY,
                "Agents' heartbeats with their servers: not persistent, nowhere recorded, each in place of the one before. What comes here "
                "of another type is the gateway's own.",
                (HEARTBEAT_TYPE,),
            ),
        },
        "operations": {
            "tellEvents": _describe_sending("events", "Tell what happened, again until the broker has it", delivery_mode=2, mandatory=True),
            "tellHeartbeats": _describe_sending("heartbeats", "Tell that an agent is there", delivery_mode=1, mandatory=False),
        },
        "components": {
            "messages": {name: _describe_message(name, schema, schemas[ENVELOPE]) for name, schema in payloads.items()},
            "schemas": _list_components(schemas),
        },
    }


def _describe_channel(address: str, description: str, messages: Iterable[str]) -> Schema:
    exchange = {"name": EVENTS_EXCHANGE.name, "type": EVENTS_EXCHANGE.type, "durable": EVENTS_EXCHANGE.durable, "autoDelete": False}
    return {
        "address": address,
        "description": description,
        "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in messages},
        "bindings": {"amqp": {"is": "routingKey", "exchange": exchange, "bindingVersion": _AMQP_BINDING}},
    }


def _describe_sending(channel: str, summary: str, *, delivery_mode: int, mandatory: bool) -> Schema:
    return {
        "action": "send",
        "channel": {"$ref": f"#/channels/{channel}"},
        "summary": summary,
        "bindings": {"amqp": {"deliveryMode": delivery_mode, "mandatory": mandatory, "bindingVersion": _AMQP_BINDING}},
    }


def _describe_message(name: str, schema: Schema, envelope: Schema) -> Schema:
    """One type in its envelope."""
    described: Schema = {
        "name": name,
        "title": name,
        "summary": schema["description"],
        "contentType": "application/json",
        "x-schema-id": schema["$id"],
        "x-since-event-version": versions.get_version_of_event_type(name),
        "bindings": {"amqp": {"contentEncoding": "utf-8", "bindingVersion": _AMQP_BINDING}},
    }
    if "x-severity" in schema:
        described["x-severity"] = schema["x-severity"]
    of_this_type = {"type": "object", "properties": {"event_type": {"const": name}, "payload": {"$ref": _COMPONENTS + name}}}
    properties = dict(envelope["properties"])
    properties["oslo.message"] = {
        **properties["oslo.message"],
        "contentSchema": {"allOf": [{"$ref": _COMPONENTS + _MESSAGE}, of_this_type]},
    }
    described["payload"] = {"type": "object", "properties": properties, "required": envelope["required"]}
    return described


def _list_components(schemas: Mapping[str, Schema]) -> dict[str, Schema]:
    """Every payload by its type, and what payloads are made of by its own name, which means the same in all of them."""
    components: dict[str, Schema] = {}
    for name, schema in schemas.items():
        components |= {part: _refer_to_components(definition) for part, definition in schema.get("$defs", {}).items()}
        if name != ENVELOPE:
            components[name] = _refer_to_components({key: value for key, value in schema.items() if key not in ("$schema", "$id", "$defs")})
    return components


def _refer_to_components(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_refer_to_components(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        key: value.replace(_DEFINITIONS, _COMPONENTS) if key == "$ref" and isinstance(value, str) else _refer_to_components(value)
        for key, value in schema.items()
    }
