"""Whatever a broker does to the order and number of notifications: each event once, in order where it can be, and gaps named exactly."""

import json
from itertools import permutations
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compute_agent.consumer import Event, Gap, GapState, Notification, Ordering, UnusableState
from tests.unit.consumer.told import make_event, make_loss, shorten

Told = Event | Gap


def take_all(ordering: Ordering, *notifications: Notification, now: float = 0.0) -> list[str]:
    return shorten(told for one in notifications for told in ordering.take(one, now))


def test_every_order_of_arrival_behind_the_first_event_comes_out_in_the_journals_order() -> None:
    for arrival in permutations(range(2, 7)):
        ordering = Ordering()
        told = take_all(ordering, make_event(1), *map(make_event, arrival))
        assert told == ["a1", "a2", "a3", "a4", "a5", "a6"], arrival


def test_an_event_older_than_the_first_one_seen_is_given_late_and_once_and_no_gap_is_told() -> None:
    ordering = Ordering()
    assert take_all(ordering, make_event(500), make_event(499), make_event(499), make_event(501)) == ["a500", "a499 late", "a501"]
    assert ordering.give_up() == []


def test_what_does_not_come_in_time_is_told_as_a_gap_and_closed_by_its_late_arrival() -> None:
    ordering = Ordering(patience=10)
    assert take_all(ordering, make_event(17), make_event(21)) == ["a17"]
    assert ordering.expire(9.9) == []
    gap, event = ordering.expire(10.0)
    assert str(gap) == "3 events of journal a of host host-a are missing after 17"
    assert shorten([gap, event]) == ["a18-20 missing", "a21"]
    assert take_all(ordering, make_event(19), make_event(19)) == ["a19 late"]


def test_an_event_waits_no_longer_than_its_patience_however_late_its_neighbours_came() -> None:
    ordering = Ordering(patience=10)
    take_all(ordering, make_event(4))
    take_all(ordering, make_event(8), now=0)
    take_all(ordering, make_event(6), now=5)
    assert shorten(ordering.expire(10)) == ["a5-5 missing", "a6", "a7-7 missing", "a8"]


def test_of_more_than_may_be_held_back_the_one_that_waited_longest_is_given_with_its_gap() -> None:
    ordering = Ordering(max_held=2)
    take_all(ordering, make_event(1), make_event(1, "b"))
    assert take_all(ordering, make_event(5, "b"), now=1) == []
    assert take_all(ordering, make_event(3), make_event(4), now=2) == ["b2-4 missing", "b5"]
    assert take_all(ordering, make_event(2)) == ["a2", "a3", "a4"]


def test_a_gap_that_is_said_to_be_lost_is_not_waited_for() -> None:
    ordering = Ordering()
    take_all(ordering, make_event(1), make_event(4))
    lost = make_loss(1, "a", 2, 3)
    told = ordering.take(lost, 0)
    assert shorten(told) == ["gateway1", "a2-3 lost", "a4"]
    assert str(told[1]) == "2 events of journal a of host host-a are lost after 1: purged"
    assert take_all(ordering, lost, make_event(3)) == ["a3 late"], "whoever said so was wrong, and the event is not kept away"


def test_a_loss_that_is_said_before_anything_is_missed_explains_the_gap_at_once() -> None:
    ordering = Ordering()
    take_all(ordering, make_event(1), make_loss(1, "a", 2, 3))
    assert take_all(ordering, make_event(4), make_event(6)) == ["a2-3 lost", "a4"]
    assert shorten(ordering.give_up()) == ["a5-5 missing", "a6"]


def test_of_a_gap_that_is_partly_lost_the_parts_are_told_apart() -> None:
    ordering = Ordering(patience=0)
    take_all(ordering, make_event(1))
    take_all(ordering, make_loss(1, "a", 3, 4))
    take_all(ordering, make_event(6))
    assert shorten(ordering.expire(1)) == ["a2-2 missing", "a3-4 lost", "a5-5 missing", "a6"]
    assert take_all(ordering, make_loss(2, "a", 1, 5)) == ["gateway2", "a2-2 lost", "a5-5 lost"]


def test_a_journal_that_is_gone_altogether_is_waited_for_no_more() -> None:
    ordering = Ordering()
    take_all(ordering, make_event(7), make_loss(1, "a", 8, 2**53 - 1))
    assert take_all(ordering, make_event(2**40)) == [f"a8-{2**40 - 1} lost", f"a{2**40}"]


def test_a_loss_that_was_held_back_too_long_explains_its_gap_all_the_same() -> None:
    ordering = Ordering(patience=10)
    take_all(ordering, make_event(1), make_event(1, "gateway"))
    take_all(ordering, make_loss(3, "a", 2, 2), now=0)
    take_all(ordering, make_event(3), now=9)
    assert shorten(ordering.expire(10)) == ["gateway2-2 missing", "gateway3", "a2-2 lost", "a3"]


def test_losses_that_are_held_back_themselves_are_applied_one_after_the_other_however_many() -> None:
    """Each is what the next one waits for: nothing here may go deeper with each."""
    count = 1500
    ordering = Ordering(max_held=2 * count)
    for number in range(count):
        take_all(ordering, make_event(1, f"j{number}"))
        take_all(ordering, make_event(3, f"j{number}", "events.lost", lost_epoch=f"j{number + 1}", first=2, last=2, reason="chained"))
    told = take_all(ordering, make_event(2, "j0"))
    assert len(told) == 2 + 2 * (count - 1)


