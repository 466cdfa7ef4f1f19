"""A BMC's event log is told exactly once, whatever happens to it."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compute_agent.drivers.bmc.protocol import LogReading
from compute_agent.drivers.errors import BackendUnavailable
from compute_agent.drivers.ipmi.exchange import Response
from compute_agent.drivers.ipmi.sel import CLEARED, FULL, TOO_LONG, UNREADABLE, WRAPPED, read_last_entries, read_log
from compute_agent.drivers.ipmi.sel_cursor import parse_cursor
from tests.fakes import FakeClock
from tests.unit.agent.ipmi_parts import SEL_GET, SEL_INFO, SEL_RESERVE, SEL_TIME, SERVER, START, FakeBmc, event

_OEM_WITH_TIME, _OEM_WITHOUT = 0xC0, 0xE0


class Story:
    """A BMC's log, and one who reads it with nothing but the cursor kept from one time to the next, as after a restart."""

    def __init__(self, capacity: int = 100) -> None:
        self.bmc = FakeBmc()
        self.bmc.log.capacity = capacity
        self.clock = FakeClock()
        self.cursor: str | None = None
        self.told: list[int] = []
        self.lost: list[str] = []
        self._serial = 0

    def append(self, has_time: bool = True) -> int:
        self._serial += 1
        serial = self._serial.to_bytes(2, "big")
        if has_time:
            content = bytes([_OEM_WITH_TIME]) + self.bmc.now.to_bytes(4, "little") + bytes(3) + serial + bytes(4)
        else:
            content = bytes([_OEM_WITHOUT]) + bytes(7) + serial + bytes(4)
        self.bmc.log.append(content)
        return self._serial

    def tick(self, seconds: int) -> None:
        self.bmc.now += seconds
        self.clock.advance(seconds)

    def clear(self) -> None:
        self.bmc.log.clear(self.bmc.now)

    def list_serials(self) -> list[int]:
        return [int.from_bytes(content[8:10], "big") for content in self.bmc.log.records.values()]

    def read(self) -> LogReading:
        reading = self.bmc.converse(read_log(SERVER, self.cursor, self.clock, self.clock.monotonic() + 10))
        assert reading is not None
        assert len(reading.cursor) <= 480
        self.cursor = reading.cursor
        assert [record.cursor for record in reading.records[-1:]] == [reading.cursor][: len(reading.records)]
        for record in reading.records:
            numbers = record.text.split("|")[0].split(": ")[1].split()
            payload = bytes(int(number, 16) for number in numbers)
            at = 3 if len(payload) == 9 else 7
            self.told.append(int.from_bytes(payload[at : at + 2], "big"))
        self.lost.append(reading.lost)
        return reading


changes = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["append", "append untimed"]), st.integers(1, 4)),
        st.tuples(st.just("tick"), st.integers(1, 3)),
        st.tuples(st.sampled_from(["clear", "renumber", "read"]), st.just(1)),
    ),
    max_size=25,
)


@settings(max_examples=50)
@given(changes, st.integers(3, 12))
def test_each_record_is_told_once_whatever_happens_to_the_log(changes: list[tuple[str, int]], capacity: int) -> None:
    story = Story(capacity)
    story.append()
    story.read()
    untold: set[int] = set()
    for change, amount in [*changes, ("read", 1)]:
        if change == "tick":
            story.tick(amount)
        elif change == "clear":
            story.clear()
        elif change == "renumber":
            story.bmc.log.renumber()
        elif change == "read":
            present = set(story.list_serials())
            place = parse_cursor(story.cursor or "")
            before = len(story.told)
            reading = story.read()
            new = story.told[before:]
            assert new == [serial for serial in story.list_serials() if serial in untold], "all that is new and there, in its order"
            if untold - present:
                # One that was empty, and that has wrapped since, looks like any other.
                assert reading.lost or (place is not None and place.last is None)
            untold.clear()
        else:
            untold |= {story.append(has_time=change == "append") for _ in range(amount)}
    assert len(story.told) == len(set(story.told)), "nothing twice"


@settings(max_examples=40)
@given(st.lists(st.tuples(st.sampled_from(["append", "delete", "read"]), st.integers(0, 20)), max_size=25))
def test_records_that_somebody_deletes_bring_no_other_back(changes: list[tuple[str, int]]) -> None:
    story = Story()
    for _ in range(9):
        story.append()
    story.read()
    told_or_deleted = set(story.list_serials())
    for change, position in changes[:8]:
        story.tick(1)
        if change == "append":
            story.append()
        elif change == "read":
            story.read()
        elif len(story.bmc.log.records) > 1:
            serials = story.list_serials()
            told_or_deleted.add(serials[position % len(serials)])
            story.bmc.log.delete(position % len(serials), story.bmc.now)
    story.read()
    assert sorted(story.told) == sorted(set(story.told))
    assert set(story.list_serials()) <= set(story.told) | told_or_deleted


def test_what_was_there_before_is_history() -> None:
    story = Story()
    story.append()
    assert story.read().records == ()
    assert not story.read().records
    story.append()
    assert len(story.read().records) == 1


