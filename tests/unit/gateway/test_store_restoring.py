"""A restored backup: what may have happened since is never taken for what did not happen."""

from datetime import datetime, timedelta

from api_gateway.store import Store, actions, agents, counters, endings, events, gaps, heartbeats, outbox
from api_gateway.store.actions import ActionRow
from api_gateway.store.reports import Applied, apply_received, reported_actions
from api_gateway.store.restoring import LEAP, UNKNOWN_JOURNAL, mark_restored
from compute_agent.contract.errors import Code, Ending
from compute_agent.contract.models import OPEN_END
from tests.fakes import FakeClock
from tests.unit.gateway.store_parts import SERVER, FakeHost, at, build_action, build_event


def add_restored(store: Store, clock: FakeClock, **changes: object) -> ActionRow:
    """An action as it is after the restoration of a backup in which it was open."""
    action = build_action(clock, **changes)
    with store.write() as c:
        actions.insert_action(c, action)
        mark_restored(c, now=clock.now())
        return actions.get_action(c, action.id)


def test_what_was_perhaps_sent_since_the_backup_is_never_called_expired(store: Store, clock: FakeClock) -> None:
    action = add_restored(store, clock)
    assert action.perhaps_delivered
    with store.write() as c:
        ending = {"ending": Ending.EXPIRED, "code": Code.DEADLINE_PASSED, "reason": "late", "at": clock.now()}
        assert not endings.end_by_gateway(c, action.id, **ending)  # type: ignore[arg-type]


def test_an_open_action_is_bound_to_the_journal_that_its_host_had(store: Store, clock: FakeClock) -> None:
    FakeHost(store, clock, "a").beat(full=True)
    assert add_restored(store, clock).journal_id == "journal-a"
    assert add_restored(store, clock, host="b").journal_id == UNKNOWN_JOURNAL
    assert add_restored(store, clock, journal_id="first").journal_id == "first"


def test_numbers_that_were_given_out_since_the_backup_are_not_given_out_again(store: Store, clock: FakeClock) -> None:
    """Nor those that were given out since an earlier restoration of the same backup."""
    names = (counters.POSITION, counters.OUTBOX_SEQUENCE)
    with store.write() as c:
        before = [counters.get_value(c, name) for name in names]
        mark_restored(c, now=clock.now())
        first = [counters.get_value(c, name) for name in names]
        (row,) = events.record_events(c, [build_event("m1")], now=clock.now())
        assert row.position == first[0] + 1
        for name, value, restored in zip(names, before, first, strict=True):
            counters.advance(c, name, value - counters.get_value(c, name))
            assert restored > value
        mark_restored(c, now=at(clock, 1))
        assert all(counters.get_value(c, name) > value + 1 for name, value in zip(names, first, strict=True))
        second = [counters.get_value(c, name) for name in names]
        mark_restored(c, now=clock.now())
        assert [counters.get_value(c, name) for name in names] == [value + LEAP for value in second], "the clock was set back"


def test_own_events_that_the_record_lacks_are_published_again(store: Store, clock: FakeClock) -> None:
    body = {"release": "1", "journal_id": "j", "incarnation": 1, "reason": "silent"}
    with store.write() as c:
        for _ in range(2):
            outbox.append_event(c, "agent.down", server=None, host="a", occurred_at=clock.now(), body=body)
        recorded, missing = outbox.list_unsent(c)
        events.record_events(c, [build_event(recorded.message_id)], now=clock.now())
        outbox.mark_sent(c, [recorded.sequence, missing.sequence], at=clock.now())
        mark_restored(c, now=clock.now())
        assert [row.message_id for row in outbox.list_unsent(c)] == [missing.message_id]


def test_agents_are_asked_for_all_that_follows_until_something_came(store: Store, clock: FakeClock) -> None:
    FakeHost(store, clock, "a").beat(full=True)
    with store.write() as c:
        events.record_events(c, [build_event("m1", host="a", epoch="journal-a", sequence=1)], now=clock.now())
        for _ in range(2):
            mark_restored(c, now=clock.now())
        (tail,) = gaps.list_gaps(c, now=clock.now())
        assert (tail.first, tail.is_tail) == (2, True)
        events.record_events(c, [build_event("m4", host="a", epoch="journal-a", sequence=4)], now=clock.now())
        assert [(gap.first, gap.last) for gap in gaps.list_gaps(c, now=at(clock, 1))] == [(2, 3)]


