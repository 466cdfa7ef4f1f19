"""The log that a fake bare-metal server's platform keeps of it, whoever reads it or not.

A cursor is the number of records before it: a driver that is begun anew with one goes on right there.
"""

from dataclasses import dataclass
from datetime import datetime

from compute_agent.contract.diagnostics import LogEntry
from compute_agent.contract.models import PowerState
from compute_agent.drivers.models import DriverEvent, DriverEventKind


@dataclass(frozen=True)
class FakeRecord:
    """One record: what happened, and the state of the server after it where that is not what the kind implies."""

    kind: DriverEventKind
    at: datetime
    reason: str
    power_state: PowerState | None = None


class FakeLog:
    """Changed and read under the hypervisor's lock. ``_told``: so many records the present listener was told of, or need not be."""

    def __init__(self) -> None:
        self._records: list[FakeRecord] = []
        self._told = 0
        self._begins = True

    def write(self, record: FakeRecord) -> None:
        self._records.append(record)

    def begin(self, cursor: str | None) -> None:
        """Another listener, which knows what is before ``cursor``; None: it begins here, and what was before is history."""
        self._begins = cursor is None
        self._told = len(self._records) if cursor is None else int(cursor)

    def take_news(self, server: str, at: datetime) -> list[DriverEvent]:
        """What is to be told now, each event with the cursor after it."""
        told, self._told = self._told, len(self._records)
        news = [
            DriverEvent(record.kind, server, record.at, record.reason, record.power_state, cursor=str(number))
            for number, record in enumerate(self._records[told:], told + 1)
        ]
        if self._begins:
            news.insert(0, DriverEvent(DriverEventKind.LOG_READ, server, at, cursor=str(told)))
        self._begins = False
        return news

    def list_entries(self) -> tuple[LogEntry, ...]:
        """For diagnostics, newest first."""
        numbered = reversed(list(enumerate(self._records, 1)))
        return tuple(LogEntry(id=str(number), at=record.at, text=f"{record.kind}: {record.reason}") for number, record in numbered)
