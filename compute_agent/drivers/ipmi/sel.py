"""A BMC's system event log (IPMI 2.0, section 31): what is new in it since a cursor, and its last records."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from compute_agent.contract.clock import Clock
from compute_agent.contract.diagnostics import LogEntry
from compute_agent.drivers.bmc.protocol import LogReading, LogRecord
from compute_agent.drivers.errors import BackendUnavailable, ServerUnsupported
from compute_agent.drivers.ipmi.asking import check_length, read, read_coded
from compute_agent.drivers.ipmi.completion_codes import DONE, RESERVATION_CANCELLED, is_unsupported, translate_read_refusal
from compute_agent.drivers.ipmi.exchange import Conversation, Request
from compute_agent.drivers.ipmi.sel_cursor import Cursor, parse_cursor
from compute_agent.drivers.ipmi.sel_records import RECORD_LENGTH, Record, describe_record, list_events, rate_record, read_time

_STORAGE = 0x0A
_GET_INFO, _RESERVE, _GET_ENTRY, _GET_TIME = 0x40, 0x42, 0x43, 0x48
_FIRST, _LAST = 0x0000, 0xFFFF
_WHOLE = 0xFF
_RESERVATIONS = 3
# As many are told in one reading; the next one goes on after them.
_RECORDS_PER_READING = 128
# A log is searched so far for the place where reading stopped; a larger one is given up.
_RECORDS_PER_SEARCH = 4096
_WHAT = "its event log"

CLEARED = "the BMC's event log was cleared; what was written between the last reading and that is lost"
WRAPPED = "the BMC's event log has overwritten the place where reading stopped; what was written in between is lost"
UNREADABLE = "how far the BMC's event log was read is not known any more; reading begins anew at its end"
TOO_LONG = "the place where reading stopped was not found in time in the BMC's event log; reading begins anew at its end"
FULL = "the BMC's event log is full, and the BMC drops events until somebody clears it"


@dataclass(frozen=True)
class Info:
    """Get SEL Info (table 31-2). ``erased``: when something was last erased, by the BMC's clock. ``full``: events are being dropped."""

    entries: int
    erased: int
    full: bool


@dataclass(frozen=True)
class _Entry:
    """A record under the number that the BMC gave it, and the number of the next one."""

    number: int
    record: Record
    next: int


def read_log(server: str, cursor: str | None, clock: Clock, until: float) -> Conversation[LogReading | None]:
    """What is new since ``cursor``; None: this BMC has no log. ``until`` on the monotonic clock is when no further record is begun.

    :raises BackendUnavailable: it cannot be read now; nothing was read of it.
    """
    log = _Log(server)
    try:
        info = yield from log.read_info()
    except ServerUnsupported:
        return None
    if cursor is None:
        return LogReading((), (yield from _begin_at_end(log, info)).write())
    former = parse_cursor(cursor)
    if former is None:
        return LogReading((), (yield from _begin_at_end(log, info)).write(), UNREADABLE)
    lost = [FULL] if info.full and not former.full else []
    place = yield from _find_place(log, info, former, clock, until)
    if place is None:
        return LogReading((), (yield from _begin_at_end(log, info)).write(), "; ".join([TOO_LONG, *lost]))
    if place.lost:
        lost.insert(0, place.lost)
    entries, times = yield from _collect(log, place.next, clock, until)
    now = clock.now()
    records: list[LogRecord] = []
    reached = replace(place.cursor, erased=info.erased, full=info.full)
    for entry in entries:
        events = list_events(entry.record, reached.nmi_at)
        reached = reached.advance(entry.number, entry.record)
        records.append(replace(_describe(entry.record, times, now), events=events, cursor=reached.write()))
    return LogReading(records, reached.write(), "; ".join(lost))


def read_last_entries(server: str, count: int, clock: Clock, until: float) -> Conversation[Sequence[LogEntry]]:
    """The last records, newest first, ``count`` at most: fewer where the BMC's numbers do not count up by one.

    :raises ServerUnsupported, BackendUnavailable: there is no log, or it cannot be read now.
    """
    log = _Log(server)
    info = yield from log.read_info()
    entry = (yield from log.find(_LAST)) if info.entries else None
    found: list[_Entry] = []
    while entry is not None:
        found.append(entry)
        if len(found) == count or entry.number <= 1 or clock.monotonic() >= until:
            break
        before = yield from log.find(entry.number - 1)
        entry = before if before is not None and before.next == entry.number else None
    times = (yield from log.read_times(clock)) if found else None
    now = clock.now()
    told = [_describe(entry.record, times, now) for entry in found]
    return [LogEntry(id=record.id, at=record.at, text=record.text, severity=record.severity) for record in told]


@dataclass(frozen=True)
class _Place:
    """From where to read on: ``next``, with ``cursor`` before it; ``lost`` as in a reading."""

    cursor: Cursor
    next: int
    lost: str = ""


@dataclass(frozen=True)
class _Times:
    """The BMC's clock (in whole seconds) and ours at the same moment."""

    bmc: int
    ours: datetime


