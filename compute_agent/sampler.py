"""Rolling samples of all running servers: what rates and utilisation are worked out from, and what is said when a backend hangs.

Memory is bounded: a fixed number of samples per server, and none of servers that this host no longer has.
"""

import threading
from collections import deque
from collections.abc import Callable, Collection

from compute_agent.contract.clock import Clock
from compute_agent.contract.outage import Outage
from compute_agent.drivers.base import DiagnosticsSource
from compute_agent.drivers.errors import BackendUnavailable
from compute_agent.drivers.models import CollectedDiagnostics

SAMPLES_KEPT = 20
_MOST_FRESH = 4096
"""Servers whose last fresh reading is kept: more than any host has."""


class Sampler:
    """Thread-safe; only :meth:`step` calls the driver, and never under the lock.

    :param list_servers: the ids of the servers that this host has
    :param kept: samples per server
    """

    def __init__(
        self,
        source: DiagnosticsSource | None,
        clock: Clock,
        *,
        list_servers: Callable[[], Collection[str]],
        kept: int = SAMPLES_KEPT,
    ) -> None:
        self._source = source
        self._clock = clock
        self._list_servers = list_servers
        self._kept = kept
        self._lock = threading.Lock()
        self._samples: dict[str, deque[CollectedDiagnostics]] = {}
        self._fresh: dict[str, CollectedDiagnostics] = {}
        self._outage = Outage("no samples of diagnostics")

    def step(self) -> int:
        """Take one sample of each running server that is not busy; returns of how many. Blocks for as long as the backend does."""
        if self._source is None:
            return 0
        try:
            samples = self._source.sample_servers()
        except BackendUnavailable as error:
            self._outage.begin(error.reason)
            return 0
        self._outage.end()
        servers = set(self._list_servers())
        with self._lock:
            for sample in samples:
                self._samples.setdefault(sample.server, deque(maxlen=self._kept)).append(sample)
            for kept in (self._samples, self._fresh):
                for server in kept.keys() - servers:
                    del kept[server]
        return len(samples)

    def remember(self, reading: CollectedDiagnostics) -> None:
        """A reading that was asked for: newer than the last sample, and all there is where sampling is off."""
        with self._lock:
            self._fresh.pop(reading.server, None)
            self._fresh[reading.server] = reading
            while len(self._fresh) > _MOST_FRESH:
                del self._fresh[next(iter(self._fresh))]

    def list_samples(self, server: str) -> list[CollectedDiagnostics]:
        """The samples of a server, oldest first."""
        with self._lock:
            return list(self._samples.get(server, ()))

    def list_readings(self, server: str) -> list[CollectedDiagnostics]:
        """All that is known of a server, oldest first: its samples and the last reading that was asked for."""
        with self._lock:
            readings = list(self._samples.get(server, ()))
            if server in self._fresh:
                readings.append(self._fresh[server])
        return sorted(readings, key=lambda reading: reading.monotonic)
