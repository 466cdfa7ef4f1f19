"""Actions that are called off again: soon after they were asked for, or when they have long begun.

The API's side of it is a process of its own for each request, which may be killed or frozen at its commit, as for those who ask.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Any

from api_gateway import cancellation
from api_gateway.rpc_versions import Speech
from api_gateway.store import StoreBusy, StoreUnavailable
from api_gateway.store.actions import ActionRow
from compute_agent.contract.errors import Code
from compute_agent.contract.models import ActionKind
from compute_agent.journal import Journal
from tests.simulation.kernel import Process
from tests.simulation.plan import Plan
from tests.simulation.requests import Ask
from tests.simulation.signals import list_calls
from tests.simulation.step import Step, list_guest_names

if TYPE_CHECKING:
    from tests.simulation.invariants import Record
    from tests.simulation.world import World

AFTER = (0.0, 0.03, 0.3, 0.6, 1.0, 1.5, 2.5, 12.0)
"""Seconds between asking and calling off: before it is cast, while it is, before it begins, while it is carried out, and after."""


class Cancellations:
    """What was called off, and what was answered."""

    def __init__(self) -> None:
        self.asked: set[str] = set()
        """Also of those that got no answer: their request may have been committed."""
        self.ended: set[str] = set()
        """Answered 200: ended at once, because no agent could have them."""
        self.noted: set[str] = set()
        """Answered 202: their agents' word decides."""


@dataclass(frozen=True)
class AskAndCancel(Ask):
    """Somebody asks for an action and ``after`` seconds later calls off what was accepted last for that guest, or first of what has not
    begun as far as the gateway knows; ``times``: each a second after the one before."""

    after: float = 0.0
    times: int = 1
    first: bool = False

    def apply(self, world: "World") -> None:
        super().apply(world)
        for number in range(self.times):
            world.kernel.call_after(self.after + number, lambda: self._cancel(world))

    def _cancel(self, world: "World") -> None:
        server = world.guest_ids[self.guest]
        action_id = world.gateway.find_first_waiting(server) if self.first else world.clients.latest.get(server)
        if action_id is not None and world.faults_on:
            ask_to_cancel(world, action_id)


def ask_to_cancel(world: "World", action_id: str) -> None:
    """A request to the API."""
    process = Process("api")
    world.kernel.spawn(process, lambda: _serve(world, process, action_id))


def _serve(world: "World", process: Process, action_id: str) -> None:
    world.cancellations.asked.add(action_id)
    try:
        row = _cancel(world, process, action_id)
    except LookupError:
        world.kernel.note("api", f"404 for the cancellation of {action_id}")  # a restored store has forgotten it
    except (cancellation.NotCancellable, StoreBusy, StoreUnavailable) as error:
        world.kernel.note("api", f"{action_id} is not cancelled: {error}")
    else:
        ended = row.code == Code.CANCELLED
        (world.cancellations.ended if ended else world.cancellations.noted).add(action_id)
        world.kernel.note("api", f"{200 if ended else 202} for the cancellation of {action_id}")
        world.gateway.wake_dispatcher()


def _cancel(world: "World", process: Process, action_id: str) -> ActionRow:
    store = world.gateway.api_store
    store.process = process
    with store.write() as c:
        row = cancellation.cancel_action(c, action_id, user="operator", now=world.gateway.clock.now(), speech=Speech())
        world.clients.stand_still(process)
    return row


def draw_cancellations(plan: Plan, chance: Random) -> Iterator[Step]:
    """Further actions, most of them crash dumps, that somebody thinks better of."""
    guests = list_guest_names(plan)
    for _ in range(plan.cancellations):
        yield AskAndCancel(
            chance.uniform(2.0, plan.duration),
            chance.choice(guests),
            chance.uniform(*plan.deadlines),
            chance.choice((*(3 * [ActionKind.TRIGGER_CRASH_DUMP]), ActionKind.COLLECT_DIAGNOSTICS, *(2 * [ActionKind.TAKE_HOST_DUMP]))),
            force=chance.random() < 0.5,
            after=chance.choice(AFTER),
            times=chance.choice((1, 1, 2)),
            first=chance.random() < 0.6,
        )


def find_state(journal: Journal, action_id: Any) -> str:
    """How far the action has come that an agent is told to cancel."""
    with journal.transaction("read") as transaction:
        action = transaction.find_action(action_id)
    return "unknown" if action is None else action.state.value


# What must be true


def check_cancellations(world: "World", record: "Record") -> Iterator[str]:
    """What ended as cancelled was called off, and was not even begun; what the gateway said that it ended has that ending; and what was
    called off is expired only if its agent says so."""
    begun = {call.action for call in list_calls(world)}
    told = {event["action_id"] for event in record.events if event["event_type"] == "action.started"}
    for row in record.actions.values():
        action = row["id"]
        if row["code"] == Code.CANCELLED:
            if action not in world.cancellations.asked:
                yield f"{action}: ended as cancelled, and nobody called it off"
            if action in begun or row["started_at"] is not None:
                yield f"{action}: ended as cancelled, and had begun"
            if action in told and row["journal_id"] not in world.lost_epochs:
                yield f"{action}: ended as cancelled, and its agent told that it had begun"
        elif action in world.cancellations.ended and not world.backup.restorations:
            yield f"{action}: 200 was answered to its cancellation, and it ended {row['ending']} ({row['code']})"
        elif row["decided_by"] == "gateway" and row["code"] == Code.DEADLINE_PASSED and row["cancel_requested_at"] is not None:
            yield f"{action}: was called off, and the gateway says that it expired"
    if world.backup.restorations:
        return
    for action in world.cancellations.noted:
        if record.actions[action]["cancel_requested_at"] is None:
            yield f"{action}: 202 was answered to its cancellation, and that is not noted"
