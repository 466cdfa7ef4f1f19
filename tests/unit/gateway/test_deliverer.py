"""Every subscriber is told of every event that is theirs, whoever dies meanwhile, and a target that fails is left alone for a while."""

from contextlib import suppress
from datetime import timedelta

import pytest

from api_gateway.deliveries.back_off import BackOff
from api_gateway.store import Store, counters, events, matching, subscriptions
from api_gateway.store import deliveries as stored_deliveries
from tests.fakes import FakeClock
from tests.unit.gateway.engine_parts import HeldCasts
from tests.unit.gateway.store_parts import SERVER, FakeHost, build_event
from tests.unit.gateway.subscription_parts import (
    NotingSender,
    create_deliverer,
    fail,
    get_subscription,
    list_deliveries,
    record,
    subscribe,
)


@pytest.fixture
def sender() -> NotingSender:
    return NotingSender()


def run(store: Store, clock: FakeClock, sender: NotingSender, seconds: int, **options: int) -> None:
    """An engine of its own for so many seconds."""
    deliverer, slots = create_deliverer(store, clock, sender, **options)
    for _ in range(seconds):
        deliverer.step()
        slots.finish()
        clock.advance(1)


def test_an_event_is_told_once_and_what_was_recorded_before_the_subscription_never(
    store: Store, clock: FakeClock, sender: NotingSender
) -> None:
    record(store, clock)
    subscribe(store, clock)
    (event,) = record(store, clock)
    run(store, clock, sender, 3)
    assert [(message.event["id"], message.delivery) for message in sender.messages] == [(event.message_id, f"s-1.{event.position}")]
    (row,) = list_deliveries(store)
    assert (row.state, row.tries, row.last_error) == ("delivered", 1, None)
    assert row.settled_at is not None
    assert get_subscription(store).try_at is None


def test_a_subscription_is_told_of_its_project_types_severity_and_server_only(store: Store, clock: FakeClock, sender: NotingSender) -> None:
    host = FakeHost(store, clock, "a")
    host.put(SERVER, project="demo", name="web-1")
    host.beat(full=True)
    subscribe(store, clock, "s-1", project="demo", types=("server.watchdog.*", "server.started"), server=SERVER)
    subscribe(store, clock, "s-2", project="other")
    subscribe(store, clock, "s-3", severity="error")
    record(
        store,
        clock,
        build_event("1", "server.watchdog.fired", server=SERVER),
        build_event("2", "server.stopped", server=SERVER),
        build_event("3", "server.started", server="66666666-7777-4888-8999-000000000000"),
        build_event("4", "agent.up", host="a"),
    )
    run(store, clock, sender, 2)
    assert [(message.subscription.id, message.event["id"]) for message in sender.messages] == [("s-1", "1")]
    assert sender.messages[0].server_name == "web-1"


def test_what_the_maker_may_not_see_is_not_told(store: Store, clock: FakeClock, sender: NotingSender) -> None:
    subscribe(store, clock, shown=())
    record(
        store, clock, build_event("1", "server.diagnostics", host="a", report={"secret": 1}), build_event("2", host="a", reason="booted")
    )
    run(store, clock, sender, 3)
    first, second = (message.event for message in sender.messages)
    assert first["payload"] is None
    assert "host" not in first
    assert second["payload"]["reason"] == "booted"
    assert "host" not in second["payload"]


def test_a_failed_try_is_repeated_with_growing_pauses_and_given_up_after_the_last(
    store: Store, clock: FakeClock, sender: NotingSender
) -> None:
    subscribe(store, clock)
    record(store, clock)
    begun, sender.failure = clock.now(), fail()
    tried_at: list[float] = []
    deliverer, slots = create_deliverer(store, clock, sender)
    for _ in range(200):
        deliverer.step()
        if slots.jobs:
            tried_at.append((clock.now() - begun).total_seconds())
        slots.finish()
        clock.advance(1)
    assert tried_at == [0, 5, 15, 35, 55]
    (row,) = list_deliveries(store)
    assert (row.state, row.tries, row.last_error) == ("dead", 5, "hooks.example answered 500.")
    assert get_subscription(store).failing_since == begun


def test_while_a_target_fails_its_other_deliveries_wait_and_come_when_it_is_back(
    store: Store, clock: FakeClock, sender: NotingSender
) -> None:
    """A try of each of them would only say once more that the target is down, and hold a thread each time."""
    subscribe(store, clock)
    rows = [record(store, clock)[0] for _ in range(10)]
    sender.failure = fail()
    run(store, clock, sender, 30)
    assert len(sender.messages) == 3
    assert get_subscription(store).failures == 3
    sender.failure = None
    sender.messages.clear()
    run(store, clock, sender, 40)
    assert sorted(sender.positions) == [row.position for row in rows]
    assert {row.state for row in list_deliveries(store)} == {"delivered"}
    assert (get_subscription(store).failures, get_subscription(store).failing_since) == (0, None)


