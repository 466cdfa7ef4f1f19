"""The one connection to libvirt, kept in the background.

A thread of its own opens it, and opens it again after a loss. Callers wait for the first try to open it, for a moment, and never again:
there is a connection now or the backend is unavailable. A broken connection never recovers, so each new one gets its keepalive, close
callback and registrations anew.
"""

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import libvirt

from compute_agent.contract.clock import Clock
from compute_agent.contract.errors import Code
from compute_agent.drivers.errors import BackendUnavailable
from compute_agent.drivers.libvirt.errors import FORBIDDEN
from compute_agent.drivers.libvirt.eventloop import ensure_event_loop
from compute_agent.drivers.libvirt.link import Address, close_quietly

LOG = logging.getLogger(__name__)

_RETRY_INTERVAL = 1.0
_FIRST_TRY_LIMIT = 2.0
"""Seconds after the opening for which callers wait for the end of the first try: what was asked of an agent that was away is there as soon
as the agent is, and is not to fail because the broker was quicker than libvirt."""
_SHORT_GOODBYE = 1.0
_FIRST_PAUSE = 0.1
_LONGEST_PAUSE = 2.0
_UNREAD_LIMIT = 60.0
"""Seconds for which a server is waited for whose events have not begun: later, two inventories in a row tell what was missed."""
_CLOSE_REASONS = {
    libvirt.VIR_CONNECT_CLOSE_REASON_ERROR: "connection error",
    libvirt.VIR_CONNECT_CLOSE_REASON_EOF: "libvirtd closed the connection",
    libvirt.VIR_CONNECT_CLOSE_REASON_KEEPALIVE: "libvirtd does not answer",
    libvirt.VIR_CONNECT_CLOSE_REASON_CLIENT: "closed by the agent",
}


@dataclass(frozen=True)
class _Loss:
    reason: str
    at: datetime


