"""What is missing: room under a journal or under the gateway's database, the answer to a commit, an API that goes on. Steps of a script."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.simulation.plan import Plan
from tests.simulation.step import Step, draw_moments

if TYPE_CHECKING:
    from tests.simulation.world import World

_JOURNAL_POINTS = (
    "action.received",
    "action.started",
    "action.ended",
    "observation",
    "outbox.sent",
    "server.state",
    "server.watchdog.fired",
    "journal.opened",
    "agent.up",
)
"""Commits of a journal at which its disk is full as likely at one as at another."""


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
    """No room under an agent's journal, from now on or from the ``occurrence``-th commit of a kind on."""

    host: int
    seconds: float
    label: str = ""
    occurrence: int = 1

    def apply(self, world: "World") -> None:
        agent = world.agents[self.host]
        if self.label:
            agent.shortages[self.label, self.occurrence] = self.seconds
        else:
            agent.fill_journal(self.seconds)


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
                yield FillJournal(at, host, chance.choice((0.2, 5.0, 20.0)), chance.choice(_JOURNAL_POINTS), chance.choice((1, 2, 3, 5)))