def _begin_at_end(log: "_Log", info: Info) -> Conversation[Cursor]:
    cursor = Cursor(None, (), info.erased, info.full)
    last = (yield from log.find(_LAST)) if info.entries else None
    return cursor if last is None else cursor.advance(last.number, last.record)


def _find_place(log: "_Log", info: Info, cursor: Cursor, clock: Clock, until: float) -> Conversation[_Place | None]:
    """Where to go on; None: the log is too long to find out."""
    erased = cursor.erased != info.erased
    if cursor.last is None:
        return _Place(cursor, _FIRST if info.entries else _LAST, CLEARED if erased else "")
    last = yield from log.find(cursor.last)
    if last is not None and cursor.is_at(last.record, info.erased):
        return _Place(cursor, last.next)
    entries: dict[int, _Entry] = {}
    number = _FIRST
    while number != _LAST:
        if len(entries) == _RECORDS_PER_SEARCH or clock.monotonic() >= until:
            return None
        entry = yield from log.find(number)
        if entry is None or entry.number in entries:
            break
        entries[entry.number] = entry
        number = entry.next
    whole = list(entries.values())
    position = cursor.find_in([entry.record for entry in whole], info.erased)
    if position is not None:
        found = replace(cursor, tail=())
        for entry in whole[: position + 1]:
            found = found.advance(entry.number, entry.record)
        return _Place(found, whole[position].next)
    return _Place(Cursor(None, (), info.erased, info.full, cursor.nmi_at), _FIRST, CLEARED if erased else WRAPPED)


def _collect(log: "_Log", number: int, clock: Clock, until: float) -> Conversation[tuple[list[_Entry], _Times | None]]:
    """Records from ``number`` on; those that were read where the BMC stops to answer. Its clock is asked before the first."""
    entries: dict[int, _Entry] = {}
    times: _Times | None = None
    try:
        while number != _LAST and len(entries) < _RECORDS_PER_READING and (not entries or clock.monotonic() < until):
            entry = yield from log.find(number)
            if entry is None or entry.number in entries:
                break
            if not entries:
                times = yield from log.read_times(clock)
            entries[entry.number] = entry
            number = entry.next
    except BackendUnavailable:
        if not entries:
            raise
    return list(entries.values()), times


def _describe(record: Record, times: _Times | None, now: datetime) -> LogRecord:
    return LogRecord(
        id=f"0x{record.id:04x}",
        text=describe_record(record),
        at=_find_time(record, times, now),
        severity=rate_record(record),
    )


def _find_time(record: Record, times: _Times | None, now: datetime) -> datetime | None:
    """When it was written, by our clock: both of the BMC's times are whole seconds, so it is taken for the end of its second."""
    stamp = record.stamp
    if times is None or stamp is None:
        return None
    return min(times.ours - timedelta(seconds=times.bmc - stamp - 1), now)


class _Log:
    """One BMC's log in one conversation; keeps the reservation that some BMCs want for every record."""

    def __init__(self, server: str) -> None:
        self._server = server
        self._reservation = 0

    def read_info(self) -> Conversation[Info]:
        """:raises ServerUnsupported: there is no log."""
        answer = yield from read(self._server, Request(_STORAGE, _GET_INFO), _WHAT, least=14)
        return Info(
            entries=int.from_bytes(answer[1:3], "little"),
            erased=int.from_bytes(answer[9:13], "little"),
            full=bool(answer[13] & 0x80),
        )

    def find(self, number: int) -> Conversation[_Entry | None]:
        """One record; None: there is none under this number."""
        for _ in range(_RESERVATIONS):
            fields = self._reservation.to_bytes(2, "little") + number.to_bytes(2, "little") + bytes([0, _WHOLE])
            response = yield from read_coded(self._server, Request(_STORAGE, _GET_ENTRY, fields), _WHAT)
            if response.code == DONE:
                answer = check_length(self._server, response.data, _WHAT, 2 + RECORD_LENGTH)
                record = Record(answer[2 : 2 + RECORD_LENGTH])
                own = record.id if number in (_FIRST, _LAST) else number
                # Zero would lead back to the beginning.
                return _Entry(own, record, int.from_bytes(answer[:2], "little") or _LAST)
            if is_unsupported(response.code):
                return None
            if response.code != RESERVATION_CANCELLED:
                break
            reserved = yield from read(self._server, Request(_STORAGE, _RESERVE), _WHAT, least=2)
            self._reservation = int.from_bytes(reserved[:2], "little")
        raise translate_read_refusal(self._server, _WHAT, response.code)

    def read_times(self, clock: Clock) -> Conversation[_Times | None]:
        """The BMC's clock beside ours; None: it has none, or nobody has set it."""
        try:
            answer = yield from read(self._server, Request(_STORAGE, _GET_TIME), "its clock", least=4)
        except (ServerUnsupported, BackendUnavailable):
            return None
        bmc = read_time(answer[:4])
        return None if bmc is None else _Times(bmc, clock.now())
