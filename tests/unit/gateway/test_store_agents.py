"""Agents: heartbeats in any order, up and down, and hosts that are forgotten."""

from datetime import timedelta

import pytest

from api_gateway.store import Store, agents, events, gaps, servers
from api_gateway.store.agents import AgentRow
from compute_agent.contract.events import AgentState
from compute_agent.contract.models import Departure, PowerState
from tests.fakes import FakeClock
from tests.unit.gateway.store_parts import OTHER_SERVER, SERVER, FakeHost, build_event, list_outbox_events


@pytest.fixture
def a(store: Store, clock: FakeClock) -> FakeHost:
    return FakeHost(store, clock, "a")


@pytest.fixture
def b(store: Store, clock: FakeClock) -> FakeHost:
    return FakeHost(store, clock, "b")


def find(store: Store, host: str = "a") -> AgentRow | None:
    with store.read() as c:
        return agents.find_agent(c, host)


def get(store: Store, host: str = "a") -> AgentRow:
    agent = find(store, host)
    assert agent is not None
    return agent


def mark_down(store: Store, clock: FakeClock, host: str = "a") -> bool:
    with store.write() as c:
        return agents.mark_down(c, host, now=clock.now(), reason="silence")


def find_owner(store: Store, server: str = SERVER) -> tuple[str, str | None]:
    with store.read() as c:
        row = servers.find_server(c, server)
    assert row is not None
    return row.host, row.conflict_host


def list_told(store: Store) -> list[str]:
    with store.read() as c:
        return [row.event_type for row in list_outbox_events(c)]


def test_an_agent_is_what_its_last_heartbeat_says(store: Store, clock: FakeClock, a: FakeHost) -> None:
    assert find(store) is None
    outcome = a.beat(full=True)
    assert (outcome.restarted, outcome.came_up, outcome.stale, outcome.needs_full) == (True, True, False, False)
    agent = get(store)
    assert (agent.journal_id, agent.incarnation, agent.heartbeat_number, agent.state) == ("journal-a", 1, 1, "up")
    assert agent.capabilities["inject_nmi"] is True
    assert agent.overdue_at == clock.now() + timedelta(seconds=90)
    with store.read() as c:
        assert agents.list_agents(c) == [agent]


def test_heartbeats_that_were_overtaken_are_ignored(store: Store, clock: FakeClock, a: FakeHost) -> None:
    first = a.build_heartbeat(full=True)
    a.put()
    clock.advance(1)
    second = a.build_heartbeat(full=True)
    a.incarnation, a.number = 2, 0
    third = a.build_heartbeat(full=True)
    assert a.deliver(third).restarted
    for old in (second, first, third):
        assert a.deliver(old).stale
    assert (get(store).incarnation, get(store).heartbeat_number) == (2, 1)


def test_of_two_journals_the_later_heartbeat_holds(store: Store, clock: FakeClock, a: FakeHost) -> None:
    a.incarnation, a.number = 9, 100
    old = a.build_heartbeat(full=True)
    clock.advance(1)
    a.journal_id, a.incarnation, a.number = "another", 1, 0
    new = a.build_heartbeat(full=True)
    assert a.deliver(new).restarted
    assert a.deliver(old).stale
    assert get(store).journal_id == "another"


def test_a_reinstalled_host_with_a_slow_clock_is_believed_once_no_old_heartbeat_can_come(
    store: Store, clock: FakeClock, a: FakeHost
) -> None:
    a.beat(full=True)
    clock.advance(1)
    a.journal_id, a.number = "another", 0
    slow = a.build_heartbeat(full=True).model_copy(update={"sent_at": clock.now() - timedelta(hours=1)})
    assert a.deliver(slow).stale
    clock.advance(60)
    assert a.deliver(slow).restarted


def test_a_difference_on_top_of_another_base_is_not_applied_and_a_full_report_asked_for(store: Store, a: FakeHost) -> None:
    a.put()
    a.beat(full=True)
    a.put(OTHER_SERVER)
    a.build_heartbeat()  # lost on its way
    a.put(name="renamed")
    assert a.beat().needs_full
    assert a.beat().needs_full, "until it came"
    with store.read() as c:
        assert [row.name for row in servers.list_servers(c)] == ["web"]
    assert not a.beat(full=True).needs_full
    assert not a.beat().needs_full
    with store.read() as c:
        assert {row.name for row in servers.list_servers(c)} == {"renamed", "web"}


def test_a_difference_that_does_not_lead_to_its_hash_is_noticed(store: Store, a: FakeHost) -> None:
    a.put()
    a.beat(full=True)
    a.put(OTHER_SERVER)
    heartbeat = a.build_heartbeat()
    wrong = heartbeat.inventory.model_copy(update={"hash": "0" * 32})
    assert a.deliver(heartbeat.model_copy(update={"inventory": wrong})).needs_full
    assert get(store).inventory_revision is None


def test_another_journals_difference_has_no_base(clock: FakeClock, a: FakeHost) -> None:
    a.put()
    a.beat(full=True)
    clock.advance(1)
    a.journal_id, a.number = "another", 0
    assert a.beat().needs_full