def test_what_waited_behind_a_target_that_stays_away_is_given_up_as_late_as_what_was_tried(
    store: Store, clock: FakeClock, sender: NotingSender
) -> None:
    subscribe(store, clock)
    for _ in range(10):
        record(store, clock)
    sender.failure = fail()
    run(store, clock, sender, 54)
    assert {row.state for row in list_deliveries(store)} == {"waiting"}
    run(store, clock, sender, 40)
    assert {row.state for row in list_deliveries(store)} == {"dead"}
    sender.failure = None
    (event,) = record(store, clock)
    run(store, clock, sender, 30)
    assert sender.positions[-1] == event.position, "what comes later is tried again"
    assert get_subscription(store).failing_since is None


def test_one_delivery_that_its_target_does_not_want_keeps_no_other_for_long(store: Store, clock: FakeClock) -> None:
    bad: list[int] = []

    class PickySender(NotingSender):
        def send(self, message: object) -> None:
            super().send(message)  # type: ignore[arg-type]
            if self.positions[-1] in bad:
                raise fail("hooks.example answered 400.")

    sender = PickySender()
    subscribe(store, clock)
    bad.append(record(store, clock)[0].position)
    others = [record(store, clock)[0].position for _ in range(20)]
    run(store, clock, sender, 30)
    assert {row.position for row in list_deliveries(store) if row.state == "delivered"} == set(others)


def test_a_target_that_is_gone_is_not_asked_again_for_the_same_event(store: Store, clock: FakeClock, sender: NotingSender) -> None:
    subscribe(store, clock)
    record(store, clock)
    sender.failure = fail("hooks.example answered 410.", is_final=True)
    run(store, clock, sender, 30)
    assert len(sender.messages) == 1
    assert [(row.state, row.tries) for row in list_deliveries(store)] == [("dead", 1)]


def test_a_target_is_left_alone_for_as_long_as_it_asks(store: Store, clock: FakeClock, sender: NotingSender) -> None:
    subscribe(store, clock)
    record(store, clock)
    record(store, clock)
    sender.failure = fail(retry_after=60.0)
    run(store, clock, sender, 59)
    assert len(sender.messages) == 1
    sender.failure = None
    run(store, clock, sender, 5)
    assert {row.state for row in list_deliveries(store)} == {"delivered"}


def test_at_most_one_delivery_of_a_subscription_is_in_flight_and_a_slow_one_delays_no_other_subscriber(
    store: Store, clock: FakeClock, sender: NotingSender
) -> None:
    for key in ("slow", "quick"):
        subscribe(store, clock, key)
    for _ in range(3):
        record(store, clock)
    first, held = create_deliverer(store, clock, sender)
    second, more = create_deliverer(store, clock, sender, owner="engine-2")
    first.step()
    second.step()
    assert (len(held.jobs), len(more.jobs)) == (2, 0)
    answered, unanswered = held.jobs
    answered()
    for _ in range(5):
        second.step()
        more.finish()
    assert len(sender.messages) == 3, "all of one of them"
    assert len({message.subscription.id for message in sender.messages}) == 1
    unanswered()
    for _ in range(5):
        second.step()
        more.finish()
    assert len(sender.messages) == 6


def test_what_an_engine_that_died_had_in_flight_is_told_by_another_when_its_lease_ends(
    store: Store, clock: FakeClock, sender: NotingSender
) -> None:
    subscribe(store, clock)
    record(store, clock)
    dying, held = create_deliverer(store, clock, sender)
    dying.step()
    assert len(held.jobs) == 1
    heir, slots = create_deliverer(store, clock, sender, owner="engine-2")
    clock.advance(59)
    heir.step()
    assert slots.jobs == []
    clock.advance(2)
    heir.step()
    slots.finish()
    assert [row.state for row in list_deliveries(store)] == ["delivered"]
    sender.failure = fail()
    held.finish()
    assert [(row.state, row.tries) for row in list_deliveries(store)] == [("delivered", 1)], "who lost the lease has no say any more"


def begin_twice(store: Store, clock: FakeClock, sender: NotingSender) -> tuple[HeldCasts, HeldCasts]:
    """A delivery in flight from an engine whose lease has ended, and from the one that has it by now."""
    subscribe(store, clock)
    record(store, clock)
    slow, held = create_deliverer(store, clock, sender)
    slow.step()
    clock.advance(61)
    other, slots = create_deliverer(store, clock, sender, owner="engine-2")
    other.step()
    return held, slots


def test_a_success_is_noted_even_by_who_lost_the_lease(store: Store, clock: FakeClock, sender: NotingSender) -> None:
    held, slots = begin_twice(store, clock, sender)
    held.finish()
    assert [row.state for row in list_deliveries(store)] == ["delivered"]
    slots.finish()
    assert [row.tries for row in list_deliveries(store)] == [1]
    assert get_subscription(store).lease_owner is None


def test_a_failure_says_nothing_of_what_somebody_else_has_delivered_meanwhile(store: Store, clock: FakeClock, sender: NotingSender) -> None:
    held, slots = begin_twice(store, clock, sender)
    held.finish()
    sender.failure = fail()
    slots.finish()
    assert [(row.state, row.tries, row.last_error) for row in list_deliveries(store)] == [("delivered", 1, None)]