def test_a_log_that_was_empty_is_told_from_its_first_record() -> None:
    story = Story()
    story.read()
    story.append()
    story.read()
    assert story.told == [1]
    assert story.lost == ["", ""]


def test_a_clear_and_a_wrap_are_told() -> None:
    story = Story(capacity=3)
    story.append()
    story.read()
    story.tick(5)
    story.clear()
    story.append()
    assert story.read().lost == CLEARED
    for _ in range(4):
        story.append()
    assert story.read().lost == WRAPPED
    assert story.told == [2, 4, 5, 6]


@pytest.mark.parametrize("keeps", [True, False], ids=["erasures are kept", "erasures are not kept"])
def test_a_machine_that_panics_alike_before_and_after_a_clear_is_told_twice(keeps: bool) -> None:
    """Linux writes its panic's text in records without a time: only the one before them differs."""
    bmc, clock = FakeBmc(), FakeClock()
    texts = [bytes([0xF0, 0x41, number]) + b"Fatal error" for number in range(2)]

    def panic() -> None:
        bmc.log.append(event(bmc.now, 0x20, 0xA1))
        for text in texts:
            bmc.log.append(text)

    def read(cursor: str | None) -> LogReading:
        reading = bmc.converse(read_log(SERVER, cursor, clock, clock.monotonic() + 10))
        assert reading is not None
        return reading

    cursor = read(None).cursor
    panic()
    first = read(cursor)
    bmc.now += 60
    bmc.log.clear(bmc.now if keeps else 0)
    panic()
    second = read(first.cursor)
    for reading in (first, second):
        assert [record.events for record in reading.records if record.events] == [first.records[0].events]
    assert second.lost == (CLEARED if keeps else WRAPPED)
    assert not read(second.cursor).records


def test_the_end_of_a_watchdog_that_gave_an_nmi_is_no_second_firing() -> None:
    """A second later, in another reading, after what the panicking kernel wrote; not every BMC names the NMI in the record of the end."""
    bmc, clock = FakeBmc(), FakeClock()
    cursor: str | None = None
    events: list[str] = []

    def read() -> None:
        nonlocal cursor
        reading = bmc.converse(read_log(SERVER, cursor, clock, clock.monotonic() + 10))
        assert reading is not None
        cursor = reading.cursor
        events.extend(reason for record in reading.records for _, reason in record.events)

    read()
    bmc.log.append(event(bmc.now, 0x23, 0xC8, 0x2F))
    bmc.log.append(event(bmc.now, 0x20, 0xA1))
    read()
    bmc.now += 1
    bmc.log.append(event(bmc.now, 0x23, 0xC0, 0x04))
    read()
    assert events == ["inject-nmi", "os_critical_stop"]
    bmc.now += 600
    bmc.log.append(event(bmc.now, 0x23, 0xC0, 0x04))
    read()
    assert events[2:] == ["none"], "that is another one"


def test_a_long_log_is_told_in_parts() -> None:
    story = Story(capacity=1000)
    story.read()
    for _ in range(300):
        story.append()
    assert [len(story.read().records) for _ in range(4)] == [128, 128, 44, 0]
    assert story.told == list(range(1, 301))


def test_reading_goes_on_after_any_record_of_an_earlier_reading() -> None:
    story = Story()
    story.read()
    for _ in range(4):
        story.append()
    cursors = [record.cursor for record in story.read().records]
    for number, cursor in enumerate(cursors, start=1):
        story.cursor, story.told = cursor, []
        story.read()
        assert story.told == list(range(number + 1, 5))


def test_a_reading_that_has_no_more_time_goes_on_the_next_time() -> None:
    story = Story()
    story.read()
    for _ in range(5):
        story.append()

    def answer_slowly(fields: bytes) -> Response:
        story.clock.advance(4)
        return story.bmc._answer_to(SEL_GET, fields)

    story.bmc.answers[SEL_GET] = answer_slowly
    while len(story.told) < 5:
        assert 1 <= len(story.read().records) <= 3
    assert story.told == [1, 2, 3, 4, 5]


def test_a_place_that_cannot_be_found_in_time_is_given_up() -> None:
    story = Story()
    for _ in range(20):
        story.append()
    story.read()
    story.bmc.log.renumber()
    del story.bmc.log.records[20]
    story.append()

    def answer_slowly(fields: bytes) -> Response:
        story.clock.advance(4)
        return story.bmc._answer_to(SEL_GET, fields)

    story.bmc.answers[SEL_GET] = answer_slowly
    reading = story.read()
    assert (reading.records, reading.lost) == ((), TOO_LONG)
    del story.bmc.answers[SEL_GET]
    story.append()
    story.read()
    assert story.told == [22]


def test_an_unreadable_cursor_begins_anew_and_says_so() -> None:
    story = Story()
    story.append()
    for cursor in ("", "sel0 1", "sel1 - 00000000 0 - 0123456789ab.", "sel1 0001 00000000 0 - ", "x" * 512):
        story.cursor = cursor
        assert story.read().lost == UNREADABLE
    assert not story.told


