"""Faults: the one envelope that every refusal goes out in.

Domain code raises errors of its own; :data:`STATUS_OF_ERROR` says what each means in HTTP. Nothing leaves the gateway as a bare 500 page.
"""

import logging
from collections.abc import Mapping
from typing import Any

import falcon

from api_gateway.acceptance import IdempotencyKeyReused, TooManyOpen
from api_gateway.ascii_json import write_json
from api_gateway.cancellation import NotCancellable
from api_gateway.context import Request
from api_gateway.fault_names import FAULT_NAMES
from api_gateway.rpc_versions import AgentTooOld
from api_gateway.server_checks import Refused
from api_gateway.store import StoreBusy, StoreUnavailable
from api_gateway.watchdog_checks import NotPossible

LOG = logging.getLogger(__name__)

NOT_FOUND = "The resource could not be found."
RETRY_AFTER_SECONDS = 1
_STATUSES_THAT_PASS = frozenset({429, 503})
"""The same request may be answered otherwise a little later."""


class Fault(Exception):
    """Refuse the request with ``status`` and a sentence that says what would help.

    :param retry_after: seconds after which to try again, for those statuses that say so (429, 503)
    """

    def __init__(
        self, status: int, message: str, *, headers: Mapping[str, str] | None = None, retry_after: int = RETRY_AFTER_SECONDS
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.headers = dict(headers or {})
        self.retry_after = retry_after


def bad_request(message: str) -> Fault:
    return Fault(400, message)


def forbidden(message: str) -> Fault:
    return Fault(403, message)


def not_found(message: str = NOT_FOUND) -> Fault:
    return Fault(404, message)


STATUS_OF_ERROR: dict[type[Exception], int] = {
    Refused: 409,
    TooManyOpen: 429,
    IdempotencyKeyReused: 409,
    NotCancellable: 409,
    AgentTooOld: 400,
    NotPossible: 400,
    StoreBusy: 503,
    StoreUnavailable: 503,
}
"""What a domain error means in HTTP; its text is the fault's message. The most specific class counts."""

_STORE_AWAY = "The store of this gateway cannot be reached or is busy; nothing was changed. Try again."


def install(app: "falcon.App[Any, Any]") -> None:
    """Make every way out of ``app`` use the envelope."""
    app.add_error_handler(Exception, _answer_unexpected)
    app.add_error_handler(falcon.HTTPError, _answer_http_error)
    for error in STATUS_OF_ERROR:
        app.add_error_handler(error, _answer_domain_error)
    app.add_error_handler(Fault, _answer_fault)


def _write(response: falcon.Response, status: int, message: str, *, retry_after: int = RETRY_AFTER_SECONDS) -> None:
    body: dict[str, Any] = {"code": status, "message": message}
    if status in _STATUSES_THAT_PASS:
        response.set_header("Retry-After", str(retry_after))
    if FAULT_NAMES.get(status) == "overLimit":
        body["retryAfter"] = str(retry_after) if status in _STATUSES_THAT_PASS else "0"
    response.status = status
    response.content_type = falcon.MEDIA_JSON
    response.data = write_json({FAULT_NAMES.get(status, "computeFault"): body})


def _answer_fault(request: Request, response: falcon.Response, fault: Fault, _params: Any) -> None:
    for name, value in fault.headers.items():
        response.set_header(name, value)
    _write(response, fault.status, fault.message, retry_after=fault.retry_after)


def _answer_domain_error(request: Request, response: falcon.Response, error: Exception, _params: Any) -> None:
    status = next(STATUS_OF_ERROR[kind] for kind in type(error).__mro__ if kind in STATUS_OF_ERROR)
    if status == 503:
        LOG.warning("%s %s %s: store away or busy: %s", request.context.request_id, request.method, request.path, error)
        _write(response, status, _STORE_AWAY)
    else:
        _write(response, status, str(error))


def _answer_http_error(request: Request, response: falcon.Response, error: falcon.HTTPError, _params: Any) -> None:
    """What falcon itself refuses: unknown routes and methods, headers that cannot be read."""
    status = error.status_code
    if status == 405 and request.path.startswith(("/v2.1/", "/v2/")):
        status = 404  # a Compute API answers so, and clients rely on nothing else
    if status == 404:
        _write(response, 404, NOT_FOUND)
        return
    for name, value in dict(error.headers or {}).items():
        response.set_header(name, value)
    _write(response, status, error.description or error.title)


def _answer_unexpected(request: Request, response: falcon.Response, error: Exception, _params: Any) -> None:
    LOG.error("%s %s %s failed", request.context.request_id, request.method, request.path, exc_info=error)
    _write(
        response,
        500,
        f"Unexpected API Error. The log of crashcart-api says more about {request.context.request_id}.\n{type(error)}",
    )
