"""One reader of the record for all connections: it keeps what was recorded last, and tells everybody that there is more.

Lives in one asyncio event loop; only :meth:`Feed.wake` may be called from elsewhere. Nothing here waits for a connection: each has its own
place in the record, takes what is kept behind it, and reads from the store what is kept no longer.
"""

import asyncio
import bisect
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Protocol, TypeVar

from api_gateway.ascii_json import write_json
from api_gateway.native.event_view import view_event
from api_gateway.store import StoreBusy, StoreUnavailable
from api_gateway.store.event_listing import EventFilters
from api_gateway.store.events import EventRow
from api_gateway.stream.record import Backlog

LOG = logging.getLogger(__name__)

T = TypeVar("T")

LOOK_INTERVAL = 0.25
"""Seconds between two looks at the record while nobody wakes us: another process may record."""
_PAGE = 500
_BACKLOG_PAGE = 100
"""Each reader that is behind has one of its own in memory, for as long as it takes to take it."""
_KEPT = 2000
"""Events kept for all connections together; who is further behind reads the store."""
_PAUSE_AFTER_FAILURE = 1.0


class Record(Protocol):
    """What the feed reads. Each call raises StoreBusy or StoreUnavailable while the store cannot be read."""

    async def get_last_position(self) -> int: ...

    async def list_events(self, after: int, limit: int) -> list[EventRow]: ...

    async def list_backlog(self, filters: EventFilters, after: int, limit: int) -> Backlog: ...


class Told:
    """An event, and how it is written for each kind of reader: once, however many there are of the kind."""

    def __init__(self, event: EventRow) -> None:
        self.event = event
        self._written: dict[frozenset[str], bytes] = {}

    def write(self, withheld: frozenset[str]) -> bytes:
        """As a message of the stream, for readers from whom this is withheld."""
        written = self._written.get(withheld)
        if written is None:
            content = write_json(view_event(self.event, withheld)).decode()  # ASCII, on one line
            event_type = json.dumps(self.event.event_type)[1:-1]  # a line break in it would end the field
            written = f"id: {self.event.position}\nevent: {event_type}\ndata: {content}\n\n".encode("ascii")
            self._written[withheld] = written
        return written


class Feed:
    """:param interval: seconds between two looks at the record while nobody wakes us"""

    def __init__(self, record: Record, *, interval: float = LOOK_INTERVAL) -> None:
        self._record = record
        self._interval = interval
        self._loop = asyncio.get_running_loop()
        self._readers = 0
        self._wanted = asyncio.Event()
        self._begun = asyncio.Event()
        self._woken = asyncio.Event()
        self._more = asyncio.Event()
        self._kept: list[Told] = []
        self._begin = 0  # everything behind this position that the follower has seen is kept

    def wake(self) -> None:
        """Something was recorded. From any thread."""
        with suppress(RuntimeError):  # the event loop has ended
            self._loop.call_soon_threadsafe(self._woken.set)

    async def follow(self) -> None:
        """Keep up with the record, as long as there is a reader, until cancelled."""
        while True:
            await self._wanted.wait()
            self._begin = end = await insist(self._record.get_last_position)
            self._kept.clear()
            self._begun.set()
            while self._wanted.is_set():
                found = await insist(partial(self._record.list_events, end, _PAGE))
                if found:
                    end = found[-1].position
                    self._keep(found)
                if len(found) < _PAGE:
                    await self._pause()
            self._begun.clear()

    @asynccontextmanager
    async def read(self) -> AsyncIterator[None]:
        """Inside, the record is followed."""
        self._readers += 1
        self._wanted.set()
        try:
            await self._begun.wait()
            yield
        finally:
            self._readers -= 1
            if self._readers == 0:
                self._wanted.clear()

    def find_kept(self, after: int) -> Sequence[Told] | None:
        """What is kept behind ``after``, perhaps nothing; None: not all of it is."""
        if after < self._begin:
            return None
        return self._kept[bisect.bisect_right(self._kept, after, key=lambda told: told.event.position) :]

    async def read_backlog(self, filters: EventFilters, after: int) -> tuple[list[Told], int]:
        """What the store has behind ``after`` of what fits the filters, and up to which position that was looked for."""
        backlog = await insist(lambda: self._record.list_backlog(filters, after, _BACKLOG_PAGE))
        return [Told(event) for event in backlog.events], backlog.reached

    async def wait(self, timeout: float) -> bool:
        """Whether there is more than before this call, at the latest after ``timeout`` seconds."""
        more = self._more
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await more.wait()
        return more.is_set()

    def _keep(self, found: Sequence[EventRow]) -> None:
        self._kept += [Told(event) for event in found]
        if len(self._kept) > _KEPT:
            self._begin = self._kept[-_KEPT - 1].event.position
            del self._kept[:-_KEPT]
        self._more.set()
        self._more = asyncio.Event()

    async def _pause(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(self._interval):
                await self._woken.wait()
        self._woken.clear()


async def insist(read: Callable[[], Awaitable[T]]) -> T:
    """Read until the store answers: while it is away there is nothing to tell, and afterwards everything still is."""
    while True:
        try:
            return await read()
        except (StoreBusy, StoreUnavailable) as error:
            LOG.warning("the event stream waits, the store cannot be read: %s", error)
            await asyncio.sleep(_PAUSE_AFTER_FAILURE)
