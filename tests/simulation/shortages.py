"""What is missing: room under a journal or the gateway's database, the answer to a commit, an API that goes on, a hypervisor that obeys.

Steps of a script.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.simulation.at_commit import AtCommit
from tests.simulation.misfortunes import name_host
from tests.simulation.plan import Plan
from tests.simulation.probes import JOURNAL_POINTS
from tests.simulation.step import Step, draw_moments

if TYPE_CHECKING:
    from tests.simulation.world import World


@dataclass(frozen=True)
class FreezeApi(Step):
    """The next request to the API is stopped (SIGSTOP) between its checks and its commit, for so long."""

    seconds: float

    def apply(self, world: "World") -> None:
        world.clients.frozen.append(self.seconds)


@dataclass(frozen=True)
class FillStore(Step):
    """No room under the gateway's database."""

    seconds: float

    def apply(self, world: "World") -> None:
        world.kernel.note("store", "its disk is full")
        world.probes.strike("store full", self.seconds)
        world.gateway.database.fill(self.seconds)


@dataclass(frozen=True)
class SilenceStore(Step):
    """The gateway's database commits what it is told, and the connection breaks before it says so."""

    seconds: float

    def apply(self, world: "World") -> None:
        world.kernel.note("store", "answers no commit")
        world.probes.strike("commit unanswered", self.seconds)
        world.gateway.database.silence(self.seconds)


@dataclass(frozen=True)
class FillJournal(Step):
    """No room under an agent's journal."""

    host: int
    seconds: float

    def apply(self, world: "World") -> None:
        world.agents[self.host].fill_journal(self.seconds)


WORSE = ("unavailable", "answer_lost", "undeclared", "slow", "never", "hanging_read")


@dataclass(frozen=True)
class Worsen(Step):
    """A host's hypervisor does to each call what chance does to some (a field of ``DriverFaults``)."""

    host: int
    what: str
    seconds: float

    def apply(self, world: "World") -> None:
        faults = world.agents[self.host].hypervisor.faults
        setattr(faults, self.what, 1.0)

        def better() -> None:
            if world.faults_on:
                setattr(faults, self.what, getattr(world.plan.driver, self.what))

        world.kernel.call_after(self.seconds, better)


def draw_shortages(plan: Plan, chance: random.Random) -> Iterator[Step]:
    yield from (FreezeApi(at, chance.choice((0.5, 4.0, 12.0, 40.0))) for at in draw_moments(plan, chance, plan.api_freezes))
    for at in draw_moments(plan, chance, plan.full_stores):
        kind = chance.choice((FillStore, SilenceStore))
        yield kind(at, chance.choice((0.5, 5.0, 20.0)))
    for host in range(plan.hosts):
        for at in draw_moments(plan, chance, plan.full_journals):
            if chance.random() < 0.5:
                yield FillJournal(at, host, chance.choice((2.0, 15.0, 30.0)))
            else:
                full = FillJournal(at, host, chance.choice((0.2, 5.0, 20.0)))
                yield AtCommit(at, chance.choice(JOURNAL_POINTS), name_host(host), chance.choice((1, 2, 3, 5)), full)
