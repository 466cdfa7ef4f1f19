"""One datagram tells the dispatcher that there is something to cast; losing it costs at most one sweep interval.

The API must never wait for the engine, and the engine may be away: so the sender neither blocks nor fails, and no
correctness hangs on a datagram. What an action needs is in the store.
"""

import logging
import os
import selectors
import socket
from contextlib import suppress
from pathlib import Path

LOG = logging.getLogger(__name__)

_DATAGRAM = b"!"
_SOCKET_MODE = 0o660
_LONGEST_DATAGRAM = 64


class WakeSender:
    """Wakes the dispatcher of this machine. Any number of threads may share one."""

    def __init__(self, path: str | Path) -> None:
        self._path = str(path)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)

    def wake(self) -> bool:
        """Send one datagram and return at once; False when nobody listens or the receiver has enough of them already."""
        try:
            self._socket.sendto(_DATAGRAM, self._path)
        except OSError as error:
            LOG.debug("the dispatcher was not woken through %s: %s", self._path, error)
            return False
        return True

    def close(self) -> None:
        self._socket.close()


class WakeReceiver:
    """The dispatcher's end: one thread waits, any thread of the process may wake it as well.

    A receiver that is started while an older one is alive takes the path over: the older one keeps its sweep interval.

    :param path: None: only threads of this process wake it
    :raises OSError: when the path cannot be bound; the text names it.
    """

    def __init__(self, path: str | Path | None) -> None:
        # The process's own threads wake it through a pair of their own, which no other engine can take over.
        self._own_end, self._waking_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._sockets = [self._own_end, self._waking_end]
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._own_end, selectors.EVENT_READ)
        self._path = None if path is None else Path(path)
        if self._path is not None:
            self._selector.register(self._bind(self._path), selectors.EVENT_READ)
            self._inode = self._path.stat().st_ino

    def _bind(self, path: Path) -> socket.socket:
        receiving = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        self._sockets.append(receiving)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.unlink(missing_ok=True)  # what a killed engine left behind
            receiving.bind(str(path))
            path.chmod(_SOCKET_MODE)
        except OSError as error:
            for end in self._sockets:
                end.close()
            raise OSError(error.errno, f"cannot listen for wake-ups on {path}: {error.strerror or error}") from error
        return receiving

    def wait(self, timeout: float) -> bool:
        """Wait until somebody wakes us, at most ``timeout`` seconds; many datagrams make one wake-up."""
        ready = self._selector.select(max(timeout, 0.0))
        for key, _events in ready:
            woken = key.fileobj
            assert isinstance(woken, socket.socket)
            with suppress(BlockingIOError):
                while True:
                    woken.recv(_LONGEST_DATAGRAM)
        return bool(ready)

    def wake(self) -> None:
        """Wake the waiting thread of this process; never blocks."""
        with suppress(BlockingIOError):  # it has unread wake-ups already
            self._waking_end.send(_DATAGRAM)

    def close(self) -> None:
        """Stop listening; the path is removed only if it is still ours."""
        self._selector.close()
        for end in self._sockets:
            end.close()
        if self._path is None:
            return
        with suppress(FileNotFoundError):
            if os.stat(self._path).st_ino == self._inode:
                self._path.unlink()
