"""The operations that describe notifications: their schemas, and the AsyncAPI document."""

from api_gateway.openapi.operation import Answer, Operation, Operations, Schema, describe_list, describe_object, or_null, refer
from api_gateway.openapi.parameters import describe_query
from api_gateway.openapi.words import STRING, URI
from compute_agent.contract.topics import Severity

_TAG = "crashcart"
_VERSION: Schema = {"type": "string", "pattern": r"^[0-9]+\.[0-9]+$"}

NOTIFICATION_OPERATIONS: Operations = {
    ("GET", "/asyncapi.json"): Operation(
        id="show_asyncapi",
        tag=_TAG,
        summary="Describe the notifications at the broker, for machines",
        answers={200: Answer("What is told on which routing keys, in AsyncAPI 3.", refer("AsyncApi"))},
        needs_store=False,
    ),
    ("GET", "/v1/schemas"): Operation(
        id="list_schemas",
        tag=_TAG,
        summary="List the JSON Schemas of notifications, of the newest event version first",
        answers={200: Answer("All of them.", refer("ListedSchemas"))},
        needs_store=False,
    ),
    ("GET", "/v1/schemas/{schema_name}"): Operation(
        id="show_schema",
        tag=_TAG,
        summary="Show the JSON Schema of a type of event's payload, or of the envelope",
        answers={200: Answer("The schema (2020-12). That of a released event version never changes what it allows.", refer("ShownSchema"))},
        faults=(404,),
        parameters=(describe_query("version", _VERSION, "The event version; without it the one that this release speaks."),),
        needs_store=False,
    ),
}

NOTIFICATION_SCHEMAS: dict[str, Schema] = {
    "AsyncApi": {
        "type": "object",
        "properties": {
            "asyncapi": STRING,
            "info": {"type": "object"},
            "channels": {"type": "object"},
            "operations": {"type": "object"},
            "components": {"type": "object"},
        },
        "required": ["asyncapi", "info", "channels", "operations", "components"],
    },
    "ListedSchemas": describe_object(
        {
            "event_version": _VERSION,
            "schemas": describe_list(
                describe_object(
                    {
                        "name": STRING,
                        "version": _VERSION,
                        "since": or_null(_VERSION),
                        "severity": {"enum": [None, *(severity.value for severity in Severity)]},
                        "schema_id": URI,
                        "links": describe_list(describe_object({"rel": {"const": "self"}, "href": URI})),
                    }
                )
            ),
        }
    ),
    "ShownSchema": {
        "type": "object",
        "properties": {"$schema": URI, "$id": URI, "title": STRING, "description": STRING, "type": {"const": "object"}},
        "required": ["$schema", "$id", "title", "description", "type"],
    },
}
"""By the name that the document gives them."""
