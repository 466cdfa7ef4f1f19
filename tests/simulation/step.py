"""What a script is made of: a moment, and what somebody or something does then.

A step says everything about itself (whom it strikes, for how long), so that a script from which others were cut still does the same.
"""

import dataclasses
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.simulation.plan import Plan
    from tests.simulation.world import World


@dataclass(frozen=True)
class Step:
    """One kind of step is one such class; its fields are plain values. ``at`` is in virtual seconds since the run began."""

    at: float

    def apply(self, world: "World") -> None:
        """Do it now. Does nothing where it cannot be done: another step may have changed what this one was drawn for."""
        raise NotImplementedError

    def fits(self, plan: "Plan") -> bool:
        """Whether the world of that plan has the host (a field ``host``: its number) or guest (a field ``guest``: its name) it is about."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        if "host" in fields and fields["host"] >= plan.hosts:
            return False
        return "guest" not in fields or fields["guest"] in list_guest_names(plan)

    def tell(self) -> str:
        """What is done, without when."""
        values = (f"{field.name}={_tell(getattr(self, field.name))}" for field in dataclasses.fields(self) if field.name != "at")
        return f"{type(self).__name__}({', '.join(values)})"

    def __str__(self) -> str:
        return f"{self.at:9.3f}  {self.tell()}"


def _tell(value: object) -> str:
    if isinstance(value, Step):
        return value.tell()
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def name_guest(host: int, index: int) -> str:
    """What the guest ``index`` that began on that host is called, wherever it is later."""
    return f"h{host}g{index}"


def list_guest_names(plan: "Plan") -> list[str]:
    return [name_guest(host, index) for host in range(plan.hosts) for index in range(plan.guests_per_host)]


def list_guests_with_logs(plan: "Plan") -> list[str]:
    return [name_guest(host, index) for host in range(plan.hosts) for index in range(min(plan.logs, plan.guests_per_host))]


def draw_moments(plan: "Plan", chance: random.Random, per_minute: float) -> Iterator[float]:
    """Random moments of a run at which something happens that often."""
    if not per_minute:
        return
    time = chance.expovariate(per_minute / 60)
    while time < plan.duration:
        yield time
        time += chance.expovariate(per_minute / 60)
