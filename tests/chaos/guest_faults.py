"""Faults that only real guests have."""

import errno
from collections.abc import Sequence

from tests.chaos.faults import GUEST, Fault, Scene
from tests.chaos.system import ChaosSystem


class StarvedWatchdog(Fault):
    """The watchdog of a real guest is not fed, so that it fires."""

    name = "watchdog fires"
    duration = (2.0, 4.0)
    weight = 4

    def list_targets(self, system: ChaosSystem) -> Sequence[str]:
        return [name for name in system.parts if name.startswith(GUEST)]

    def begin(self, scene: Scene, target: str) -> None:
        guest = scene.system.stack.guests[target.removeprefix(GUEST)]
        try:
            guest.commands.starve_watchdog()
        except OSError as error:
            if error.errno != errno.ENXIO:  # nobody reads: it is between two lives
                raise

    def end(self, scene: Scene, target: str) -> None:
        """It has fired, or is somewhere else by now."""
