"""Servers: inventories and events become one answer to who has which, in which state."""

from datetime import timedelta

import pytest

from api_gateway.store import Store, servers
from api_gateway.store.servers import ServerRow, StateReport
from compute_agent.contract.events import ServerClaimedTwice
from compute_agent.contract.models import Departure, PowerState
from tests.fakes import FakeClock
from tests.unit.gateway.store_parts import OTHER_SERVER, SERVER, FakeHost, at, list_outbox_events

GRACE = timedelta(seconds=600)


@pytest.fixture
def a(store: Store, clock: FakeClock) -> FakeHost:
    return FakeHost(store, clock, "a")


@pytest.fixture
def b(store: Store, clock: FakeClock) -> FakeHost:
    return FakeHost(store, clock, "b")


def find(store: Store, server: str = SERVER, *, include_deleted: bool = False) -> ServerRow | None:
    with store.read() as c:
        return servers.find_server(c, server, include_deleted=include_deleted)


def get(store: Store, server: str = SERVER) -> ServerRow:
    row = find(store, server, include_deleted=True)
    assert row is not None
    return row


def tell(store: Store, clock: FakeClock, event_type: str, power_state: str, *, host: str = "a", seconds: float = 0) -> bool:
    with store.write() as c:
        moment = at(clock, seconds)
        return servers.apply_states(c, [StateReport(SERVER, host, event_type, power_state, "r", moment)], now=clock.now())


def expire(store: Store, clock: FakeClock) -> list[str]:
    with store.write() as c:
        return servers.expire_missing(c, now=clock.now(), missing_grace=GRACE)


def count_claimed_twice(store: Store) -> int:
    with store.read() as c:
        return len(list_outbox_events(c, "server.claimed_twice"))


def test_a_server_is_what_its_host_says(store: Store, clock: FakeClock, a: FakeHost) -> None:
    a.put(started_at=clock.now())
    a.beat(full=True)
    told, row = a.servers[SERVER], get(store)
    assert {name: getattr(row, name) for name in ("name", "project", "user", "generation", "instance_name", "vcpus", "memory_mib")} == {
        name: getattr(told, name) for name in ("name", "project", "user", "generation", "instance_name", "vcpus", "memory_mib")
    }
    assert (row.host, row.power_state, row.state_at, row.created_at, row.started_at) == ("a", "running", *[clock.now()] * 3)
    assert (row.conflict_host, row.missing_since, row.deleted_at) == (None, None, None)


def test_a_difference_changes_only_what_it_names(store: Store, clock: FakeClock, a: FakeHost) -> None:
    a.put()
    a.put(OTHER_SERVER)
    a.beat(full=True)
    before = get(store, OTHER_SERVER)
    clock.advance(30)
    a.put(power_state=PowerState.SHUTDOWN)
    assert not a.beat().needs_full
    row = get(store)
    assert (row.power_state, row.updated_at) == ("shutdown", clock.now())
    assert get(store, OTHER_SERVER) == before


def test_a_heartbeat_without_changes_writes_no_server(store: Store, clock: FakeClock, a: FakeHost) -> None:
    a.put()
    a.beat(full=True)
    before = get(store)
    clock.advance(30)
    assert not a.beat().needs_full
    assert not a.beat(full=True).needs_full
    assert get(store) == before


def test_of_two_words_about_a_state_the_later_one_holds(store: Store, clock: FakeClock, a: FakeHost) -> None:
    a.put()
    overtaken = a.build_heartbeat(full=True)
    a.deliver(overtaken)
    assert tell(store, clock, "server.paused", "paused", seconds=2)
    assert not tell(store, clock, "server.resumed", "running", seconds=1)
    assert get(store).power_state == "paused"
    assert not a.beat(full=True).needs_full  # says running, as of before the event
    assert get(store).power_state == "paused"
    clock.advance(3)
    a.put()
    a.beat()
    assert get(store).power_state == "running"