@settings(max_examples=50)
@given(st.text(max_size=60))
def test_any_text_is_a_cursor_or_none(text: str) -> None:
    cursor = parse_cursor(text)
    assert cursor is None or cursor.write() == text


def test_a_bmc_that_wants_a_reservation_gets_one() -> None:
    story = Story()
    story.read()
    story.append()
    story.bmc.needs_reservation = True
    story.bmc.asked.clear()
    story.append()
    story.bmc.answers.clear()
    story.bmc._reservation = 7
    story.read()
    assert story.told == [1, 2]
    assert story.bmc.commands.count(SEL_RESERVE) == 1


def test_a_bmc_that_takes_every_reservation_away_is_given_up() -> None:
    story = Story()
    story.append()
    story.bmc.answers[SEL_GET] = Response(0xC5)
    with pytest.raises(BackendUnavailable):
        story.read()
    assert len(story.bmc.asked) < 10


def test_a_full_log_is_told_once() -> None:
    story = Story()
    story.read()
    story.bmc.log.full = True
    assert story.read().lost == FULL
    assert story.read().lost == ""


def test_a_bmc_without_a_log_has_none() -> None:
    bmc = FakeBmc()
    bmc.answers[SEL_INFO] = Response(0xC1)
    assert bmc.converse(read_log(SERVER, None, FakeClock(), 2000.0)) is None


def test_what_was_read_before_the_bmc_fell_silent_is_told() -> None:
    story = Story()
    story.read()
    for _ in range(4):
        story.append()
    left = [2]

    def answer_twice(fields: bytes) -> Response:
        left[0] -= 1
        return story.bmc._answer_to(SEL_GET, fields) if left[0] >= 0 else Response(0xC0)

    story.bmc.answers[SEL_GET] = answer_twice
    story.read()
    assert story.told == [1, 2]
    with pytest.raises(BackendUnavailable):
        story.read()
    del story.bmc.answers[SEL_GET]
    story.read()
    assert story.told == [1, 2, 3, 4]


def test_times_are_by_the_agents_clock_and_the_end_of_their_second() -> None:
    """The BMC's clock is years behind."""
    story = Story()
    story.bmc.now = START - 50_000_000
    story.read()
    story.append()
    story.tick(90)
    (record,) = story.read().records
    assert record.at == datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=1)
    story.append()
    (record,) = story.read().records
    assert record.at == story.clock.now(), "never after the reading"


@pytest.mark.parametrize("stamp", [0, 5, 0x20000000, 0xFFFFFFFF])
def test_a_record_from_before_the_clock_was_set_has_no_time(stamp: int) -> None:
    story = Story()
    story.read()
    story.bmc.log.append(event(stamp, 0x20, 0xA1))
    reading = story.bmc.converse(read_log(SERVER, story.cursor, story.clock, 2000.0))
    assert reading is not None
    assert reading.records[0].at is None


@pytest.mark.parametrize("answer", [None, Response(0xC1), Response(0, bytes([1, 0, 0, 0])), Response(0, b"\1")])
def test_without_the_bmcs_clock_no_record_has_a_time(answer: Response | None) -> None:
    story = Story()
    story.read()
    story.append()
    story.bmc.answers[SEL_TIME] = answer
    assert story.read().records[0].at is None


def test_the_last_entries_are_newest_first() -> None:
    story = Story()
    assert story.bmc.converse(read_last_entries(SERVER, 3, story.clock, 2000.0)) == []
    for _ in range(5):
        story.append()
    entries = story.bmc.converse(read_last_entries(SERVER, 3, story.clock, 2000.0))
    assert [entry.id for entry in entries] == ["0x0005", "0x0004", "0x0003"]
    story.bmc.log.delete(2, story.bmc.now)
    assert [entry.id for entry in story.bmc.converse(read_last_entries(SERVER, 9, story.clock, 2000.0))] == ["0x0005", "0x0004"]


@settings(max_examples=50)
@given(st.lists(st.tuples(st.integers(0, 255), st.binary(max_size=24)), min_size=1, max_size=12), st.booleans())
def test_no_answer_breaks_the_reading_or_lasts_for_ever(answers: list[tuple[int, bytes]], has_cursor: bool) -> None:
    bmc, clock = FakeBmc(), FakeClock()
    left = [Response(code if code >= 0xC0 else 0, answer) for code, answer in answers]

    def answer_anything(fields: bytes) -> Response:
        return left.pop() if left else Response(0, b"\x02\x00" + b"\x01" * 16)

    for command in (SEL_INFO, SEL_GET, SEL_TIME, SEL_RESERVE):
        bmc.answers[command] = answer_anything
    cursor = "sel1 0001 00000000 0 - 0123456789ab." if has_cursor else None
    try:
        bmc.converse(read_log(SERVER, cursor, clock, clock.monotonic() + 1))
    except BackendUnavailable:
        pass
    assert len(bmc.asked) < 1000
