"""Worlds, each from one seed: whatever goes wrong in them, the promises hold.

``pytest tests/simulation --seed N`` replays one of them and prints what happened. ``--seeds FIRST-LAST`` runs others than the usual ones.
A seed that breaks a promise is shrunk, and what remains is printed with its history.
"""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.simulation.plan import draw_plan
from tests.simulation.report import tell_failure
from tests.simulation.running import run_script
from tests.simulation.script import draw_script, write_script


def test_every_promise_holds_whatever_goes_wrong(
    seed: int, template: Path, folder: Path, pytestconfig: pytest.Config, record_property: Callable[[str, object], None]
) -> None:
    """Every action ends once and in time, is signalled at most once and never in a hold-off, and every event is recorded once."""
    script = draw_script(seed)
    is_replayed = pytestconfig.getoption("--seed", default=None) is not None
    violations, world = run_script(script, template, folder / "run", told=is_replayed)
    if is_replayed:
        print(f"{script.tell()}\n{world.tell_history()}")
    record_property("actions", len(world.accepted))
    record_property("hits", json.dumps([[*pair, count] for pair, count in world.probes.hits.items()]))
    if violations:
        pytest.fail(tell_failure(seed, world, violations, template, folder / "shrinking"), pytrace=False)


def test_a_seed_replays_byte_for_byte(template: Path, folder: Path) -> None:
    plan = dataclasses.replace(draw_plan(77), crash_at_commit=0.02, agent_kills=1.0, journal_losses=0.5)
    place = folder / "world"  # the same one: what is told names files in it
    first = run_script(write_script(plan), template, place, told=True)[1].kernel.history
    second = run_script(write_script(plan), template, place, told=True)[1].kernel.history
    assert first == second
    assert len(first) > 100


def test_another_seed_is_another_run(template: Path, folder: Path) -> None:
    first, second = (run_script(draw_script(seed), template, folder / str(seed))[1].kernel.history for seed in (2, 4))
    assert first != second
