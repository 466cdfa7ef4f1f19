"""What a worker of ``crashcart-api`` owes its main process, which it is a fork of: to take no signal for its own that is not, to end with
it, and to let go of waiting requests when it is told to stop."""

import ctypes
import os
import select
import signal
import socket

_PR_SET_PDEATHSIG = 1
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def let_forks_end() -> None:
    """Have every later fork of this process begin without its signal handlers, which would only tell the copy of this process in it: a stop
    that comes before a worker has handlers of its own would be lost."""
    os.register_at_fork(after_in_child=_reset_signals)


def _reset_signals() -> None:
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_DFL)


def die_with(parent: int) -> None:
    """Have the kernel stop this process when its parent is killed: an orphan would keep the port and answer for ever.

    :raises SystemExit: the parent is gone already.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent:
        raise SystemExit(1)


class StopSignals:
    """Becomes true with the first signal, whoever else handles it.

    The server installs handlers of its own after us; Python writes the number of each signal that has a handler to the wake-up descriptor
    as well. Nobody reads it, so it stays readable for every thread that waits. Make it in the main thread.
    """

    def __init__(self) -> None:
        self._reader, self._writer = socket.socketpair()
        self._writer.setblocking(False)
        signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)

    def wait(self, timeout: float) -> bool:
        """Wait at most ``timeout`` seconds for a signal; any number of threads may."""
        poll = select.poll()
        poll.register(self._reader, select.POLLIN)
        return bool(poll.poll(timeout * 1000))