def test_events_of_servers_that_no_inventory_named_are_left_to_the_inventory(store: Store, clock: FakeClock, a: FakeHost) -> None:
    a.put()
    a.beat(full=True)
    assert not tell(store, clock, "server.stopped", "shutdown", host="b", seconds=1)
    assert get(store).power_state == "running"


@pytest.mark.parametrize("event_type", ["server.rebooted", "server.stopped", "server.started"])
def test_a_reboot_a_stop_and_a_start_are_remembered(store: Store, clock: FakeClock, a: FakeHost, event_type: str) -> None:
    a.put()
    a.beat(full=True)
    assert get(store).reset_at is None
    assert tell(store, clock, event_type, "running", seconds=1)
    assert not tell(store, clock, event_type, "running", seconds=0.5)
    assert get(store).reset_at == at(clock, 1)


@pytest.mark.parametrize(("departure", "released"), [(Departure.UNDEFINED, True), (Departure.MIGRATED, True), (Departure.GONE, False)])
def test_a_server_that_is_gone_is_missing_for_the_grace_and_then_deleted(
    store: Store, clock: FakeClock, a: FakeHost, departure: Departure, released: bool
) -> None:
    a.put()
    a.beat(full=True)
    clock.advance(1)
    a.remove(SERVER, departure)
    gone_at = clock.now()
    row = get(store)
    assert (row.missing_since, row.host_released, row.host, row.deleted_at) == (gone_at, released, "a", None)
    clock.advance(599)
    assert expire(store, clock) == []
    clock.advance(1)
    assert expire(store, clock) == [SERVER]
    assert find(store) is None
    assert (get(store).deleted_at, get(store).missing_since) == (clock.now(), None)
    assert expire(store, clock) == []


def test_a_missing_server_that_comes_back_is_missing_no_longer(store: Store, clock: FakeClock, a: FakeHost) -> None:
    a.put()
    a.beat(full=True)
    server = a.servers[SERVER]
    a.remove(SERVER, Departure.GONE)
    clock.advance(300)
    a.servers[SERVER] = server
    a.beat()
    assert (get(store).missing_since, get(store).host_released) == (None, False)


def test_the_same_uuid_later_is_the_same_server_with_a_new_generation(store: Store, clock: FakeClock, a: FakeHost) -> None:
    a.put()
    a.beat(full=True)
    a.remove(SERVER, Departure.UNDEFINED)
    clock.advance(600)
    expire(store, clock)
    a.put(generation=2)
    a.beat()
    row = find(store)
    assert row is not None
    assert (row.generation, row.deleted_at, row.created_at) == (2, None, clock.now())


def test_an_inventory_that_cannot_be_read_removes_nothing(store: Store, clock: FakeClock, a: FakeHost) -> None:
    a.put()
    a.beat(full=True)
    before = get(store)
    a.servers.clear()
    clock.advance(30)
    assert not a.beat(readable=False).needs_full
    assert get(store) == before
    assert expire(store, clock) == []


def test_a_migrated_server_keeps_its_history_and_moves_at_once(store: Store, clock: FakeClock, a: FakeHost, b: FakeHost) -> None:
    a.put()
    a.beat(full=True)
    b.beat(full=True)
    created_at = get(store).created_at
    clock.advance(10)
    a.remove(SERVER, Departure.MIGRATED)
    assert get(store).missing_since is not None
    b.put(generation=4)
    b.beat()
    row = get(store)
    assert (row.host, row.generation, row.missing_since, row.host_released, row.created_at) == ("b", 4, None, False, created_at)


def test_the_destination_may_report_before_the_source_lets_go(store: Store, a: FakeHost, b: FakeHost) -> None:
    a.put(power_state=PowerState.PAUSED)  # the source at the end of a migration
    a.beat(full=True)
    b.put()
    b.beat(full=True)
    assert (get(store).host, get(store).conflict_host) == ("a", None)
    a.remove(SERVER, Departure.MIGRATED)
    assert (get(store).host, get(store).missing_since) == ("b", None)


