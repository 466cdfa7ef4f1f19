"""The OpenAPI document: built from the routes' own tables, the same in every process of a release."""

from collections.abc import Mapping

from api_gateway.microversion import HEADER, LEGACY_HEADER, MAX_VERSION
from api_gateway.openapi.compute_operations import COMPUTE_OPERATIONS
from api_gateway.openapi.compute_schemas import COMPUTE_SCHEMAS
from api_gateway.openapi.native_operations import NATIVE_OPERATIONS
from api_gateway.openapi.native_schemas import NATIVE_SCHEMAS
from api_gateway.openapi.notification_operations import NOTIFICATION_OPERATIONS, NOTIFICATION_SCHEMAS
from api_gateway.openapi.operation import JSON, Operation, Operations, Schema
from api_gateway.openapi.parameters import VERSION, describe_path_parameters
from api_gateway.openapi.refusals import MEANINGS, describe_refusal, list_refusals
from api_gateway.openapi.subscription_operations import SUBSCRIPTION_OPERATIONS, SUBSCRIPTION_SCHEMAS
from api_gateway.openapi.words import REQUEST_ID
from compute_agent.contract import versions

OPERATIONS: Operations = {**COMPUTE_OPERATIONS, **NATIVE_OPERATIONS, **SUBSCRIPTION_OPERATIONS, **NOTIFICATION_OPERATIONS}
"""Every documented route. Those of ``/v2.1`` are there under ``/v2``, and with a project in the URL, as well."""

_VERSIONED = "/v2.1/servers"

_TAGS = [
    {"name": "compute", "description": f"The slice of the OpenStack Compute API that crashcart speaks, at version {MAX_VERSION}."},
    {"name": "crashcart", "description": "Our own API: what the Compute API has no words for."},
]

_HEADERS: dict[str, Schema] = {
    "RequestId": {
        "description": "The id of this request; the action that it asked for has the same.",
        "required": True,
        "schema": REQUEST_ID,
    },
    "Version": {
        "description": "The Compute API version of this answer.",
        "required": True,
        "schema": {"const": f"compute {MAX_VERSION}"},
    },
    "LegacyVersion": {
        "description": "The same, as older clients read it.",
        "required": True,
        "schema": {"const": MAX_VERSION},
    },
}

_SECURITY: dict[str, Schema] = {
    "token": {"type": "apiKey", "in": "header", "name": "X-Auth-Token", "description": "With [api] auth_strategy keystone."},
    "basic": {"type": "http", "scheme": "basic", "description": "With [api] auth_strategy http_basic."},
}


def build_document() -> Schema:
    """The document, as JSON can hold it."""
    paths: dict[str, Schema] = {}
    for (method, path), operation in OPERATIONS.items():
        item = paths.setdefault(path, {"parameters": parameters} if (parameters := describe_path_parameters(path)) else {})
        item[method.lower()] = _describe(operation, has_version=path.startswith(_VERSIONED))
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "crashcart",
            "version": versions.RELEASE,
            "summary": "Crash dumps on demand for servers",
            "description": (
                "Without authentication only the version documents and the healthcheck are answered. With [api] auth_strategy none, on "
                "loopback, everybody is an admin."
            ),
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "tags": _TAGS,
        "security": [{name: []} for name in _SECURITY] + [{}],
        "paths": paths,
        "components": {
            "schemas": {**COMPUTE_SCHEMAS, **NATIVE_SCHEMAS, **SUBSCRIPTION_SCHEMAS, **NOTIFICATION_SCHEMAS},
            "responses": {f"Refused{status}": describe_refusal(status) for status in MEANINGS},
            "headers": _HEADERS,
            "parameters": {"Version": VERSION},
            "securitySchemes": _SECURITY,
        },
    }


def _describe(operation: Operation, *, has_version: bool) -> Schema:
    parameters = [*operation.parameters, *([{"$ref": "#/components/parameters/Version"}] if has_version else [])]
    responses = {str(status): _describe_answer(operation, status, has_version=has_version) for status in sorted(operation.answers)}
    for status in list_refusals(operation, has_version=has_version):
        responses[str(status)] = {"$ref": f"#/components/responses/Refused{status}"}
    described: Schema = {"tags": [operation.tag], "summary": operation.summary, "operationId": operation.id, "responses": responses}
    if parameters:
        described["parameters"] = parameters
    if operation.body is not None:
        described["requestBody"] = {"required": True, "content": {"application/json": {"schema": operation.body}}}
    if operation.is_open:
        described["security"] = [{}]
    return described


def _describe_answer(operation: Operation, status: int, *, has_version: bool) -> Schema:
    answer = operation.answers[status]
    headers: dict[str, Schema] = {"x-openstack-request-id": {"$ref": "#/components/headers/RequestId"}}
    headers["x-compute-request-id"] = {"$ref": "#/components/headers/RequestId"}
    if has_version:
        headers[HEADER] = {"$ref": "#/components/headers/Version"}
        headers[LEGACY_HEADER] = {"$ref": "#/components/headers/LegacyVersion"}
    headers |= _describe_headers(answer.headers)
    described: Schema = {"description": answer.description, "headers": headers}
    if answer.schema is not None:
        described["content"] = {answer.media_type: {"schema": answer.schema}}
    elif answer.media_type != JSON:
        described["content"] = {answer.media_type: {}}
    return described


def _describe_headers(headers: Mapping[str, Schema]) -> dict[str, Schema]:
    return {name: {"required": True, "schema": schema} for name, schema in headers.items()}
