"""How many requests may be busy with finding out who asks: they hold a thread each, and a flood must leave threads to others."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from api_gateway.faults import Fault


class Turnstile:
    """Lets ``limit`` threads through at a time; the others are sent away at once instead of waiting on threads of their own."""

    def __init__(self, limit: int) -> None:
        self._places = threading.BoundedSemaphore(limit)

    @contextmanager
    def enter(self) -> Iterator[None]:
        """:raises Fault: 503 when all places are taken."""
        if not self._places.acquire(blocking=False):
            raise Fault(503, "Too many logins are being checked at the moment. Try again.")
        try:
            yield
        finally:
            self._places.release()
