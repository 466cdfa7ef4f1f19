"""A relay of TCP on loopback that stands for a network: it cuts a link, slows it, refuses connections and resets them."""

from __future__ import annotations

import errno
import os
import selectors
import socket
import struct
import threading
import time
from collections import deque
from dataclasses import dataclass, field, replace
from typing import Self

_LOOPBACK = "127.0.0.1"
_CHUNK = 65536
_MOST_WAITING = 1 << 20
"""Bytes on their way in one direction of a connection, before its sender has to wait."""
_SMOOTH = 20
"""What is slow arrives in so many portions a second, not in large ones after long silence."""
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


@dataclass(frozen=True)
class Link:
    """How the link is: which directions pass anything, how late (seconds) and how fast (bytes a second; None: no limit)."""

    to_server: bool = True
    to_client: bool = True
    delay: float = 0.0
    rate: float | None = None
    is_refusing: bool = False


@dataclass
class _Pipe:
    """One direction of a connection. ``waiting``: what was read, and when it may go on."""

    source: socket.socket
    target: socket.socket
    waiting: deque[tuple[float, bytes]] = field(default_factory=deque)
    size: int = 0
    has_ended: bool = False
    has_shut: bool = False
    free_at: float = 0.0

    def take(self, link: Link) -> None:
        """Read once; raises OSError when the connection was reset."""
        content = self.source.recv(max(1, min(_CHUNK, int(link.rate / _SMOOTH))) if link.rate else _CHUNK)
        if not content:
            self.has_ended = True
            return
        # What is slow sends one chunk after the other: each waits for those before it, and then for its own length.
        self.free_at = max(self.free_at, time.monotonic()) + (len(content) / link.rate if link.rate else 0.0)
        self.waiting.append((self.free_at + link.delay, content))
        self.size += len(content)

    def send(self) -> None:
        """Send what is due, as much as goes; raises OSError when the connection was reset."""
        now = time.monotonic()
        while self.waiting and self.waiting[0][0] <= now:
            due, content = self.waiting.popleft()
            try:
                sent = self.target.send(content)
            except BlockingIOError:
                sent = 0
            self.size -= sent
            if sent < len(content):
                self.waiting.appendleft((due, content[sent:]))
                return
        if self.has_ended and not self.waiting and not self.has_shut:
            self.has_shut = True
            self.target.shutdown(socket.SHUT_WR)

    @property
    def is_due(self) -> bool:
        return bool(self.waiting) and self.waiting[0][0] <= time.monotonic()

    @property
    def is_done(self) -> bool:
        return self.has_shut

    @property
    def may_read(self) -> bool:
        return not self.has_ended and self.size < _MOST_WAITING


class _Connection:
    """A client's connection and the one to the server behind it."""

    def __init__(self, client: socket.socket, server: socket.socket) -> None:
        self.client = client
        self.server = server
        self.up = _Pipe(client, server)
        self.down = _Pipe(server, client)
        self.is_broken = False
        self.interest = {client: 0, server: 0}

    def pump(self, link: Link, readable: set[socket.socket]) -> None:
        """Move what may move; what breaks is remembered, for the other side may not be able to hear of it yet."""
        for pipe, passes in ((self.up, link.to_server), (self.down, link.to_client)):
            if not passes or self.is_broken:
                continue
            try:
                if pipe.source in readable and pipe.may_read:
                    pipe.take(link)
                pipe.send()
            except BlockingIOError:
                continue
            except OSError:
                self.is_broken = True

    def list_interest(self, link: Link) -> dict[socket.socket, int]:
        wanted = {self.client: 0, self.server: 0}
        for pipe, passes in ((self.up, link.to_server), (self.down, link.to_client)):
            if passes and not self.is_broken:
                wanted[pipe.source] |= selectors.EVENT_READ if pipe.may_read else 0
                wanted[pipe.target] |= selectors.EVENT_WRITE if pipe.is_due else 0
        return wanted


