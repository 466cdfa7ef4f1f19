"""An end to a try that no timeout of a single read would end: somebody who answers a byte at a time."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress


@contextmanager
def cut_off_after(seconds: float, find_socket: Callable[[], socket.socket | None]) -> Iterator[None]:
    """Shut the connection down when the block has taken so long; whatever the block waits for then fails.

    :param find_socket: the connection as it is at that moment
    """

    def cut() -> None:
        connection = find_socket()
        if connection is not None:
            with suppress(OSError):  # it is closed already
                socket.socket.shutdown(connection, socket.SHUT_RDWR)

    timer = threading.Timer(seconds, cut)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