class Connection:
    """Holds the connection that everything but the hanging kind of call uses.

    :param register: called with every new connection before anybody else can use it; raises libvirtError when it cannot
    :param on_lost: called once for each connection that was there and is gone, with the reason and the time
    :param on_back: called with None after each new connection is in use, and with each server whose events began only later
    :param list_unread: which servers' events may not have begun yet; empty when the connection does not say
    """

    def __init__(
        self,
        address: Address,
        clock: Clock,
        *,
        register: Callable[[libvirt.virConnect], None],
        on_lost: Callable[[str, datetime], None],
        on_back: Callable[[str | None], None],
        list_unread: Callable[[libvirt.virConnect], frozenset[str]] = lambda connection: frozenset(),
    ) -> None:
        self._address = address
        self._clock = clock
        self._register = register
        self._on_lost = on_lost
        self._on_back = on_back
        self._list_unread = list_unread
        self._changed = threading.Condition()
        # All of these under the condition.
        self._current: libvirt.virConnect | None = None
        # The newest connection's: a late callback of an older one must not end it.
        self._token = object()
        self._loss: _Loss | None = None
        self._unavailable = BackendUnavailable(None, f"not connected to libvirt at {self._address.shown} yet")
        self._is_closing = False
        self._awaited_until: float | None = None
        self._thread: threading.Thread | None = None

    def open(self) -> None:
        """Begin to connect, and keep connecting, in the background."""
        ensure_event_loop()
        with self._changed:
            if self._thread is not None:
                raise RuntimeError("the libvirt driver is open already")
            self._awaited_until = self._clock.monotonic() + _FIRST_TRY_LIMIT
            self._thread = threading.Thread(target=self._run, name="libvirt-connection", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Let go of libvirt; waits no longer than a frozen one takes to be noticed."""
        with self._changed:
            self._is_closing = True
            self._changed.notify_all()
            thread = self._thread
            # A goodbye to a frozen libvirtd ends with the keepalive. Opening has no bound in libvirt: then the daemon thread is left.
            bound = _SHORT_GOODBYE if self._current is None else self._address.keepalive.bound + _SHORT_GOODBYE
        if thread is None:
            return
        thread.join(bound)
        if thread.is_alive():
            LOG.warning("libvirt at %s does not answer; leaving without closing the connection", self._address.shown)

    def get(self) -> libvirt.virConnect:
        """The connection of now; just after :meth:`open` the first one, once it was tried.

        :raises BackendUnavailable: there is none; the reason says why.
        """
        with self._changed:
            if self._awaited_until is not None:
                rest = self._awaited_until - self._clock.monotonic()
                self._changed.wait_for(lambda: self._awaited_until is None or self._is_closing, max(0.0, rest))
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
                LOG.warning("Lost libvirt at %s: %s", self._address.shown, loss.reason)
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
            connection = self._address.open()
            connection.registerCloseCallback(self._on_closed, token)
            self._register(connection)
        except libvirt.libvirtError as error:
            self._note_failure(error)
            if connection is not None:
                self._disconnect(connection)
            return None
        return connection

    def _stay(self, connection: libvirt.virConnect) -> _Loss | None:
        """Put the connection into use until it is lost (returns how) or the driver closes (returns None)."""
        with self._changed:
            if self._is_closing:
                return None
            if self._loss is None:
                self._current = connection
            self._end_first_try()
        LOG.info("Connected to libvirt at %s", self._address.shown)
        unread = self._list_unread(connection)
        self._on_back(None)
        self._await_unread(connection, unread)
        self._wait_for_end(None)
        with self._changed:
            self._current = None
            loss = None if self._is_closing else self._loss
            if loss is not None:
                self._unavailable = BackendUnavailable(None, f"lost libvirt at {self._address.shown}: {loss.reason}")
        return loss

    def _await_unread(self, connection: libvirt.virConnect, unread: frozenset[str]) -> None:
        """Tell of each of these servers when its events have begun."""
        pause, give_up = _FIRST_PAUSE, self._clock.monotonic() + _UNREAD_LIMIT
        while unread and self._clock.monotonic() < give_up and not self._wait_for_end(pause):
            left = unread & self._list_unread(connection)
            for server in sorted(unread - left):
                self._on_back(server)
            unread, pause = left, min(2 * pause, _LONGEST_PAUSE)

    def _wait_for_end(self, timeout: float | None) -> bool:
        """Whether the connection was lost, or the driver closes, within ``timeout`` seconds (None: wait for it)."""
        with self._changed:
            return self._changed.wait_for(lambda: self._is_closing or self._loss is not None, timeout)

    def _on_closed(self, _connection: Any, reason: int, token: object) -> None:
        """libvirt's close callback, on its event thread. Calls of now fail at once; the rest is the connection thread's."""
        with self._changed:
            if token is not self._token:
                return
            self._current = None
            self._loss = _Loss(_CLOSE_REASONS.get(reason, f"reason {reason}"), self._clock.now())
            self._unavailable = BackendUnavailable(None, f"lost libvirt at {self._address.shown}: {self._loss.reason}")
            self._changed.notify_all()

    def _note_failure(self, error: libvirt.libvirtError) -> None:
        reason = self._address.describe(error)
        code = Code.FORBIDDEN if error.get_error_code() in FORBIDDEN else Code.BACKEND_UNAVAILABLE
        with self._changed:
            is_news = reason != self._unavailable.reason
            self._unavailable = BackendUnavailable(None, reason, code)
            self._end_first_try()
        if is_news:
            LOG.warning("%s; trying again every %.0f s", reason, _RETRY_INTERVAL)

    def _end_first_try(self) -> None:
        """With the condition held."""
        self._awaited_until = None
        self._changed.notify_all()

    def _disconnect(self, connection: libvirt.virConnect) -> None:
        """Let go of a connection, also of a broken one. libvirt drops the registrations with it."""
        try:
            connection.unregisterCloseCallback()
        except libvirt.libvirtError as error:
            LOG.debug("Taking the close callback off the connection to libvirt at %s: %s", self._address.shown, error)
        close_quietly(connection)
