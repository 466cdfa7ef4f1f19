"""``GET /v1/schemas``: the JSON Schemas of notifications, of each event version that has been published."""

from typing import Any

import falcon

from api_gateway.answers import answer_json
from api_gateway.context import Request
from api_gateway.faults import not_found
from api_gateway.gateway import Gateway
from api_gateway.query import check_known, find_single, read_query
from compute_agent.contract import versions
from compute_agent.contract.schema_files import ENVELOPE, list_schema_versions, read_schemas


def list_schemas(_gateway: Gateway, request: Request, response: falcon.Response) -> None:
    """To everybody who may ask at all: they hold nothing but what the release's sources say."""
    check_known(read_query(request), ())
    views = [
        _view(request, name, version, schema)
        for version in reversed(list_schema_versions())
        for name, schema in sorted(read_schemas(version).items())
    ]
    answer_json(response, {"event_version": versions.EVENT_VERSION, "schemas": views})


def show_schema(_gateway: Gateway, request: Request, response: falcon.Response, *, schema_name: str) -> None:
    """Of the version that is asked for, else of that which this release speaks.

    :raises Fault: 404 when no such schema was published, with where to look.
    """
    query = read_query(request)
    check_known(query, ("version",))
    version = find_single(query, "version") or versions.EVENT_VERSION
    if version not in list_schema_versions():
        raise not_found(f"No schemas of such an event version were published; there are some of {', '.join(list_schema_versions())}.")
    schema = read_schemas(version).get(schema_name)
    if schema is None:
        raise not_found(f"Event version {version} has no schema of that name; GET /v1/schemas lists those that there are.")
    answer_json(response, schema)


def _view(request: Request, name: str, version: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": name,
        "version": version,
        "since": None if name == ENVELOPE else versions.get_version_of_event_type(name),
        "severity": schema.get("x-severity"),
        "schema_id": schema["$id"],
        "links": [{"rel": "self", "href": f"{request.prefix}/v1/schemas/{name}?version={version}"}],
    }
