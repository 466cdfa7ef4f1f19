"""The last reading of each machine: what a list of servers is made of, without any I/O."""

import threading
from dataclasses import dataclass, replace
from datetime import datetime

from compute_agent.contract.clock import Clock
from compute_agent.contract.errors import Code
from compute_agent.drivers.bmc.protocol import MachineState
from compute_agent.drivers.errors import BackendUnavailable, DriverError

NOT_ASKED = "its BMC was not asked yet"
FRESH = 1.0
"""Seconds for which a reading is as good as a new one."""


@dataclass(frozen=True)
class Failure:
    """A BMC that did not answer. The error itself is not kept: it holds on to all that was in its way."""

    reason: str
    code: Code

    @classmethod
    def describe(cls, error: DriverError) -> "Failure":
        return cls(error.reason, error.code)

    def make_error(self, server: str) -> BackendUnavailable:
        return BackendUnavailable(server, self.reason, self.code)


@dataclass(frozen=True)
class Reading:
    """``began`` and ``ended`` by the monotonic clock, ``at`` when ``state`` was read, ``since`` when the power was first read to be like
    this, with this time of the last reset. ``failure``: the last try since gave nothing.
    """

    began: float
    ended: float
    state: MachineState | None = None
    at: datetime | None = None
    since: datetime | None = None
    failure: Failure | None = None


class Readings:
    """Kept by server, from any thread. Of two answers the one that was asked for later holds, whichever came first."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._by_server: dict[str, Reading] = {}

    def find(self, server: str) -> Reading | None:
        with self._lock:
            return self._by_server.get(server)

    def find_fresh(self, server: str) -> Reading | None:
        """One that ended less than :data:`FRESH` seconds ago."""
        reading = self.find(server)
        return reading if reading is not None and self._clock.monotonic() - reading.ended < FRESH else None

    def put(self, server: str, state: MachineState, began: float) -> datetime:
        """Returns the reading's ``since``: what changed has changed by then."""
        ended, now = self._clock.monotonic(), self._clock.now()
        with self._lock:
            known = self._by_server.get(server)
            is_as_known = known is not None and known.state is not None and _is_same_run(known.state, state)
            since = known.since if known is not None and known.since is not None and is_as_known else now
            if known is None or known.began <= began:
                self._by_server[server] = Reading(began, ended, state, now, since)
            return since

    def put_failure(self, server: str, failure: Failure, began: float) -> None:
        """The last state stays beside it."""
        ended = self._clock.monotonic()
        with self._lock:
            known = self._by_server.get(server)
            if known is None:
                self._by_server[server] = Reading(began, ended, failure=failure)
            elif known.began <= began:
                self._by_server[server] = replace(known, began=began, ended=ended, failure=failure)

    def forget(self, server: str) -> None:
        with self._lock:
            self._by_server.pop(server, None)


def _is_same_run(one: MachineState, other: MachineState) -> bool:
    return (one.power_state, one.started_at) == (other.power_state, other.started_at)
