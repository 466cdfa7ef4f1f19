"""What the probes count, and when they say that it is not enough."""

from collections import Counter

import pytest

from tests.simulation.probes import (
    AFTERMATH,
    CANCELLED_WANTED,
    CANCELLED_WHILE,
    COMMIT_POINTS,
    FAULTS,
    WANTED,
    Hits,
    Probes,
    list_pairs,
    list_rare,
    list_unvisited,
    tell,
)


def test_a_commit_counts_for_each_fault_in_force_and_its_aftermath() -> None:
    moments = [0.0]
    probes = Probes(lambda: moments[-1])
    probes.strike("broker down", 10.0)
    probes.strike("cut", 1.0)
    for moment in (9.0, 10.0 + AFTERMATH - 0.1, 10.0 + AFTERMATH + 0.1):
        moments.append(moment)
        probes.note_commit("store.accept")
    assert probes.hits == {("store.accept", "broker down"): 2}


def test_a_shorter_fault_does_not_end_a_longer_one_of_its_kind() -> None:
    now = 0.0
    probes = Probes(lambda: now)
    probes.strike("cut", 20.0)
    probes.strike("cut", 1.0)
    now = 19.0
    probes.note_commit("store.accept")
    assert probes.hits["store.accept", "cut"] == 1


def test_a_fault_that_no_table_would_show_is_refused() -> None:
    with pytest.raises(AssertionError):
        Probes(lambda: 0.0).strike("broker dwon", 1.0)


def test_what_was_hit_too_rarely_is_named() -> None:
    full: Hits = Counter(dict.fromkeys((*list_pairs(), *CANCELLED_WHILE), WANTED))
    assert not list_rare(full)
    assert not list_unvisited(full)
    one_less = full - Counter({("store.accept", "cut"): 1})
    assert list_rare(one_less) == [("store.accept", "cut")]
    assert not list_unvisited(one_less)
    without_cuts: Hits = Counter({pair: count for pair, count in full.items() if pair[1] != "cut"})
    assert list_unvisited(without_cuts) == ["cut"]
    full["cancelled while", "started"] = CANCELLED_WANTED - 1
    assert list_unvisited(full) == ["cancelled while started"]


def test_the_table_has_each_commit_point_and_each_fault() -> None:
    lines = list(tell(Counter({("store.accept", "cut"): 3})))
    assert all(any(line.startswith(point) for line in lines) for point in COMMIT_POINTS)
    assert all(any(line.endswith(fault) for line in lines) for fault in FAULTS)
    assert lines[-1].endswith(f"1 less often, {len(list_pairs()) - 1} never")