def test_two_hosts_that_run_it_are_a_conflict_that_is_told_once(store: Store, clock: FakeClock, a: FakeHost, b: FakeHost) -> None:
    a.put()
    a.beat(full=True)
    b.put()
    b.beat(full=True)
    assert b.claimed_twice == (SERVER,)
    assert (get(store).host, get(store).conflict_host) == ("a", "b")
    clock.advance(30)
    for host in (a, b):
        host.put(name="renamed")
        host.beat()
        assert host.claimed_twice == ()
    b.beat(readable=False)
    assert b.claimed_twice == ()
    a.put(name="renamed again")
    a.beat()
    b.beat(full=True)
    assert b.claimed_twice == ()
    with store.read() as c:
        (event,) = list_outbox_events(c, "server.claimed_twice")
    assert ServerClaimedTwice.from_wire(event.payload).hosts == ("a", "b")
    b.remove(SERVER, Departure.UNDEFINED)
    assert (get(store).host, get(store).conflict_host) == ("a", None)


def test_a_conflict_that_comes_again_is_told_again(store: Store, clock: FakeClock, a: FakeHost, b: FakeHost) -> None:
    for host in (a, b):
        host.put()
        host.beat(full=True)
    clock.advance(1)
    assert tell(store, clock, "server.stopped", "shutdown", host="b")
    assert get(store).conflict_host is None
    clock.advance(1)
    assert tell(store, clock, "server.started", "running", host="b")
    assert get(store).conflict_host == "b"
    assert count_claimed_twice(store) == 2


def test_a_shut_off_leftover_takes_over_only_after_the_grace(store: Store, clock: FakeClock, a: FakeHost, b: FakeHost) -> None:
    a.put()
    a.beat(full=True)
    b.put(power_state=PowerState.SHUTDOWN)
    b.beat(full=True)
    assert get(store).host == "a"
    a.remove(SERVER, Departure.GONE)
    assert get(store).missing_since == clock.now()
    clock.advance(600)
    assert expire(store, clock) == []
    row = get(store)
    assert (row.host, row.power_state, row.missing_since, row.deleted_at) == ("b", "shutdown", None, None)


@pytest.fixture
def fleet(store: Store, clock: FakeClock, a: FakeHost, b: FakeHost) -> list[str]:
    """Six servers, oldest first: even ones of project demo on host a, odd ones of project other on host b; the last one is deleted."""
    ids = [f"{number:08d}-0000-4000-8000-000000000000" for number in range(6)]
    for number, server in enumerate(ids):
        host, project = (b, "other") if number % 2 else (a, "demo")
        state = PowerState.SHUTDOWN if number == 2 else PowerState.RUNNING
        host.put(server, state, name=f"web-{number}", project=project, created_at=at(clock, min(number, 3)))
    a.beat(full=True)
    b.beat(full=True)
    b.remove(ids[5], Departure.UNDEFINED)
    clock.advance(600)
    expire(store, clock)
    return ids


def test_servers_are_listed_newest_first_by_what_is_asked(store: Store, clock: FakeClock, fleet: list[str]) -> None:
    def ask(**filters: object) -> list[int]:
        with store.read() as c:
            return [fleet.index(row.id) for row in servers.list_servers(c, **filters)]  # type: ignore[arg-type]

    assert ask() == [4, 3, 2, 1, 0]
    assert ask(deleted=None) == [5, 4, 3, 2, 1, 0]
    assert ask(deleted=True) == [5]
    assert ask(project="demo") == [4, 2, 0]
    assert ask(host="b") == [3, 1]
    assert ask(power_states=["shutdown"]) == [2]
    assert ask(name_pattern="b-[34]$") == [4, 3]
    assert ask(changes_since=clock.now(), deleted=None) == [5]
    assert ask(changes_before=at(clock, -1)) == [4, 3, 2, 1, 0]
    assert ask(missing=True) == []
    assert ask(limit=2) == [4, 3]
    assert ask(limit=2, marker=fleet[3]) == [2, 1]
    assert ask(limit=2, marker=fleet[5]) == [4, 3], "a marker that was deleted meanwhile still has its place"
    with pytest.raises(LookupError):
        ask(marker="none")
