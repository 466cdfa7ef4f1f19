"""What is said to a BMC and what it answers: conversations, written without I/O, which the I/O thread carries out.

A conversation is a generator: it yields :class:`Request` after request and is sent the :class:`Response` to each. So what is asked and what
it means can be read, and tested, without a network; and one thread can carry out many at a time.
"""

from collections.abc import Generator
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Request:
    """One IPMI request. ``once``: it is sent a single time, answered or not; any other is sent again while no answer comes."""

    netfn: int
    command: int
    data: bytes = b""
    once: bool = False


@dataclass(frozen=True)
class Response:
    """The answer to a request: its completion code (0: done) and its data after the code."""

    code: int
    data: bytes = b""


class NoAnswer(Exception):
    """Raised at the ``yield`` of a request that was sent, and to which no answer came in time; the text says how long was waited."""


Conversation = Generator[Request, Response, T]
"""Asks with ``response = yield request``, returns its result, raises what ``drivers.errors`` declares."""
