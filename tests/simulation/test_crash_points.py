"""A process is killed before a commit of each kind, and another time after one, in a world where little else goes wrong."""

import os
from pathlib import Path

import pytest

from tests.simulation.at_commit import StrikeAtCommit
from tests.simulation.broker import Faults
from tests.simulation.plan import Plan
from tests.simulation.probes import COMMIT_POINTS
from tests.simulation.running import run_script
from tests.simulation.script import Script, write_script


def make_script(*strikes: StrikeAtCommit) -> Script:
    """A run that comes by every commit: guests that move and hang, actions called off, lost casts, an engine away, a purged queue."""
    plan = Plan(
        seed="crash-points-21",
        duration=60.0,
        hosts=1,
        guests_per_host=6,
        actions=20,
        cancellations=12,
        holdoff=15.0,
        gateway_holdoff=0.0,
        deadlines=(1.0, 15.0),
        broker=Faults(cast_lost=0.3),
        guest_moves=6.0,
        engine_kills=3.0,
        cuts=2.0,
        purges=20.0,
        firings=30.0,
        logs=1,
        losses=3.0,
    )
    script = write_script(plan)
    return script.keep((*strikes, *script.steps))


def test_the_calm_run_comes_by_every_commit(template: Path, folder: Path) -> None:
    violations, world = run_script(make_script(), template, folder / "run")
    assert not violations
    assert {label for label, _ in world.commits} == set(COMMIT_POINTS), "a new kind of commit belongs into COMMIT_POINTS"


@pytest.mark.parametrize("label", COMMIT_POINTS)
def test_a_crash_beside_a_commit_breaks_no_promise(label: str, template: Path, folder: Path) -> None:
    for occurrence in (1, 3) if os.environ.get("CRASHCART_TEST_ALL") else (1,):
        script = make_script(*(StrikeAtCommit(0.0, label, side, occurrence) for side in ("before", "after")))
        violations, world = run_script(script, template, folder / str(occurrence), told=True)
        assert not violations, "\n".join(violations) + "\n\n" + world.tell_history()
        assert len(world.struck) == 2 or occurrence > 1, "the run did not come to this commit twice"
