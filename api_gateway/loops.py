"""Threads that repeat a step until they are stopped, and live on when a step fails."""

import logging
import threading
from collections.abc import Callable

from api_gateway.store import StoreBusy, StoreUnavailable

LOG = logging.getLogger(__name__)

_PAUSE_AFTER_FAILURE = 1.0


class Loop:
    """One daemon thread that calls ``step`` again and again.

    :param step: waits by itself for its next occasion, but never long; raises freely
    :param wake: ends a wait inside ``step`` early
    """

    def __init__(self, name: str, step: Callable[[], None], *, wake: Callable[[], None] = lambda: None) -> None:
        self.name = name
        self.failures = 0
        self._step = step
        self._wake = wake
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Let the step at hand be the last one; returns at once."""
        self._stop.set()
        self._wake()

    def join(self, timeout: float) -> bool:
        """Whether the thread has ended within ``timeout`` seconds."""
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def pause(self, seconds: float) -> None:
        """For ``step``: wait, but not longer than until :meth:`stop`."""
        self._stop.wait(seconds)

    def attempt(self, body: Callable[[], object]) -> bool:
        """Call ``body``; what it raises is logged and counted, and False returned: a loop must live on and do at its next step what
        it could not do now."""
        try:
            body()
        except (StoreBusy, StoreUnavailable) as error:
            self.failures += 1
            LOG.warning("%s: the store cannot be used, trying again: %s", self.name, error)
            return False
        except Exception:
            self.failures += 1
            LOG.exception("%s: a step failed, trying again", self.name)
            return False
        return True

    def _run(self) -> None:
        while not self._stop.is_set():
            if not self.attempt(self._step):
                self._stop.wait(_PAUSE_AFTER_FAILURE)
