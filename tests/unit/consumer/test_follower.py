"""A follower acknowledges what its caller is done with, and only that, whatever becomes of the connection."""

import json
from collections.abc import Callable
from typing import Any

import amqp.exceptions
import pytest

from compute_agent.consumer import Follower, Ordering, QueueRefused, create_kept_queue, create_temporary_queue
from tests.unit.consumer.small_broker import SmallBroker
from tests.unit.consumer.told import make_body, shorten

KEPT = create_kept_queue("consumer.test")


def make_follower(
    broker: SmallBroker, *, kept: bool = True, ordering: Ordering | None = None, on_state: Callable[[str], None] = lambda _sentence: None
) -> Follower:
    """One that stops when everything that waits was delivered."""
    queue = KEPT if kept else create_temporary_queue()
    follower = Follower(broker.open_link, queue, ordering=ordering, on_state=on_state, clock=lambda: 0.0, first_pause=0.0)
    broker.when_idle = follower.stop
    return follower


def test_an_event_is_acknowledged_when_the_next_one_is_asked_for() -> None:
    broker = SmallBroker([make_body(1), make_body(2)])
    states: list[str] = []
    following = make_follower(broker, on_state=states.append).follow()
    next(following)
    assert broker.acknowledged == []
    next(following)
    assert len(broker.acknowledged) == 1
    assert list(following) == []
    assert len(broker.acknowledged) == 2
    assert states == ["following consumer.test"]


def test_what_the_caller_did_not_finish_comes_to_the_next_one() -> None:
    broker = SmallBroker([make_body(1), make_body(2)])
    for _told in make_follower(broker).follow():
        break
    assert shorten(make_follower(broker).follow()) == ["a1", "a2"]


def test_a_caller_that_comes_again_gets_what_it_had_not_finished() -> None:
    broker = SmallBroker([make_body(1), make_body(2)])
    follower = make_follower(broker)
    for _told in follower.follow():
        break
    assert shorten(follower.follow()) == ["a1", "a2"]
    assert len(broker.acknowledged) == 2


def test_what_is_held_back_is_not_acknowledged_before_it_is_given() -> None:
    first, second, third = map(make_body, (1, 2, 3))
    broker = SmallBroker([first, third, None, second])
    following = make_follower(broker).follow()
    assert shorten([next(following), next(following)]) == ["a1", "a2"]
    assert broker.connections == 2
    assert broker.acknowledged == [first]
    assert shorten(following) == ["a3"]
    assert broker.acknowledged == [first, second, third]


def test_the_time_in_which_there_was_no_broker_makes_no_gap_of_what_comes_right_after_it() -> None:
    broker = SmallBroker([make_body(1), make_body(3), None, make_body(2)])
    now = 0.0

    def pass_time(sentence: str) -> None:
        nonlocal now
        now += 3600.0 if "away" in sentence else 0.0

    follower = Follower(broker.open_link, KEPT, on_state=pass_time, clock=lambda: now, first_pause=0.0)
    broker.when_idle = follower.stop
    assert shorten(follower.follow()) == ["a1", "a2", "a3"]
    assert now == 3600.0


def test_what_came_twice_is_given_once_and_acknowledged_twice() -> None:
    broker = SmallBroker([make_body(1), make_body(1), make_body(3), make_body(3), make_body(2), make_body(2)])
    assert shorten(make_follower(broker).follow()) == ["a1", "a2", "a3"]
    assert len(broker.acknowledged) == 6


def test_what_was_given_when_the_connection_broke_is_not_given_again() -> None:
    broker = SmallBroker([make_body(1), make_body(2), None, make_body(3), None, make_body(4)])
    states: list[str] = []
    assert shorten(make_follower(broker, on_state=states.append).follow()) == ["a1", "a2", "a3", "a4"]
    assert broker.unacknowledged == {}
    away = "the broker is away (the link broke); trying again"
    assert states == ["following consumer.test", away, "following consumer.test", away, "following consumer.test"]


def test_what_a_broken_connection_delivered_last_is_not_acknowledged_over_the_next_one() -> None:
    broker = SmallBroker([make_body(1), make_body(2)])
    broker.breaks_at_heartbeat = True
    assert shorten(make_follower(broker).follow()) == ["a1", "a2"]
    assert (broker.connections, len(broker.acknowledged)) == (2, 2)


def test_an_acknowledgement_that_fails_loses_nothing_of_what_waits_behind_it() -> None:
    """Three become free at once; the connection breaks while the caller works on the first of them."""
    broker = SmallBroker([make_body(1), make_body(3), make_body(4), make_body(2)])
    told = []
    for one in make_follower(broker).follow():
        told.append(one)
        if shorten([one]) == ["a2"]:
            broker.waiting.append(None)
    assert shorten(told) == ["a1", "a2", "a3", "a4"]
    assert broker.unacknowledged == {}


