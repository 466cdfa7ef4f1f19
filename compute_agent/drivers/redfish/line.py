"""A connection to a BMC that ends when its time is over, whatever the other side does.

A timeout of ``requests`` is for one read: a BMC that sends a byte now and then holds a caller for as long as it likes. So each line can be
cut off from outside, and one thread for all of them does that to those whose time is over.
"""

import logging
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from requests import PreparedRequest
from requests.adapters import HTTPAdapter
from urllib3 import HTTPSConnectionPool
from urllib3.connection import HTTPSConnection

from compute_agent.contract.clock import Clock

LOG = logging.getLogger(__name__)

CONNECT_LIMIT = 5.0
"""Seconds for one address of a BMC to take a connection."""
SHORTEST = 0.001
"""Seconds: a timeout of 0 would mean "do not wait" to a socket."""


class Line:
    """The way to one BMC for the time of one visit: at most one connection at a time, all of them over at ``deadline`` (monotonic)."""

    def __init__(self, clock: Clock, deadline: float) -> None:
        self._clock = clock
        self.deadline = deadline
        self.is_sending = False
        self._lock = threading.Lock()
        self._held: socket.socket | None = None
        self._cut_because = ""
        self._was_cut = threading.Event()

    @property
    def remaining(self) -> float:
        """Seconds, never below ``SHORTEST``."""
        return max(SHORTEST, self.deadline - self._clock.monotonic())

    @property
    def is_over(self) -> bool:
        return self.deadline <= self._clock.monotonic()

    @property
    def cut_because(self) -> str:
        """Empty: nobody cut it."""
        with self._lock:
            return self._cut_because

    def connect(self, host: str, port: int) -> socket.socket:
        """The first address that takes a connection.

        :raises OSError: none did.
        """
        failure = OSError(f"{host} has no address")
        for family, kind, protocol, _name, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
            connection = socket.socket(family, kind, protocol)
            try:
                self._hold(connection)
                connection.settimeout(min(CONNECT_LIMIT, self.remaining))
                connection.connect(address)
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                connection.settimeout(self.remaining)
            except OSError as error:
                connection.close()
                failure = error
            else:
                return connection
        raise failure

    def cut(self, reason: str) -> None:
        """End the connection under whoever waits on it; any thread may."""
        with self._lock:
            self._cut_because = self._cut_because or reason
            self._was_cut.set()
            if self._held is not None:
                _shut_down(self._held)

    def pause(self, seconds: float) -> None:
        """Wait; ends when the line is cut off."""
        self._was_cut.wait(seconds)

    def hang_up(self) -> None:
        """Let go of the connection; the visit is over."""
        with self._lock:
            if self._held is not None:
                self._held.close()
                self._held = None

    def _hold(self, connection: socket.socket) -> None:
        # A second descriptor of the same connection: TLS takes the first one over.
        held = connection.dup()
        with self._lock:
            former, self._held = self._held, held
            if former is not None:
                former.close()
            if self._cut_because:
                raise OSError(self._cut_because)


def _shut_down(held: socket.socket) -> None:
    try:
        held.shutdown(socket.SHUT_RDWR)
    except OSError:
        LOG.debug("the BMC had ended the connection before us")


class Alarm:
    """Cuts off every line whose time is over; one thread for all, begun with the first line."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._changed = threading.Condition()
        self._lines: set[Line] = set()
        self._thread: threading.Thread | None = None
        self._is_closed = False

    @contextmanager
    def watching(self, line: Line) -> Iterator[None]:
        """The line is cut off at its deadline, if the block lasts that long."""
        with self._changed:
            if self._thread is None and not self._is_closed:
                self._thread = threading.Thread(target=self._run, name="redfish-alarm", daemon=True)
                self._thread.start()
            self._lines.add(line)
            self._changed.notify()
        try:
            yield
        finally:
            with self._changed:
                self._lines.discard(line)

    def close(self) -> None:
        """End the thread."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()
            thread = self._thread
        if thread is not None:
            thread.join()

    def _run(self) -> None:
        with self._changed:
            while not self._is_closed:
                now = self._clock.monotonic()
                for line in [line for line in self._lines if line.deadline <= now]:
                    self._lines.discard(line)
                    line.cut("its time was over")
                self._changed.wait(min((line.deadline for line in self._lines), default=now + 3600.0) - now)


class _LineConnection(HTTPSConnection):
    line: Line

    def _new_conn(self) -> socket.socket:
        return self.line.connect(self._dns_host, self.port)

    def request(self, *args: Any, **kwargs: Any) -> None:
        # urllib3 has connected and shaken hands before it comes here: from now on the request is perhaps sent.
        self.line.is_sending = True
        super().request(*args, **kwargs)


class _LinePool(HTTPSConnectionPool):
    ConnectionCls = _LineConnection

    def __init__(self, line: Line, host: str, port: int, tls: ssl.SSLContext) -> None:
        verifies = tls.verify_mode is ssl.CERT_REQUIRED
        super().__init__(
            host,
            port=port,
            maxsize=1,
            ssl_context=tls,
            cert_reqs="CERT_REQUIRED" if verifies else "CERT_NONE",
            assert_hostname=None if verifies else False,
        )
        self._line = line

    def _new_conn(self) -> Any:
        connection: Any = super()._new_conn()
        connection.line = self._line
        return connection


class LineAdapter(HTTPAdapter):
    """Lets ``requests`` use one line and nothing else: no proxy, no other host, no retry, no trust of its own."""

    def __init__(self, line: Line, host: str, port: int, tls: ssl.SSLContext) -> None:
        super().__init__(max_retries=0)
        self._pool = _LinePool(line, host, port, tls)

    def get_connection_with_tls_context(
        self, request: PreparedRequest, verify: object, proxies: object = None, cert: object = None
    ) -> HTTPSConnectionPool:
        return self._pool

    def cert_verify(self, conn: object, url: str, verify: object, cert: object) -> None:
        """The pool's own context knows whom to trust; ``requests`` would add all of the world's authorities to it."""

    def close(self) -> None:
        self._pool.close()
        super().close()
