"""What is told of a seed that broke a promise: the shrunk script, what it breaks, and its history."""

from collections.abc import Sequence
from pathlib import Path

from tests.simulation.running import run_script
from tests.simulation.script import Script
from tests.simulation.shrink import Shrunk, fix_strikes, shrink
from tests.simulation.world import World

SHRINKING_SECONDS = 30.0
_LONGEST_HISTORY = 400


def shrink_run(world: World, violations: Sequence[str], template: Path, folder: Path, *, seconds: float = SHRINKING_SECONDS) -> Shrunk:
    """The smallest script that does what this run did.

    :param folder: for the files of the runs
    """

    def play(script: Script) -> list[str]:
        return run_script(script, template, folder)[0]

    fixed = fix_strikes(world.script, world.struck)
    still = play(fixed)
    script, found = (fixed, still) if still else (world.script, violations)
    return shrink(script, play, found, seconds=seconds)


def tell_failure(seed: object, world: World, violations: Sequence[str], template: Path, folder: Path) -> str:
    """For people: what is wrong, what it takes, what happened, how to see it again."""
    shrunk = shrink_run(world, violations, template, folder)
    _, played = run_script(shrunk.script, template, folder, told=True)
    history = played.tell_history().splitlines()
    left_out = max(0, len(history) - _LONGEST_HISTORY)
    return "\n".join(
        (
            f"seed {seed} breaks a promise:",
            *violations,
            "",
            f"the smallest script found in {shrunk.tries} tries{'' if shrunk.is_done else ' (time was up)'} breaks it too:",
            shrunk.script.tell(),
            *shrunk.violations,
            "",
            f"its history{f', without {left_out} lines in the middle' if left_out else ''}:",
            *(history if not left_out else (*history[: _LONGEST_HISTORY // 2], "…", *history[-_LONGEST_HISTORY // 2 :])),
            "",
            f"replay: pytest tests/simulation/test_seeds.py --seed {seed}",
        )
    )
