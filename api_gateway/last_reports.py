"""The last diagnostics that each server was known by, for when its host cannot be asked.

Those that were answered here are kept in memory, a bounded number of them: reading must not become writing. Those that came as events
are in the store, for all workers.
"""

import threading
from collections import OrderedDict
from dataclasses import dataclass
from datetime import datetime, timedelta

from compute_agent.contract.diagnostics import DiagnosticsReport

_MOST = 500


@dataclass(frozen=True)
class KnownReport:
    """A report, whose it is, and when it came here."""

    report: DiagnosticsReport
    host: str
    received_at: datetime

    def grow_old(self, now: datetime) -> DiagnosticsReport:
        """The report as it is at ``now``: stale, and as old as the two clocks together say at least."""
        here = self.report.age + max((now - self.received_at).total_seconds(), 0.0)
        return self.report.model_copy(update={"stale": True, "age": max(here, (now - self.report.collected_at).total_seconds())})


class LastReports:
    """What one worker process was answered; thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._reports: OrderedDict[str, KnownReport] = OrderedDict()

    def keep(self, known: KnownReport) -> None:
        with self._lock:
            self._reports[known.report.server] = known
            self._reports.move_to_end(known.report.server)
            if len(self._reports) > _MOST:
                self._reports.popitem(last=False)

    def find(self, server: str) -> KnownReport | None:
        with self._lock:
            return self._reports.get(server)


def choose_usable(
    known: list[KnownReport | None], *, host: str, run_since: datetime | None, now: datetime, max_age: timedelta
) -> KnownReport | None:
    """The latest of those that say something of the server as it runs now: from its own host, not too old, and of its present run.

    :param run_since: when the server last started, rebooted or stopped; what was counted before says nothing of it now
    """
    usable = [
        candidate
        for candidate in known
        if candidate is not None
        and candidate.host == host
        and (run_since is None or candidate.report.collected_at >= run_since)
        and candidate.grow_old(now).age <= max_age.total_seconds()
    ]
    return max(usable, key=lambda candidate: candidate.report.collected_at, default=None)
