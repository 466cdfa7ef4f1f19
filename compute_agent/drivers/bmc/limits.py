"""How long a call to a BMC may take: less than the driver's bound, so that its outcome is known before the agent stops waiting for it."""

from dataclasses import dataclass

from compute_agent.contract.clock import Clock
from compute_agent.drivers.errors import BackendUnavailable

_SHARE = 0.8
"""Of the bound: the rest is for threads that have to wait for a processor."""


@dataclass(frozen=True)
class CallLimit:
    """What all exchanges of one call may take together."""

    clock: Clock
    seconds: float

    @classmethod
    def within(cls, bound: float, clock: Clock) -> "CallLimit":
        return cls(clock, bound * _SHARE)

    def begin(self, server: str) -> "Remaining":
        return Remaining(self.clock, server, self.clock.monotonic() + self.seconds)


@dataclass(frozen=True)
class Remaining:
    """One call's time."""

    clock: Clock
    server: str
    until: float

    def left(self) -> float:
        """Seconds for the next exchange.

        :raises BackendUnavailable: there are none; the next exchange is not begun.
        """
        seconds = self.until - self.clock.monotonic()
        if seconds <= 0:
            raise BackendUnavailable(self.server, "its BMC took all the time that there was before anything was changed")
        return seconds
