"""Servers whose host is gone can be forgotten; nothing that was promised about them is."""

from datetime import timedelta

import pytest

from api_gateway.cast_slots import ImmediateCasts
from api_gateway.store import Store, actions, agents, casts, reports, servers, sightings
from api_gateway.store.actions import ActionRow
from api_gateway.store.servers import ServerRow
from api_gateway.sweep import Sweep
from compute_agent.contract.models import Departure, PowerState
from tests.fakes import FakeClock
from tests.unit.gateway.engine_parts import NotingCaster
from tests.unit.gateway.store_parts import OTHER_SERVER, SERVER, FakeHost, build_action, list_outbox_events


@pytest.fixture
def a(store: Store, clock: FakeClock) -> FakeHost:
    """A host that has two servers."""
    host = FakeHost(store, clock, "a")
    host.put()
    host.put(OTHER_SERVER)
    host.beat(full=True)
    return host


@pytest.fixture
def b(store: Store, clock: FakeClock) -> FakeHost:
    return FakeHost(store, clock, "b")


def forget(store: Store, clock: FakeClock, server: str = SERVER) -> None:
    with store.write() as c:
        servers.forget_server(c, server, now=clock.now())


def find(store: Store, server: str = SERVER, *, include_deleted: bool = False) -> ServerRow | None:
    with store.read() as c:
        return servers.find_server(c, server, include_deleted=include_deleted)


def go_down(store: Store, clock: FakeClock, *hosts: str) -> None:
    clock.advance(100)
    with store.write() as c:
        for host in hosts:
            assert agents.mark_down(c, host, now=clock.now(), reason="silent")


def accept(store: Store, clock: FakeClock, **changes: object) -> ActionRow:
    row = build_action(clock, **changes)
    with store.write() as c:
        actions.insert_action(c, row)
    return row


def sweep(store: Store, clock: FakeClock) -> None:
    Sweep(store, NotingCaster(), clock, slots=ImmediateCasts(), max_clock_skew=2.0).step()


def get_ending(store: Store, action: ActionRow) -> tuple[str | None, str | None]:
    with store.read() as c:
        row = actions.get_action(c, action.id)
    return row.ending, row.code


def test_a_server_of_a_host_that_is_down_is_deleted_at_once(store: Store, clock: FakeClock, a: FakeHost) -> None:
    go_down(store, clock, "a")
    forget(store, clock)
    assert find(store) is None
    row = find(store, include_deleted=True)
    assert row is not None
    assert (row.deleted_at, row.missing_since, row.host) == (clock.now(), None, "a")
    assert find(store, OTHER_SERVER) is not None
    with pytest.raises(LookupError):
        forget(store, clock)


@pytest.mark.parametrize("readable", [True, False])
def test_an_agent_that_is_up_and_reports_it_forbids_it(store: Store, clock: FakeClock, a: FakeHost, readable: bool) -> None:
    a.beat(readable=readable)
    with pytest.raises(servers.HostIsUp, match="host a is up") as refused:
        forget(store, clock)
    assert refused.value.host == "a"
    assert find(store) is not None


def test_any_host_that_reports_it_counts_not_only_the_owner(store: Store, clock: FakeClock, a: FakeHost, b: FakeHost) -> None:
    b.put(power_state=PowerState.SHUTDOWN)
    b.beat(full=True)
    clock.advance(50)
    b.beat()
    clock.advance(50)
    with store.write() as c:
        agents.mark_down(c, "a", now=clock.now(), reason="silent")
    with pytest.raises(servers.HostIsUp, match="host b is up"):
        forget(store, clock)
    with store.read() as c:
        assert len(sightings.list_words(c, [SERVER])) == 2, "a refusal changes nothing"


def test_a_server_that_nobody_reports_can_be_forgotten_while_its_host_is_up(store: Store, clock: FakeClock, a: FakeHost) -> None:
    a.remove(SERVER, Departure.GONE)
    forget(store, clock)
    assert find(store) is None


@pytest.mark.parametrize("restarted", [True, False])
def test_a_host_that_comes_back_brings_its_server_again(store: Store, clock: FakeClock, a: FakeHost, restarted: bool) -> None:
    with store.write() as c:
        servers.set_overlay(c, SERVER, {"name": "Database"}, now=clock.now())
        servers.lock_server(c, SERVER, locked_by="owner", reason=None, now=clock.now())
    go_down(store, clock, "a")
    forget(store, clock)
    if restarted:
        a.incarnation, a.number = 2, 0
    assert a.beat().needs_full, "a difference says nothing of what it took for known"
    assert find(store) is None
    assert not a.beat(full=True).needs_full
    row = find(store)
    assert row is not None
    assert (row.name, row.locked_by, row.host, row.deleted_at) == ("Database", "owner", "a", None)


def test_its_history_stays(store: Store, clock: FakeClock, a: FakeHost) -> None:
    action = accept(store, clock)
    go_down(store, clock, "a")
    forget(store, clock)
    with store.read() as c:
        assert actions.list_actions_of_server(c, SERVER) == [action]


def test_an_open_action_that_was_never_cast_expires(store: Store, clock: FakeClock, a: FakeHost) -> None:
    go_down(store, clock, "a")
    action = accept(store, clock)
    forget(store, clock)
    sweep(store, clock)
    assert get_ending(store, action) == (None, None), "its host may still come back in time"
    clock.advance(31)
    sweep(store, clock)
    assert get_ending(store, action) == ("expired", "deadline_passed")


def test_an_open_action_that_was_perhaps_sent_becomes_unknown_until_its_agent_says_more(
    store: Store, clock: FakeClock, a: FakeHost
) -> None:
    action = accept(store, clock, cast_count=1, journal_id=a.journal_id, deadline=clock.now() + timedelta(seconds=130))
    go_down(store, clock, "a")
    forget(store, clock)
    clock.advance(31)
    sweep(store, clock)
    assert get_ending(store, action) == (None, None), "the grace is not over"
    clock.advance(22)
    sweep(store, clock)
    assert get_ending(store, action) == ("unknown", "not_reported")
    with store.write() as c, reports.reported_actions(c) as reported:
        reports.apply_ended(
            reported, action.id, host="a", epoch=a.journal_id, ending="succeeded", code="signal_delivered", reason="r", at=clock.now(),
            now=clock.now(),
        )  # fmt: skip
        assert len(list_outbox_events(c, "action.revised")) == 1
    assert get_ending(store, action) == ("succeeded", "signal_delivered")


def test_an_open_action_is_cast_when_the_host_comes_back_in_time(store: Store, clock: FakeClock, a: FakeHost) -> None:
    go_down(store, clock, "a")
    action = accept(store, clock)
    forget(store, clock)
    a.beat(full=True)
    with store.write() as c:
        span = timedelta(seconds=5)
        castable = casts.claim_castable(c, owner="x", now=clock.now(), lease=span, limit=4, received_timeout=span)
    assert [row.id for row in castable] == [action.id]


def test_open_actions_of_a_host_are_counted_and_ended_ones_are_not(store: Store, clock: FakeClock, a: FakeHost) -> None:
    accept(store, clock)
    accept(store, clock, state="received")
    accept(store, clock, state="started", server=OTHER_SERVER)
    accept(store, clock, state="ended", ending="succeeded", kind="lock")
    accept(store, clock, host="b")
    with store.read() as c:
        assert [actions.count_open_of_host(c, host) for host in ("a", "b", "c")] == [3, 1, 0]
