"""Threads that run one step again and again until they are told to stop; for the composition root, intake and publishing."""

import logging
import threading
from collections.abc import Callable

from compute_agent.journal import JournalFull, JournalUnusable

LOG = logging.getLogger(__name__)

_PAUSE_AFTER_FAULT = 1.0


class Loop:
    """One thread that calls ``body`` until :meth:`stop`.

    A fault in one step is logged with its traceback and counted, and the loop lives on: one odd event must not stop the reports of
    all other servers. While the journal's disk is full its steps are tried again, slowly: whoever writes the journal keeps what could not
    be written. A journal that cannot be written for another reason is different: nothing can be promised any more, so ``on_fatal`` is told.

    :param body: one step; it returns within a second or so, or is woken by ``wake``, or watches ``stopping`` itself
    :param wake: makes a waiting body return early; called by :meth:`stop`
    """

    def __init__(
        self,
        name: str,
        body: Callable[[], None],
        *,
        on_fatal: Callable[[str], None],
        wake: Callable[[], None] = lambda: None,
    ) -> None:
        self.name = name
        self.stopping = threading.Event()
        self.faults = 0
        self._body = body
        self._on_fatal = on_fatal
        self._wake = wake
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self, timeout: float) -> bool:
        """Ask for the end and wait for it, ``timeout`` seconds at most; False when the thread is still in a step."""
        self.stopping.set()
        self._wake()
        if self._thread.ident is None:
            return True
        self._thread.join(timeout)
        if self._thread.is_alive():
            LOG.warning("%s did not end within %.0f s", self.name, timeout)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while not self.stopping.is_set():
            try:
                self._body()
            except JournalFull as error:  # the journal says so once, and when there is room again
                LOG.debug("%s: %s", self.name, error)
                self.stopping.wait(_PAUSE_AFTER_FAULT)
            except JournalUnusable as error:
                self._on_fatal(f"{self.name}: {error}")
                return
            except Exception:
                self.faults += 1
                LOG.exception("%s: fault number %d in this thread; it goes on", self.name, self.faults)
                self.stopping.wait(_PAUSE_AFTER_FAULT)


class Backoff:
    """Growing pauses between tries of something that fails for as long as somebody else wants."""

    def __init__(self, first: float, longest: float) -> None:
        self._first = first
        self._longest = longest
        self._next = first

    def take(self) -> float:
        """Seconds to wait before the next try."""
        pause, self._next = self._next, min(self._next * 2, self._longest)
        return pause

    def reset(self) -> None:
        """It worked."""
        self._next = self._first


def run_bounded(name: str, work: Callable[[], None], timeout: float) -> bool:
    """Run ``work``, which has no bound of its own, and wait ``timeout`` seconds at most; False when it is still at it."""
    thread = threading.Thread(target=work, name=name, daemon=True)
    thread.start()
    thread.join(timeout)
    if thread.is_alive():
        LOG.warning("%s did not end within %.0f s; leaving it", name, timeout)
    return not thread.is_alive()
