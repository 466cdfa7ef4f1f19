"""The parameters of requests: those of paths, of pages, and the header that asks for a Compute API version."""

import re

from api_gateway.microversion import HEADER, MAX_VERSION
from api_gateway.openapi.operation import Schema
from api_gateway.openapi.words import COUNT, REQUEST_ID, SERVER_ID

_IN_PATHS: dict[str, tuple[Schema, str]] = {
    "server_id": (SERVER_ID, "The server's UUID."),
    "request_id": (REQUEST_ID, "The id of the request that asked for the action; it is the action's id."),
    "action_id": (REQUEST_ID, "The action's id: that of the request which asked for it."),
    "event_id": ({"type": "string", "pattern": "^[0-9A-Za-z-]{1,255}$"}, "The event's message_id, or its position in the record."),
    "schema_name": ({"type": "string", "pattern": "^[a-z_.]{1,255}$"}, "The type of event, or envelope."),
    "subscription_id": (SERVER_ID, "The subscription's id."),
    "part": ({"type": "string", "pattern": "^[0-9A-Za-z._-]{1,255}$"}, "The part's name."),
}
_NAME = re.compile(r"{(\w+)}")


def describe_query(name: str, schema: Schema, description: str) -> Schema:
    return {"name": name, "in": "query", "required": False, "schema": schema, "description": description}


def describe_path_parameters(path: str) -> list[Schema]:
    """:raises KeyError: for a name that is not described here."""
    return [
        {"name": name, "in": "path", "required": True, "schema": _IN_PATHS[name][0], "description": _IN_PATHS[name][1]}
        for name in _NAME.findall(path)
    ]


LIMIT = describe_query("limit", COUNT, "The most items that the page may have; the gateway's own limit holds all the same.")

VERSION: Schema = {
    "name": HEADER,
    "in": "header",
    "required": True,
    "schema": {"type": "string", "enum": [f"compute {MAX_VERSION}", "compute latest"]},
    "description": "The version that this document describes. Without the header it is 2.1, whose answers have fewer fields.",
}