class TcpRelay:
    """Relays from ``port`` to ``server_port`` on loopback, in a thread of its own that sleeps while nothing passes.

    When one of the methods has returned, nothing more passes against it. A cut link loses nothing by itself, as TCP would not: what was
    sent goes on when it is healed, unless an end has given up meanwhile. Who connects to a cut link is let in by the kernel and then
    hears nothing.

    :param port: where clients connect; 0: any free one
    :param address: this machine's, where they connect
    """

    def __init__(self, server_port: int, *, port: int = 0, address: str = _LOOPBACK) -> None:
        self.server_port = server_port
        self._address = address
        self._lock = threading.Lock()
        self._link = Link()
        self._connections: list[_Connection] = []
        self._is_accepting = False
        self._listener: socket.socket | None = self._listen(port)  # before anything that would be left open if it cannot
        self.port: int = self._listener.getsockname()[1]
        self._selector = selectors.DefaultSelector()
        self._woken, self._waker = os.pipe()
        os.set_blocking(self._waker, False)
        self._selector.register(self._woken, selectors.EVENT_READ)
        self._is_closed = False
        self._thread = threading.Thread(target=self._relay, name=f"relay to {server_port}", daemon=True)
        self._thread.start()

    @property
    def link(self) -> Link:
        """How it is now."""
        return self._link

    @property
    def connections(self) -> int:
        """How many pass through it now, also those of which one end is gone and the other cannot hear it."""
        return len(self._connections)

    def cut(self, *, to_server: bool = True, to_client: bool = True) -> None:
        """From now on nothing passes in these directions, and no end hears of it."""
        self._set(replace(self._link, to_server=not to_server, to_client=not to_client))

    def slow(self, delay: float, rate: float | None = None) -> None:
        """Everything arrives ``delay`` seconds later, and no more than ``rate`` bytes a second in each direction of a connection."""
        self._set(replace(self._link, delay=delay, rate=rate))

    def refuse(self) -> None:
        """Reset all connections and refuse new ones, as where no server runs."""
        self._set(Link(is_refusing=True))
        self.reset_connections()

    def heal(self) -> None:
        """As in the beginning."""
        self._set(Link())

    def reset_connections(self) -> None:
        """Both ends of every connection get a reset, even over a cut link."""
        with self._lock:
            for connection in list(self._connections):
                self._drop(connection)
        self._wake()

    def close(self) -> None:
        """End the thread and every connection."""
        with self._lock:
            self._is_closed = True
        self._wake()
        self._thread.join()
        self._set_listening(False)
        for connection in list(self._connections):
            self._drop(connection)
        self._selector.close()
        os.close(self._woken)
        os.close(self._waker)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _set(self, link: Link) -> None:
        with self._lock:
            self._link = link
            self._set_listening(not link.is_refusing)
        self._wake()

    def _listen(self, port: int) -> socket.socket:
        listener = socket.create_server((self._address, port), backlog=128)
        listener.setblocking(False)
        return listener

    def _set_listening(self, on: bool) -> None:
        if on and self._listener is None:
            self._listener = self._listen(self.port)
        elif not on and self._listener is not None:
            self._set_accepting(False)
            self._listener.close()
            self._listener = None

    def _set_accepting(self, on: bool) -> None:
        """While it does not accept, clients wait in the kernel's queue."""
        if self._listener is None or on == self._is_accepting:
            return
        self._is_accepting = on
        if on:
            self._selector.register(self._listener, selectors.EVENT_READ)
        else:
            self._selector.unregister(self._listener)

    def _wake(self) -> None:
        try:
            os.write(self._waker, b"!")
        except BlockingIOError:
            pass  # the pipe is full: it will wake

    def _relay(self) -> None:
        while True:
            with self._lock:
                if self._is_closed:
                    return
                pause = self._prepare()
            events = self._selector.select(pause)
            with self._lock:
                self._go_on({key.fileobj for key, _ in events})

    def _prepare(self) -> float | None:
        """Say what is waited for; the seconds until something is due."""
        self._set_accepting(self._link.to_server)
        due: list[float] = []
        for connection in self._connections:
            wanted = connection.list_interest(self._link)
            for end, events in wanted.items():
                before = connection.interest[end]
                if events == before:
                    continue
                if before == 0:
                    self._selector.register(end, events, connection)
                elif events == 0:
                    self._selector.unregister(end)
                else:
                    self._selector.modify(end, events, connection)
            connection.interest = wanted
            for pipe, passes in ((connection.up, self._link.to_server), (connection.down, self._link.to_client)):
                if passes and pipe.waiting and not pipe.is_due:
                    due.append(pipe.waiting[0][0])
        return max(0.0, min(due) - time.monotonic()) if due else None

    def _go_on(self, ready: set[object]) -> None:
        if self._woken in ready:
            os.read(self._woken, 4096)
        if self._listener in ready and self._link.to_server:
            self._accept()
        for connection in list(self._connections):
            connection.pump(self._link, {end for end in (connection.client, connection.server) if end in ready})
            is_over = connection.is_broken or (connection.up.is_done and connection.down.is_done)
            if is_over and self._link.to_server and self._link.to_client:
                self._drop(connection)

    def _accept(self) -> None:
        assert self._listener is not None
        try:
            client, _ = self._listener.accept()
        except OSError:
            return  # it left again
        server = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        for end in (client, server):
            end.setblocking(False)
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection = _Connection(client, server)
        self._connections.append(connection)
        # One that is in progress and fails later breaks the first read or write.
        if server.connect_ex((_LOOPBACK, self.server_port)) not in (0, errno.EINPROGRESS):
            self._drop(connection)

    def _drop(self, connection: _Connection) -> None:
        orderly = connection.up.is_done and connection.down.is_done
        self._connections.remove(connection)
        for end, events in connection.interest.items():
            if events:
                self._selector.unregister(end)
            if not orderly:
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
            end.close()
