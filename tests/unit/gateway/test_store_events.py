"""The record: each event once, in one order, with its gaps known; and the gateway's own events on their way out."""

import itertools
import threading
from datetime import timedelta
from pathlib import Path

import pytest

from api_gateway.store import Connection, Store, counters, events, gaps, outbox, servers
from api_gateway.store.events import EventRow
from compute_agent.contract import versions
from compute_agent.contract.events import EventsLost
from compute_agent.contract.notifications import Notification
from compute_agent.contract.topics import Severity
from tests.databases import PATIENT, write_database
from tests.fakes import FakeClock
from tests.unit.gateway.store_parts import OTHER_SERVER, SERVER, FakeHost, at, build_event, list_outbox_events

EPOCH = "journal-a"


def tell(sequence: int, **changes: object) -> Notification:
    return build_event(f"m{sequence}", **({"host": "a", "epoch": EPOCH, "sequence": sequence, "server": SERVER} | changes))


def record(store: Store, clock: FakeClock, *batch: Notification) -> list[EventRow]:
    with store.write() as c:
        return events.record_events(c, batch, now=clock.now())


def list_missing(store: Store, clock: FakeClock) -> list[tuple[int, int]]:
    with store.read() as c:
        return sorted((gap.first, gap.last) for gap in gaps.list_gaps(c, now=at(clock, 86_400)))


def test_a_batch_is_recorded_in_its_order_from_position_1(store: Store, clock: FakeClock) -> None:
    rows = record(store, clock, tell(2), tell(1), tell(3, action_id="req-1"))
    assert [(row.position, row.message_id) for row in rows] == [(1, "m2"), (2, "m1"), (3, "m3")]
    with store.read() as c:
        assert events.list_events(c) == rows
        assert events.list_events(c, after=1, limit=1) == rows[1:2]
        assert events.get_last_position(c) == 3
        assert events.list_events_of_action(c, "req-1") == rows[2:]


def test_an_event_belongs_to_the_project_that_its_server_has_when_it_is_recorded(store: Store, clock: FakeClock) -> None:
    host = FakeHost(store, clock, "a")
    host.put(project="demo")
    host.beat(full=True)
    told = {"server": SERVER, "project": "forged", "action_id": "req-1"}
    unknown = {"server": OTHER_SERVER, "project": "asking"}
    rows = record(
        store,
        clock,
        build_event("m1", **told),
        build_event("m2", "action.received", **unknown, action_id="req-2"),
        build_event("m3", **unknown),
        build_event("m4", "agent.up", project="forged", action_id="req-3"),
    )
    with store.write() as c:
        servers.set_overlay(c, SERVER, {"project": "elsewhere"}, now=clock.now())
    rows += record(store, clock, build_event("m5", server=SERVER))
    assert [row.project for row in rows] == ["demo", "asking", None, None, "elsewhere"]
    with store.read() as c:
        assert events.list_events(c) == rows


def test_what_was_recorded_is_not_recorded_again_and_takes_no_position(store: Store, clock: FakeClock) -> None:
    record(store, clock, tell(1), tell(2))
    rows = record(store, clock, tell(2), tell(3), tell(3), tell(1))
    assert [(row.position, row.message_id) for row in rows] == [(3, "m3")]
    assert record(store, clock) == []


def test_nobody_keeps_anothers_event_away_by_its_id(store: Store, clock: FakeClock) -> None:
    """Another host's, another journal's of the same host, or nobody's; in one batch or in two."""
    forged = [tell(1, host="b"), tell(1, epoch="journal-b"), build_event("m1")]
    record(store, clock, forged[0])
    honest = record(store, clock, tell(1), tell(2), tell(1), *forged[1:])
    assert [(row.host, row.epoch, row.sequence) for row in honest] == [("a", EPOCH, 1), ("a", EPOCH, 2), ("a", "journal-b", 1), (None,) * 3]
    assert len({row.message_id for row in honest} - {"m1"}) == 4
    with store.read() as c:
        assert counters.list_violations(c) == {"message_id_clash": 3}
        assert [events.find_event(c, row.message_id) for row in honest] == honest
    assert list_missing(store, clock) == []


def test_what_came_under_anothers_id_is_recorded_once_as_well(store: Store, clock: FakeClock) -> None:
    """It comes again and again from a host that is asked to tell again, as after a backup was restored; that is no further clash."""
    record(store, clock, tell(1), tell(1, host="b"))
    for batch in ([tell(1, host="b")], [tell(1), tell(1, host="b"), tell(1, host="b")], [tell(1)]):
        assert record(store, clock, *batch) == []
    with store.read() as c:
        assert counters.list_violations(c) == {"message_id_clash": 1}


