"""The parameters that say which events are asked for, of the list and of the stream."""

from api_gateway.native.event_query import FILTERS, MOST_TYPES, POSITION_PATTERN, TYPE_PATTERN
from api_gateway.native.times import TIME_PATTERN
from api_gateway.openapi.operation import Schema
from api_gateway.openapi.parameters import describe_query
from api_gateway.openapi.words import REQUEST_ID, SERVER_ID
from compute_agent.contract.text import LONGEST_LINE
from compute_agent.contract.topics import Severity

_LINE: Schema = {"type": "string", "minLength": 1, "maxLength": LONGEST_LINE}
_TIME: Schema = {"type": "string", "format": "date-time", "pattern": TIME_PATTERN}
POSITION: Schema = {"type": "string", "pattern": POSITION_PATTERN}

_DESCRIBED: dict[str, tuple[Schema, str]] = {
    "server": (SERVER_ID, "The server's id."),
    "host": (_LINE, "The host that told of it; for those who may see hosts."),
    "type": (
        {"type": "array", "maxItems": MOST_TYPES, "items": {"type": "string", "pattern": TYPE_PATTERN}},
        "A type of event, or its beginning and a star (server.watchdog.*); may come several times, for any of them.",
    ),
    "severity": ({"enum": [severity.value for severity in Severity]}, "At least so severe."),
    "since": (_TIME, "Happened then or later. What was recorded more than an hour before is not looked at."),
    "until": (_TIME, "Happened earlier."),
    "action_id": (REQUEST_ID, "The id of the action that it is about."),
    "project": (_LINE, "Whose server it was when the event was recorded; for others than one's own only for admins."),
}

EVENT_FILTERS: tuple[Schema, ...] = tuple(describe_query(name, *_DESCRIBED[name]) for name in sorted(FILTERS))

LAST_EVENT_ID: Schema = {
    "name": "Last-Event-ID",
    "in": "header",
    "required": False,
    "schema": POSITION,
    "description": "The id of the last message that this reader has; it counts more than after.",
}