def test_a_silent_agent_is_overdue_after_three_intervals(store: Store, clock: FakeClock, a: FakeHost, b: FakeHost) -> None:
    a.beat(full=True)
    clock.advance(60)
    b.beat(full=True)
    clock.advance(29.9)
    with store.read() as c:
        assert agents.list_overdue(c, clock.now()) == []
    assert not mark_down(store, clock)
    clock.advance(0.1)
    with store.read() as c:
        assert [agent.host for agent in agents.list_overdue(c, clock.now())] == ["a"]
    assert mark_down(store, clock)
    assert not mark_down(store, clock)
    assert (get(store).state, get(store).down_since) == ("down", clock.now())
    with store.read() as c:
        assert agents.list_overdue(c, clock.now()) == []
        (event,) = list_outbox_events(c)
    assert event.event_type == "agent.down"
    assert AgentState.from_wire(event.payload).reason == "silence"


def test_an_agent_that_was_heard_meanwhile_is_not_marked_down(store: Store, clock: FakeClock, a: FakeHost) -> None:
    a.beat(full=True)
    clock.advance(90)
    a.beat()
    assert not mark_down(store, clock)


def test_an_agent_that_is_heard_again_is_up_and_that_is_told(store: Store, clock: FakeClock, a: FakeHost) -> None:
    a.beat(full=True)
    clock.advance(90)
    mark_down(store, clock)
    outcome = a.beat()
    assert (outcome.came_up, outcome.restarted) == (True, False)
    assert (get(store).state, get(store).down_since) == ("up", None)
    assert list_told(store) == ["agent.down", "agent.up"]


def test_a_restarted_agent_tells_its_start_itself(store: Store, clock: FakeClock, a: FakeHost) -> None:
    a.beat(full=True)
    a.incarnation, a.number = 2, 0
    assert a.beat(full=True).restarted
    assert list_told(store) == []


def test_an_agent_that_stops_in_order_is_down_at_once(store: Store, clock: FakeClock, a: FakeHost) -> None:
    a.put()
    a.beat(full=True)
    outcome = a.beat(stopping=True)
    assert (outcome.went_down, outcome.needs_full) == (True, False)
    assert (get(store).state, get(store).down_since) == ("down", clock.now())
    assert list_told(store) == ["agent.down"]
    assert find_owner(store) == ("a", None)


def test_the_servers_of_an_agent_that_is_down_go_to_hosts_that_run_them(store: Store, clock: FakeClock, a: FakeHost, b: FakeHost) -> None:
    a.put()
    a.put(OTHER_SERVER)
    a.beat(full=True)
    b.put(OTHER_SERVER, PowerState.SHUTDOWN)
    b.beat(full=True)
    clock.advance(90)
    b.beat()
    mark_down(store, clock)
    assert find_owner(store) == ("a", None), "nobody else has it: its last state stays known"
    assert find_owner(store, OTHER_SERVER) == ("a", None), "a shut-off copy is a leftover"
    b.put()
    b.beat()
    assert find_owner(store) == ("b", None)


def test_a_conflict_ends_with_one_of_its_agents_and_begins_anew_with_it(store: Store, clock: FakeClock, a: FakeHost, b: FakeHost) -> None:
    for host in (a, b):
        host.put()
        host.beat(full=True)
    assert find_owner(store) == ("a", "b")
    clock.advance(90)
    b.beat()
    mark_down(store, clock)
    assert find_owner(store) == ("b", None)
    a.beat()
    assert a.claimed_twice == (SERVER,)
    assert find_owner(store) == ("b", "a")
    assert list_told(store).count("server.claimed_twice") == 2


def test_a_host_that_comes_back_unreadable_claims_nothing_until_it_can_read(
    store: Store, clock: FakeClock, a: FakeHost, b: FakeHost
) -> None:
    a.put()
    a.beat(full=True)
    clock.advance(90)
    mark_down(store, clock)
    b.put()
    b.beat(full=True)
    a.put(power_state=PowerState.SHUTDOWN)  # it was evacuated; what is left is shut off
    a.beat(readable=False)
    assert a.claimed_twice == ()
    a.beat(full=True)
    assert a.claimed_twice == ()
    assert find_owner(store) == ("b", None)


def test_a_forgotten_host_takes_its_servers_and_missing_events_with_it(store: Store, clock: FakeClock, a: FakeHost, b: FakeHost) -> None:
    for server in (SERVER, OTHER_SERVER):
        a.put(server)
    a.beat(full=True)
    b.put(OTHER_SERVER, PowerState.SHUTDOWN)
    b.beat(full=True)
    with store.write() as c:
        events.record_events(c, [build_event("m3", host="a", epoch="journal-a", sequence=3)], now=clock.now())
        assert agents.forget_host(c, "a", now=clock.now()) == 1
    assert find(store) is None
    assert find_owner(store, OTHER_SERVER) == ("b", None)
    with store.read() as c:
        assert servers.find_server(c, SERVER) is None
        assert servers.find_server(c, SERVER, include_deleted=True) is not None
        assert gaps.list_gaps(c, now=clock.now()) == []
        assert [row.host for row in events.list_events(c)] == ["a"]
    assert list_told(store) == ["events.lost"]
    with pytest.raises(LookupError), store.write() as c:
        agents.forget_host(c, "a", now=clock.now())


def test_a_forgotten_host_that_speaks_again_is_a_new_one(store: Store, clock: FakeClock, a: FakeHost) -> None:
    a.put()
    a.beat(full=True)
    with store.write() as c:
        agents.forget_host(c, "a", now=clock.now())
    assert a.beat().needs_full
    assert a.beat(full=True).needs_full is False
    assert find_owner(store) == ("a", None)
    assert a.remove(SERVER, Departure.UNDEFINED).needs_full is False