def test_nobody_takes_the_id_that_a_clashing_event_would_get(store: Store, clock: FakeClock, tmp_path: Path) -> None:
    """Whoever can work it out, and tells of something under it first."""
    elsewhere = Store(f"sqlite:///{write_database(tmp_path / 'elsewhere.sqlite')}")
    with elsewhere.write() as c:
        foreseen = events.record_events(c, [tell(1, host="b"), tell(1)], now=clock.now())[1].message_id
    elsewhere.dispose()
    record(store, clock, tell(1, host="b"), build_event(foreseen, host="b", epoch="journal-b", sequence=1))
    assert [(row.message_id, row.host) for row in record(store, clock, tell(1))] == [(foreseen, "a")]


def test_a_batch_that_is_undone_leaves_no_hole(store: Store, clock: FakeClock) -> None:
    def fail() -> None:
        with store.write() as c:
            events.record_events(c, [tell(1), tell(2)], now=clock.now())
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert [row.position for row in record(store, clock, tell(5))] == [1]


def test_events_are_kept_as_they_came(store: Store, clock: FakeClock) -> None:
    odd = {
        "host": 7,
        "epoch": "e" * 65,
        "sequence": 2**53,
        "server": None,
        "action_id": [],
        "occurred_at": "yesterday",
        "new": {"k": "\ud800"},
    }
    record(
        store, clock, build_event("m1", "server.of_tomorrow", **odd), build_event("m2", sequence=True, occurred_at="2026-01-01T00:00:00")
    )
    with store.read() as c:
        first, second = events.list_events(c)
    assert first.event_type == "server.of_tomorrow"
    assert {key: first.payload[key] for key in odd} == odd
    assert (first.host, first.epoch, first.sequence, first.server, first.action_id, first.occurred_at) == (None,) * 6
    assert (second.sequence, second.occurred_at) == (None, None)
    assert list_missing(store, clock) == []


def test_positions_are_in_commit_order_whoever_records(database: Path, clock: FakeClock) -> None:
    """A reader that has seen position N will never be shown one below N for the first time."""
    stores = [Store(f"sqlite:///{database}", busy_timeout=PATIENT) for _ in range(3)]
    done = threading.Event()
    seen: list[list[int]] = []

    def write(store: Store, epoch: int) -> None:
        for sequence in range(1, 30):
            record(store, clock, build_event(f"{epoch}-{sequence}", host="a", epoch=str(epoch), sequence=sequence))

    def watch(store: Store) -> None:
        while not done.is_set():
            with store.read() as c:
                seen.append([row.position for row in events.list_events(c, limit=1000)])

    writers = [threading.Thread(target=write, args=(store, number)) for number, store in enumerate(stores[:2])]
    watcher = threading.Thread(target=watch, args=(stores[2],))
    for thread in (*writers, watcher):
        thread.start()
    for thread in writers:
        thread.join()
    done.set()
    watcher.join()
    assert all(positions == list(range(1, len(positions) + 1)) for positions in seen)
    for store in stores:
        store.dispose()


def test_events_in_order_leave_no_gap(store: Store, clock: FakeClock) -> None:
    record(store, clock, tell(1), tell(2))
    record(store, clock, tell(3))
    assert list_missing(store, clock) == []


def test_what_is_jumped_over_is_missing_until_it_comes(store: Store, clock: FakeClock) -> None:
    record(store, clock, tell(3), tell(9))
    assert list_missing(store, clock) == [(1, 2), (4, 8)]
    record(store, clock, tell(6), tell(1), tell(8), tell(10))
    assert list_missing(store, clock) == [(2, 2), (4, 5), (7, 7)]
    record(store, clock, tell(2), tell(4), tell(5), tell(7))
    assert list_missing(store, clock) == []


@pytest.mark.parametrize("order", list(itertools.permutations([1, 2, 4, 5])))
def test_gaps_do_not_depend_on_the_order_of_arrival(store: Store, clock: FakeClock, order: tuple[int, ...]) -> None:
    for sequence in order:
        record(store, clock, tell(sequence))
    assert list_missing(store, clock) == [(3, 3)]


def test_each_journal_of_each_host_has_its_own_sequence_and_the_gateway_none(store: Store, clock: FakeClock) -> None:
    record(
        store, clock, tell(1), build_event("x", host="a", epoch="other", sequence=1), build_event("y", host="b", epoch=EPOCH, sequence=1)
    )
    record(store, clock, build_event("own", host="a", epoch=store.store_id, sequence=50))
    assert list_missing(store, clock) == []


