"""The refusals of both APIs: every one in the same envelope, which says its name, its status and a sentence."""

from api_gateway.fault_names import FAULT_NAMES
from api_gateway.openapi.operation import Operation, Schema, describe_object
from api_gateway.openapi.words import STRING

MEANINGS: dict[int, str] = {
    400: "What was sent cannot be read or does not fit, or is for an agent of a release that does not take it; nothing was changed.",
    401: "Nobody is logged in.",
    403: "The caller may not do this.",
    404: "There is no such thing that the caller can see.",
    406: "The Compute API version that was asked for is not one of ours.",
    409: "The present state, of the server or of the gateway, forbids it; the message says which.",
    413: "The request's body is too large.",
    415: "The request's body is of a media type that is not read here.",
    429: "Too much is under way already; try again later.",
    501: "The server's driver cannot do this.",
    503: "Something that the gateway needs is away; nothing was changed, try again.",
}
"""What each status means, whichever operation answers it."""

_WAITING = frozenset({429, 503})
"""These say when to try again."""


def describe_refusal(status: int) -> Schema:
    """The response that the document has once for all operations."""
    name = FAULT_NAMES[status]
    fields: dict[str, Schema] = {"code": {"const": status}, "message": STRING}
    if name == "overLimit":
        fields["retryAfter"] = {"type": "string", "pattern": "^[0-9]+$"}
    headers: dict[str, Schema] = {"x-openstack-request-id": {"$ref": "#/components/headers/RequestId"}}
    if status in _WAITING:
        headers["Retry-After"] = {"description": "In how many seconds.", "required": True, "schema": {"type": "integer", "minimum": 0}}
    return {
        "description": MEANINGS[status],
        "headers": headers,
        "content": {"application/json": {"schema": describe_object({name: describe_object(fields)})}},
    }


def list_refusals(operation: Operation, *, has_version: bool) -> list[int]:
    """The statuses of all refusals that an operation has, ascending.

    400, 403 and 413 anything can have: the URL, the size, and a request of a web page while nobody has to log in are looked at first.
    """
    statuses = {400, 403, 413, *operation.faults}
    if not operation.is_open:
        statuses.add(401)
    if operation.needs_store or not operation.is_open:
        statuses.add(503)  # the store or what tells who asks may be away
    if operation.body is not None:
        statuses.add(415)
    if has_version:
        statuses.add(406)
    return sorted(statuses)
