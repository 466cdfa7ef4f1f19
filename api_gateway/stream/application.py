"""The stream as an ASGI application: a reader with a ticket is told events until it goes, is too slow, or its time is over."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any
from urllib.parse import parse_qs

from api_gateway.ascii_json import write_json
from api_gateway.fault_names import FAULT_NAMES
from api_gateway.store import StoreBusy, StoreUnavailable
from api_gateway.stream.feed import Feed
from api_gateway.stream.reader import TooSlow, tell
from api_gateway.stream.record import StoredRecord
from api_gateway.stream.ticket import PARAMETER, PATH, Ticket, TicketRefused, read_ticket
from compute_agent.contract.clock import Clock

LOG = logging.getLogger(__name__)

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[Mapping[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]

ABORT = "abort"
"""Under this name the server puts a function into the scope's state that ends the connection whatever is still to be sent."""
_PATIENCE = 30.0
"""Seconds that a reader may leave what was sent to it untaken."""
_FAREWELL_TIMEOUT = 1.0
_RETRY_WHEN_FULL_SECONDS = 5
_LONGEST_POSITION = 18


class StreamApplication:
    """
    :param max_connections: streams at a time; one more is answered 503
    :param lifetime: seconds after which a stream ends, so that the API permits its reader anew
    :param closing: ends all streams when it is set
    """

    def __init__(
        self, feed: Feed, record: StoredRecord, clock: Clock, *, max_connections: int, lifetime: float, closing: asyncio.Event
    ) -> None:
        self._feed = feed
        self._record = record
        self._clock = clock
        self._max_connections = max_connections
        self._lifetime = lifetime
        self._closing = closing
        self._open = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] != PATH:
            await _refuse(send, 404, "Only event streams are served here; the API has another address.")
        elif scope["method"] != "GET":
            await _refuse(send, 405, "An event stream is asked for with GET.", {"allow": "GET"})
        else:
            await self._answer(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            ticket = await self._get_ticket(scope)
        except TicketRefused as error:
            await _refuse(send, 403, str(error))
            return
        except (StoreBusy, StoreUnavailable) as error:
            LOG.warning("the event stream cannot read its key: %s", error)
            await _refuse(send, 503, "The store cannot be read now; try again.", {"retry-after": "1"})
            return
        if self._open >= self._max_connections or self._closing.is_set():
            text = f"There are {self._open} event streams already, or this process stops; try again."
            await _refuse(send, 503, text, {"retry-after": str(_RETRY_WHEN_FULL_SECONDS)})
            return
        self._open += 1
        try:
            await self._stream(ticket, receive, send, scope["state"][ABORT])
        finally:
            self._open -= 1

    async def _get_ticket(self, scope: Scope) -> Ticket:
        """The ticket in the URL, beginning where the header says that this reader has come to already.

        :raises TicketRefused: there is none, or none that is good.
        """
        texts = parse_qs(scope["query_string"].decode("latin-1")).get(PARAMETER, [])
        key = await self._record.find_key()
        if len(texts) != 1 or key is None:
            raise TicketRefused("An event stream needs the ticket that GET /v1/events/stream of the API sends its readers here with.")
        ticket = read_ticket(texts[0], key, self._clock.now())
        return ticket.continue_behind(_find_last_id(scope["headers"]))

    async def _stream(self, ticket: Ticket, receive: Receive, send: Send, abort: Callable[[], None]) -> None:
        await _begin(send, 200, {"content-type": "text/event-stream", "cache-control": "no-store", "x-accel-buffering": "no"})
        telling = asyncio.create_task(tell(self._feed, ticket, lambda content: _write(send, content), patience=_PATIENCE))
        gone = asyncio.create_task(_wait_gone(receive))
        closing = asyncio.create_task(self._closing.wait())
        tasks = {telling, gone, closing}
        try:
            await asyncio.wait(tasks, timeout=self._lifetime, return_when=asyncio.FIRST_COMPLETED)
            telling.cancel()
            try:
                await telling
            except TooSlow:
                abort()
                await gone
            except asyncio.CancelledError:
                if not gone.done():
                    await _end(send, gone, abort)
        finally:
            for task in tasks:
                task.cancel()


async def _end(send: Send, gone: "asyncio.Task[None]", abort: Callable[[], None]) -> None:
    """Say farewell to a reader that is there; one that does not even take that is cut off."""
    with suppress(TimeoutError):
        async with asyncio.timeout(_FAREWELL_TIMEOUT):
            await send({"type": "http.response.body", "body": b""})
            return
    abort()
    await gone


async def _wait_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _begin(send: Send, status: int, headers: Mapping[str, str]) -> None:
    written = [(name.encode(), value.encode()) for name, value in {**headers, "connection": "close"}.items()]
    await send({"type": "http.response.start", "status": status, "headers": written})


async def _write(send: Send, content: bytes) -> None:
    await send({"type": "http.response.body", "body": content, "more_body": True})
    await send({"type": "http.response.body", "body": b"", "more_body": True})  # waits while there is too much that was not taken


async def _refuse(send: Send, status: int, message: str, headers: Mapping[str, str] | None = None) -> None:
    """In the API's own envelope."""
    body = write_json({FAULT_NAMES[status]: {"code": status, "message": message}})
    await _begin(send, status, {"content-type": "application/json", "content-length": str(len(body)), **(headers or {})})
    await send({"type": "http.response.body", "body": body})


def _find_last_id(headers: list[tuple[bytes, bytes]]) -> int | None:
    """What ``Last-Event-ID`` says; None where it says no position."""
    for name, value in headers:
        if name == b"last-event-id" and value.isdigit() and len(value) <= _LONGEST_POSITION:
            return int(value)
    return None
