"""What the answers of our own API are."""

from api_gateway.diagnostics import Source
from api_gateway.openapi.operation import Schema, describe_list, describe_object, or_null, refer
from api_gateway.openapi.words import BOOLEAN, COUNT, NEXT_LINKS, NUMBER, REQUEST_ID, SERVER_ID, STRING, TIME
from api_gateway.store.actions import ActionState
from api_gateway.store.servers import OVERLAY_FIELDS
from compute_agent.contract.diagnostics import Health, SensorKind
from compute_agent.contract.errors import Ending

_TIME = TIME
_SECONDS: Schema = {"type": "number", "minimum": 0}
_TIME_OR_NULL = or_null(_TIME)

_OBSERVATION = describe_object({"observation": STRING, "final": BOOLEAN, "observed_at": _TIME_OR_NULL, "text": or_null(STRING)})
_MOMENT = describe_object({"at": _TIME, "event": STRING, "text": STRING})

_ACTION_FIELDS: dict[str, Schema] = {
    "id": REQUEST_ID,
    "kind": STRING,
    "server": SERVER_ID,
    "host": STRING,
    "project": or_null(STRING),
    "user": or_null(STRING),
    "state": {"enum": [state.value for state in ActionState]},
    "ending": {"enum": [None, *(ending.value for ending in Ending)]},
    "code": or_null(STRING),
    "reason": or_null(STRING),
    "decided_by": {"enum": [None, "agent", "gateway"]},
    "force": BOOLEAN,
    "arguments": {"type": "object"},
    "accepted_at": _TIME,
    "deadline": _TIME,
    "received_at": _TIME_OR_NULL,
    "started_at": _TIME_OR_NULL,
    "signalled_at": _TIME_OR_NULL,
    "ended_at": _TIME_OR_NULL,
    "recorded_at": _TIME_OR_NULL,
    "revised_at": _TIME_OR_NULL,
    "cancel_requested_at": _TIME_OR_NULL,
    "cancel_requested_by": or_null(STRING),
    "observation": or_null(_OBSERVATION),
    "timeline": describe_list(_MOMENT),
}
_FOR_SOME = ("host",)
"""Told to those who may see where servers are."""
_ACTION = describe_object(_ACTION_FIELDS, optional=_FOR_SOME)

_SAMPLE: dict[str, Schema] = {
    "collected_at": _TIME,
    "diagnostics": refer("Diagnostics"),
    "errors": {"type": "object", "additionalProperties": STRING},
}
_HEALTH: Schema = {"enum": [None, *(health.value for health in Health)]}
_HARDWARE = describe_object(
    {
        "power": or_null(STRING),
        "power_watts": or_null(NUMBER),
        "health": _HEALTH,
        "sensors": describe_list(
            describe_object(
                {
                    "name": STRING,
                    "kind": {"enum": [kind.value for kind in SensorKind]},
                    "value": or_null(NUMBER),
                    "unit": STRING,
                    "health": _HEALTH,
                }
            )
        ),
        "firmware": {"type": "object", "additionalProperties": STRING},
        "log": describe_list(describe_object({"id": STRING, "at": _TIME_OR_NULL, "text": STRING, "severity": _HEALTH})),
    }
)
_TOLD = describe_object(
    {
        "server": SERVER_ID,
        "source": {"enum": [source.value for source in Source]},
        **_SAMPLE,
        "age": _SECONDS,
        "stale": BOOLEAN,
        "hardware": or_null(refer("Hardware")),
        "history": describe_list(describe_object(_SAMPLE)),
    }
)
_RESULT: Schema = {
    "anyOf": [
        describe_object({"report": {"type": "object"}}),
        describe_object({"path": STRING, "bytes": COUNT, "duration": NUMBER}),
        {"type": "null"},
    ]
}
_COLLECTING = describe_object(
    {
        "actions": describe_list(describe_object({"id": REQUEST_ID, "server": SERVER_ID})),
        "refused": describe_list(describe_object({"server": SERVER_ID, "code": COUNT, "fault": STRING, "message": STRING})),
        "next_marker": or_null(SERVER_ID),
    }
)
_BLACK_BOX = describe_object(
    {
        "server": SERVER_ID,
        "host": STRING,
        "cause": STRING,
        "action": or_null(REQUEST_ID),
        "occurred_at": _TIME,
        "parts": describe_list(describe_object({"name": STRING, "bytes": COUNT, "sha256": STRING, "href": STRING})),
    }
)

