"""Connections for calls that may hang: each has one call at a time.

While a call waits for a QEMU that does not answer, libvirt's client delays other calls on the same connection by up to the keepalive
interval each (measured with libvirt 9.0), and libvirtd takes no more than five calls of one connection at a time. So that one stuck
server delays nobody, such a call gets a connection for itself. Opening has no bound in libvirt, so a thread opens them ahead.
"""

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import libvirt

from compute_agent.drivers.errors import BackendUnavailable
from compute_agent.drivers.libvirt.connection import Connection
from compute_agent.drivers.libvirt.link import Address, close_quietly

LOG = logging.getLogger(__name__)

_IDLE = 2
_LONGEST_WAIT = 5.0
_RETRY_INTERVAL = 1.0
_GOODBYE = 1.0


class CallConnections:
    """Keeps a few connections open and lends them.

    :param main: says whether libvirt is there at all
    """

    def __init__(self, address: Address, main: Connection) -> None:
        self._address = address
        self._main = main
        self._changed = threading.Condition()
        self._idle: list[libvirt.virConnect] = []
        self._waiting = 0
        self._is_closing = False
        self._thread: threading.Thread | None = None

    def open(self) -> None:
        """Begin to open connections in the background."""
        self._thread = threading.Thread(target=self._run, name="libvirt-calls", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Lend no more, and let go of those that are idle."""
        with self._changed:
            self._is_closing = True
            idle, self._idle = self._idle, []
            self._changed.notify_all()
        for connection in idle:
            close_quietly(connection)
        if self._thread is not None:
            self._thread.join(_GOODBYE)

    @contextmanager
    def borrow(self) -> Iterator[libvirt.virConnect]:
        """A connection that nobody else uses meanwhile.

        :raises BackendUnavailable: libvirt is away, or gave none within 5 s after the driver's first try to connect.
        """
        connection = self._take()
        try:
            yield connection
        finally:
            self._give_back(connection)

    def _take(self) -> libvirt.virConnect:
        self._main.get()
        with self._changed:
            self._waiting += 1
            self._changed.notify_all()
            try:
                connection = self._changed.wait_for(self._find_live, _LONGEST_WAIT)
            finally:
                self._waiting -= 1
        if connection is None:
            self._main.get()
            raise BackendUnavailable(None, f"libvirt at {self._address.shown} gave no connection within {_LONGEST_WAIT:.0f} s")
        return connection

    def _find_live(self) -> libvirt.virConnect | None:
        """One that works, while libvirt is there."""
        self._main.get()
        while self._idle:
            connection = self._idle.pop()
            self._changed.notify_all()
            if connection.isAlive():
                return connection
        return None

    def _give_back(self, connection: libvirt.virConnect) -> None:
        with self._changed:
            if connection.isAlive() and not self._is_closing and self._has_too_few():
                self._idle.append(connection)
                self._changed.notify_all()
                return
        close_quietly(connection)

    def _run(self) -> None:
        while self._wait_for_want():
            try:
                connection = self._address.open()
            except libvirt.libvirtError as error:
                # The main connection tells of it; here it only means another try.
                LOG.debug("%s", self._address.describe(error))
                self._pause()
            else:
                self._give_back(connection)

    def _wait_for_want(self) -> bool:
        """Wait until there are too few; False when closing."""
        with self._changed:
            self._changed.wait_for(lambda: self._is_closing or self._has_too_few())
            return not self._is_closing

    def _has_too_few(self) -> bool:
        return len(self._idle) < max(_IDLE, self._waiting)

    def _pause(self) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._is_closing, _RETRY_INTERVAL)