def test_what_has_no_place_in_a_journal_is_given_once_by_its_message_id() -> None:
    without = [make_event(1, epoch="") for _ in range(2)]
    odd = [make_event(sequence) for sequence in (0, -1, 2**63)]
    payloads: list[dict[str, Any]] = [
        {"epoch": 7, "sequence": 1},
        {"epoch": "a", "sequence": True},
        {"epoch": "a" * 256, "sequence": 1},
        {},
    ]
    odd += [Notification(f"id-{number}", "later.type", "test", "info", "now", payload) for number, payload in enumerate(payloads)]
    ordering = Ordering()
    assert sum(len(ordering.take(one, 0)) for one in [*without, *odd, *odd]) == 1 + len(odd)


@pytest.mark.parametrize("changes", [{"lost_epoch": 3}, {"lost_epoch": "never-seen"}, {"first": "1"}, {"last": None}, {"last": 2**70}])
def test_a_loss_that_says_nothing_usable_is_an_event_like_others(changes: dict[str, Any]) -> None:
    ordering = Ordering()
    take_all(ordering, make_event(1), make_event(3))
    lost = make_loss(1, "a", 2, 2)
    lost.payload.update(changes)
    assert take_all(ordering, lost) == ["gateway1"]


def test_memory_of_journals_and_of_ranges_is_bounded_and_nothing_is_given_twice_for_that() -> None:
    ordering = Ordering(max_held=0, max_journals=2, max_ranges=2)
    take_all(ordering, *(make_event(sequence) for sequence in (1, 3, 5, 7)))
    assert take_all(ordering, make_event(2), make_event(4)) == ["a4 late"], "the oldest range is forgotten: what was in it counts as known"
    take_all(ordering, make_event(1, "b"), make_event(8), make_event(1, "c"))
    assert set(ordering.save()) == {"a", "c"}, "the one that was heard of longest ago is forgotten"


def test_a_journal_of_which_something_is_held_back_is_not_forgotten_for_a_new_one() -> None:
    ordering = Ordering(max_journals=1)
    take_all(ordering, make_event(1), make_event(3))
    assert take_all(ordering, make_event(1, "b"), make_event(2)) == ["b1", "a2", "a3"]


@pytest.mark.parametrize("saved", [{"a": {}}, {"a": 3}, [], {"a": {"host": "h", "next": "x", "unseen": [], "lost": []}}])
def test_a_saved_state_that_is_none_is_refused(saved: Any) -> None:
    with pytest.raises(UnusableState):
        Ordering(saved=saved)


@st.composite
def _arrivals(draw: st.DrawFn) -> list[tuple[str, int, float]]:
    """Of two journals: some events lost, some repeated, all of them in any order, with time between them."""
    places = [(epoch, sequence) for epoch in ("a", "b") for sequence in range(1, draw(st.integers(1, 9)) + 1)]
    return draw(st.lists(st.tuples(st.sampled_from(places), st.sampled_from([0.0, 0.0, 4.0, 11.0])), max_size=30).map(_flatten))


def _flatten(drawn: list[tuple[tuple[str, int], float]]) -> list[tuple[str, int, float]]:
    return [(epoch, sequence, pause) for (epoch, sequence), pause in drawn]


@settings(max_examples=100, deadline=None)
@given(arrivals=_arrivals(), max_held=st.sampled_from([0, 1, 3, 1000]), restart=st.integers(0, 30))
def test_under_any_loss_repetition_and_order_each_event_comes_once_in_order_and_the_gaps_are_exact(
    arrivals: list[tuple[str, int, float]], max_held: int, restart: int
) -> None:
    ordering = Ordering(patience=10, max_held=max_held)
    now = 0.0
    told: list[Told] = []
    unacknowledged: list[Notification] = []
    for number, (epoch, sequence, pause) in enumerate(arrivals):
        if number == restart:  # what was held back comes again, as the broker does it
            ordering = Ordering(patience=10, max_held=max_held, saved=json.loads(json.dumps(ordering.save())))
            for one in unacknowledged:
                told += ordering.take(one, now)
        now += pause
        told += ordering.expire(now)
        told += ordering.take(make_event(sequence, epoch), now)
        held = [*unacknowledged, make_event(sequence, epoch)]
        unacknowledged = [one for one in held if ordering.is_held(one)]
    told += ordering.give_up()
    for epoch in ("a", "b"):
        check_journal(epoch, [sequence for name, sequence, _ in arrivals if name == epoch], told)


def check_journal(epoch: str, arrived: list[int], told: list[Told]) -> None:
    mine = [one for one in told if isinstance(one, Event) and one.notification.payload["epoch"] == epoch]
    given_all = [int(one.notification.payload["sequence"]) for one in mine]
    assert sorted(given_all) == sorted(set(arrived)), "each that arrived once, and no other"
    in_order = [int(one.notification.payload["sequence"]) for one in mine if not one.late]
    assert in_order == sorted(in_order)
    late = set(given_all) - set(in_order)
    gaps = [one for one in told if isinstance(one, Gap) and one.epoch == epoch]
    missed = [sequence for gap in gaps for sequence in range(gap.first, gap.last + 1)]
    assert len(missed) == len(set(missed)), "no sequence is told as missing twice"
    assert all(gap.state is GapState.MISSING and gap.host == f"host-{epoch}" for gap in gaps)
    if arrived:
        expected = set(range(arrived[0], max(arrived) + 1)) - set(arrived)
        assert set(missed) - late == expected
        assert set(missed) <= expected | late
