"""The operations of our own API, of the healthcheck, and of the document itself."""

from api_gateway.native.overlay_body import LARGEST_AMOUNT, LINE_PATTERN, MOST_EXTRA_SPECS, TAG_PATTERN, TASK_STATE_PATTERN
from api_gateway.openapi.operation import Answer, Operation, Operations, Schema, describe_object, or_null, refer
from api_gateway.openapi.parameters import LIMIT, describe_query
from api_gateway.openapi.words import BOOLEAN, NULL, REQUEST_ID, URI
from api_gateway.store.servers import OVERLAY_FIELDS
from api_gateway.vm_state import VM_STATES
from compute_agent.contract.models import ActionKind
from compute_agent.contract.text import LONGEST_LINE, LONGEST_TAG, MOST_TAGS

_TAG = "crashcart"

_ACTION_LOCATION: dict[str, Schema] = {"Location": URI}

ACTION_BODY = describe_object(
    {
        "kind": {"enum": [kind.value for kind in ActionKind]},
        "deadline_seconds": or_null({"type": "number", "minimum": 1}),
        "force": BOOLEAN,
        "idempotency_key": or_null({"type": "string", "pattern": "^[ -~]{1,255}$"}),
    },
    optional=("deadline_seconds", "force", "idempotency_key"),
)

_LINE: Schema = {"type": "string", "maxLength": LONGEST_LINE, "pattern": LINE_PATTERN}
_AMOUNT: Schema = {"type": "integer", "minimum": 0, "maximum": LARGEST_AMOUNT}

OVERLAY_BODY = describe_object(
    {
        "name": or_null(_LINE),
        "project": or_null(_LINE),
        "user": or_null(_LINE),
        "description": {"anyOf": [{"const": ""}, _LINE, NULL]},
        "vm_state": {"enum": [None, *sorted(VM_STATES)]},
        "task_state": or_null({"type": "string", "pattern": TASK_STATE_PATTERN}),
        "flavor": or_null(
            describe_object(
                {
                    "name": _LINE,
                    **dict.fromkeys(("vcpus", "ram", "disk", "ephemeral", "swap"), _AMOUNT),
                    "extra_specs": {
                        "type": "object",
                        "maxProperties": MOST_EXTRA_SPECS,
                        "propertyNames": _LINE,
                        "additionalProperties": _LINE,
                    },
                },
                optional=("disk", "ephemeral", "swap", "extra_specs"),
            )
        ),
        "tags": or_null(
            {
                "type": "array",
                "maxItems": MOST_TAGS,
                "uniqueItems": True,
                "items": {"type": "string", "maxLength": LONGEST_TAG, "pattern": TAG_PATTERN},
            }
        ),
    },
    optional=OVERLAY_FIELDS,
)

NATIVE_OPERATIONS: Operations = {
    ("GET", "/openapi.json"): Operation(
        id="show_openapi",
        tag=_TAG,
        summary="This document",
        answers={200: Answer("Both APIs, for machines.", refer("OpenApi"))},
        needs_store=False,
    ),
    ("GET", "/healthcheck"): Operation(
        id="check_health",
        tag=_TAG,
        summary="Say whether requests can be served",
        answers={200: Answer("They can.", refer("Health"))},
        is_open=True,
    ),
    ("HEAD", "/healthcheck"): Operation(
        id="check_health_briefly",
        tag=_TAG,
        summary="Say whether requests can be served, by the status alone",
        answers={200: Answer("They can.")},
        is_open=True,
    ),
    ("GET", "/v1/actions/{action_id}"): Operation(
        id="show_action",
        tag=_TAG,
        summary="Show an action: its ending, what was seen of the guest, and the timeline",
        answers={200: Answer("The action.", refer("Action"))},
        faults=(404,),
        parameters=(
            describe_query(
                "wait",
                {"type": "number", "minimum": 0},
                "Answer when the action is settled, at the latest after so many seconds, with what is known then.",
            ),
        ),
    ),
    ("GET", "/v1/servers/{server_id}"): Operation(
        id="show_known_server",
        tag=_TAG,
        summary="Show what is known of a server; admins also see what its host says and what is set over it",
        answers={200: Answer("The server.", refer("KnownServer"))},
        faults=(404,),
    ),
    ("PATCH", "/v1/servers/{server_id}"): Operation(
        id="update_server",
        tag=_TAG,
        summary="Set facts over what a server's host says, or take them back with null",
        answers={200: Answer("The server as it is now.", refer("KnownServer"))},
        faults=(404,),
        body=OVERLAY_BODY,
    ),
    ("DELETE", "/v1/servers/{server_id}"): Operation(
        id="forget_server",
        tag=_TAG,
        summary="Forget a server whose host is gone",
        answers={204: Answer("It is deleted; its history stays.")},
        faults=(404, 409),
    ),
    ("GET", "/v1/servers/{server_id}/actions"): Operation(
        id="list_actions",
        tag=_TAG,
        summary="List a server's actions, newest first",
        answers={200: Answer("A page of actions; the next one is linked when this one is full.", refer("Actions"))},
        faults=(404,),
        parameters=(LIMIT, describe_query("marker", REQUEST_ID, "The id of the last action of the page before.")),
    ),
    ("POST", "/v1/servers/{server_id}/actions"): Operation(
        id="create_action",
        tag=_TAG,
        summary="Ask for an action on a server",
        answers={
            200: Answer("The action that the same idempotency key made before; it has ended.", refer("Action"), _ACTION_LOCATION),
            202: Answer("The action is committed and will end.", refer("Action"), _ACTION_LOCATION),
        },
        faults=(404, 409, 429),
        body=ACTION_BODY,
    ),
    ("GET", "/v1/agents"): Operation(
        id="list_agents",
        tag=_TAG,
        summary="List the agents: what each can do and whether it is up",
        answers={200: Answer("All of them.", refer("Agents"))},
    ),
}
