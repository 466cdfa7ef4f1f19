"""The operations of the Compute API slice, under their canonical prefix ``/v2.1``."""

from api_gateway.compute.schemas import ACTION_BODIES, ACTION_LIST_QUERY, SERVER_LIST_QUERY, Versions, find_schema
from api_gateway.compute.server_filters import CANNOT
from api_gateway.microversion import Since
from api_gateway.openapi.operation import Answer, Operation, Operations, Schema, refer
from api_gateway.openapi.parameters import describe_query

_TAG = "compute"

_MEANINGS: dict[str, str] = {
    "limit": "The most items that the page may have; the gateway's own limit holds all the same.",
    "marker": "The id of the last item of the page before.",
    "sort_key": "A field to sort by; may be repeated.",
    "sort_dir": "The direction of the sort_key at the same place.",
    "changes-since": "What changed then or later.",
    "changes-before": "What changed then or earlier.",
    "name": "A regular expression that the name must contain.",
    "all_tenants": "The servers of all projects; admins only.",
    "deleted": "Deleted servers instead.",
    "locked": "Only servers that are locked, or are not.",
    "tags": "Only servers that have all of these tags, separated by commas.",
    "tags-any": "Only servers that have one of these tags, separated by commas.",
    "not-tags": "Only servers that do not have all of these tags, separated by commas.",
    "not-tags-any": "Only servers that have none of these tags, separated by commas.",
}
"""Query parameters that are more than a field that must be so."""


def _get_schema(versions: Versions) -> Schema:
    """The schema that requests of the maximum version are held against."""
    schema = find_schema(versions, max(Since))
    assert schema is not None, "a table ends with a schema"
    return schema


def _list_parameters(versions: Versions) -> tuple[Schema, ...]:
    return tuple(
        describe_query(
            name, schema["items"] if schema.get("maxItems") == 1 else schema, _MEANINGS.get(name, f"Only those with this {name}.")
        )
        for name, schema in sorted(_get_schema(versions)["properties"].items())
        if name not in CANNOT
    )


_SERVER_PARAMETERS = _list_parameters(SERVER_LIST_QUERY)
_ACTION_BODY: Schema = {"oneOf": [_get_schema(versions) for versions in ACTION_BODIES.values()]}

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
        parameters=_SERVER_PARAMETERS,
    ),
    ("GET", "/v2.1/servers/detail"): Operation(
        id="list_servers_in_detail",
        tag=_TAG,
        summary="List servers with all that is known of them",
        answers={200: Answer("A page of servers; the next one is linked when this one is full.", refer("Servers"))},
        parameters=_SERVER_PARAMETERS,
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
        summary="Show what a server's host says of it now, or the last that is known",
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
        parameters=_list_parameters(ACTION_LIST_QUERY),
    ),
    ("GET", "/v2.1/servers/{server_id}/os-instance-actions/{request_id}"): Operation(
        id="show_instance_action",
        tag=_TAG,
        summary="Show one thing that was done to a server, and how it went",
        answers={200: Answer("The action with its events.", refer("InstanceAction"))},
        faults=(404,),
    ),
}
