"""A machine's log: what is new in it since a cursor, and its last entries."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from compute_agent.contract.clock import Clock
from compute_agent.contract.diagnostics import LogEntry
from compute_agent.drivers.bmc.protocol import LogReading, LogRecord
from compute_agent.drivers.redfish.connection import Visit
from compute_agent.drivers.redfish.documents import Document, find, find_health, find_moment, find_text
from compute_agent.drivers.redfish.errors import NOT_THERE, Refused
from compute_agent.drivers.redfish.log_cursor import Cursor, begin, is_newest_first, mark, read_cursor, unroll
from compute_agent.drivers.redfish.log_events import read_events
from compute_agent.drivers.redfish.log_service import Listing, LogPlace, find_log, list_entries, list_from, list_last

_WORTH_SKIPPING = 20
"""Entries: a shorter log is read from its beginning."""
_MARKED = 6
_LOOK_AGAIN = 600.0
"""Seconds after which a BMC that had no log is asked for one again: one that had just started may not have said all."""
_ONE_SECOND = timedelta(seconds=1)


@dataclass(frozen=True)
class _Ordered:
    """Entries oldest first, and at which place of the log the first of them is; None: where new ones will be listed is not known."""

    entries: Sequence[Document]
    first: int | None

    def find_position(self, end: int) -> int:
        """A cursor's position after so many of these."""
        return 0 if self.first is None else self.first + end


class MachineLog:
    """Finds the log once and reads it from then on; safe to use from several threads."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._place: LogPlace | None = None
        self._looked_at: float | None = None

    def read(self, visit: Visit, system: Document, cursor: str | None) -> LogReading | None:
        """None: this BMC has no log.

        :raises ExchangeError: it cannot be read now.
        """
        place = self._find(visit, system)
        if place is None:
            return None
        try:
            return self._read(visit, place, cursor)
        except Refused as refusal:
            if refusal.status in NOT_THERE:
                self._forget()
            raise

    def read_last(self, visit: Visit, system: Document, number: int) -> list[LogEntry]:
        """The last entries, newest first.

        :raises ExchangeError: they cannot be read now.
        """
        place = self._find(visit, system)
        if place is None:
            return []
        entries = _order(list_last(visit, place.entries, number), place).entries[-number:]
        records = self._translate(visit, place, entries)
        return [LogEntry(id=record.id, at=record.at, text=record.text, severity=record.severity) for record in reversed(records)]

    def _find(self, visit: Visit, system: Document) -> LogPlace | None:
        with self._lock:
            if self._place is not None:
                return self._place
            if self._looked_at is not None and self._clock.monotonic() - self._looked_at < _LOOK_AGAIN:
                return None
        place = find_log(visit, system)
        with self._lock:
            self._place, self._looked_at = place, self._clock.monotonic()
        return place

    def _forget(self) -> None:
        with self._lock:
            self._place = self._looked_at = None

    def _read(self, visit: Visit, place: LogPlace, text: str | None) -> LogReading:
        start, former = begin(place.entries), None if text is None else read_cursor(text)
        if former is None or former.log != start.log:
            seen = _order(list_last(visit, place.entries, _MARKED), place)
            lost = "" if text is None else "this is not the log that was read before; what was written meanwhile is not known"
            marks = [mark(entry) for entry in seen.entries]
            return LogReading((), start.follow(marks, seen.find_position(len(marks))).write(), lost)
        seen = _list_after(visit, place, former)
        if not seen.entries:
            # Cleared, or not yet read in by a BMC that has just started: the next entries tell.
            return LogReading((), former.write())
        marks = [mark(entry) for entry in seen.entries]
        read = former.find_in(marks)
        lost = "the log was cleared, or has wrapped past what was read" if read is None else ""
        records = self._translate(visit, place, seen.entries[read or 0 :])
        before = len(marks) - len(records)
        told = [
            replace(record, cursor=former.follow(marks[:end], seen.find_position(end)).write())
            for end, record in enumerate(records, start=before + 1)
        ]
        return LogReading(told, former.follow(marks, seen.find_position(len(marks))).write(), lost)

    def _translate(self, visit: Visit, place: LogPlace, entries: Sequence[Document]) -> list[LogRecord]:
        if not entries:
            return []
        ahead = self._ask_clock(visit, place) if any(find_moment(entry, "Created") for entry in entries) else timedelta()
        now = self._clock.now()
        return [_read_record(entry, ahead, now) for entry in entries]

    def _ask_clock(self, visit: Visit, place: LogPlace) -> timedelta:
        """What is to be added to the BMC's times to have ours: rather too much than too little, so that nothing happened before it did."""
        said = find_moment(visit.find(place.clock), "DateTime")
        return timedelta() if said is None else self._clock.now() - said


def _list_after(visit: Visit, place: LogPlace, cursor: Cursor) -> _Ordered:
    """What may be new, with what was read last before it if that is still there."""
    if cursor.marks and cursor.position > _WORTH_SKIPPING:
        oldest = cursor.marks[0].full
        listing = list_from(visit, place.entries, cursor.position - len(cursor.marks), lambda entry: mark(entry).full == oldest)
        if listing is not None:
            ordered = _order(listing, place, is_appended=True)
            if cursor.find_in([mark(entry) for entry in ordered.entries]) is not None:
                return ordered
    last = cursor.marks[-1].full if cursor.marks else ""
    return _order(list_entries(visit, place.entries, lambda entry: mark(entry).full == last), place)


def _order(listing: Listing, place: LogPlace, *, is_appended: bool = False) -> _Ordered:
    """``is_appended``: it is known already that new entries come at the end."""
    if place.ring is not None and listing.first == 0 and len(listing.entries) >= place.ring:
        unrolled = unroll(listing.entries)
        if unrolled != listing.entries:
            return _Ordered(unrolled, None)
    if not is_appended and is_newest_first(listing.entries):
        return _Ordered(list(reversed(listing.entries)), None)
    return _Ordered(listing.entries, listing.first)


def _read_record(entry: Document, ahead: timedelta, now: datetime) -> LogRecord:
    at = find_moment(entry, "Created")
    if at is not None:
        in_seconds = "." not in str(find(entry, "Created"))
        at = min(at + ahead + (_ONE_SECOND if in_seconds else timedelta()), now)
    return LogRecord(
        id=find_text(entry, "Id") or find_text(entry, "@odata.id") or "?",
        text=find_text(entry, "Message") or find_text(entry, "MessageId") or find_text(entry, "Name") or "?",
        at=at,
        severity=find_health(entry, "Severity"),
        events=read_events(entry),
    )
