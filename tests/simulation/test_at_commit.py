"""Faults that wait for a commit come exactly there, replay, and are told."""

import dataclasses
from pathlib import Path

from tests.simulation.at_commit import AtCommit
from tests.simulation.misfortunes import LoseGuest, StopBroker
from tests.simulation.plan import Plan, draw_plan
from tests.simulation.requests import Ask
from tests.simulation.running import run_script
from tests.simulation.script import Script, write_script
from tests.simulation.shortages import FillJournal

_PLAN = Plan(seed="at commit", hosts=2, guests_per_host=1, duration=20.0)


def test_a_step_waits_for_the_commit_of_that_process(template: Path, folder: Path) -> None:
    steps = (
        AtCommit(1.0, "journal.action.started", "host-1", 1, StopBroker(0.0, 3.0)),
        *(Ask(at, guest, 5.0) for at, guest in ((2.0, "h0g0"), (4.0, "h1g0"))),
    )
    violations, world = run_script(Script(_PLAN, steps), template, folder / "run")
    assert not violations
    history = world.kernel.history
    told = next(number for number, line in enumerate(history) if "comes to the commit" in line)
    assert "host-1       comes to the commit journal.action.started: StopBroker(seconds=3.000)" in history[told]
    assert 4.0 < float(history[told].split()[0]) < 6.0
    assert "broker       stops" in history[told + 1]
    assert world.probes.hits["journal.action.started", "broker down"] == 1


def test_a_disk_that_is_full_from_a_commit_on_lets_not_even_that_one_through(template: Path, folder: Path) -> None:
    steps = (AtCommit(1.0, "journal.action.received", "host-0", 1, FillJournal(0.0, 0, 4.0)), Ask(2.0, "h0g0", 10.0))
    violations, world = run_script(Script(_PLAN, steps), template, folder / "run")
    assert not violations
    assert world.probes.hits["journal.action.received", "journal full"] > 1


def test_it_replays_byte_for_byte(template: Path, folder: Path) -> None:
    plan = dataclasses.replace(draw_plan(78), aims=20, firings=6.0, purges=1.0)
    first, second = (run_script(write_script(plan), template, folder / name)[1].kernel.history for name in ("first", "second"))
    assert first == second
    assert any("comes to the commit" in line for line in first)


def test_it_fits_where_its_process_is_and_its_step_fits() -> None:
    alone = Plan(seed="small", hosts=1, guests_per_host=1)
    assert AtCommit(0.0, "journal.agent.up", "host-0", 1, LoseGuest(0.0, "h0g0", 1.0)).fits(alone)
    assert AtCommit(0.0, "store.accept", "api", 1, StopBroker(0.0, 1.0)).fits(alone)
    assert not AtCommit(0.0, "journal.agent.up", "host-1", 1, StopBroker(0.0, 1.0)).fits(alone)
    assert not AtCommit(0.0, "journal.agent.up", "host-0", 1, LoseGuest(0.0, "h1g0", 1.0)).fits(alone)
