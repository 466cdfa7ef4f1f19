"""When machines are looked at: on time, the silent ones in nobody's way, none twice at a time."""

import itertools
import random
from pathlib import Path

import pytest

from compute_agent.drivers.bmc.schedule import Pace, Schedule
from tests.unit.agent.bmc_parts import Bench, make_entry, make_uuid, outcome

PACE = Pace(poll_interval=30, attentive_interval=2, attentive_span=300, at_once=8)
SERVER = make_uuid(1)


def make_schedule(count: int, pace: Pace = PACE) -> Schedule:
    schedule = Schedule(pace, random.Random(1))
    for number in range(count):
        schedule.add(f"m{number}", 0.0)
    return schedule


def take_all(schedule: Schedule, now: float) -> list[str]:
    return list(iter(lambda: schedule.take(now), None))


def test_each_machine_is_looked_at_once_per_interval() -> None:
    schedule = make_schedule(20)
    looks: dict[str, list[float]] = {f"m{number}": [] for number in range(20)}
    for now in (second / 2 for second in range(601)):
        while (server := schedule.take(now)) is not None:
            looks[server].append(now)
            schedule.done(server, now, answered=True)
    for times in looks.values():
        first, *gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
        assert times[0] == 0
        assert first <= 30.5
        assert all(26.5 <= gap <= 30.5 for gap in gaps)
    seconds = [times[1] for times in looks.values()]
    assert max(seconds) - min(seconds) > 20, "they spread from the first round on"


def test_the_longest_due_comes_first() -> None:
    schedule = make_schedule(0)
    for server, due in (("late", 5.0), ("later", 9.0), ("early", 1.0)):
        schedule.add(server, due)
    assert take_all(schedule, 10.0) == ["early", "late", "later"]


def test_no_more_are_taken_than_may_be_and_none_twice() -> None:
    schedule = make_schedule(20)
    taken = take_all(schedule, 0.0)
    assert len(set(taken)) == len(taken) == 8
    assert schedule.find_wait(0.0) is None, "only the end of a look changes that"
    schedule.done(taken[0], 0.0, answered=True)
    assert schedule.find_wait(0.0) == 0.0
    assert len(take_all(schedule, 0.0)) == 1


def test_silent_machines_hold_half_of_the_places_at_most() -> None:
    """However many there are: a minute later all of them are due, and the others find four places free."""
    schedule = make_schedule(100)
    silent = {f"m{number}" for number in range(50)}
    for _ in range(100):
        (server,) = [schedule.take(0.0)]
        assert server is not None
        schedule.done(server, 0.0, answered=server not in silent)
    taken = take_all(schedule, 60.0)
    assert len(taken) == 8
    assert len(silent & set(taken)) <= 4
    answering = [server for server in taken if server not in silent]
    for server in answering:
        schedule.done(server, 60.0, answered=True)
    taken = take_all(schedule, 61.0)
    assert len(taken) == len(answering)


def test_silent_machines_are_looked_at_less_and_less_often_and_at_once_as_before_when_they_answer() -> None:
    schedule = make_schedule(1)
    now, gaps = 0.0, []
    for answered in (False, False, False, False, True, True):
        assert schedule.take(now) == "m0"
        schedule.done("m0", now, answered=answered)
        wait = schedule.find_wait(now)
        assert wait is not None
        gaps.append(wait)
        now += wait
    for gap, expected in zip(gaps, (60, 120, 120, 120, 30, 30), strict=True):
        assert 0.9 * expected <= gap <= expected


def test_attention_lasts_for_its_span_and_a_silent_machine_is_not_given_up_meanwhile() -> None:
    schedule = make_schedule(1)
    schedule.done(schedule.take(0.0) or "", 0.0, answered=True)
    schedule.attend("m0", 0.0)
    now, count = 0.0, 0
    while now < 300:
        wait = schedule.find_wait(now)
        assert wait is not None
        assert wait <= 2
        now += wait
        assert schedule.take(now) == "m0"
        schedule.done("m0", now, answered=True)
        count += 1
    assert 150 <= count <= 170
    assert (schedule.find_wait(now) or 0) > 25
    schedule.attend("m0", now)
    for _ in range(9):
        now += schedule.find_wait(now) or 0
        schedule.take(now)
        schedule.done("m0", now, answered=False)
    assert (schedule.find_wait(now) or 0) <= 30


def test_one_that_is_hurried_during_its_look_is_looked_at_again_afterwards() -> None:
    schedule = make_schedule(1)
    schedule.take(0.0)
    schedule.hurry("m0", 1.0)
    assert schedule.take(1.0) is None
    schedule.done("m0", 2.0, answered=True)
    assert schedule.take(2.0) == "m0"


def test_one_that_is_removed_and_added_during_its_look_is_not_looked_at_twice_at_a_time() -> None:
    schedule = make_schedule(1)
    schedule.take(0.0)
    schedule.remove("m0")
    schedule.add("m0", 1.0)
    schedule.hurry("m0", 1.0)
    assert schedule.take(1.0) is None
    schedule.done("m0", 2.0, answered=True)
    assert schedule.take(2.0) == "m0"
    schedule.remove("m0")
    schedule.done("m0", 2.0, answered=True)
    assert schedule.find_wait(99.0) is None


def test_after_an_nmi_a_machine_is_looked_at_closely_however_it_ended(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.begin()
    for refusal in ("", "no answer"):
        bench.look(700)
        bench.machine().refusal = refusal
        assert (outcome(lambda: bench.driver.nmi.inject_nmi(SERVER)) is None) == (refusal == "")  # type: ignore[union-attr]
        bench.machine().refusal = ""
        polls = bench.machine().polls
        for _ in range(10):
            bench.look(2)
        assert bench.machine().polls == polls + 10


def test_a_machine_that_falls_silent_keeps_the_others_waiting_for_a_third_of_the_time(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    machine, limit = bench.machine(), 0.8 * bench.driver.call_bound
    machine.refusal = "no answer"
    bench.begin()
    bench.look(61)
    assert machine.limits == [limit / 3, limit]
    machine.refusal = ""
    bench.look(121)
    machine.refusal = "no answer"
    bench.look(31)
    bench.look(61)
    assert machine.limits[2:] == [limit, limit / 3, limit]


def test_a_slow_bmc_has_twice_the_time_that_it_took_before(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    machine, limit = bench.machine(), 0.8 * bench.driver.call_bound
    machine.during_poll = lambda: bench.advance(0.3 * limit)
    bench.begin()
    bench.look(31)
    machine.during_poll = lambda: bench.advance(0.9 * limit)
    bench.look(31)
    bench.look(31)
    assert machine.limits == pytest.approx([limit / 3, 0.6 * limit, 0.6 * limit, limit])


def test_five_hundred_machines_are_listed_without_a_question_and_looked_at_in_turn(tmp_path: Path) -> None:
    bench = Bench(tmp_path, [make_entry(number) for number in range(500)])
    bench.begin()
    asked = sum(len(machine.calls) for machine in bench.protocol.machines.values())
    assert asked == 500
    assert len(bench.driver.servers.list_servers()) == 500
    assert sum(len(machine.calls) for machine in bench.protocol.machines.values()) == asked
    bench.look(31)
    assert {machine.polls for machine in bench.protocol.machines.values()} == {2}
