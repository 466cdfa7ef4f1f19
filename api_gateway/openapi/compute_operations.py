"""The operations of the Compute API slice, under their canonical prefix ``/v2.1``."""

from api_gateway.compute import server_filters
from api_gateway.compute.schemas import ACTION_BODIES, find_schema
from api_gateway.microversion import Since
from api_gateway.openapi.operation import Answer, Operation, Operations, Schema, refer
from api_gateway.openapi.parameters import CHANGES_BEFORE, CHANGES_SINCE, LIMIT, describe_filters, describe_query
from api_gateway.openapi.words import BOOLEAN, COUNT, REQUEST_ID, SERVER_ID

_TAG = "compute"

_WORD: Schema = {"type": "string"}
_SERVER_QUERY: dict[str, tuple[Schema, str]] = {
    "limit": (LIMIT["schema"], LIMIT["description"]),
    "marker": (SERVER_ID, "The id of the last server of the page before."),
    "sort_key": (_WORD, "The field to sort by; may be repeated."),
    "sort_dir": ({"enum": ["asc", "desc"]}, "The direction of the sort_key at the same place."),
    "changes-since": (CHANGES_SINCE["schema"], CHANGES_SINCE["description"]),
    "changes-before": (CHANGES_BEFORE["schema"], CHANGES_BEFORE["description"]),
    "name": ({"type": "string", "format": "regex"}, "A regular expression that the name must contain."),
    "all_tenants": (BOOLEAN, "The servers of all projects; admins only."),
    "deleted": (BOOLEAN, "Deleted servers instead; admins only."),
    "locked": (BOOLEAN, "Only servers that are locked, or are not."),
    "power_state": (COUNT, "Only servers with this power state."),
}
"""The parameters of server lists whose values are more than any text."""

SERVER_PARAMETERS = tuple(describe_filters(sorted(server_filters.KNOWN - server_filters.CANNOT), _SERVER_QUERY))

_ACTION_BODY: Schema = {"oneOf": [find_schema(versions, max(Since)) for versions in ACTION_BODIES.values()]}

COMPUTE_OPERATIONS: Operations = {
    ("GET", "/"): Operation(
        id="list_versions",
        tag=_TAG,
        summary="List the versions of the Compute API",
        answers={200: Answer("The versions.", refer("Versions"))},
        is_open=True,
        needs_store=False,
    ),
    ("GET", "/v2.1"): Operation(
        id="show_version",
        tag=_TAG,
        summary="Show the version document",
        answers={200: Answer("The version document.", refer("Version"))},
        is_open=True,
        needs_store=False,
    ),
    ("GET", "/v2.1/"): Operation(
        id="show_version_with_slash",
        tag=_TAG,
        summary="Show the version document, under the path that the version list links to",
        answers={200: Answer("The version document.", refer("Version"))},
        is_open=True,
        needs_store=False,
    ),
    ("GET", "/v2.1/servers"): Operation(
        id="list_servers",
        tag=_TAG,
        summary="List servers by id and name",
        answers={200: Answer("A page of servers; the next one is linked when this one is full.", refer("BriefServers"))},
        parameters=SERVER_PARAMETERS,
    ),
    ("GET", "/v2.1/servers/detail"): Operation(
        id="list_servers_in_detail",
        tag=_TAG,
        summary="List servers with all that is known of them",
        answers={200: Answer("A page of servers; the next one is linked when this one is full.", refer("Servers"))},
        parameters=SERVER_PARAMETERS,
    ),
    ("GET", "/v2.1/servers/{server_id}"): Operation(
        id="show_server",
        tag=_TAG,
        summary="Show a server",
        answers={200: Answer("The server.", refer("ShownServer"))},
        faults=(404,),
    ),
    ("GET", "/v2.1/servers/{server_id}/diagnostics"): Operation(
        id="show_server_diagnostics",
        tag=_TAG,
        summary="Show what is known of a server's hardware",
        answers={200: Answer("The diagnostics.", refer("Diagnostics"))},
        faults=(404, 409, 501),
    ),
    ("POST", "/v2.1/servers/{server_id}/action"): Operation(
        id="run_server_action",
        tag=_TAG,
        summary="Do something to a server: the body's one key says what",
        answers={202: Answer("It is committed; what becomes of it is under os-instance-actions, by the id of this request.")},
        faults=(404, 409, 429),
        body=_ACTION_BODY,
    ),
    ("GET", "/v2.1/servers/{server_id}/os-instance-actions"): Operation(
        id="list_instance_actions",
        tag=_TAG,
        summary="List what was done to a server, newest first, also after it was deleted",
        answers={200: Answer("A page of actions; the next one is linked when this one is full.", refer("InstanceActions"))},
        faults=(404,),
        parameters=(
            LIMIT,
            describe_query("marker", REQUEST_ID, "The request id of the last action of the page before."),
            CHANGES_SINCE,
            CHANGES_BEFORE,
        ),
    ),
    ("GET", "/v2.1/servers/{server_id}/os-instance-actions/{request_id}"): Operation(
        id="show_instance_action",
        tag=_TAG,
        summary="Show one thing that was done to a server, and how it went",
        answers={200: Answer("The action with its events.", refer("InstanceAction"))},
        faults=(404,),
    ),
}