_DEVICE = describe_object({"model": STRING, "expiry_action": STRING})
_WATCHDOG: dict[str, Schema] = {
    "configured": or_null(_DEVICE),
    "live": or_null(_DEVICE),
    "pending_restart": BOOLEAN,
    "others": describe_list(_DEVICE),
    "models": describe_list(STRING),
}
_WATCHDOG_MODEL = describe_object(
    {
        "model": STRING,
        "expiry_actions": describe_list(STRING),
        "managed": BOOLEAN,
        "hot_plug": BOOLEAN,
        "note": STRING,
        "possible": or_null(BOOLEAN),
    },
    optional=("possible",),
)
_LISTED_SERVER = describe_object(
    {
        "id": SERVER_ID,
        "name": STRING,
        "project": STRING,
        "status": STRING,
        "power_state": STRING,
        "state_reason": STRING,
        "state_at": _TIME,
        "watchdog": or_null(refer("Watchdog")),
        "host": STRING,
    },
    optional=("watchdog", "host"),
)

_OWN_FLAVOR = describe_object(
    {
        "name": STRING,
        **dict.fromkeys(("vcpus", "ram", "disk", "ephemeral", "swap"), COUNT),
        "extra_specs": {"type": "object", "additionalProperties": STRING},
    }
)
_FACTS_OF_HOST = {
    "name": STRING,
    "project": STRING,
    "user": or_null(STRING),
    "description": or_null(STRING),
    "vm_state": STRING,
    "flavor": or_null(_OWN_FLAVOR),
    "tags": describe_list(STRING),
}
_ONLY_FOR_ADMINS = {
    "host": STRING,
    "instance_name": STRING,
    "conflict_host": or_null(STRING),
    "overlay": describe_object({**_FACTS_OF_HOST, "task_state": STRING}, optional=OVERLAY_FIELDS),
    "host_says": describe_object(_FACTS_OF_HOST),
}
_KNOWN_SERVER = describe_object(
    {
        "id": SERVER_ID,
        **_FACTS_OF_HOST,
        "status": STRING,
        "task_state": or_null(STRING),
        "power_state": STRING,
        "state_reason": STRING,
        "state_at": _TIME,
        "vcpus": or_null(COUNT),
        "memory_mib": or_null(COUNT),
        "locked": BOOLEAN,
        "locked_by": {"enum": [None, "owner", "admin"]},
        "locked_reason": or_null(STRING),
        "foreign_owner": or_null(STRING),
        "generation": COUNT,
        "conflict": BOOLEAN,
        "missing_since": _TIME_OR_NULL,
        "created_at": _TIME,
        "started_at": _TIME_OR_NULL,
        "updated_at": _TIME,
        "watchdog": or_null(refer("Watchdog")),
        **_ONLY_FOR_ADMINS,
    },
    optional=("watchdog", *_ONLY_FOR_ADMINS),
)

_EVENT = describe_object(
    {
        "id": STRING,
        "position": COUNT,
        "type": STRING,
        "severity": STRING,
        "server": or_null(STRING),
        "host": or_null(STRING),
        "project": or_null(STRING),
        "action_id": or_null(STRING),
        "occurred_at": _TIME_OR_NULL,
        "recorded_at": _TIME,
        "payload": or_null({"type": "object"}),
    },
    optional=_FOR_SOME,
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
    "ShownAction": describe_object({**_ACTION_FIELDS, "result": _RESULT, "black_box": or_null(STRING)}, optional=_FOR_SOME),
    "ToldDiagnostics": _TOLD,
    "Hardware": _HARDWARE,
    "CollectingDiagnostics": _COLLECTING,
    "BlackBox": _BLACK_BOX,
    "Actions": describe_object({"actions": describe_list(refer("Action")), "links": NEXT_LINKS}),
    "KnownServer": _KNOWN_SERVER,
    "ListedServers": describe_object({"servers": describe_list(_LISTED_SERVER), "links": NEXT_LINKS}),
    "Watchdog": describe_object(_WATCHDOG),
    "ShownWatchdog": describe_object({"server": SERVER_ID, **_WATCHDOG, "state_at": _TIME, "heartbeat_at": _TIME_OR_NULL}),
    "WatchdogModels": describe_object({"models": describe_list(_WATCHDOG_MODEL)}),
    "Event": _EVENT,
    "Events": describe_object({"events": describe_list(refer("Event")), "links": NEXT_LINKS}),
    "Agents": describe_object({"agents": describe_list(_AGENT)}),
    "OpenApi": {
        "type": "object",
        "properties": {"openapi": STRING, "info": {"type": "object"}, "paths": {"type": "object"}, "components": {"type": "object"}},
        "required": ["openapi", "info", "paths", "components"],
    },
}
"""By the name that the document gives them."""
