"""The shrinker itself: what it leaves still breaks the promise, and nothing of it could be left out. The "play" is a rule, not a world."""

import dataclasses

from compute_agent.contract.models import ActionKind
from tests.simulation.at_commit import StrikeAtCommit
from tests.simulation.broker import Faults
from tests.simulation.misfortunes import Kill, Purge
from tests.simulation.plan import Plan
from tests.simulation.requests import Ask
from tests.simulation.script import Script, draw_script
from tests.simulation.shrink import fix_strikes, name_kind, shrink

_BROKEN = "req-11111111-1111-4111-8111-111111111111: 2 driver calls, began at [3.5]"


def _make_script(**plan: object) -> Script:
    steps = [Ask(float(at), f"h{at % 3}g{at % 2}", 5.0) for at in range(40)] + [Kill(7.5, "host-0", 2.0), Purge(9.5)]
    return Script(dataclasses.replace(Plan(seed="shrinking", hosts=3, guests_per_host=2), **plan), tuple(steps))  # type: ignore[arg-type]


def test_what_is_left_is_what_breaks_it() -> None:
    def play(script: Script) -> list[str]:
        asked = {step.guest for step in script.steps if isinstance(step, Ask)}
        killed = any(isinstance(step, Kill) for step in script.steps)
        return [_BROKEN] if killed and "h0g0" in asked and script.plan.broker.cast_lost else []

    script = _make_script(broker=Faults(cast_lost=0.5, delay=0.3), crash_at_commit=0.02)
    shrunk = shrink(script, play, play(script), seconds=60.0)
    assert shrunk.is_done
    assert [type(step) for step in shrunk.script.steps] == [Ask, Kill]
    assert shrunk.script.plan.broker == Faults(cast_lost=0.5)
    assert (shrunk.script.plan.hosts, shrunk.script.plan.guests_per_host) == (1, 1)
    assert shrunk.script.plan.crash_at_commit == 0.0
    assert shrunk.script.plan.duration < 41.0
    assert play(shrunk.script) == shrunk.violations


def test_another_violation_is_not_taken_for_the_one_that_was_found() -> None:
    def play(script: Script) -> list[str]:
        return [_BROKEN] if any(isinstance(step, Purge) for step in script.steps) else ["agent of host-0 is not up at the end"]

    script = _make_script()
    assert shrink(script, play, play(script), seconds=60.0).script.steps == (Purge(9.5),)


def test_the_same_violation_of_another_action_is_the_same() -> None:
    other = "req-22222222-2222-4222-8222-222222222222: 2 driver calls, began at [17.25]"
    assert name_kind(_BROKEN) == name_kind(other)
    assert name_kind(_BROKEN) != name_kind("req-22222222-2222-4222-8222-222222222222: still started at the end")


def test_it_stops_when_its_time_is_up_with_the_smallest_that_it_has() -> None:
    now = iter(range(1000))
    script = _make_script()
    shrunk = shrink(script, lambda script: [_BROKEN], [_BROKEN], seconds=10.0, clock=lambda: float(next(now)))
    assert not shrunk.is_done
    assert len(shrunk.script.steps) < len(script.steps)


def test_what_chance_did_at_commits_becomes_steps() -> None:
    strike = StrikeAtCommit(0.0, "journal.action.started", "after", 3, 2.0)
    script = _make_script(crash_at_commit=0.5)
    script = script.keep((*script.steps, Ask(3.0, "h0g0", 5.0, ActionKind.SET_WATCHDOG, arguments={"replace": True})))
    fixed = fix_strikes(script, [strike])
    assert fixed.plan.crash_at_commit == 0.0
    assert fixed.steps == (strike, *script.steps)
    assert fix_strikes(fixed, [strike]) == fixed


def test_steps_about_what_is_not_there_do_not_fit() -> None:
    small = Plan(seed="small", hosts=1, guests_per_host=1)
    assert Ask(1.0, "h0g0", 5.0).fits(small)
    assert not Ask(1.0, "h1g0", 5.0).fits(small)
    assert not Kill(1.0, "host-1", 5.0).fits(small)
    assert Kill(1.0, "engine", 5.0).fits(small)


def test_a_script_is_told_with_each_step_on_a_line() -> None:
    script = draw_script(3)
    lines = script.tell().splitlines()
    assert lines[0].startswith("seed 3: ")
    assert len(lines) == len(script.steps) + 1
