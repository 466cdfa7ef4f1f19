"""Heartbeats of several hosts in one batch: each host's words as if they had come alone, and of a server that moves where it ends."""

import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from api_gateway.store import Store, agents, had, heartbeats, servers
from api_gateway.store.heartbeats import TakenIn
from api_gateway.store.server_rows import ServerRow
from api_gateway.store.tables import sightings
from compute_agent.contract.models import Departure, Heartbeat, PowerState
from devstack.databases import DatabaseServer
from tests.databases import write_database
from tests.fakes import FakeClock
from tests.unit.gateway.store_parts import OTHER_SERVER, SERVER, FakeHost, list_outbox_events

THIRD_SERVER = "99999999-7777-4888-8999-000000000000"


@pytest.fixture(params=["sqlite", "server"])
def create_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[], Store]]:
    """Makes empty ones, of each kind."""
    stores: list[Store] = []
    named: list[str] = []

    def create() -> Store:
        if request.param == "sqlite":
            url = f"sqlite:///{write_database(tmp_path / f'{len(stores)}.sqlite')}"
        else:
            server: DatabaseServer = request.getfixturevalue("database_server")
            named.append(f"heartbeats_{len(stores)}")
            url = server.create_database(named[-1], template=request.getfixturevalue("empty_database"))
        stores.append(Store(url))
        return stores[-1]

    yield create
    for store in stores:
        store.dispose()
    for name in named:
        request.getfixturevalue("database_server").drop_database(name)


@pytest.fixture
def store(create_store: Callable[[], Store]) -> Store:
    return create_store()


@pytest.fixture
def a(store: Store, clock: FakeClock) -> FakeHost:
    return FakeHost(store, clock, "a")


@pytest.fixture
def b(store: Store, clock: FakeClock) -> FakeHost:
    return FakeHost(store, clock, "b")


@pytest.fixture
def third(store: Store, clock: FakeClock) -> FakeHost:
    return FakeHost(store, clock, "c")


def get(store: Store) -> ServerRow:
    with store.read() as c:
        server = servers.find_server(c, SERVER)
    assert server is not None
    return server


def list_conflicts(store: Store) -> list[set[str]]:
    """Who was told to claim a server at the same time."""
    with store.read() as c:
        return [set(row.payload["hosts"]) for row in list_outbox_events(c, "server.claimed_twice")]


def deliver(store: Store, clock: FakeClock, *batch: Heartbeat) -> TakenIn:
    with store.write() as c:
        return heartbeats.apply_heartbeats(c, batch, clock.now())


def read(store: Store) -> tuple[Sequence[Any], ...]:
    """All that heartbeats leave behind."""
    with store.read() as c:
        words = list(c.execute(select(sightings).order_by(sightings.c.host, sightings.c.server)))
        told = [(row.event_type, row.payload["host"], row.payload["reason"]) for row in list_outbox_events(c)]
        return agents.list_agents(c), words, servers.list_servers(c, deleted=None, limit=50), told


def test_each_host_of_a_batch_is_taken_in_as_if_it_had_come_alone(create_store: Callable[[], Store], clock: FakeClock) -> None:
    """New ones, full reports, differences with servers that came, changed, were replaced and left, stale ones, and orderly ends."""

    def live(into: Store, *, alone: bool) -> list[bool]:
        hosts = [FakeHost(into, clock, name) for name in "abcde"]
        needs_full: list[bool] = []

        def tell(*batch: Heartbeat) -> None:
            taken = [deliver(into, clock, heartbeat) for heartbeat in batch] if alone else [deliver(into, clock, *batch)]
            needs_full.extend(outcome.needs_full for each in taken for outcome in each.outcomes)

        for number, host in enumerate(hosts):
            for server in (SERVER, OTHER_SERVER, THIRD_SERVER):
                host.put(server=f"{number}{server[1:]}")
        tell(*(host.build_heartbeat(full=True) for host in hosts))
        kept, changed, replaced, gone, silent = hosts
        changed.put(server=f"1{SERVER[1:]}", name="renamed", power_state=PowerState.SHUTDOWN)
        replaced.put(server=f"2{SERVER[1:]}", generation=2)
        departure = {f"3{SERVER[1:]}": Departure.MIGRATED}
        gone.servers.pop(f"3{SERVER[1:]}")
        skipped = silent.build_heartbeat()
        silent.put(server=f"4{SERVER[1:]}", name="told on top of what was never heard")
        silent.build_heartbeat()
        late = kept.build_heartbeat()
        tell(
            kept.build_heartbeat(),
            changed.build_heartbeat(),
            replaced.build_heartbeat(),
            gone.build_heartbeat(departures=departure),
            silent.build_heartbeat(),
        )
        tell(late, skipped, changed.build_heartbeat(readable=False), gone.build_heartbeat(stopping=True))
        return needs_full

    one, other = create_store(), create_store()
    assert live(one, alone=True) == live(other, alone=False)
    assert read(one) == read(other)


