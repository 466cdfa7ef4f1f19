"""One connection of the event stream: its place in the record, and what is written to it."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from api_gateway.stream.feed import Feed, Told
from api_gateway.stream.ticket import Ticket

Write = Callable[[bytes], Awaitable[None]]
"""Hands bytes on; waits while the reader has too much unread."""

_RETRY_MILLISECONDS = 1000
"""How long a reader that was cut off shall wait before it comes again."""
_KEEP_ALIVE_INTERVAL = 15.0
"""Seconds of silence after which a comment is sent, so that nobody on the way takes the connection for dead."""
_AT_ONCE = 64 * 1024
"""Bytes after which is waited until the reader has taken them."""


class TooSlow(Exception):
    """The reader has not taken what was sent to it for too long."""


async def tell(feed: Feed, ticket: Ticket, write: Write, *, patience: float) -> None:
    """Write everything behind the ticket's position, each event once and in order, and then what comes; never ends by itself.

    :param patience: seconds that one write may take
    :raises TooSlow: it took longer. The reader goes on behind the last event that it has when it comes again.
    """

    async def send(content: bytes) -> None:
        try:
            async with asyncio.timeout(patience):
                await write(content)
        except TimeoutError as error:
            raise TooSlow from error

    position = ticket.after
    await send(_write_place(position, f"retry: {_RETRY_MILLISECONDS}"))
    async with feed.read():
        while True:
            kept = feed.find_kept(position)
            if kept is None:
                told, position = await feed.read_backlog(ticket.filters, position)
                await _send_all(told, ticket, send)
            elif kept:
                position = kept[-1].event.position
                await _send_all([told for told in kept if ticket.filters.match(told.event)], ticket, send)
            elif not await feed.wait(_KEEP_ALIVE_INTERVAL):
                await send(_write_place(position, ": still here"))


def _write_place(position: int, line: str) -> bytes:
    """A message without an event. Its id is where the reader is, for one to whom nothing was told yet: when it comes again without an id,
    it begins with what is recorded then."""
    return f"id: {position}\n{line}\n\n".encode("ascii")


async def _send_all(told: Sequence[Told], ticket: Ticket, send: Write) -> None:
    together = bytearray()
    for one in told:
        together += one.write(ticket.withheld)
        if len(together) >= _AT_ONCE or one is told[-1]:
            await send(bytes(together))
            together.clear()
