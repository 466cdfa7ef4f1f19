"""The one connection to libvirt, kept in the background.

A thread of its own opens it, and opens it again after a loss. Callers never wait for a connection: there is one now or the backend is
unavailable. A broken connection never recovers, so each new one gets its keepalive, close callback and registrations anew.
"""

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import libvirt

from compute_agent.contract.clock import Clock
from compute_agent.contract.errors import Code
from compute_agent.drivers.base import BackendUnavailable, Lifecycle
from compute_agent.drivers.libvirt.errors import FORBIDDEN
from compute_agent.drivers.libvirt.eventloop import ensure_event_loop

LOG = logging.getLogger(__name__)

_RETRY_INTERVAL = 1.0
_SHORT_GOODBYE = 1.0
_CLOSE_REASONS = {
    libvirt.VIR_CONNECT_CLOSE_REASON_ERROR: "connection error",
    libvirt.VIR_CONNECT_CLOSE_REASON_EOF: "libvirtd closed the connection",
    libvirt.VIR_CONNECT_CLOSE_REASON_KEEPALIVE: "libvirtd does not answer",
    libvirt.VIR_CONNECT_CLOSE_REASON_CLIENT: "closed by the agent",
}
_SECRET_WORDS = ("pass", "secret", "token")


@dataclass(frozen=True)
class KeepAlive:
    """Ask after ``interval`` seconds of silence; give up after ``count`` questions without an answer."""

    interval: int
    count: int

    @property
    def bound(self) -> float:
        """Seconds after which a frozen libvirtd is noticed, and a call that waits for it ends."""
        return float(self.interval * (self.count + 1))


@dataclass(frozen=True)
class _Loss:
    reason: str
    at: datetime


