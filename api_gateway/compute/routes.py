"""The routes of the Compute API slice. Each resource is there under ``/v2.1`` and ``/v2``, with and without a project in the URL."""

from typing import Any

import falcon

from api_gateway.compute import diagnostics, instance_actions, server_actions, servers, versions
from api_gateway.compute.urls import check_project, read_project
from api_gateway.context import Request
from api_gateway.gateway import Gateway
from api_gateway.routing import Handler, Route

_DOCUMENTS = (
    Route("GET", "/", versions.list_versions),
    Route("GET", "/v2.1", versions.show_version),
    Route("GET", "/v2.1/", versions.show_version),
    Route("GET", "/v2", versions.show_version),
    Route("GET", "/v2/", versions.show_version),
)

_RESOURCES = (
    Route("GET", "/servers", servers.list_servers),
    Route("GET", "/servers/detail", servers.list_servers_in_detail),
    Route("GET", "/servers/{server_id}", servers.show_server),
    Route("GET", "/servers/{server_id}/diagnostics", diagnostics.show_diagnostics),
    Route("POST", "/servers/{server_id}/action", server_actions.run_server_action),
    Route("GET", "/servers/{server_id}/os-instance-actions", instance_actions.list_instance_actions),
    Route("GET", "/servers/{server_id}/os-instance-actions/{request_id}", instance_actions.show_instance_action),
)

_CHECK_PROJECT_THEMSELVES = frozenset({server_actions.run_server_action})
"""A body comes before the URL's project in the order of checks."""


def _with_project(handler: Handler) -> Handler:
    def respond(gateway: Gateway, request: Request, response: falcon.Response, project_id: str | None = None, **parameters: Any) -> None:
        read_project(request, project_id)
        if handler not in _CHECK_PROJECT_THEMSELVES:
            check_project(request)
        handler(gateway, request, response, **parameters)

    return respond


ROUTES: tuple[Route, ...] = _DOCUMENTS + tuple(
    Route(route.method, f"{prefix}{route.path}", _with_project(route.handler))
    for prefix in ("/v2.1", "/v2.1/{project_id}", "/v2", "/v2/{project_id}")
    for route in _RESOURCES
)
