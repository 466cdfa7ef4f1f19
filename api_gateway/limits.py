"""What a request may be: how large, how deep, which bytes. Everything beyond gets a fault before any handler sees it."""

import json
from collections.abc import Collection
from typing import Any, NoReturn
from urllib.parse import unquote_to_bytes

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
    """Refuses what is too large by its own word, and in the URL NUL bytes, which no database takes, and queries that are no text.

    A path that is no text is not refused: nothing has such a name, so it is not found.
    """

    def process_request(self, request: Request, _response: falcon.Response) -> None:
        length = request.content_length
        if length is not None and length > MAX_BODY_BYTES:
            raise _too_large()
        query = unquote_to_bytes(request.query_string)
        if "\0" in request.path or b"\0" in query:
            raise bad_request("The URL must not contain NUL bytes.")
        try:
            query.decode("utf-8")
        except UnicodeDecodeError as error:
            raise bad_request("The URL's query must be UTF-8.") from error


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
        body = _DECODER.decode(raw.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise bad_request(MALFORMED_BODY) from error
    _check_shape(body)
    return body


def _make_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """:raises ValueError: a key comes twice; two readers of such a text need not agree on what it asks for."""
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("a key comes twice")
    return made


def _check_shape(body: Any) -> None:
    """:raises Fault: 400 when the body nests too deeply, or holds text that no database takes."""
    level = [body]
    for _ in range(MAX_DEPTH):
        inner: list[Any] = []
        for value in level:
            if isinstance(value, str):
                _check_text(value)
            elif isinstance(value, dict):
                inner += value.keys()
                inner += value.values()
            elif isinstance(value, list):
                inner += value
        if not inner:
            return
        level = inner
    raise bad_request(MALFORMED_BODY)


def _check_text(text: str) -> None:
    if "\0" in text or (not text.isascii() and any("\ud800" <= letter <= "\udfff" for letter in text)):
        raise bad_request("Texts in the request body must be Unicode without NUL.")


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant, object_pairs_hook=_make_object)


def _too_large() -> Fault:
    return Fault(413, f"The request body is larger than {MAX_BODY_BYTES} bytes.")
