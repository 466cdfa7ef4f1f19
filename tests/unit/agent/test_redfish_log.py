"""A BMC's log over Redfish: every entry once, whatever is done to the log, in few exchanges, with times by our clock."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compute_agent.contract.clock import SystemClock
from compute_agent.contract.diagnostics import Health
from compute_agent.drivers.bmc.protocol import LogReading
from compute_agent.drivers.redfish.errors import ExchangeError, Unusable
from compute_agent.drivers.redfish.log import MachineLog
from compute_agent.drivers.redfish.log_cursor import begin
from compute_agent.drivers.redfish.login import ROOT
from tests.redfish_server import ENTRIES, MANAGER, SYSTEM, SmallLog, refer
from tests.unit.agent.redfish_parts import PaperVisit

BEGAN = datetime(2026, 3, 1, tzinfo=UTC)


class Writer:
    """The BMC that writes: each entry has a text of its own, and one second may have many."""

    def __init__(self, log: SmallLog, per_second: int = 3) -> None:
        self.log = log
        self._per_second = per_second
        self._written = 0
        self._next_id = 1

    def write(self, count: int = 1) -> list[str]:
        texts = []
        for _ in range(count):
            created = BEGAN + timedelta(seconds=self._written // self._per_second)
            text = f"entry {self._written}"
            self.log.entries.append({"Id": str(self._next_id), "Created": created.isoformat(), "Message": text})
            self._written += 1
            self._next_id += 1
            texts.append(text)
        return texts

    def clear(self) -> None:
        self.log.entries.clear()
        self._next_id = 1

    def drop_oldest(self, count: int, renumber: bool) -> None:
        """The log wraps; on some BMCs all entries are numbered anew."""
        del self.log.entries[:count]
        if renumber:
            self.log.entries[:] = [entry | {"Id": str(number)} for number, entry in enumerate(self.log.entries, start=1)]
            self._next_id = len(self.log.entries) + 1


class Reader:
    """The agent, which keeps the cursor that it was given last."""

    def __init__(self, visit: PaperVisit) -> None:
        self.visit = visit
        self.cursor: str | None = None
        self.log = MachineLog(SystemClock())

    def read(self) -> LogReading:
        reading = self.log.read(self.visit.as_visit(), self.visit.documents[SYSTEM], self.cursor)
        assert reading is not None
        assert len(reading.cursor) <= 220
        self.cursor = reading.cursor
        return reading

    def read_texts(self) -> list[str]:
        return [record.text for record in self.read().records]


def make(**options: Any) -> tuple[Writer, Reader]:
    log = SmallLog(**options)
    return Writer(log), Reader(PaperVisit(log=log))


LISTINGS = [{}, {"newest_first": True}, {"page": 3}, {"page": 3, "newest_first": True}, {"page": 3, "knows_skip": False}]


@pytest.mark.parametrize("listing", LISTINGS)
def test_what_was_there_before_is_history_and_what_comes_is_told_once_in_its_order(listing: dict[str, Any]) -> None:
    writer, reader = make(**listing)
    writer.write(40)
    assert reader.read_texts() == []
    for count in (1, 0, 7, 25):
        written = writer.write(count)
        reading = reader.read()
        assert ([record.text for record in reading.records], reading.lost) == (written, "")
        assert reader.read_texts() == []


@settings(max_examples=30, deadline=None)
@given(
    listing=st.sampled_from(LISTINGS),
    steps=st.lists(st.tuples(st.sampled_from(["write", "write", "clear", "drop", "renumber", "restart"]), st.integers(1, 12)), max_size=8),
)
def test_every_entry_is_told_once_through_clears_and_wraps(listing: dict[str, Any], steps: list[tuple[str, int]]) -> None:
    """Read after each step. At a clear everything was read before; a wrap drops only what was read."""
    writer, reader = make(**listing)
    writer.write(5)
    reader.read()
    expected: list[str] = []
    told: list[str] = []
    for step, number in steps:
        if step == "write":
            expected += writer.write(number)
        elif step == "clear":
            writer.clear()
            expected += writer.write(number % 3)
        elif step == "restart":
            reader.log = MachineLog(SystemClock())
        else:
            writer.drop_oldest(min(number, len(writer.log.entries) - 1), renumber=step == "renumber")
            expected += writer.write(1)
        told += reader.read_texts()
    assert told == expected


@settings(max_examples=15, deadline=None)
@given(counts=st.lists(st.integers(1, 25), min_size=1, max_size=3), killed_at=st.integers(0, 24), listing=st.sampled_from(LISTINGS))
def test_an_agent_that_is_killed_within_a_reading_goes_on_behind_the_record_that_it_kept(
    counts: list[int], killed_at: int, listing: dict[str, Any]
) -> None:
    writer, reader = make(**listing)
    writer.write(30)
    reader.read()
    for count in counts:
        written = writer.write(count)
        records = reader.read().records
        kept = min(killed_at, len(records) - 1)
        reader.cursor = records[kept].cursor
        assert [record.text for record in records[: kept + 1]] + reader.read_texts() == written


def test_a_cleared_log_is_said_to_be_one_as_soon_as_it_has_entries() -> None:
    """An empty one may be that of a BMC which has just started: its entries come back."""
    writer, reader = make()
    writer.write(3)
    reader.read()
    kept = list(writer.log.entries)
    writer.log.entries.clear()
    assert reader.read() == LogReading((), reader.cursor or "")
    writer.log.entries[:] = kept
    assert reader.read_texts() == []
    writer.clear()
    written = writer.write(2)
    reading = reader.read()
    assert [record.text for record in reading.records] == written
    assert "cleared" in reading.lost


def test_entries_that_are_alike_are_told_each() -> None:
    _writer, reader = make()
    alike = {"Created": BEGAN.isoformat(), "Message": "Watchdog: timer expired"}
    reader.visit.log.entries.append({"Id": "1"} | alike)
    reader.read()
    reader.visit.log.entries += [{"Id": "2"} | alike, {"Id": "3"} | alike]
    assert [record.id for record in reader.read().records] == ["2", "3"]
    assert reader.read_texts() == []


def test_a_full_ring_that_is_listed_by_its_places_is_read_in_the_order_of_time() -> None:
    writer, reader = make()
    reader.visit.documents[f"{SYSTEM}/LogServices/SEL"] |= {"OverWritePolicy": "WrapsWhenFull", "MaxNumberOfRecords": 5}
    writer.write(5)
    reader.read()
    for place in (0, 1):  # the new ones take the places of the oldest
        (text,) = writer.write(1)
        writer.log.entries[place] = writer.log.entries.pop() | {"Id": str(place + 1), "Created": (BEGAN + timedelta(hours=1)).isoformat()}
        assert reader.read_texts() == [text]


@pytest.mark.parametrize("before", [1, 2, 50])
@pytest.mark.parametrize("listing", [{}, {"newest_first": True}])
def test_a_clock_that_is_set_back_changes_no_order(before: int, listing: dict[str, Any]) -> None:
    writer, reader = make(**listing)
    writer.write(before)
    reader.read()
    for number in range(3):
        created = (BEGAN - timedelta(hours=5 - number)).isoformat()
        writer.log.entries.append({"Id": str(before + 1 + number), "Created": created, "Message": f"set back {number}"})
        assert reader.read_texts() == [f"set back {number}"]


def test_a_clock_that_was_never_set_hides_no_entry() -> None:
    writer, reader = make()
    writer.write(3)
    reader.read()
    writer.log.entries.append({"Id": "4", "Created": "1970-01-01T00:00:05Z", "Message": "before the clock was set"})
    (record,) = reader.read().records
    assert (record.text, record.at) == ("before the clock was set", None)
    assert reader.read_texts() == []


def test_a_long_log_costs_one_exchange_at_each_look() -> None:
    writer, reader = make(page=50)
    writer.write(2000)
    reader.read()
    assert len(reader.visit.asked) <= 8
    reader.visit.asked.clear()
    reader.read()
    assert len(reader.visit.asked) == 1
    written = writer.write(3)
    reader.visit.asked.clear()
    assert reader.read_texts() == written
    assert len(reader.visit.asked) == 2, "the entries, and what time the BMC believes it is"


def test_a_log_that_cannot_be_read_to_its_end_is_a_problem_and_no_loop() -> None:
    writer, reader = make(page=1, knows_skip=False)
    writer.write(100)
    with pytest.raises(Unusable, match="pieces"):
        reader.read()


def test_a_log_of_more_entries_than_anybody_keeps_is_a_problem_and_not_worked_through() -> None:
    """A small answer may hold millions."""
    visit = PaperVisit()
    visit.documents[ENTRIES] = {"Members": [{}] * 20_001}
    with pytest.raises(Unusable, match="at once"):
        Reader(visit).read()


def test_another_log_than_before_is_begun_anew_and_that_is_said() -> None:
    writer, reader = make()
    writer.write(3)
    for cursor in ("1:000000000000:3:", "written by nobody"):
        reader.cursor = cursor
        reading = reader.read()
        assert reading.records == ()
        assert reading.lost


@pytest.mark.parametrize("behind", [timedelta(hours=7), -timedelta(days=400)])
def test_times_are_ours_and_nothing_is_told_to_have_happened_before_it_did(behind: timedelta) -> None:
    writer, reader = make()
    writer.write(1)
    reader.read()
    happened = datetime.now(UTC)
    bmcs = (happened - behind).replace(microsecond=0)
    reader.visit.documents[MANAGER]["DateTime"] = bmcs.isoformat()
    writer.log.entries.append({"Id": "2", "Created": bmcs.isoformat(), "Message": "now", "Severity": "Critical"})
    (record,) = reader.read().records
    assert record.at is not None
    assert happened <= record.at <= datetime.now(UTC)
    assert record.severity is Health.CRITICAL


# Which log


def test_the_ipmi_log_is_read_before_others_and_one_for_people_never() -> None:
    visit = PaperVisit(log=SmallLog())
    Writer(visit.log).write(2)
    sel, events, audit = f"{SYSTEM}/LogServices/SEL", f"{SYSTEM}/LogServices/EventLog", f"{SYSTEM}/LogServices/AuditLog"
    visit.documents[f"{SYSTEM}/LogServices"] = {"Members": refer(audit, events, sel)}
    visit.documents[events] = {"Id": "EventLog", "LogEntryType": "Event", "Entries": {"@odata.id": f"{events}/Entries"}}
    visit.documents[audit] = {"Id": "AuditLog", "Entries": {"@odata.id": f"{audit}/Entries"}}
    Reader(visit).read()
    assert ENTRIES in visit.asked
    visit.documents[sel]["ServiceEnabled"] = False
    visit.documents[f"{events}/Entries"] = {"Members": []}
    Reader(visit).read()
    assert f"{events}/Entries" in visit.asked
    assert f"{audit}/Entries" not in visit.asked


def test_the_managers_log_is_read_where_the_system_has_none() -> None:
    visit = PaperVisit()
    del visit.documents[SYSTEM]["LogServices"]
    visit.documents[MANAGER]["LogServices"] = {"@odata.id": f"{SYSTEM}/LogServices"}
    Reader(visit).read()
    assert ENTRIES in visit.asked


def test_a_bmc_without_a_log_has_none_and_is_not_asked_each_time() -> None:
    visit = PaperVisit()
    del visit.documents[SYSTEM]["LogServices"]
    log = MachineLog(SystemClock())
    for _ in range(2):
        assert log.read(visit.as_visit(), visit.documents[SYSTEM], None) is None
    assert visit.asked == [MANAGER]


def test_the_last_entries_are_those_that_were_written_last_newest_first() -> None:
    for listing in LISTINGS:
        writer, reader = make(**listing)
        writer.write(60)
        last = reader.log.read_last(reader.visit.as_visit(), reader.visit.documents[SYSTEM], 3)
        assert [entry.text for entry in last] == ["entry 59", "entry 58", "entry 57"]


# Odd answers


ODD = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats() | st.sampled_from(["", "On", "Nmi", "x" * 300, ROOT, "//evil/x", "\x00"]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["@odata.id", "Members", "Id", "Created"]), inner, max_size=3)
    ),
    max_leaves=6,
)


@settings(max_examples=50, deadline=None)
@given(
    place=st.sampled_from(["Members", "Members@odata.count", "Members@odata.nextLink", "entry"]),
    odd=ODD,
    key=st.sampled_from(["Id", "Created", "Message", "MessageArgs", "Severity", "SensorType"]),
)
def test_an_odd_log_is_read_or_refused_and_nothing_else(place: str, odd: Any, key: str) -> None:
    visit = PaperVisit()
    entries = {"Members": [{"Id": "1", "Message": "one"}, {"Id": "2", "Message": "two"}]}
    visit.documents[ENTRIES] = entries | {place: odd} if place != "entry" else {"Members": [{"Id": "1", key: odd}, odd]}
    reader = Reader(visit)
    try:
        reader.read()
        reader.cursor = begin(ENTRIES).write()
        reader.read()
        reader.log.read_last(visit.as_visit(), visit.documents[SYSTEM], 5)
    except ExchangeError:
        return
