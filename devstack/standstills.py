"""When the machine itself stood still, as a virtual one does whose host is busy: whatever is late then is nobody's doing on it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_LOOK = 0.2
_NOTABLE = 1.0
"""Seconds by which a look at the clock that comes too late is no matter of scheduling any more."""


@contextmanager
def noting_standstills(note: Callable[[float], object]) -> Iterator[None]:
    """Look at the clock five times a second for as long as the block lasts.

    :param note: called, from a thread, after each time for which that could not be done, with its seconds
    """
    stop = threading.Event()

    def watch() -> None:
        before = time.monotonic()
        while not stop.wait(_LOOK):
            now = time.monotonic()
            late = now - before - _LOOK
            if late > _NOTABLE:
                note(late)
            before = now

    thread = threading.Thread(target=watch, name="standstills")
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