@pytest.mark.parametrize("order", [1, -1], ids=["it left first", "it came first"])
def test_a_server_that_moves_within_a_batch_was_claimed_once(store: Store, clock: FakeClock, a: FakeHost, b: FakeHost, order: int) -> None:
    a.put()
    deliver(store, clock, a.build_heartbeat(full=True), b.build_heartbeat(full=True))
    a.servers.clear()
    b.put()
    batch = [a.build_heartbeat(departures={SERVER: Departure.MIGRATED}), b.build_heartbeat()]
    taken = deliver(store, clock, *batch[::order])
    assert taken.claimed_twice == ()
    assert [outcome.needs_full for outcome in taken.outcomes] == [False, False]
    server = get(store)
    assert (server.host, server.conflict_host, server.missing_since, server.host_released) == ("b", None, None, False)
    assert list_conflicts(store) == []
    with store.read() as c:
        assert had.has_had(c, "a", SERVER, clock.now(), clock.now())


def test_a_server_that_moves_twice_within_a_batch_is_its_last_hosts(
    store: Store, clock: FakeClock, a: FakeHost, b: FakeHost, third: FakeHost
) -> None:
    """Why its owner has it no longer is for the owner to say, whatever others say of why they have it no longer."""
    a.put()
    b.put(power_state=PowerState.SHUTDOWN)
    deliver(store, clock, *(host.build_heartbeat(full=True) for host in (a, b, third)))
    a.servers.clear()
    b.servers.clear()
    third.put(power_state=PowerState.SHUTDOWN)
    batch = [
        b.build_heartbeat(departures={SERVER: Departure.GONE}),
        a.build_heartbeat(departures={SERVER: Departure.MIGRATED}),
        third.build_heartbeat(),
    ]
    deliver(store, clock, *batch)
    assert (get(store).host, get(store).missing_since) == ("c", None)


def test_a_running_copy_takes_over_from_a_host_that_stops_within_a_batch(store: Store, clock: FakeClock, a: FakeHost, b: FakeHost) -> None:
    a.put()
    deliver(store, clock, a.build_heartbeat(full=True), b.build_heartbeat(full=True))
    b.put()
    assert deliver(store, clock, b.build_heartbeat(), a.build_heartbeat(stopping=True)).claimed_twice == ()
    assert (get(store).host, get(store).conflict_host) == ("b", None)


def test_two_hosts_that_run_a_server_within_a_batch_are_a_conflict_that_is_told_once(
    store: Store, clock: FakeClock, a: FakeHost, b: FakeHost
) -> None:
    deliver(store, clock, a.build_heartbeat(full=True), b.build_heartbeat(full=True))
    a.put()
    b.put()
    taken = deliver(store, clock, a.build_heartbeat(), b.build_heartbeat())
    assert [outcome.needs_full for outcome in taken.outcomes] == [False, False]
    assert [claimed.server for claimed in taken.claimed_twice] == [SERVER]
    assert list_conflicts(store) == [{"a", "b"}]


@pytest.mark.parametrize(("departure", "told"), [(Departure.MIGRATED, []), (Departure.UNDEFINED, [{"a", "b"}]), (None, [{"a", "b"}])])
def test_a_conflict_is_told_unless_its_batch_says_that_the_server_migrated(
    store: Store, clock: FakeClock, a: FakeHost, b: FakeHost, departure: Departure | None, told: list[set[str]]
) -> None:
    """As it does of one that migrated while no engine listened, when its new host is heard first, and again before the one that it left."""
    a.put()
    deliver(store, clock, a.build_heartbeat(full=True), b.build_heartbeat(full=True))
    b.put()
    batch = [b.build_heartbeat(), b.build_heartbeat()]
    if departure is not None:
        a.servers.clear()
        batch.append(a.build_heartbeat(departures={SERVER: departure}))
    taken = deliver(store, clock, *batch)
    assert [{claimed.host, claimed.other_host} for claimed in taken.claimed_twice] == list_conflicts(store) == told
    assert (get(store).host, get(store).conflict_host) == (("b", None) if departure else ("a", "b"))


