"""The stream's own HTTP listener: many connections on one event loop, none of which holds a thread.

Of several engines on one machine one listens; the others try again and again, so that one of them takes over when it ends.
"""

import asyncio
import logging
import socket
import threading
from contextlib import suppress
from errno import EADDRINUSE
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from api_gateway.store import Store
from api_gateway.stream.application import ABORT, StreamApplication
from api_gateway.stream.feed import Feed
from api_gateway.stream.record import StoredRecord
from compute_agent.contract.clock import Clock

LOG = logging.getLogger(__name__)

_REQUEST_TIMEOUT = 10.0
"""Seconds within which a connection must have sent its request."""
SPARE_CONNECTIONS = 100
"""More than streams are served: to those a refusal is said."""
_TAKEN_INTERVAL = 1.0
_TICK = 1.0
"""Seconds after which the date in the answers' headers is another one."""


class StreamListener:
    """
    :param max_connections: streams that are served at a time; one more is answered 503
    :param lifetime: seconds after which a stream ends, so that the API permits its reader anew
    :raises OSError: there is no such address to listen on. One that is taken is waited for.
    """

    def __init__(self, store: Store, clock: Clock, *, host: str, port: int, max_connections: int, lifetime: float) -> None:
        self._store = store
        self._clock = clock
        self._host, self._port = host, port
        self._max_connections = max_connections
        self._lifetime = lifetime
        self._stopping = threading.Event()
        self._running: tuple[asyncio.AbstractEventLoop, asyncio.Event] | None = None
        self._feed: Feed | None = None
        self._said_taken = False
        self._bound = self._find_socket()

    @property
    def port(self) -> int:
        """The one that is listened on, where any would have done."""
        return self._port

    def run(self) -> None:
        """Listen until :meth:`stop`, or return after a second in which the address was taken; to be called again and again."""
        bound, self._bound = self._bound or self._find_socket(), None
        if bound is None:
            self._stopping.wait(_TAKEN_INTERVAL)
            return
        self._said_taken = False
        with bound:
            asyncio.run(self._serve(bound))

    def stop(self) -> None:
        """End all streams, whose readers come again. From any thread; returns at once."""
        self._stopping.set()
        running = self._running
        if running is not None:
            with suppress(RuntimeError):  # it has ended meanwhile
                running[0].call_soon_threadsafe(running[1].set)

    def close(self) -> None:
        """Let the address go if it was never listened on."""
        if self._bound is not None:
            self._bound.close()

    def wake(self) -> None:
        """Something was recorded in this process. From any thread."""
        feed = self._feed
        if feed is not None:
            feed.wake()

    def _find_socket(self) -> socket.socket | None:
        """Bound to our address; None while somebody else is."""
        family, kind, protocol, _, address = socket.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)[0]
        bound = socket.socket(family, kind, protocol)
        try:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind(address)
            bound.listen()
        except OSError as error:
            bound.close()
            if error.errno != EADDRINUSE:
                raise OSError(error.errno, f"cannot listen on {self._host} port {self._port}: {error.strerror or error}") from error
        else:
            self._port = bound.getsockname()[1]
            return bound
        if not self._said_taken:
            LOG.warning("port %s of %s is taken, by another engine's event stream as it should be: waiting for it", self._port, self._host)
        self._said_taken = True
        return None

    async def _serve(self, bound: socket.socket) -> None:
        closing = asyncio.Event()
        self._running = asyncio.get_running_loop(), closing
        if self._stopping.is_set():
            return  # stop() came before it could have reached us
        record = StoredRecord(self._store)
        self._feed = feed = Feed(record)
        following = asyncio.create_task(feed.follow())
        stopped = asyncio.create_task(closing.wait())
        application = StreamApplication(
            feed, record, self._clock, max_connections=self._max_connections, lifetime=self._lifetime, closing=closing
        )
        server = _Server(self._configure(application), closing)
        serving = asyncio.create_task(server.serve([bound]))
        LOG.info("the event stream listens on %s port %s, for at most %s readers", self._host, self.port, self._max_connections)
        try:
            await asyncio.wait({following, serving, stopped}, return_when=asyncio.FIRST_COMPLETED)
            closing.set()
            await serving
            if following.done():
                following.result()  # nothing but an error ends it
        finally:
            self._running = self._feed = None
            following.cancel()
            stopped.cancel()
            record.close()

    def _configure(self, application: StreamApplication) -> uvicorn.Config:
        return uvicorn.Config(
            application,
            http=_Connection,
            ws="none",
            lifespan="off",
            interface="asgi3",
            limit_concurrency=self._max_connections + SPARE_CONNECTIONS,
            log_config=None,
            log_level="warning",
            access_log=False,  # it would have the tickets
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=2,
        )


class _Server(uvicorn.Server):
    """Waits to be told that it shall end; uvicorn's own looks ten times a second whether somebody has set that."""

    def __init__(self, config: uvicorn.Config, closing: asyncio.Event) -> None:
        super().__init__(config)
        self._closing = closing

    async def main_loop(self) -> None:
        while not await self.on_tick(0):
            with suppress(TimeoutError):
                async with asyncio.timeout(_TICK):
                    await self._closing.wait()
                    self.should_exit = True


class _Connection(H11Protocol):
    """One that asks for nothing is dropped after a while, one too many at once; and the application may end it whatever is still to be
    sent, which ASGI has no word for."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.app_state = {ABORT: lambda: self.transport.abort()}
        self._silent: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if self.limit_concurrency is not None and len(self.connections) >= self.limit_concurrency:
            transport.abort()
        self._silent = self.loop.call_later(_REQUEST_TIMEOUT, self._drop_silent)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._silent is not None:
            self._silent.cancel()
        super().connection_lost(exc)

    def _drop_silent(self) -> None:
        if self.cycle is None:
            self.transport.abort()
