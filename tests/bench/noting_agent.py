"""``crashcart-agent`` that notes each look at a machine: ``python -m tests.bench.noting_agent --config-file …``.

``$LOOKS`` gets a line for each look when it is over: the server, when it was due, when it began and when it ended, by the machine's
monotonic clock, and whether the BMC answered.
"""

import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

from compute_agent import service
from compute_agent.drivers.bmc.schedule import Schedule


@dataclass(frozen=True)
class Look:
    """One look; moments in seconds of the monotonic clock, which all processes of a machine share."""

    server: str
    due: float
    began: float
    ended: float
    answered: bool


def read_looks(path: Path) -> list[Look]:
    """What was noted so far, in the order in which the looks ended."""
    whole, _, _ = path.read_text().rpartition("\n")
    looks = (line.split() for line in whole.splitlines())
    return [Look(server, float(due), float(began), float(ended), answered == "1") for server, due, began, ended, answered in looks]


class NotingSchedule(Schedule):
    """Notes what it gives out and takes back: between the two lies the look."""

    def __init__(self, *arguments: object) -> None:
        super().__init__(*arguments)  # type: ignore[arg-type]
        self._given: dict[str, tuple[float, float]] = {}
        self._notes = Path(os.environ["LOOKS"]).open("a", buffering=1)  # noqa: SIM115 - until the process ends

    def take(self, now: float) -> str | None:
        server = super().take(now)
        if server is not None:
            self._given[server] = (self._turns[server].due, time.monotonic())
        return server

    def done(self, server: str, now: float, *, answered: bool) -> None:
        due, began = self._given.pop(server)
        self._notes.write(f"{server} {due:.6f} {began:.6f} {now:.6f} {answered:d}\n")
        super().done(server, now, answered=answered)


if __name__ == "__main__":
    with patch("compute_agent.drivers.bmc.driver.Schedule", NotingSchedule):
        code = service.main()
    sys.exit(code)
