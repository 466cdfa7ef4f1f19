"""The record as the stream reads it: from an event loop, on a few threads that do the waiting."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from api_gateway.store import Connection, Store, secrets
from api_gateway.store import events as stored_events
from api_gateway.store.event_listing import EventFilters, list_page
from api_gateway.store.events import EventRow

T = TypeVar("T")

_BACKLOG_THREADS = 2


@dataclass(frozen=True)
class Backlog:
    """Events behind a position, and where what follows them begins."""

    events: tuple[EventRow, ...]
    reached: int


class StoredRecord:
    """Each method raises StoreBusy or StoreUnavailable as the store does. Readers of what is long past do not hold up what is new."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._tail = ThreadPoolExecutor(1, "stream-tail")
        self._backlog = ThreadPoolExecutor(_BACKLOG_THREADS, "stream-backlog")

    async def get_last_position(self) -> int:
        return await self._read(self._tail, stored_events.get_last_position)

    async def list_events(self, after: int, limit: int) -> list[EventRow]:
        return await self._read(self._tail, lambda c: stored_events.list_events(c, after=after, limit=limit))

    async def list_backlog(self, filters: EventFilters, after: int, limit: int) -> Backlog:
        def read(c: Connection) -> Backlog:
            last = stored_events.get_last_position(c)  # first: nothing up to it can come any more
            page = list_page(c, filters, after=after, limit=limit)
            told = page.events[-1].position if page.events else after
            return Backlog(page.events, max(told, last) if page.reached is None else page.reached)

        return await self._read(self._backlog, read)

    async def find_key(self) -> str | None:
        """What tickets are signed with; None while no API has signed one."""
        return await self._read(self._backlog, lambda c: secrets.find_secret(c, secrets.STREAM_KEY))

    def close(self) -> None:
        """Waits for nothing: what is being read ends by itself."""
        for pool in (self._tail, self._backlog):
            pool.shutdown(wait=False, cancel_futures=True)

    async def _read(self, pool: ThreadPoolExecutor, body: Callable[[Connection], T]) -> T:
        def read() -> T:
            with self._store.read() as c:
                return body(c)

        return await asyncio.get_running_loop().run_in_executor(pool, read)
