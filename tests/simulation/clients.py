"""Those who ask, and the API that answers: each request is a process of its own, because the API may be killed or frozen at its commit.

Who has an idempotency key asks again, with the same words, until there is an answer.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from api_gateway import acceptance
from api_gateway.store import StoreBusy, StoreUnavailable
from api_gateway.store import servers as stored_servers
from compute_agent.contract.models import ActionKind
from tests.simulation.kernel import Event, Process

if TYPE_CHECKING:
    from tests.simulation.world import World

_PATIENCE = 10.0
"""Seconds that a client waits for its answer."""
_PAUSE = 2.0
_MOST_TRIES = 6


@dataclass(frozen=True)
class Wish:
    """What somebody asks for; ``deadline`` in seconds."""

    server: str
    deadline: float
    kind: ActionKind
    force: bool = False
    arguments: Mapping[str, Any] = field(default_factory=dict)
    key: str | None = None


@dataclass
class Asked:
    """One wish with a key: the ids under which it was tried, and those of the actions that the answers named."""

    wish: Wish
    tried: list[str] = field(default_factory=list)
    answers: set[str] = field(default_factory=set)


class Clients:
    """All of them, and what they were answered."""

    def __init__(self, world: "World") -> None:
        self.keyed: list[Asked] = []
        self.frozen: list[float] = []
        """For how many seconds the next requests are frozen before their commit."""
        self.processes: list[Process] = []
        """Those of the API that stand still, in a transaction or with an answer in their hands."""
        self.latest: dict[str, str] = {}
        """Server -> the action that was accepted last."""
        self._world = world
        self._thawed = Event(world.kernel)

    def ask(self, wish: Wish) -> None:
        """Once without a key, with one until there is an answer."""
        world = self._world
        if wish.key is None:
            process, action_id = Process("api"), world.draw_action_id()
            world.kernel.spawn(process, lambda: self._serve(process, wish, action_id))
            return
        asked = Asked(wish)
        self.keyed.append(asked)
        world.kernel.spawn(Process("client"), lambda: self._insist(asked))

    def _insist(self, asked: Asked) -> None:
        kernel = self._world.kernel
        for _ in range(_MOST_TRIES):
            answered, process = Event(kernel), Process("api")
            action_id = self._world.draw_action_id()
            asked.tried.append(action_id)
            kernel.spawn(process, lambda p=process, i=action_id, a=answered: self._serve(p, asked.wish, i, asked, a))  # type: ignore[misc]
            if answered.wait(_PATIENCE):
                return
            kernel.sleep(_PAUSE)

    def _serve(self, process: Process, wish: Wish, action_id: str, asked: Asked | None = None, answered: Event | None = None) -> None:
        world = self._world
        world.arguments[action_id] = wish.arguments
        world.forced.update({action_id} if wish.force else ())
        try:
            accepted = self._accept(process, wish, action_id)
        except acceptance.Refused as error:
            world.refuse(action_id, wish.server, str(error))
        except (StoreBusy, StoreUnavailable) as error:
            world.refuse(action_id, wish.server, f"503 {error}")
            return  # who has a key asks again
        else:
            self._note(accepted, wish, asked)
        if answered is not None:
            answered.set()

    def _accept(self, process: Process, wish: Wish, action_id: str) -> acceptance.Accepted:
        world = self._world
        store = world.gateway.api_store
        store.process = process
        with store.write() as c:
            row = stored_servers.find_server(c, wish.server)
            if row is None:
                raise acceptance.Refused("no such server")
            asked = acceptance.Asked(
                id=action_id,
                kind=wish.kind,
                project=row.project,
                user="operator",
                deadline=timedelta(seconds=wish.deadline),
                force=wish.force,
                arguments=wish.arguments,
                idempotency_key=wish.key,
            )
            terms = acceptance.Terms(holdoff=timedelta(seconds=world.plan.gateway_holdoff))
            accepted = acceptance.accept_action(c, row, asked, now=world.gateway.clock.now(), terms=terms)
            self.stand_still(process)
        self._answer_late(process)
        return accepted

    def stand_still(self, process: Process) -> None:
        """SIGSTOP between the checks and the commit, with the writer's lock in its hands."""
        if not self.frozen:
            return
        world, seconds = self._world, self.frozen.pop(0)
        world.kernel.note("api", f"is frozen before its commit for {seconds:.1f} s")
        world.probes.strike("API frozen at its commit", seconds)
        self.processes.append(process)
        with world.gateway.database.held_by(process):
            self._thawed.wait(seconds)
        self.processes.remove(process)

    def _answer_late(self, process: Process) -> None:
        """SIGSTOP between the commit and the answer."""
        seconds = process.frozen_until - self._world.kernel.time
        if seconds > 0:
            self.processes.append(process)
            self._thawed.wait(seconds)
            self.processes.remove(process)

    def _note(self, accepted: acceptance.Accepted, wish: Wish, asked: Asked | None) -> None:
        world, action_id = self._world, accepted.action.id
        if asked is not None:
            asked.answers.add(action_id)
        self.latest[wish.server] = action_id
        if action_id not in world.accepted:
            world.accepted.append(action_id)
        how = f"{' forced' if wish.force else ''}{'' if accepted.new else ' (again)'}"
        world.kernel.note("api", f"202 {action_id} {wish.kind} server {wish.server} deadline {wish.deadline:.1f}{how}")
        world.gateway.wake_dispatcher()

    def thaw(self) -> None:
        """Nothing of the API stands still any more."""
        self.frozen.clear()
        self._thawed.set()

    def kill_frozen(self) -> None:
        """An operator stops the API: what stands still dies, and its transaction with it."""
        for process in list(self.processes):
            self._world.kernel.kill(process)
        self.processes.clear()


# What must be true


def check_keys(world: "World", record: Any) -> Iterator[str]:
    """Asked once, however often the request was repeated: one row, and one id in all the answers."""
    if world.backup.restorations:
        return  # the store forgot that it was asked, and what agents tell of the first try brings its row back
    for asked in world.clients.keyed:
        rows = [action for action in asked.tried if action in record.actions]
        if len(rows) > 1:
            yield f"{rows[0]}: was asked for once, with a key, and there are {len(rows)} actions"
        if len(asked.answers) > 1:
            yield f"{rows}: one key, and answers that name {len(asked.answers)} actions"
