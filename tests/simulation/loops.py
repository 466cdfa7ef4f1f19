"""The loops of a composition root: a step, again and again, that lives on through what production's own loops live through."""

from collections.abc import Callable

from tests.simulation.kernel import Kernel, Process

_PAUSE = 1.0
"""Seconds after a step that failed."""


def repeat(kernel: Kernel, process: Process, step: Callable[[], None], outages: tuple[type[Exception], ...]) -> Callable[[], None]:
    """The step while the process lives.

    :param outages: what is not the step's own fault: it is tried again. All else ends the run of the world.
    """

    def run() -> None:
        while process.alive:
            if not attempt(step, outages):
                kernel.sleep(_PAUSE)

    return run


def attempt(step: Callable[[], object], outages: tuple[type[Exception], ...]) -> bool:
    """False: an outage kept it from being done."""
    try:
        step()
    except outages:
        return False
    return True