def test_a_consumer_that_keeps_its_place_with_its_work_neither_repeats_nor_misses_anything_wherever_it_dies() -> None:
    """It dies while it works; three had become free at once, and what it did before was published once more meanwhile."""
    bodies = [make_body(sequence) for sequence in (1, 3, 4, 2)]
    for dies_at in range(1, 5):
        broker = SmallBroker(bodies)
        worked: list[str] = []
        saved: dict[str, Any] = {}
        follower = make_follower(broker)
        for told in follower.follow():
            if len(worked) + 1 == dies_at:
                break
            worked += shorten([told])
            saved = json.loads(json.dumps(follower.save()))
        broker.waiting.extend(bodies)
        again = make_follower(broker, ordering=Ordering(saved=saved))
        worked += shorten(again.follow())
        assert sorted(word.split()[0] for word in worked) == ["a1", "a2", "a3", "a4"], dies_at


def test_a_message_that_cannot_be_read_is_told_and_acknowledged_and_comes_no_more() -> None:
    broker = SmallBroker([b"\xff not JSON", make_body(1)])
    assert shorten(make_follower(broker).follow()) == ["unreadable", "a1"]
    assert len(broker.acknowledged) == 2


def test_at_its_end_a_temporary_queue_gives_what_it_holds_and_a_kept_one_keeps_it() -> None:
    broker = SmallBroker([make_body(1), make_body(3)])
    assert shorten(make_follower(broker, kept=False).follow()) == ["a1", "a2-2 missing", "a3"]
    assert len(broker.deleted) == 1
    broker = SmallBroker([make_body(1), make_body(3)])
    assert shorten(make_follower(broker).follow()) == ["a1"]
    assert broker.deleted == []
    assert list(broker.unacknowledged.values()) != []


def test_an_account_or_a_queue_that_the_broker_refuses_is_an_error_at_the_begin() -> None:
    broker = SmallBroker([make_body(1)])
    broker.refusal = amqp.exceptions.PreconditionFailed("other limits")
    with pytest.raises(QueueRefused, match=r"consumer\.test.*other limits"):
        list(make_follower(broker).follow())


def test_a_refusal_in_the_middle_is_tried_again_as_somebody_may_be_at_work_on_the_accounts() -> None:
    broker = SmallBroker([make_body(1), None, make_body(2)])
    refusals = iter([None, amqp.exceptions.AccessRefused("no such account"), None])
    states: list[str] = []

    def open_link() -> Any:
        broker.refusal = next(refusals)
        return broker.open_link()

    follower = Follower(open_link, KEPT, on_state=states.append, clock=lambda: 0.0, first_pause=0.0)
    broker.when_idle = follower.stop
    assert shorten(follower.follow()) == ["a1", "a2"]
    assert len(states) == 3, "it is said once that the broker is away"


def test_a_broker_without_an_exchange_of_events_yet_is_waited_for() -> None:
    broker = SmallBroker([make_body(1)])
    refusals = iter([amqp.exceptions.NotFound("no exchange 'crashcart.events'"), None])

    def open_link() -> Any:
        broker.refusal = next(refusals)
        return broker.open_link()

    follower = Follower(open_link, KEPT, clock=lambda: 0.0, first_pause=0.0)
    broker.when_idle = follower.stop
    assert shorten(follower.follow()) == ["a1"]


def test_no_more_is_taken_from_the_broker_than_may_be_held_back_and_a_little() -> None:
    broker = SmallBroker([make_body(1), make_body(3), make_body(4), make_body(5)])
    assert shorten(make_follower(broker, ordering=Ordering(max_held=1)).follow()) == ["a1", "a2-2 missing", "a3", "a4", "a5"]


@pytest.mark.parametrize(
    ("account", "prefix"), [("consumer.soc", "consumer.soc."), ("gateway", "crashcart.consumer."), ("", "crashcart.consumer.")]
)
def test_a_temporary_queue_has_a_name_that_its_account_may_use(account: str, prefix: str) -> None:
    assert create_temporary_queue(account).name.startswith(prefix)


def test_every_queue_is_bounded_and_the_arguments_are_those_that_brokers_out_there_have() -> None:
    """A queue that exists with other arguments is refused: they change with its name only."""
    bounds = {"x-max-length": 100_000, "x-max-length-bytes": 268_435_456, "x-overflow": "drop-head"}
    assert dict(create_temporary_queue().arguments) == bounds | {"x-expires": 60_000}
    assert dict(KEPT.arguments) == bounds | {
        "x-expires": 604_800_000,
        "x-queue-type": "quorum",
        "x-single-active-consumer": True,
        "x-delivery-limit": 2_147_483_647,
    }
