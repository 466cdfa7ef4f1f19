"""Play a script to its end and judge it."""

import gc
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.simulation.invariants import check_run
from tests.simulation.script import Script
from tests.simulation.settling import LOOKS, SETTLING, is_at_rest
from tests.simulation.world import World


def run_script(script: Script, template: Path, folder: Path, *, told: bool = False) -> tuple[list[str], World]:
    """Run a world to its end and judge it; an error that came out of a task is a violation too.

    :param folder: for the files of this run alone; they are gone afterwards
    :param told: its history will be read: see ``World``
    """
    folder.mkdir(exist_ok=True)
    with _uncollected():
        world = World(script, template, folder, told=told)
        try:
            world.play()
            return _settle(world), world
        except Exception as error:  # noqa: BLE001 -- told with the seed and its history
            return [f"{type(error).__name__}: {error}"], world
        finally:
            world.close()
            shutil.rmtree(folder)


def _settle(world: World) -> list[str]:
    """Let a calm world come to rest: what holds then has held in time, what does not has until the end."""
    end, pause = world.plan.duration + SETTLING, LOOKS
    while True:
        world.advance(min(pause, end - world.kernel.time))
        is_late = world.kernel.time >= end
        if is_late or is_at_rest(world):
            world.read_journals()
            violations = check_run(world)
            if is_late or not violations:
                return violations
            pause *= 2


@contextmanager
def _uncollected() -> Iterator[None]:
    """A world is short and its waste is small: looking for it meanwhile made a run a tenth longer."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
