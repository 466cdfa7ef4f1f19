"""The script of a run: the world it plays in, and each step of it, with its time.

A seed is a plan (how big the world is, how often what goes wrong), and a plan is drawn into a script. Only the script is played: it can be
cut smaller and played again, and what remains says what it takes to break a promise.
"""

import dataclasses
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from tests.simulation.cancelling import draw_cancellations
from tests.simulation.forgery import draw_forgeries
from tests.simulation.migration import draw_migrations
from tests.simulation.misfortunes import draw_misfortunes, draw_what_guests_do
from tests.simulation.plan import SCHEDULED, Plan, draw_plan
from tests.simulation.requests import draw_requests
from tests.simulation.restore import draw_restorations
from tests.simulation.shortages import draw_shortages
from tests.simulation.step import Step
from tests.simulation.strikes import draw_aims, draw_strikes

DrawSteps = Callable[[Plan, random.Random], Iterable[Step]]

DRAWN: tuple[DrawSteps, ...] = (
    draw_requests,
    draw_misfortunes,
    draw_what_guests_do,
    draw_strikes,
    draw_aims,
    draw_restorations,
    draw_migrations,
    draw_forgeries,
    draw_shortages,
    draw_cancellations,
)
"""Everything that can be in a script. Each draws from a stream of its own: another kind of step changes nothing of the others."""


@dataclass(frozen=True)
class Script:
    """``plan`` says what the world is like and what chance may do to each message, call and commit; what is scheduled are ``steps``."""

    plan: Plan
    steps: tuple[Step, ...] = ()

    def keep(self, steps: Iterable[Step]) -> "Script":
        """With those steps only."""
        return dataclasses.replace(self, steps=tuple(steps))

    def tell(self) -> str:
        """What is not as usual about the world, and each step, a line each."""
        usual = Plan(seed=self.plan.seed)
        unusual = (
            f"{field.name}={getattr(self.plan, field.name)}"
            for field in dataclasses.fields(Plan)
            if field.name not in SCHEDULED and getattr(self.plan, field.name) != getattr(usual, field.name)
        )
        return "\n".join((f"seed {self.plan.seed}: {', '.join(unusual) or 'the usual world'}", *map(str, self.steps)))


def write_script(plan: Plan) -> Script:
    """What happens when, drawn from the plan's seed."""
    steps = [step for draw in DRAWN for step in draw(plan, random.Random(f"{plan.seed}/{draw.__name__}"))]
    return Script(plan, tuple(sorted(steps, key=lambda step: step.at)))


def draw_script(seed: int) -> Script:
    """The script of a seed; the same for ever for the same number and code."""
    return write_script(draw_plan(seed))
