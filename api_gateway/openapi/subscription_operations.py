"""The operations of subscriptions, with what they take and answer."""

from api_gateway.deliveries.targets import ADDRESS_PATTERN, EMAIL, LONGEST_ADDRESS, LONGEST_URL, URL_PATTERN, WEBHOOK
from api_gateway.native.event_query import MOST_TYPES, TYPE_PATTERN
from api_gateway.native.overlay_body import LINE_PATTERN
from api_gateway.openapi.event_parameters import POSITION
from api_gateway.openapi.operation import Answer, Operation, Operations, Schema, describe_list, describe_object, or_null, refer
from api_gateway.openapi.parameters import LIMIT, describe_query
from api_gateway.openapi.words import COUNT, NEXT_LINKS, SERVER_ID, STRING, TIME, URI
from api_gateway.store.matching import DeliveryState
from compute_agent.contract.text import LONGEST_LINE
from compute_agent.contract.topics import Severity

_TAG = "crashcart"
_TIME_OR_NULL = or_null(TIME)
_SEVERITY: Schema = {"enum": [severity.value for severity in Severity]}
_TARGET: Schema = {
    "oneOf": [
        describe_object({"kind": {"const": WEBHOOK}, "url": {"type": "string", "maxLength": LONGEST_URL, "pattern": URL_PATTERN}}),
        describe_object(
            {"kind": {"const": EMAIL}, "address": {"type": "string", "maxLength": LONGEST_ADDRESS, "pattern": ADDRESS_PATTERN}}
        ),
    ]
}
_TYPES: Schema = or_null(
    {
        "type": "array",
        "minItems": 1,
        "maxItems": MOST_TYPES,
        "uniqueItems": True,
        "items": {"type": "string", "maxLength": 255, "pattern": TYPE_PATTERN},
    }
)
_WANTED: dict[str, Schema] = {"types": _TYPES, "severity": _SEVERITY, "target": _TARGET}
_PROJECT: Schema = or_null({"type": "string", "maxLength": LONGEST_LINE, "pattern": LINE_PATTERN})

SUBSCRIPTION_BODY: Schema = {
    "anyOf": [
        describe_object({**_WANTED, "server": or_null(SERVER_ID)}, optional=("types", "severity", "server")),
        describe_object({**_WANTED, "server": {"type": "null"}, "project": _PROJECT}, optional=("types", "severity", "server", "project")),
    ]
}

_SUBSCRIPTION: dict[str, Schema] = {
    "id": SERVER_ID,
    "project": or_null(STRING),
    "user": STRING,
    "types": _TYPES,
    "severity": _SEVERITY,
    "server": or_null(SERVER_ID),
    "target": _TARGET,
    "created_at": TIME,
    "failing_since": _TIME_OR_NULL,
}
_TOLD = describe_object({"id": STRING, "type": STRING, "severity": STRING, "server": or_null(STRING)})
_DELIVERY = describe_object(
    {
        "position": COUNT,
        "event": or_null(_TOLD),
        "state": {"enum": [state.value for state in DeliveryState]},
        "tries": COUNT,
        "created_at": TIME,
        "try_at": _TIME_OR_NULL,
        "last_tried_at": _TIME_OR_NULL,
        "last_error": or_null(STRING),
        "settled_at": _TIME_OR_NULL,
    }
)

SUBSCRIPTION_SCHEMAS: dict[str, Schema] = {
    "Subscription": describe_object(_SUBSCRIPTION),
    "NewSubscription": describe_object(
        {**_SUBSCRIPTION, "secret": {"type": "string", "pattern": "^whsec_[0-9A-Za-z+/=]+$"}}, optional=("secret",)
    ),
    "Subscriptions": describe_object({"subscriptions": describe_list(refer("Subscription")), "links": NEXT_LINKS}),
    "Deliveries": describe_object({"deliveries": describe_list(_DELIVERY), "links": NEXT_LINKS}),
}
"""By the name that the document gives them."""

SUBSCRIPTION_OPERATIONS: Operations = {
    ("GET", "/v1/subscriptions"): Operation(
        id="list_subscriptions",
        tag=_TAG,
        summary="List the subscriptions of the caller's project, for admins those of all projects, oldest first",
        answers={200: Answer("A page of subscriptions; the next one is linked when this one is full.", refer("Subscriptions"))},
        parameters=(LIMIT, describe_query("marker", SERVER_ID, "The id of the last subscription of the page before.")),
    ),
    ("POST", "/v1/subscriptions"): Operation(
        id="create_subscription",
        tag=_TAG,
        summary="Subscribe to events from now on, by webhook or e-mail",
        answers={
            201: Answer(
                "The subscription, and for a webhook the secret that its calls are signed with, which is never shown again.",
                refer("NewSubscription"),
                {"Location": URI},
            )
        },
        faults=(404, 409),
        body=SUBSCRIPTION_BODY,
    ),
    ("GET", "/v1/subscriptions/{subscription_id}"): Operation(
        id="show_subscription",
        tag=_TAG,
        summary="Show a subscription",
        answers={200: Answer("The subscription.", refer("Subscription"))},
        faults=(404,),
    ),
    ("DELETE", "/v1/subscriptions/{subscription_id}"): Operation(
        id="delete_subscription",
        tag=_TAG,
        summary="End a subscription, with what was still to be delivered",
        answers={204: Answer("It is deleted.")},
        faults=(404,),
    ),
    ("GET", "/v1/subscriptions/{subscription_id}/deliveries"): Operation(
        id="list_deliveries",
        tag=_TAG,
        summary="List what a subscriber was told and is still to be told, newest first",
        answers={200: Answer("A page of deliveries; the next one is linked when this one is full.", refer("Deliveries"))},
        faults=(404,),
        parameters=(
            LIMIT,
            describe_query("marker", POSITION, "The position of the last delivery of the page before."),
            describe_query("state", {"enum": [state.value for state in DeliveryState]}, "Only those in this state."),
        ),
    ),
}