def test_an_agent_that_the_backup_did_not_know_is_asked_for_all_that_it_has(store: Store, clock: FakeClock) -> None:
    """What it ended before the restoration would be told when something new happens on its host, and not before."""
    FakeHost(store, clock, "a").beat()
    assert list_tails(store, clock) == []
    with store.write() as c:
        mark_restored(c, now=clock.now())
        events.record_events(c, [build_event("m1", host="a", epoch="journal-a", sequence=1)], now=clock.now())
    hosts = [FakeHost(store, clock, name) for name in "bc"]
    for _ in range(2):
        with store.write() as c:
            heartbeats.apply_heartbeats(c, [host.build_heartbeat() for host in hosts], clock.now())
        assert list_tails(store, clock) == [("b", "journal-b", 1), ("c", "journal-c", 1)]
    clock.advance(86_401)
    FakeHost(store, clock, "d").beat()
    assert list_tails(store, clock) == [("b", "journal-b", 1), ("c", "journal-c", 1)]


def list_tails(store: Store, clock: FakeClock) -> list[tuple[str, str, int]]:
    with store.read() as c:
        return [(gap.host, gap.epoch, gap.first) for gap in gaps.list_gaps(c, now=clock.now()) if gap.is_tail]


def test_no_number_that_a_host_tells_stops_the_restoration(store: Store, clock: FakeClock) -> None:
    FakeHost(store, clock, "a").beat(full=True)
    with store.write() as c:
        events.record_events(c, [build_event("m1", host="a", epoch="journal-a", sequence=OPEN_END)], now=clock.now())
        mark_restored(c, now=clock.now())
        assert [(gap.first, gap.last) for gap in gaps.list_gaps(c, now=clock.now())] == [(1, OPEN_END - 1)]


def test_a_range_without_an_end_is_told_in_numbers_that_every_reader_of_json_keeps(store: Store, clock: FakeClock) -> None:
    """JavaScript has no other numbers than doubles; the agent of another journal answers with the range that it was asked for."""
    with store.write() as c:
        gaps.ask_for_tail(c, host="a", epoch="journal-a", now=clock.now())
        (tail,) = gaps.list_gaps(c, now=clock.now())
    assert tail.is_tail
    assert len({float(tail.last), float(tail.last - 1), float(tail.last + 1)}) == 3


def test_a_tail_that_brings_nothing_is_not_called_lost(store: Store, clock: FakeClock) -> None:
    with store.write() as c:
        gaps.ask_for_tail(c, host="a", epoch="journal-a", now=clock.now())
        (tail,) = gaps.list_gaps(c, now=clock.now())
        assert not gaps.record_lost(c, tail, reason="asked in vain", now=clock.now())
        assert gaps.list_gaps(c, now=clock.now() + timedelta(days=1)) == []
        assert outbox.list_unsent(c) == []
        assert agents.list_agents(c) == []


def test_an_action_comes_back_although_its_server_has_migrated_since(store: Store, clock: FakeClock) -> None:
    """The restored database does not know that the host ever had it. A day later nobody has anything to tell again."""

    def tell(action_id: str, at_: datetime) -> Applied:
        details = {"kind": "trigger_crash_dump", "server": SERVER, "host": "b", "epoch": "j", "project": "demo", "user": None}
        with store.write() as c, reported_actions(c) as reported:
            return apply_received(reported, action_id, **details, deadline=at(clock, 30), at=at_, now=clock.now())  # type: ignore[arg-type]

    host = FakeHost(store, clock, "a")
    host.put()
    host.beat(full=True)
    assert tell("req-1", clock.now()) is Applied.FOREIGN
    with store.write() as c:
        mark_restored(c, now=clock.now())
    assert tell("req-1", clock.now()) is Applied.MADE
    assert tell("req-2", at(clock, 1)) is Applied.FOREIGN
    clock.advance(86_401)
    assert tell("req-3", at(clock, -86_402)) is Applied.FOREIGN
