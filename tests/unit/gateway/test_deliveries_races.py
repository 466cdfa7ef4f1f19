"""Several engines over a database whose writers do not wait for each other by themselves: nothing is skipped, nothing is told twice."""

import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from functools import partial

import pytest

from api_gateway.store import Store, subscriptions
from api_gateway.store import deliveries as stored_deliveries
from api_gateway.store import matching as stored_matching
from devstack.databases import DatabaseServer
from tests.databases import PATIENT
from tests.fakes import FakeClock
from tests.unit.gateway.engine_parts import HeldCasts
from tests.unit.gateway.store_parts import build_event, run_behind
from tests.unit.gateway.subscription_parts import NotingSender, create_deliverer, get_subscription, list_deliveries, record, subscribe

EVENTS = 20
SUBSCRIBERS = 3


@pytest.fixture(scope="module")
def migrated(database_server: DatabaseServer, empty_database: str) -> Iterator[Store]:
    store = Store(database_server.create_database("deliveries", template=empty_database), busy_timeout=PATIENT)
    yield store
    store.dispose()
    database_server.drop_database("deliveries")


@pytest.fixture
def store(migrated: Store) -> Iterator[Store]:
    """Without subscriptions; what an earlier test recorded is still there."""
    yield migrated
    with migrated.write() as c:
        for row in subscriptions.list_subscriptions(c, project=None, limit=1000):
            subscriptions.delete_subscription(c, row.id)


def test_engines_beside_each_other_tell_each_subscriber_of_each_event_once(store: Store, clock: FakeClock) -> None:
    for number in range(SUBSCRIBERS):
        subscribe(store, clock, f"s-{number}")
    sender, is_recorded = NotingSender(), threading.Event()

    def record_all() -> None:
        for number in range(EVENTS):
            record(store, clock, build_event(f"m-{number}"))
        is_recorded.set()

    def deliver(owner: str) -> None:
        deliverer, slots = create_deliverer(store, clock, sender, owner=owner)
        idle = 0
        while idle < 3:
            deliverer.match()
            deliverer.begin()
            idle = 0 if slots.jobs or not is_recorded.is_set() else idle + 1
            slots.finish()

    with ThreadPoolExecutor(4) as pool:
        for job in [pool.submit(record_all), *(pool.submit(deliver, f"engine-{number}") for number in range(3))]:
            job.result(timeout=60)
    told = Counter(message.delivery for message in sender.messages)
    assert len(told) == EVENTS * SUBSCRIBERS
    assert set(told.values()) == {1}
    for number in range(SUBSCRIBERS):
        assert {row.state for row in list_deliveries(store, f"s-{number}")} == {"delivered"}
        assert get_subscription(store, f"s-{number}").try_at is None


def test_what_is_matched_while_a_try_is_settled_is_not_forgotten(store: Store, clock: FakeClock) -> None:
    """The one who settles looks for what is next before the other one's row is there to be seen."""
    sender = NotingSender()
    subscribe(store, clock)
    record(store, clock)
    deliverer, slots = create_deliverer(store, clock, sender, slots=HeldCasts(1))
    deliverer.match()
    with store.write() as c:
        (claimed,) = stored_deliveries.claim(c, owner="engine-1", now=clock.now(), lease=timedelta(seconds=60), limit=1)
    record(store, clock)
    run_behind(
        store,
        partial(stored_deliveries.settle_delivered, claimed=claimed, now=clock.now()),
        partial(stored_matching.match_events, now=clock.now()),
    )
    deliverer.begin()
    assert len(slots.jobs) == 1


def test_a_subscription_that_is_deleted_while_events_are_matched_leaves_none_behind(store: Store, clock: FakeClock) -> None:
    subscribe(store, clock)
    record(store, clock)
    run_behind(store, partial(stored_matching.match_events, now=clock.now()), lambda c: subscriptions.delete_subscription(c, "s-1"))
    assert list_deliveries(store) == []