def test_an_event_that_is_not_kept_any_more_is_given_up_saying_so(store: Store, clock: FakeClock, sender: NotingSender) -> None:
    subscribe(store, clock)
    record(store, clock)
    deliverer, slots = create_deliverer(store, clock, sender, slots=HeldCasts(0))
    deliverer.match()
    with store.write() as c:
        events.prune(c, recorded_before=clock.now() + timedelta(seconds=1))
    slots.size = 1
    deliverer.step()
    slots.finish()
    assert sender.messages == []
    (row,) = list_deliveries(store)
    assert (row.state, row.tries) == ("dead", 0)
    assert "not kept any more" in (row.last_error or "")


def test_a_fault_of_the_senders_own_counts_as_a_failed_try(store: Store, clock: FakeClock, sender: NotingSender) -> None:
    subscribe(store, clock)
    record(store, clock)
    sender.failure = KeyError("a fault of ours")
    run(store, clock, sender, 2)
    (row,) = list_deliveries(store)
    assert (row.state, row.tries, row.last_error) == ("waiting", 1, "The gateway itself failed (KeyError); its log says more.")


def test_a_kind_of_target_that_is_not_set_up_any_more_waits(store: Store, clock: FakeClock, sender: NotingSender) -> None:
    subscribe(store, clock, target_kind="email", target="ops@example.com")
    record(store, clock)
    run(store, clock, sender, 2)
    assert "not set up to deliver by email" in (list_deliveries(store)[0].last_error or "")


def test_a_deleted_subscription_takes_its_deliveries_along_the_one_in_flight_too(
    store: Store, clock: FakeClock, sender: NotingSender
) -> None:
    subscribe(store, clock)
    record(store, clock)
    deliverer, slots = create_deliverer(store, clock, sender)
    deliverer.step()
    with store.write() as c:
        assert subscriptions.delete_subscription(c, "s-1")
        assert not subscriptions.delete_subscription(c, "s-1")
    slots.finish()
    assert list_deliveries(store) == []


def test_matching_goes_on_where_the_last_commit_left_it(store: Store, clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever dies in between: a batch and how far it led are one transaction."""
    monkeypatch.setattr(matching, "_MOST_DELIVERIES", 3)
    for number in range(2):
        subscribe(store, clock, f"s-{number}")
    rows = record(store, clock, *(build_event(f"m-{number}") for number in range(7)))
    with suppress(ZeroDivisionError), store.write() as c:
        matching.match_events(c, now=clock.now())
        raise ZeroDivisionError
    looked_at: list[int] = []
    while not looked_at or looked_at[-1]:
        with store.write() as c:
            looked_at.append(matching.match_events(c, now=clock.now()))
    assert looked_at == [2, 2, 2, 1, 0]
    for number in range(2):
        assert [row.position for row in list_deliveries(store, f"s-{number}")] == [row.position for row in rows]
    with store.read() as c:
        assert counters.get_value(c, counters.MATCHED) == rows[-1].position
        assert not matching.is_behind(c)


def test_who_has_more_to_match_than_one_step_takes_says_so(
    store: Store, clock: FakeClock, sender: NotingSender, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that the next step comes soon, also when nothing new is recorded."""
    monkeypatch.setattr(matching, "_MOST_DELIVERIES", 1)
    subscribe(store, clock)
    record(store, clock, *(build_event(f"m-{number}") for number in range(15)))
    deliverer, _slots = create_deliverer(store, clock, sender, slots=HeldCasts(0))
    was_behind = []
    for _ in range(2):
        deliverer.step()
        was_behind.append(deliverer.is_behind)
    assert was_behind == [True, False]


def test_settled_deliveries_are_forgotten_after_their_time_and_waiting_ones_never(
    store: Store, clock: FakeClock, sender: NotingSender
) -> None:
    subscribe(store, clock)
    record(store, clock)
    run(store, clock, sender, 2)
    clock.advance(8 * 86_400)
    (event,) = record(store, clock)
    deliverer, _slots = create_deliverer(store, clock, sender, slots=HeldCasts(0))
    deliverer.step()
    assert [row.position for row in list_deliveries(store)] == [event.position]


def test_pruning_takes_no_more_than_its_share(store: Store, clock: FakeClock, sender: NotingSender) -> None:
    subscribe(store, clock)
    for _ in range(5):
        record(store, clock)
        run(store, clock, sender, 1)
    with store.write() as c:
        assert stored_deliveries.prune(c, settled_before=clock.now(), limit=3) == 3
    with store.write() as c:
        assert stored_deliveries.prune(c, settled_before=clock.now(), limit=3) == 2


def test_the_default_tries_reach_over_more_than_a_day() -> None:
    assert timedelta(hours=28) < BackOff().span < timedelta(hours=29)
    assert BackOff(chance=lambda: 1.0).find_pause(1) == timedelta(seconds=6)
    assert BackOff(chance=lambda: 0.0).find_pause(1000) == timedelta(seconds=900)
