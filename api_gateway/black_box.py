"""One part of a black box, fetched from its host in pieces and handed on only when it is what the event said."""

import base64
import binascii
import hashlib
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO

from api_gateway.agent_calls import PAUSE_SECONDS, AgentCalls, NoAnswer
from api_gateway.faults import Fault, not_found

LARGEST_PART = 64 * 1024 * 1024
"""Bytes; a host's own quota keeps its black boxes far below."""
_LONGEST_SECONDS = 30.0
"""For all pieces together: each of them has the limit of a call, and a slow host could use that up again and again."""
_IN_MEMORY = 1024 * 1024


@dataclass(frozen=True)
class Part:
    """What is wanted, and what the event said of it: its size in ``bytes`` and its digest."""

    host: str
    black_box_id: str
    name: str
    bytes: int
    sha256: str


def fetch(calls: AgentCalls, part: Part, *, monotonic: Callable[[], float] = time.monotonic) -> IO[bytes]:
    """Its contents, to be read from the beginning and closed by the caller.

    :raises Fault: 404 when the host has it no longer, 409 when it has something else, 503 when it gave no answer in time.
    """
    if part.bytes > LARGEST_PART:
        raise Fault(409, f"Part {part.name} is larger than the {LARGEST_PART} bytes that are handed on; fetch it from host {part.host}.")
    give_up_at = monotonic() + _LONGEST_SECONDS
    digest = hashlib.sha256()
    contents = tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY)  # noqa: SIM115 -- the caller closes it
    try:
        done = 0
        while done < part.bytes:
            if monotonic() > give_up_at:
                raise Fault(503, f"Host {part.host} is too slow in handing out part {part.name}.", retry_after=PAUSE_SECONDS)
            piece = _fetch_piece(calls, part, done)
            digest.update(piece)
            contents.write(piece)
            done += len(piece)
        if done != part.bytes or digest.hexdigest() != part.sha256:
            raise _is_other(part)
        contents.seek(0)
    except BaseException:
        contents.close()
        raise
    return contents


def _fetch_piece(calls: AgentCalls, part: Part, offset: int) -> bytes:
    """What is there from ``offset`` on; at least one byte."""
    try:
        chunk = calls.get_black_box(part.host, part.black_box_id, part.name, offset=offset)
    except NoAnswer as error:
        raise Fault(503, str(error), retry_after=PAUSE_SECONDS) from error
    if chunk.total is None:
        raise not_found(f"Host {part.host} has part {part.name} no longer.")
    try:
        piece = base64.b64decode(chunk.content, validate=True)
    except binascii.Error as error:
        raise _is_other(part) from error
    if chunk.total != part.bytes or not piece:
        raise _is_other(part)
    return piece


def _is_other(part: Part) -> Fault:
    return Fault(409, f"What host {part.host} has as part {part.name} is not what the event said: its size or digest differs.")
