"""Ranges hold what a set of single numbers would."""

from hypothesis import given, settings
from hypothesis import strategies as st

from compute_agent.consumer.ranges import Ranges

_STEPS = st.lists(st.tuples(st.booleans(), st.integers(1, 20), st.integers(1, 20), st.sampled_from("xyz")), max_size=15)


@settings(max_examples=50, deadline=None)
@given(_STEPS)
def test_putting_and_taking_ranges_is_putting_and_taking_each_number(steps: list[tuple[bool, int, int, str]]) -> None:
    ranges: Ranges[str] = Ranges(limit=1000)
    numbers: dict[int, str] = {}
    for is_put, first, last, word in steps:
        if first > last:
            continue
        span = range(first, last + 1)
        there = {number: numbers[number] for number in span if number in numbers}
        assert {number: one.word for one in ranges.list_within(first, last) for number in range(one.first, one.last + 1)} == there
        if is_put:
            ranges.put(first, last, word)
            numbers.update(dict.fromkeys(span, word))
        else:
            assert {number: one.word for one in ranges.take(first, last) for number in range(one.first, one.last + 1)} == there
            numbers = {number: old for number, old in numbers.items() if number not in span}
        assert {number: one.word for one in ranges for number in range(one.first, one.last + 1)} == numbers
        assert [one.first for one in ranges] == sorted(one.first for one in ranges)


def test_of_too_many_ranges_the_lowest_is_forgotten() -> None:
    ranges: Ranges[str] = Ranges(limit=2)
    for number in (5, 1, 9):
        ranges.put(number, number, "x")
    assert [one.first for one in ranges] == [5, 9]
