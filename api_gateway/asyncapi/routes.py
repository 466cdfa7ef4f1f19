"""The document's own route."""

from functools import cache

import falcon

from api_gateway.answers import answer_json
from api_gateway.asyncapi.document import Schema, build_document
from api_gateway.context import Request
from api_gateway.gateway import Gateway
from api_gateway.query import check_known, read_query
from api_gateway.routing import Route


def show_document(_gateway: Gateway, request: Request, response: falcon.Response) -> None:
    """To everybody who may ask at all, as the other document."""
    check_known(read_query(request), ())
    answer_json(response, _get_document())


@cache
def _get_document() -> Schema:
    return build_document()


ROUTES: tuple[Route, ...] = (Route("GET", "/asyncapi.json", show_document),)
