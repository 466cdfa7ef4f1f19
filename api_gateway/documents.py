"""The documents that describe this gateway to programs: OpenAPI for what it answers, AsyncAPI for what is told at the broker."""

from collections.abc import Callable
from functools import cache
from typing import Any

import falcon

from api_gateway.answers import answer_json
from api_gateway.asyncapi.document import build_document as build_asyncapi
from api_gateway.context import Request
from api_gateway.gateway import Gateway
from api_gateway.openapi.document import build_document as build_openapi
from api_gateway.query import check_known, read_query
from api_gateway.routing import Route


def _create_route(path: str, build: Callable[[], dict[str, Any]]) -> Route:
    get_document = cache(build)  # built when it is first asked for

    def show_document(_gateway: Gateway, request: Request, response: falcon.Response) -> None:
        """To everybody who may ask at all: it holds nothing but what the release's sources say."""
        check_known(read_query(request), ())
        answer_json(response, get_document())

    return Route("GET", path, show_document)


ROUTES: tuple[Route, ...] = (_create_route("/openapi.json", build_openapi), _create_route("/asyncapi.json", build_asyncapi))
