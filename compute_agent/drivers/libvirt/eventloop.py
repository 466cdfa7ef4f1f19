"""libvirt's event loop: one per process, on a daemon thread that is never stopped.

libvirt keeps one implementation per process and it must be registered before the first connection is opened. It cannot be taken out
again, so the thread lives as long as the process; without connections it sleeps in poll().
"""

import logging
import threading
from typing import Any

import libvirt

LOG = logging.getLogger(__name__)

_PAUSE_AFTER_FAILURE = 1.0
_starting = threading.Lock()
_thread: threading.Thread | None = None


def ensure_event_loop() -> None:
    """Start it if it does not run yet; call before opening a connection.

    :raises libvirt.libvirtError: libvirt could not set it up.
    """
    global _thread
    with _starting:
        if _thread is not None:
            return
        # Every error is raised as an exception as well; on stderr it would only come twice.
        libvirt.registerErrorHandler(_ignore_error, None)
        libvirt.virEventRegisterDefaultImpl()
        _thread = threading.Thread(target=_run, name="libvirt-events", daemon=True)
        _thread.start()


def _ignore_error(_context: Any, _error: Any) -> None:
    pass


def _run() -> None:
    pause = threading.Event()
    while True:
        try:
            libvirt.virEventRunDefaultImpl()
        except libvirt.libvirtError:
            LOG.exception("libvirt's event loop failed; going on in %.0f s", _PAUSE_AFTER_FAILURE)
            pause.wait(_PAUSE_AFTER_FAILURE)  # nobody sets it: only so that a lasting failure does not take a whole processor
