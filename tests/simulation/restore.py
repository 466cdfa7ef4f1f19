"""The gateway's store is restored from a backup, as ``doc/operations.rst`` says: API and engine stopped, ``db restored``, started.

What the store held beyond the backup is gone. The agents still have what they did and told; the record of what people were answered, and
of what the gateway said of its own, is kept here for the invariants.
"""

import random
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from api_gateway.store.restoring import mark_restored
from tests.simulation.plan import Plan
from tests.simulation.quick_store import QuickStore
from tests.simulation.step import Step, draw_moments

if TYPE_CHECKING:
    from tests.simulation.world import World


@dataclass
class Forgotten:
    """What the world knows and the store does not any more.

    ``actions`` were answered 202 after the backup; ``message_ids`` are the gateway's own events since then; ``positions`` are those that
    were given out since then, at which readers of the record may be.
    """

    actions: set[str] = field(default_factory=set)
    message_ids: set[str] = field(default_factory=set)
    positions: list[range] = field(default_factory=list)


class Backup:
    """One copy of the store, in memory, and what was forgotten by going back to it."""

    def __init__(self) -> None:
        self.forgotten = Forgotten()
        self.restorations = 0
        self._copy: sqlite3.Connection | None = None

    def take(self, world: "World") -> None:
        self.close()
        self._copy = sqlite3.connect(":memory:")
        with sqlite3.connect(world.gateway.path) as live:
            live.backup(self._copy)
        live.close()
        world.kernel.note("operator", "backs the store up")

    def restore(self, world: "World", away: float) -> None:
        """Go back to the copy, if there is one, and start the engine ``away`` seconds later."""
        if self._copy is None:
            return
        world.kernel.note("operator", "stops API and engines and restores the store's backup")
        for engine in world.gateway.engines:
            if engine.process.alive:
                world.kill(engine.process, away)
        world.clients.kill_frozen()
        world.kernel.finish()  # no task of theirs may hold a transaction any more
        live = sqlite3.connect(world.gateway.path)
        self._note_forgotten(world, live)
        self._copy.backup(live)
        live.close()
        store = QuickStore(world.gateway.url)
        with store.write() as c:
            mark_restored(c, now=world.gateway.clock.now())
        store.dispose()
        self.restorations += 1

    def _note_forgotten(self, world: "World", live: sqlite3.Connection) -> None:
        assert self._copy is not None
        kept = {row[0] for row in self._copy.execute("SELECT id FROM actions")}
        present = {row[0] for row in live.execute("SELECT id FROM actions")}  # of some of them nobody was told 202
        self.forgotten.actions |= (present | set(world.accepted)) - kept
        self.forgotten.message_ids |= {row[0] for row in live.execute("SELECT message_id FROM outbox")}
        last_kept, last = (store.execute("SELECT coalesce(max(position), 0) FROM events").fetchone()[0] for store in (self._copy, live))
        self.forgotten.positions.append(range(last_kept + 1, last + 1))

    def close(self) -> None:
        if self._copy is not None:
            self._copy.close()
            self._copy = None


@dataclass(frozen=True)
class BackUp(Step):
    """An operator copies the store as it is now."""

    def apply(self, world: "World") -> None:
        world.backup.take(world)


@dataclass(frozen=True)
class Restore(Step):
    """API and engine are stopped, the last copy is put back, and after ``away`` seconds the engine is started."""

    away: float

    def apply(self, world: "World") -> None:
        world.probes.strike("store restored", self.away + 20.0)
        world.backup.restore(world, self.away)


def draw_restorations(plan: Plan, chance: random.Random) -> Iterator[Step]:
    for at in draw_moments(plan, chance, plan.restorations):
        yield BackUp(max(1.0, at - chance.choice((0.5, 5.0, 30.0))))
        yield Restore(at, chance.choice((0.2, 5.0)))
