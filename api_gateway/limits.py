"""What a request may be: how large, how deep, which bytes. Everything beyond gets a fault before any handler sees it."""

import json
from collections.abc import Collection
from typing import Any, NoReturn

import falcon

from api_gateway.context import Request
from api_gateway.faults import Fault, bad_request

MAX_BODY_BYTES = 114_688
MAX_DEPTH = 16
"""No body of ours nests deeper than two; the limit keeps texts that quote a value from recursing without end."""

MALFORMED_BODY = "Malformed request body"
COMPUTE_MEDIA_TYPES = frozenset({"application/json", "application/vnd.openstack.compute+json", "text/plain", ""})
NATIVE_MEDIA_TYPES = frozenset({"application/json", ""})


class Limits:
    """Refuses what is too large by its own word, and NUL bytes in the URL, which no database takes."""

    def process_request(self, request: Request, _response: falcon.Response) -> None:
        length = request.content_length
        if length is not None and length > MAX_BODY_BYTES:
            raise _too_large()
        if "\0" in request.path or "%00" in request.query_string:
            raise bad_request("The URL must not contain NUL bytes.")


def read_json(request: Request, media_types: Collection[str]) -> Any:
    """The request's body.

    :raises Fault: 415 for another media type, 413 when it is too large, 400 when it is not JSON of a sane shape.
    """
    media_type = (request.content_type or "").partition(";")[0].strip().lower()
    if media_type not in media_types:
        raise Fault(415, "Unsupported Content-Type")
    if request.content_length is None and request.get_header("Transfer-Encoding") is not None:
        raw = request.stream.read(MAX_BODY_BYTES + 1)
        if len(raw) > MAX_BODY_BYTES:
            raise _too_large()
    else:
        raw = request.bounded_stream.read()
    try:
        body = json.loads(raw.decode("utf-8"), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise bad_request(MALFORMED_BODY) from error
    if not _is_shallow(body):
        raise bad_request(MALFORMED_BODY)
    return body


def _is_shallow(body: Any) -> bool:
    level = [body]
    for _ in range(MAX_DEPTH):
        inner: list[Any] = []
        for value in level:
            if isinstance(value, dict):
                inner += value.values()
            elif isinstance(value, list):
                inner += value
        if not inner:
            return True
        level = inner
    return False


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _too_large() -> Fault:
    return Fault(413, f"The request body is larger than {MAX_BODY_BYTES} bytes.")
