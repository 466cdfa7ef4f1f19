"""Steps that wait until a process comes to a commit of some kind: chance alone would come to the rare ones once in a thousand worlds."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.simulation.misfortunes import is_there
from tests.simulation.plan import Plan
from tests.simulation.step import Step

if TYPE_CHECKING:
    from tests.simulation.world import World

API = "api"


@dataclass(frozen=True)
class StrikeAtCommit(Step):
    """Something happens to the process that comes to this commit for the ``occurrence``-th time (from 1), ``side`` of it (before, after).

    ``frozen``: SIGSTOP at that moment for ``away`` seconds; otherwise kill -9, and it is started again ``away`` seconds later.
    """

    label: str
    side: str
    occurrence: int = 1
    away: float = 5.0
    frozen: bool = False

    def apply(self, world: "World") -> None:
        world.strikes[self.label, self.side, self.occurrence] = self


@dataclass(frozen=True)
class AtCommit(Step):
    """Another step, when a process comes to its ``occurrence``-th commit (from 1) of a kind after ``at``: what it does is in force there.

    ``name`` is the process's, or "api"; the moment of ``step`` itself is of no matter.
    """

    label: str
    name: str
    occurrence: int
    step: Step

    def apply(self, world: "World") -> None:
        world.aims[self.label, self.name, world.comings[self.label, self.name] + self.occurrence].append(self.step)

    def fits(self, plan: Plan) -> bool:
        return (self.name == API or is_there(self.name, plan)) and self.step.fits(plan)
