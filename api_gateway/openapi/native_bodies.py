"""What the bodies of requests to our own API must be, made of the same limits that they are read with."""

from api_gateway.native.overlay_body import LARGEST_AMOUNT, LINE_PATTERN, MOST_EXTRA_SPECS, TAG_PATTERN, TASK_STATE_PATTERN
from api_gateway.native.schemas import LONGEST_KEY, MOST_COLLECTED, POSTED_KINDS, WORD_PATTERN
from api_gateway.openapi.operation import Schema, describe_object, or_null
from api_gateway.openapi.words import BOOLEAN, NULL, SERVER_ID
from api_gateway.store.servers import OVERLAY_FIELDS
from api_gateway.vm_state import VM_STATES
from compute_agent.contract.text import LONGEST_LINE, LONGEST_TAG, MOST_TAGS

SECONDS_TO_LIVE: Schema = {"type": "number", "minimum": 1}
IDEMPOTENCY_KEY: Schema = {"type": "string", "minLength": 1, "maxLength": LONGEST_KEY, "pattern": "^[ -~]*$"}
_DEADLINE: Schema = or_null(SECONDS_TO_LIVE)

ACTION_BODY = describe_object(
    {
        "kind": {"enum": [kind.value for kind in POSTED_KINDS]},
        "deadline_seconds": _DEADLINE,
        "force": BOOLEAN,
        "idempotency_key": or_null(IDEMPOTENCY_KEY),
    },
    optional=("deadline_seconds", "force", "idempotency_key"),
)

_WORD: Schema = {"type": "string", "pattern": WORD_PATTERN}

WATCHDOG_BODY = describe_object(
    {
        "model": _WORD,
        "expiry_action": _WORD,
        "replace": BOOLEAN,
        "deadline_seconds": _DEADLINE,
        "idempotency_key": or_null(IDEMPOTENCY_KEY),
    },
    optional=("replace", "deadline_seconds", "idempotency_key"),
)

_LINE: Schema = {"type": "string", "maxLength": LONGEST_LINE, "pattern": LINE_PATTERN}
_PAGED: dict[str, Schema] = {"marker": or_null(SERVER_ID), "deadline_seconds": _DEADLINE}

COLLECT_BODY: Schema = {
    "oneOf": [
        describe_object(
            {
                "servers": {"type": "array", "minItems": 1, "maxItems": MOST_COLLECTED, "uniqueItems": True, "items": SERVER_ID},
                "deadline_seconds": _DEADLINE,
            },
            optional=("deadline_seconds",),
        ),
        describe_object({"host": _LINE, **_PAGED}, optional=tuple(_PAGED)),
        describe_object({"project": _LINE, **_PAGED}, optional=tuple(_PAGED)),
    ]
}

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
