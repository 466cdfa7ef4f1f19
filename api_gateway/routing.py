"""Routes as data: a row says which function answers which method of which path; here rows become what falcon takes."""

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import falcon

from api_gateway.context import Request
from api_gateway.faults import not_found
from api_gateway.gateway import Gateway

Handler = Callable[..., None]
"""``handler(gateway, request, response, **path_parameters)``: reads, permits, acts, answers, in that order."""


@dataclass(frozen=True)
class Route:
    """One row."""

    method: str
    path: str
    handler: Handler


class _Resource:
    """What falcon dispatches to: one attribute ``on_METHOD`` for each method of a path."""


def add_routes(app: "falcon.App[Any, Any]", gateway: Gateway, routes: Iterable[Route]) -> None:
    by_path: dict[str, list[Route]] = defaultdict(list)
    for route in routes:
        by_path[route.path].append(route)
    for path, rows in by_path.items():
        resource = _Resource()
        for route in rows:
            setattr(resource, f"on_{route.method.lower()}", _bind(gateway, route.handler))
        app.add_route(path, resource)


def _bind(gateway: Gateway, handler: Handler) -> Callable[..., None]:
    def respond(request: Request, response: falcon.Response, **parameters: str) -> None:
        if "" in parameters.values():
            raise not_found()  # a trailing slash, or two in a row
        handler(gateway, request, response, **parameters)

    return respond