def test_a_gap_is_due_at_once_and_after_each_try_again(store: Store, clock: FakeClock) -> None:
    record(store, clock, tell(3))
    with store.write() as c:
        (gap,) = gaps.list_gaps(c, now=clock.now())
        gaps.postpone_gap(c, gap.id, ask_at=at(clock, 10))
        gaps.count_try(c, gap)
        assert gaps.list_gaps(c, now=at(clock, 9)) == []
        (again,) = gaps.list_gaps(c, now=at(clock, 10))
    assert (gap.tries, again.tries, again.found_at) == (0, 1, clock.now())


def test_a_gap_that_is_split_keeps_how_often_it_was_asked_for(store: Store, clock: FakeClock) -> None:
    record(store, clock, tell(9))
    with store.write() as c:
        (gap,) = gaps.list_gaps(c, now=clock.now())
        gaps.count_try(c, gap)
    record(store, clock, tell(4))
    with store.read() as c:
        assert {gap.tries for gap in gaps.list_gaps(c, now=clock.now())} == {1}


def test_what_the_agent_says_is_lost_is_missing_no_longer(store: Store, clock: FakeClock) -> None:
    record(store, clock, tell(9))
    with store.write() as c:
        assert gaps.close_gap(c, host="a", epoch=EPOCH, first=3, last=20) == 6
        assert gaps.close_gap(c, host="b", epoch=EPOCH, first=1, last=20) == 0
    assert list_missing(store, clock) == [(1, 2)]


def test_a_gap_that_is_given_up_is_named_with_what_is_left_of_it(store: Store, clock: FakeClock) -> None:
    record(store, clock, tell(9))
    with store.read() as c:
        (gap,) = gaps.list_gaps(c, now=clock.now())
    record(store, clock, tell(4))
    with store.write() as c:
        assert gaps.record_lost(c, gap, reason="asked in vain", now=clock.now())
        assert not gaps.record_lost(c, gap, reason="asked in vain", now=clock.now())
        lost = [EventsLost.from_wire(row.payload) for row in list_outbox_events(c, "events.lost")]
    assert [(event.host, event.lost_epoch, event.first, event.last) for event in lost] == [("a", EPOCH, 1, 3), ("a", EPOCH, 5, 8)]
    assert list_missing(store, clock) == []


def test_unreadable_messages_are_kept_for_people(store: Store, clock: FakeClock) -> None:
    with store.write() as c:
        events.shelve(c, b"\x00\xff", reason="no JSON", now=clock.now(), source="crashcart.recorder")
        assert events.count_shelved(c) == 1


def append(c: Connection, clock: FakeClock, **body: object) -> int:
    values = {"release": None, "journal_id": "j", "incarnation": 1, "reason": "silence"} | body
    return outbox.append_event(c, "agent.down", server=None, host="a", occurred_at=clock.now(), body=values)


def test_the_gateways_events_are_numbered_complete_and_each_its_own_message(store: Store, clock: FakeClock) -> None:
    with store.write() as c:
        assert [append(c, clock), append(c, clock)] == [1, 2]
        first, second = outbox.list_unsent(c)
    assert first.message_id != second.message_id
    assert first.payload == {
        "version": versions.EVENT_VERSION,
        "server": None,
        "host": "a",
        "epoch": store.store_id,
        "sequence": 1,
        "occurred_at": "2026-01-01T00:00:00Z",
        "release": None,
        "journal_id": "j",
        "incarnation": 1,
        "reason": "silence",
    }
    assert (first.severity, first.event_type, first.sent_at) == (Severity.WARN, "agent.down", None)


def test_an_event_that_does_not_fit_its_type_is_refused(store: Store, clock: FakeClock) -> None:
    with store.write() as c:
        with pytest.raises(ValueError, match="no event type"):
            outbox.append_event(c, "server.of_tomorrow", server=None, host="a", occurred_at=clock.now(), body={})
        with pytest.raises(ValueError, match="surprise"):
            append(c, clock, surprise=1)
        with pytest.raises(ValueError, match="reason"):
            outbox.append_event(c, "agent.down", server=None, host="a", occurred_at=clock.now(), body={"journal_id": "j", "incarnation": 1})
        assert append(c, clock) == 1, "a refused event takes no sequence"


def test_sent_events_stay_until_they_are_pruned(store: Store, clock: FakeClock) -> None:
    with store.write() as c:
        for _ in range(3):
            append(c, clock)
        outbox.mark_sent(c, [1, 2], at=clock.now())
        assert [row.sequence for row in outbox.list_unsent(c)] == [3]
        assert outbox.prune(c, sent_before=clock.now()) == 0
        assert outbox.prune(c, sent_before=clock.now() + timedelta(seconds=1)) == 2
        assert outbox.prune(c, sent_before=clock.now() + timedelta(seconds=1)) == 0
        assert [row.sequence for row in outbox.list_unsent(c)] == [3]
