"""Who waits for a device to be gone, and what is done about one that goes when nobody waits any more.

A guest that hangs does not let go of a device. QEMU keeps the request, though, and takes the device away when the guest resumes or reboots,
long after the caller was told that it stays (measured with QEMU 7.2). Such a removal is handed to a thread that puts the device back.
"""

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from queue import SimpleQueue
from weakref import WeakValueDictionary

LOG = logging.getLogger(__name__)

_GOODBYE = 1.0


class ExpectedRemoval:
    """One device that is asked to go."""

    def __init__(self) -> None:
        self._told = threading.Event()
        self._is_gone = False

    def tell(self, *, is_gone: bool) -> None:
        self._is_gone = is_gone
        self._told.set()

    def wait(self, timeout: float) -> bool:
        """True as soon as it is gone; False when the guest refused or nothing was told within ``timeout`` seconds."""
        return self._told.wait(timeout) and self._is_gone


class _Turn:
    def __init__(self) -> None:
        self.lock = threading.Lock()


class Removals:
    """Between libvirt's events, the calls that wait for them, and the thread that looks after the late ones.

    :param put_back: called on that thread for a server that perhaps lost a device; raises nothing it expects
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._expected: dict[tuple[str, str], ExpectedRemoval] = {}
        self._turns: WeakValueDictionary[str, _Turn] = WeakValueDictionary()
        self._suspects: SimpleQueue[str | None] = SimpleQueue()
        self._thread: threading.Thread | None = None

    def open(self, put_back: Callable[[str], None]) -> None:
        self._thread = threading.Thread(target=self._run, args=(put_back,), name="libvirt-removals", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._suspects.put(None)
        if self._thread is not None:
            self._thread.join(_GOODBYE)

    @contextmanager
    def turn(self, server: str) -> Iterator[None]:
        """One change of a server's devices at a time, the putting back too."""
        with self._lock:
            turn = self._turns.setdefault(server, _Turn())
        with turn.lock:
            yield

    @contextmanager
    def expect(self, server: str, alias: str) -> Iterator[ExpectedRemoval]:
        """Begin before the device is asked to go."""
        expected = ExpectedRemoval()
        with self._lock:
            self._expected[server, alias] = expected
        try:
            yield expected
        finally:
            with self._lock:
                del self._expected[server, alias]

    def note(self, server: str, alias: str, *, is_gone: bool) -> None:
        """libvirt told so; called on its event thread."""
        with self._lock:
            expected = self._expected.get((server, alias))
        if expected is not None:
            expected.tell(is_gone=is_gone)
        elif is_gone:
            self._suspects.put(server)

    def suspect(self, server: str) -> None:
        """Somebody saw that this server lost a device that it was to keep."""
        self._suspects.put(server)

    def _run(self, put_back: Callable[[str], None]) -> None:
        while (server := self._suspects.get()) is not None:
            try:
                put_back(server)
            except Exception:
                LOG.exception("The watchdog of server %s could not be looked after; it is tried again when servers are listed", server)
