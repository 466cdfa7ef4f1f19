"""When nothing comes through to the broker any more, one cast at a time finds out when it does again.

Without it each open action would be tried every second, with two transactions and a line of the log each: that of a whole fleet, for as
long as the broker is away.
"""

import threading

from compute_agent.contract.clock import Clock
from compute_agent.contract.outage import Outage

FAILURES_IN_A_ROW = 4
"""After so many, of whatever hosts, it is not a single host's link any more."""
PAUSE = 0.25
"""Seconds between two probes: what the broker's return may cost an action."""


class CastProbing:
    """Safe to use from several threads."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._failures = 0
        self._next_at = 0.0
        self._outage = Outage("casts to agents")

    def find_pause(self) -> float | None:
        """Seconds until one cast may be tried; None: as many as there are slots."""
        with self._lock:
            if self._failures < FAILURES_IN_A_ROW:
                return None
            return max(0.0, self._next_at - self._clock.monotonic())

    def note_failure(self, error: Exception) -> None:
        """A cast raised what leaves it perhaps delivered."""
        with self._lock:
            self._failures += 1
            self._next_at = self._clock.monotonic() + PAUSE
            if self._failures == FAILURES_IN_A_ROW:
                self._outage.begin(repr(error))

    def note_answer(self) -> None:
        """The broker took a cast, or said that nobody does."""
        with self._lock:
            self._failures = 0
            self._outage.end()
