"""What the answers of our own API are."""

from api_gateway.openapi.operation import Schema, describe_list, describe_object, or_null, refer
from api_gateway.openapi.words import BOOLEAN, COUNT, NEXT_LINKS, NUMBER, REQUEST_ID, SERVER_ID, STRING
from api_gateway.store.actions import ActionState
from compute_agent.contract.errors import Ending

_TIME: Schema = {"type": "string", "format": "date-time", "pattern": r"^[0-9-]{10}T[0-9:]{8}\.[0-9]{6}Z$"}
_TIME_OR_NULL = or_null(_TIME)

_OBSERVATION = describe_object({"observation": STRING, "final": BOOLEAN, "observed_at": _TIME_OR_NULL, "text": or_null(STRING)})
_MOMENT = describe_object({"at": _TIME, "event": STRING, "text": STRING})

_ACTION = describe_object(
    {
        "id": REQUEST_ID,
        "kind": STRING,
        "server": SERVER_ID,
        "host": STRING,
        "project": STRING,
        "user": STRING,
        "state": {"enum": [state.value for state in ActionState]},
        "ending": {"enum": [None, *(ending.value for ending in Ending)]},
        "code": or_null(STRING),
        "reason": or_null(STRING),
        "decided_by": {"enum": [None, "agent", "gateway"]},
        "force": BOOLEAN,
        "accepted_at": _TIME,
        "deadline": _TIME,
        "received_at": _TIME_OR_NULL,
        "started_at": _TIME_OR_NULL,
        "signalled_at": _TIME_OR_NULL,
        "ended_at": _TIME_OR_NULL,
        "recorded_at": _TIME_OR_NULL,
        "revised_at": _TIME_OR_NULL,
        "observation": or_null(_OBSERVATION),
        "timeline": describe_list(_MOMENT),
    }
)

_AGENT = describe_object(
    {
        "host": STRING,
        "state": {"enum": ["up", "down"]},
        "down_since": _TIME_OR_NULL,
        "release": STRING,
        "rpc_version": STRING,
        "event_version": STRING,
        "capabilities": {"type": "object"},
        "journal_id": STRING,
        "incarnation": COUNT,
        "heartbeat_at": _TIME_OR_NULL,
        "heartbeat_interval": NUMBER,
        "inventory_readable": BOOLEAN,
    }
)

NATIVE_SCHEMAS: dict[str, Schema] = {
    "Health": describe_object({"status": {"const": "ok"}, "release": STRING}),
    "Action": _ACTION,
    "Actions": describe_object({"actions": describe_list(refer("Action")), "links": NEXT_LINKS}),
    "Agents": describe_object({"agents": describe_list(_AGENT)}),
    "OpenApi": {
        "type": "object",
        "properties": {"openapi": STRING, "info": {"type": "object"}, "paths": {"type": "object"}, "components": {"type": "object"}},
        "required": ["openapi", "info", "paths", "components"],
    },
}
"""By the name that the document gives them."""
