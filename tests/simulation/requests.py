"""What people ask of the API in a simulated world, as steps of a script."""

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from compute_agent.contract.models import ActionKind
from tests.simulation.devices import draw_change
from tests.simulation.plan import Plan
from tests.simulation.step import Step, list_guest_names

if TYPE_CHECKING:
    from tests.simulation.world import World


@dataclass(frozen=True)
class Ask(Step):
    """Somebody asks for an action; ``deadline`` is how many seconds it may take."""

    guest: str
    deadline: float
    kind: ActionKind = ActionKind.TRIGGER_CRASH_DUMP
    force: bool = False
    arguments: Mapping[str, Any] | None = None
    key: str | None = None

    def apply(self, world: "World") -> None:
        wish = {"deadline": self.deadline, "force": self.force, "kind": self.kind, "arguments": self.arguments, "key": self.key}
        world.post(world.guest_ids[self.guest], **wish)


def draw_requests(plan: Plan, chance: random.Random) -> Iterator[Step]:
    """Everything that is asked, of any guest at any time after the start."""
    guests = list_guest_names(plan)

    def draw() -> dict[str, Any]:
        return {"at": chance.uniform(2.0, plan.duration), "guest": chance.choice(guests), "deadline": chance.uniform(*plan.deadlines)}

    for number in range(plan.actions):
        step = Ask(**draw(), force=chance.random() < plan.forced)
        yield replace(step, key=f"key-{number}") if plan.keyed and chance.random() < plan.keyed else step
    for _ in range(plan.collections):
        yield Ask(**draw(), kind=ActionKind.COLLECT_DIAGNOSTICS)
    for _ in range(plan.changes):
        kind, arguments = draw_change(chance)
        yield Ask(**draw(), kind=kind, arguments=arguments)
    for _ in range(plan.resumes):
        yield Ask(**draw(), kind=ActionKind.RESUME)
    for _ in range(plan.feedings):
        yield Ask(**draw(), kind=ActionKind.RESET_WATCHDOG_TIMER)
    for _ in range(plan.host_dumps):
        yield Ask(**draw(), kind=ActionKind.TAKE_HOST_DUMP, force=chance.random() < 0.2)
