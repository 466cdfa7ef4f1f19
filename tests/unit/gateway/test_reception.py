"""Crash dumps that are asked for at the same time share a transaction, and each is answered as if it had come alone."""

import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest

from api_gateway.acceptance import Asked, Terms, TooManyOpen
from api_gateway.faults import Fault
from api_gateway.identity import Caller, Identity
from api_gateway.reception import Received, Reception, Wish, accept_together
from api_gateway.server_checks import Refused
from api_gateway.store import Store, StoreRejected, actions, servers
from compute_agent.contract.models import ActionKind, PowerState
from devstack.databases import DatabaseServer
from tests.fakes import FakeClock
from tests.unit.counts.counting import counting_sqlite
from tests.unit.gateway.store_parts import FakeHost

_PATIENCE = 10.0
TERMS = Terms(timedelta(seconds=600), max_open=2)
SERVERS = [str(uuid.UUID(int=number)) for number in range(1, 8)]
PAUSED, OTHERS = SERVERS[5:]
"""The last two: one stands still, one belongs to another project."""


class OnlyCrashDumps:
    """Implements Rules."""

    def allow(self, caller: Caller, rule: str, project: str) -> bool:
        return rule == "dump" and "member" in caller.roles

    def is_lasting(self, rule: str) -> bool:
        return True


MEMBER, READER = (Identity(Caller("alice", "demo", frozenset({role})), False, OnlyCrashDumps()) for role in ("member", "reader"))


def provide(store: Store, clock: FakeClock) -> Store:
    """Hosts ``a`` and ``b``; the first three servers are on ``a``."""
    hosts = {name: FakeHost(store, clock, name) for name in "ab"}
    for server in SERVERS:
        state = PowerState.PAUSED if server == PAUSED else PowerState.RUNNING
        hosts["a" if server in SERVERS[:3] else "b"].put(server, state, project="other" if server == OTHERS else "demo")
    for host in hosts.values():
        host.beat(full=True)
    return store


@pytest.fixture
def store(database: Path, clock: FakeClock) -> Iterator[Store]:
    store = provide(Store(f"sqlite:///{database}"), clock)
    yield store
    store.dispose()


def wish(server: str, identity: Identity = MEMBER, *, action_id: str | None = None) -> Wish:
    asked = Asked(action_id or f"req-{uuid.uuid4()}", ActionKind.TRIGGER_CRASH_DUMP, "demo", identity.user, timedelta(seconds=30))
    return Wish(identity, server, "dump", asked)


def accept(store: Store, clock: FakeClock, *wishes: Wish) -> list[Received | Exception | None]:
    return accept_together(store, clock, TERMS, wishes)


def list_accepted(store: Store) -> set[str]:
    with store.read() as c:
        return {row.id for server in SERVERS for row in actions.list_actions_of_server(c, server)}


def test_all_of_them_cost_as_much_as_one(database: Path, clock: FakeClock) -> None:
    with counting_sqlite() as counts:
        store = provide(Store(f"sqlite:///{database}"), clock)
        costs = []
        for chosen in (SERVERS[:1], SERVERS[1:4]):
            counts.take(database.name)
            assert None not in accept(store, clock, *map(wish, chosen))
            costs.append(counts.take(database.name))
        store.dispose()
    assert costs[0] == costs[1] == {"transactions": 1, "statements": 3, "commits": 1}


def test_each_is_answered_for_itself(store: Store, clock: FakeClock) -> None:
    accept(store, clock, wish(SERVERS[3]))
    wishes = [wish(SERVERS[0]), wish(SERVERS[1], READER), wish(SERVERS[3]), wish(OTHERS), wish(SERVERS[4])]
    good, not_allowed, still_dumping, unseen, good_too = accept(store, clock, *wishes)
    assert isinstance(good, Received)
    assert good.new
    assert isinstance(not_allowed, Fault)
    assert not_allowed.status == 403
    assert isinstance(still_dumping, Refused)
    assert "crash_dump_in_progress" in str(still_dumping)
    assert isinstance(unseen, Fault)
    assert unseen.status == 404
    assert isinstance(good_too, Received)
    assert {wishes[0].asked.id, wishes[4].asked.id} < list_accepted(store)
    assert len(list_accepted(store)) == 3


def test_they_take_the_room_of_their_host_from_each_other(store: Store, clock: FakeClock) -> None:
    outcomes = accept(store, clock, *map(wish, SERVERS[:4]))
    assert [type(outcome) for outcome in outcomes] == [Received, Received, TooManyOpen, Received]


def test_the_second_one_for_a_server_goes_alone_and_sees_the_first(store: Store, clock: FakeClock) -> None:
    wishes = [wish(SERVERS[0]), wish(SERVERS[0])]
    first, second = accept(store, clock, *wishes)
    assert isinstance(first, Received)
    assert second is None
    with pytest.raises(Refused, match=wishes[0].asked.id):
        Reception(store, clock, TERMS).accept(wishes[1])


@pytest.mark.parametrize("server", [PAUSED, str(uuid.UUID(int=99))])
def test_what_needs_a_look_of_its_own_goes_alone(store: Store, clock: FakeClock, server: str) -> None:
    assert accept(store, clock, wish(server)) == [None]


def test_one_that_the_store_rejects_harms_no_other(store: Store, clock: FakeClock) -> None:
    taken = wish(SERVERS[0])
    accept(store, clock, taken)
    good, bad = wish(SERVERS[1]), wish(SERVERS[3], action_id=taken.asked.id)
    assert accept(store, clock, good, bad) == [None, None]
    reception = Reception(store, clock, TERMS)
    with pytest.raises(StoreRejected):
        reception.accept(bad)
    assert reception.accept(good).new


def test_a_server_in_somebodys_hands_delays_no_other(database_server: DatabaseServer, empty_database: str, clock: FakeClock) -> None:
    store = provide(Store(database_server.create_database("reception", template=empty_database)), clock)
    reception = Reception(store, clock, TERMS)
    try:
        with ThreadPoolExecutor(1) as pool:
            with store.write() as c:
                servers.hold_server(c, SERVERS[0])
                waiting = pool.submit(reception.accept, wish(SERVERS[0]))
                assert reception.accept(wish(SERVERS[1])).new
                assert not waiting.done()
            assert waiting.result(_PATIENCE).new
    finally:
        store.dispose()
        database_server.drop_database("reception")
