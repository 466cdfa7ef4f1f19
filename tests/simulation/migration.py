"""Servers migrate from host to host: paused at the source for a moment at the end, then running at the destination, as libvirt tells it.

The source says that it migrated away, the destination only that it was resumed; until then it is listed there as arriving. A migration may
fail at its last moment. Whoever's agent does not listen meanwhile has to find it out.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from compute_agent.contract.models import PowerState
from compute_agent.drivers.models import DriverEvent, DriverEventKind
from tests.simulation.hypervisor import MIGRATION, Guest, Hypervisor
from tests.simulation.plan import Plan
from tests.simulation.step import Step, draw_moments, list_guest_names

if TYPE_CHECKING:
    from tests.simulation.world import World

_SWITCHING = 0.05
"""Seconds for which a guest stands still at the end."""


class Migration:
    """One guest on its way.

    :param leaves: whether its definition stays at the source, shut off
    """

    def __init__(self, guest: Guest, destination: Hypervisor, *, leaves: bool) -> None:
        self._guest = guest
        self._source = guest.home
        self._destination = destination
        self._leaves = leaves

    def begin(self) -> None:
        self._destination.arriving[self._guest.id] = self._guest
        self._note(f"migrates to {self._destination.host}")
        self._began_at = self._destination.clock.now()

    def stand_still(self, *, fails: bool) -> None:
        """All is copied but the rest; ``fails``: at the very last."""
        if not self._is_possible(PowerState.RUNNING):
            self._give_up()
            return
        self._source.set_state(self._guest, PowerState.PAUSED, DriverEventKind.PAUSED, MIGRATION)
        self._source.kernel.call_after(_SWITCHING, self._cancel if fails else self._switch)

    def _switch(self) -> None:
        guest, source, destination = self._guest, self._source, self._destination
        if not self._is_possible(PowerState.PAUSED):
            self._cancel()
            return
        del source.guests[guest.id], destination.arriving[guest.id]
        destination.leftovers.pop(guest.id, None)
        destination.guests[guest.id] = guest
        if self._leaves:
            source.leftovers[guest.id] = guest
        guest.home, guest.started_at, guest.redefined = destination, self._began_at, True
        source.tell(DriverEvent(DriverEventKind.MIGRATED_AWAY, guest.id, source.clock.now(), "migrated"))
        destination.set_state(guest, PowerState.RUNNING, DriverEventKind.RESUMED, "migrated")

    def _cancel(self) -> None:
        if self._guest.home is self._source and self._guest.reason == MIGRATION:
            self._source.set_state(self._guest, PowerState.RUNNING, DriverEventKind.RESUMED, "migration cancelled")
        self._give_up()

    def _give_up(self) -> None:
        self._destination.arriving.pop(self._guest.id, None)
        self._note("does not migrate after all")

    def _is_possible(self, state: PowerState) -> bool:
        return self._guest.state is state and self._guest.defined and self._source.up and self._destination.up

    def _note(self, what: str) -> None:
        self._source.kernel.note(self._source.host, f"guest {self._guest.name} {what}")


@dataclass(frozen=True)
class Migrate(Step):
    """A running guest is taken to the host of that number, which takes ``seconds``."""

    guest: str
    host: int
    seconds: float
    leaves: bool = False
    fails: bool = False

    def apply(self, world: "World") -> None:
        agent, destination = world.find_agent(self.guest), world.agents[self.host].hypervisor
        if agent is None or agent.hypervisor is destination:
            return
        guest = agent.hypervisor.guests[world.guest_ids[self.guest]]
        on_its_way = any(guest.id in other.hypervisor.arriving for other in world.agents)
        if on_its_way or guest.log is not None or guest.state is not PowerState.RUNNING or not (agent.hypervisor.up and destination.up):
            return
        world.probes.strike("server migrates", self.seconds + 10.0)
        migration = Migration(guest, destination, leaves=self.leaves)
        migration.begin()
        world.kernel.call_after(self.seconds, lambda: migration.stand_still(fails=self.fails))


def draw_migrations(plan: Plan, chance: random.Random) -> Iterator[Step]:
    """None in a world of one host."""
    guests = list_guest_names(plan)
    for _ in range(plan.hosts if plan.hosts > 1 else 0):
        for at in draw_moments(plan, chance, plan.migrations):
            leaves, fails = chance.random() < 0.3, chance.random() < 0.2
            yield Migrate(at, chance.choice(guests), chance.randrange(plan.hosts), chance.choice((0.2, 3.0, 15.0)), leaves, fails)