def test_a_conflict_with_a_host_that_a_server_migrated_back_to_is_told(store: Store, clock: FakeClock, a: FakeHost, b: FakeHost) -> None:
    a.put()
    deliver(store, clock, a.build_heartbeat(full=True), b.build_heartbeat(full=True))
    a.servers.clear()
    left = a.build_heartbeat(departures={SERVER: Departure.MIGRATED})
    b.put()
    came = b.build_heartbeat()
    a.put()
    deliver(store, clock, left, came, a.build_heartbeat())
    assert list_conflicts(store) == [{"a", "b"}]


def test_another_party_to_a_conflict_is_another_conflict(store: Store, clock: FakeClock, a: FakeHost, b: FakeHost, third: FakeHost) -> None:
    a.put()
    deliver(store, clock, *(host.build_heartbeat(full=True) for host in (a, b, third)))
    b.put()
    deliver(store, clock, b.build_heartbeat())
    assert (get(store).host, get(store).conflict_host) == ("a", "b")
    b.servers.clear()
    third.put()
    deliver(store, clock, b.build_heartbeat(departures={SERVER: Departure.UNDEFINED}), third.build_heartbeat())
    assert (get(store).host, get(store).conflict_host) == ("a", "c")
    assert list_conflicts(store) == [{"a", "b"}, {"a", "c"}]


def test_what_a_host_says_twice_in_a_batch_is_taken_in_its_order(store: Store, clock: FakeClock, a: FakeHost, b: FakeHost) -> None:
    a.put()
    first = a.build_heartbeat(full=True)
    a.put(name="renamed")
    second = a.build_heartbeat()
    third = a.build_heartbeat()
    taken = deliver(store, clock, first, b.build_heartbeat(full=True), second, third, second)
    assert [(outcome.stale, outcome.needs_full, outcome.restarted) for outcome in taken.outcomes] == [
        (False, False, True),
        (False, False, True),
        (False, False, False),
        (False, False, False),
        (True, False, False),
    ]
    with store.read() as c:
        (agent, _) = agents.list_agents(c)
    assert (get(store).name, agent.heartbeat_number) == ("renamed", third.number)


@pytest.mark.parametrize("seed", range(20))
def test_a_server_that_goes_from_host_to_host_is_each_ones_in_turn_whatever_else_they_say(
    store: Store, clock: FakeClock, a: FakeHost, b: FakeHost, third: FakeHost, seed: int
) -> None:
    """Each lets it go before the next one says that it has it, all within a batch in which they speak more than once, so nobody claims
    what is another's, and each of them may be heard later of the time in which it was its own.
    """
    dice = random.Random(seed)
    hosts = [a, b, third]
    a.put()
    deliver(store, clock, *(host.build_heartbeat(full=True) for host in hosts))
    holder = a
    owners = ["a"]
    batch: list[Heartbeat] = []
    for _ in range(dice.randint(2, 5)):
        heir = dice.choice([host for host in hosts if host is not holder])
        batch += [host.build_heartbeat() for host in hosts if dice.random() < 0.4]
        holder.servers.clear()
        batch.append(holder.build_heartbeat(departures={SERVER: Departure.MIGRATED}))
        batch += [host.build_heartbeat() for host in hosts if dice.random() < 0.4]
        clock.advance(1)
        heir.put()
        batch.append(heir.build_heartbeat())
        holder = heir
        owners.append(heir.name)
    taken = deliver(store, clock, *batch)
    assert (taken.claimed_twice, list_conflicts(store)) == ((), [])
    server = get(store)
    assert (server.host, server.conflict_host, server.missing_since) == (holder.name, None, None)
    with store.read() as c:
        assert [host for host in owners if had.is_foreign(c, host, SERVER, occurred_at=clock.now(), recorded_at=clock.now())] == []


def test_the_first_host_of_a_batch_that_has_a_server_owns_it_also_when_it_said_something_before(
    store: Store, clock: FakeClock, a: FakeHost, b: FakeHost
) -> None:
    deliver(store, clock, a.build_heartbeat(full=True), b.build_heartbeat(full=True))
    first = a.build_heartbeat()
    a.put()
    second = a.build_heartbeat()
    b.put()
    deliver(store, clock, first, second, b.build_heartbeat())
    assert (get(store).host, get(store).conflict_host) == ("a", "b")
