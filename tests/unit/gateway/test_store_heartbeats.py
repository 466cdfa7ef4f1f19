"""Heartbeats of several hosts in one batch: each host's words as if they had come alone, and of a server that moves where it ends."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from api_gateway.store import Store, agents, heartbeats, servers
from api_gateway.store.heartbeats import TakenIn
from api_gateway.store.tables import sightings
from compute_agent.contract.models import Departure, Heartbeat, PowerState
from tests.databases import write_database
from tests.fakes import FakeClock
from tests.unit.gateway.store_parts import OTHER_SERVER, SERVER, FakeHost, list_outbox_events

THIRD_SERVER = "99999999-7777-4888-8999-000000000000"


@pytest.fixture
def a(store: Store, clock: FakeClock) -> FakeHost:
    return FakeHost(store, clock, "a")


@pytest.fixture
def b(store: Store, clock: FakeClock) -> FakeHost:
    return FakeHost(store, clock, "b")


def deliver(store: Store, clock: FakeClock, *batch: Heartbeat) -> TakenIn:
    with store.write() as c:
        return heartbeats.apply_heartbeats(c, batch, clock.now())


def read(store: Store) -> tuple[Sequence[Any], ...]:
    """All that heartbeats leave behind."""
    with store.read() as c:
        words = list(c.execute(select(sightings).order_by(sightings.c.host, sightings.c.server)))
        told = [(row.event_type, row.payload["host"], row.payload["reason"]) for row in list_outbox_events(c)]
        return agents.list_agents(c), words, servers.list_servers(c, deleted=None, limit=50), told


@pytest.fixture
def another_store(tmp_path: Path) -> Iterator[Store]:
    store = Store(f"sqlite:///{write_database(tmp_path / 'another.sqlite')}", busy_timeout=0.2)
    yield store
    store.dispose()


def test_each_host_of_a_batch_is_taken_in_as_if_it_had_come_alone(store: Store, another_store: Store, clock: FakeClock) -> None:
    """New ones, full reports, differences with servers that came, changed, were replaced and left, stale ones, and orderly ends."""

    def live(alone: bool) -> list[bool]:
        into = store if alone else another_store
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

    assert live(alone=True) == live(alone=False)
    assert read(store) == read(another_store)


def test_a_server_that_moves_within_a_batch_has_been_nobodys_and_is_no_conflict(
    store: Store, clock: FakeClock, a: FakeHost, b: FakeHost
) -> None:
    a.put()
    deliver(store, clock, a.build_heartbeat(full=True), b.build_heartbeat(full=True))
    a.servers.clear()
    b.put()
    arrived, left = b.build_heartbeat(), a.build_heartbeat(departures={SERVER: Departure.MIGRATED})
    assert deliver(store, clock, arrived, left).claimed_twice == ()
    with store.read() as c:
        server = servers.find_server(c, SERVER)
    assert server is not None
    assert (server.host, server.conflict_host, server.missing_since, server.host_released) == ("b", None, None, False)


def test_two_hosts_that_run_a_server_within_a_batch_are_a_conflict_that_is_told_once(
    store: Store, clock: FakeClock, a: FakeHost, b: FakeHost
) -> None:
    a.put()
    b.put()
    assert deliver(store, clock, a.build_heartbeat(full=True), b.build_heartbeat(full=True)).claimed_twice == (SERVER,)
    with store.read() as c:
        assert len(list_outbox_events(c, "server.claimed_twice")) == 1


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
        server = servers.find_server(c, SERVER)
        (agent, _) = agents.list_agents(c)
    assert server is not None
    assert (server.name, agent.heartbeat_number) == ("renamed", third.number)
