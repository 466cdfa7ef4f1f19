"""Every request has an id of ours; it is also the id of the action that the request makes."""

import re
from collections.abc import Callable

import falcon

from api_gateway.context import Request

_REQUEST_ID = re.compile(r"req-[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
GLOBAL_HEADER = "X-OpenStack-Request-ID"


def is_request_id(text: str) -> bool:
    """Whether the text can be the id of a request, and with it of an action."""
    return _REQUEST_ID.fullmatch(text) is not None


class RequestIds:
    """Gives each request its id and both headers that clients read it from.

    The inbound header is the *global* id of a caller's own request: kept for logs, casts and notifications, never echoed.
    """

    def __init__(self, new_id: Callable[[], str]) -> None:
        self._new_id = new_id

    def process_request(self, request: Request, _response: falcon.Response) -> None:
        context = request.context
        context.request_id = f"req-{self._new_id()}"
        global_id = request.get_header(GLOBAL_HEADER)
        if global_id is not None and is_request_id(global_id):
            context.global_request_id = global_id

    def process_response(self, request: Request, response: falcon.Response, _resource: object, _succeeded: bool) -> None:
        response.set_header("x-openstack-request-id", request.context.request_id)
        response.set_header("x-compute-request-id", request.context.request_id)
