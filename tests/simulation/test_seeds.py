"""Two hundred worlds, each from one seed: whatever goes wrong in them, the promises hold.

``pytest tests/simulation --seed N`` replays one of them and prints what happened. ``--seeds FIRST-LAST`` runs others than the usual ones.
"""

import dataclasses
from pathlib import Path

import pytest

from tests.simulation.invariants import check_run
from tests.simulation.plan import draw_plan
from tests.simulation.script import Script, draw_script, write_script
from tests.simulation.world import World


def run_script(script: Script, template: Path, folder: Path) -> tuple[list[str], World]:
    """Run a world to its end and judge it; an error that came out of a task is a violation too."""
    folder.mkdir(exist_ok=True)
    world = World(script, template, folder)
    try:
        world.run()
        return check_run(world), world
    except Exception as error:  # noqa: BLE001 -- told with the seed and its history
        return [f"{type(error).__name__}: {error}"], world
    finally:
        world.close()


def test_every_promise_holds_whatever_goes_wrong(seed: int, template: Path, folder: Path, pytestconfig: pytest.Config) -> None:
    """Every action ends once and in time, is signalled at most once and never in a hold-off, and every event is recorded once."""
    violations, world = run_script(draw_script(seed), template, folder / "run")
    history = world.tell_history()
    if pytestconfig.getoption("--seed", default=None) is not None:
        print(f"{world.script.tell()}\n{history}")
    told = "\n".join(violations)
    assert not violations, f"seed {seed}:\n{told}\n\nreplay: pytest tests/simulation --seed {seed}\n\n{history}"


def test_a_seed_replays_byte_for_byte(template: Path, folder: Path) -> None:
    plan = dataclasses.replace(draw_plan(77), crash_at_commit=0.02, agent_kills=1.0, journal_losses=0.5)
    first, second = (run_script(write_script(plan), template, folder / name)[1].kernel.history for name in ("first", "second"))
    assert first == second
    assert len(first) > 100


def test_another_seed_is_another_run(template: Path, folder: Path) -> None:
    first, second = (run_script(draw_script(seed), template, folder / str(seed))[1].kernel.history for seed in (1, 2))
    assert first != second