class Connection(Lifecycle):
    """Holds the connection.

    :param register: called with every new connection before anybody else can use it; raises libvirtError when it cannot
    :param on_lost: called once for each connection that was there and is gone, with the reason and the time
    :param on_back: called after each new connection is in use
    """

    def __init__(
        self,
        uri: str,
        keepalive: KeepAlive,
        clock: Clock,
        *,
        register: Callable[[libvirt.virConnect], None],
        on_lost: Callable[[str, datetime], None],
        on_back: Callable[[], None],
        on_closing: Callable[[], None],
    ) -> None:
        self._uri = uri
        self._shown_uri = redact_uri(uri)
        self._keepalive = keepalive
        self._clock = clock
        self._register = register
        self._on_lost = on_lost
        self._on_back = on_back
        self._on_closing = on_closing
        self._changed = threading.Condition()
        # All of these under the condition.
        self._current: libvirt.virConnect | None = None
        # The newest connection's: a late callback of an older one must not end it.
        self._token = object()
        self._loss: _Loss | None = None
        self._unavailable = BackendUnavailable(None, f"not connected to libvirt at {self._shown_uri} yet")
        self._is_closing = False
        self._thread: threading.Thread | None = None

    def open(self) -> None:
        ensure_event_loop()
        with self._changed:
            if self._thread is not None:
                raise RuntimeError("the libvirt driver is open already")
            self._thread = threading.Thread(target=self._run, name="libvirt-connection", daemon=True)
            self._thread.start()

    def close(self) -> None:
        self._on_closing()
        with self._changed:
            self._is_closing = True
            self._changed.notify_all()
            thread = self._thread
            # A goodbye to a frozen libvirtd ends with the keepalive. Opening has no bound in libvirt: then the daemon thread is left.
            bound = _SHORT_GOODBYE if self._current is None else self._keepalive.bound + _SHORT_GOODBYE
        if thread is None:
            return
        thread.join(bound)
        if thread.is_alive():
            LOG.warning("libvirt at %s does not answer; leaving without closing the connection", self._shown_uri)

    def get(self) -> libvirt.virConnect:
        """The connection of now.

        :raises BackendUnavailable: there is none; the reason says why.
        """
        with self._changed:
            if self._current is None:
                raise BackendUnavailable(None, self._unavailable.reason, self._unavailable.code)
            return self._current

    def _run(self) -> None:
        while not self._closing():
            connection = self._connect()
            if connection is None:
                with self._changed:
                    self._changed.wait_for(lambda: self._is_closing, _RETRY_INTERVAL)
                continue
            loss = self._stay(connection)
            self._disconnect(connection)
            if loss is not None:
                LOG.warning("Lost libvirt at %s: %s", self._shown_uri, loss.reason)
                self._on_lost(loss.reason, loss.at)

    def _closing(self) -> bool:
        with self._changed:
            return self._is_closing

    def _connect(self) -> libvirt.virConnect | None:
        """A new connection with everything registered, not in use yet; None when there is none to be had now."""
        with self._changed:
            self._loss = None
            self._token = token = object()
        connection: libvirt.virConnect | None = None
        try:
            connection = libvirt.open(self._uri)
            self._watch(connection, token)
            self._register(connection)
        except libvirt.libvirtError as error:
            self._note_failure(error)
            if connection is not None:
                self._disconnect(connection)
            return None
        return connection

    def _watch(self, connection: libvirt.virConnect, token: object) -> None:
        connection.registerCloseCallback(self._on_closed, token)
        try:
            connection.setKeepAlive(self._keepalive.interval, self._keepalive.count)
        except libvirt.libvirtError as error:
            if error.get_error_code() != libvirt.VIR_ERR_NO_SUPPORT:
                raise
            LOG.info("libvirt at %s is no remote one and needs no keepalive", self._shown_uri)

    def _stay(self, connection: libvirt.virConnect) -> _Loss | None:
        """Put the connection into use until it is lost (returns how) or the driver closes (returns None)."""
        with self._changed:
            if self._is_closing:
                return None
            if self._loss is None:
                self._current = connection
        LOG.info("Connected to libvirt at %s", self._shown_uri)
        self._on_back()
        with self._changed:
            self._changed.wait_for(lambda: self._is_closing or self._loss is not None)
            self._current = None
            loss = None if self._is_closing else self._loss
            if loss is not None:
                self._unavailable = BackendUnavailable(None, f"lost libvirt at {self._shown_uri}: {loss.reason}")
        return loss

    def _on_closed(self, _connection: Any, reason: int, token: object) -> None:
        """libvirt's close callback, on its event thread. Calls of now fail at once; the rest is the connection thread's."""
        with self._changed:
            if token is not self._token:
                return
            self._current = None
            self._loss = _Loss(_CLOSE_REASONS.get(reason, f"reason {reason}"), self._clock.now())
            self._unavailable = BackendUnavailable(None, f"lost libvirt at {self._shown_uri}: {self._loss.reason}")
            self._changed.notify_all()

    def _note_failure(self, error: libvirt.libvirtError) -> None:
        # libvirt repeats the URI in some messages, with everything in it.
        reason = f"cannot connect to libvirt at {self._shown_uri}: {str(error).replace(self._uri, self._shown_uri)}"
        code = Code.FORBIDDEN if error.get_error_code() in FORBIDDEN else Code.BACKEND_UNAVAILABLE
        with self._changed:
            is_news = reason != self._unavailable.reason
            self._unavailable = BackendUnavailable(None, reason, code)
        if is_news:
            LOG.warning("%s; trying again every %.0f s", reason, _RETRY_INTERVAL)

    def _disconnect(self, connection: libvirt.virConnect) -> None:
        """Let go of a connection, also of a broken one. libvirt drops the registrations with it."""
        try:
            connection.unregisterCloseCallback()
            connection.close()
        except libvirt.libvirtError as error:
            LOG.debug("Closing the connection to libvirt at %s: %s", self._shown_uri, error)


def redact_uri(uri: str) -> str:
    """The URI without its password and without the values of query arguments that look like secrets."""
    parts = urlsplit(uri)
    user, at, place = parts.netloc.rpartition("@")
    netloc = f"{user.partition(':')[0]}{at}{place}"
    query = [(key, "***" if any(word in key.lower() for word in _SECRET_WORDS) else value) for key, value in parse_qsl(parts.query)]
    shown = f"{parts.scheme}://{netloc}{parts.path}"
    return f"{shown}?{urlencode(query, safe='/*')}" if query else shown
