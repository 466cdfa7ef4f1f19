"""What a platform does for an agent besides: a watchdog is fed from outside, a server's memory is written to a file of its host."""

import json
import random
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compute_agent.contract.errors import Code, Ending
from compute_agent.contract.models import ActionKind, PowerState
from compute_agent.drivers import base, errors
from compute_agent.drivers.models import DriverEventKind
from tests.simulation.hypervisor import Call, Guest, Hypervisor, LibraryBroke
from tests.simulation.kernel import Event, Process, ProcessKilled
from tests.simulation.signals import check_pair, list_calls, to_seconds

if TYPE_CHECKING:
    from tests.simulation.invariants import Record
    from tests.simulation.world import World

KINDS = (ActionKind.RESET_WATCHDOG_TIMER, ActionKind.TAKE_HOST_DUMP)
_HALF, _WHOLE = b"half", b"whole"
_DUMPING = "dumping"

FindAction = Callable[[str, ActionKind], str]


class _Part:
    def __init__(self, hypervisor: Hypervisor, process: Process, find_action: FindAction, life: str, chance: random.Random) -> None:
        """:param find_action: which action of that kind the agent has ``started`` for a server"""
        self._hypervisor = hypervisor
        self._process = process
        self._find_action = find_action
        self._life = life
        self._chance = chance

    def _begin(self, server: str, kind: ActionKind) -> Call:
        """A call of the driver as the hypervisor will remember it."""
        self._process.check()
        hypervisor = self._hypervisor
        now, offset = hypervisor.kernel.time, hypervisor.clock.offset
        guest = hypervisor.guests.get(server)
        found = None if guest is None else guest.state
        call = Call(self._find_action(server, kind), server, self._life, hypervisor.host, now, offset, found)
        hypervisor.works[kind].append(call)
        return call

    def _find(self, server: str) -> Guest:
        """:raises NothingSent: it cannot be reached, or is not here."""
        hypervisor, guest = self._hypervisor, self._hypervisor.guests.get(server)
        if not hypervisor.up or (guest is not None and guest.log is not None and guest.log.is_lost):
            raise errors.BackendUnavailable(server, "it cannot be reached")
        if guest is None or not guest.defined:
            raise errors.ServerNotFound(server, "no such guest")
        if guest.state is PowerState.SHUTDOWN:
            raise errors.ServerNotRunning(server, "guest is off")
        return guest

    def _draw_answer(self, server: str) -> Exception | None:
        fate, faults = self._chance.random(), self._hypervisor.faults
        if fate < faults.answer_lost:
            return errors.OutcomeUnknown(server, "no answer came")
        if fate < faults.answer_lost + faults.undeclared:
            return LibraryBroke("an error that the driver does not declare")
        return None


class Timers(_Part, base.WatchdogTimer):
    """Of servers with a controller of their own, which are those with a log."""

    def reset_timer(self, server: str) -> None:
        call, kernel, faults = self._begin(server, ActionKind.RESET_WATCHDOG_TIMER), self._hypervisor.kernel, self._hypervisor.faults
        kernel.sleep(faults.latency * self._chance.random())
        self._process.check()
        if self._find(server).log is None:
            raise errors.ServerUnsupported(server, "its watchdog counts inside it")
        if self._chance.random() < faults.unavailable:
            raise errors.BackendUnavailable(server, "its controller said no")
        call.sent_at = kernel.time
        kernel.note(self._hypervisor.host, f"watchdog of {server} is fed for {call.action}")
        kernel.sleep(faults.latency * self._chance.random())
        self._process.check()
        answer = self._draw_answer(server)
        if answer is not None:
            raise answer


class MemoryWriter(_Part, base.HostDump):
    """Goes on when the agent that asked dies; a file that somebody took away meanwhile stays away."""

    def take_host_dump(self, server: str, path: str, on_progress: Callable[[int, int], None]) -> None:
        call, hypervisor = self._begin(server, ActionKind.TAKE_HOST_DUMP), self._hypervisor
        guest, file = self._find(server), Path(path)
        if guest.log is not None:
            raise errors.ServerUnsupported(server, "nobody can read its memory from outside")
        if self._chance.random() < hypervisor.faults.unavailable:
            raise errors.BackendUnavailable(server, "the daemon said no", Code.HOST_DUMP_FAILED)
        file.write_bytes(_HALF)
        call.sent_at = hypervisor.kernel.time
        if guest.state is PowerState.RUNNING:
            hypervisor.set_state(guest, PowerState.PAUSED, DriverEventKind.PAUSED, _DUMPING)
        written, answer = Event(hypervisor.kernel), self._draw_answer(server)

        def end() -> None:
            if file.exists():
                file.write_bytes(_WHOLE)
            if guest.state is PowerState.PAUSED and guest.reason == _DUMPING:
                guest.home.set_state(guest, PowerState.RUNNING, DriverEventKind.RESUMED, _DUMPING)
            call.ended_at = hypervisor.kernel.time
            written.set()

        slow = self._chance.random() < hypervisor.faults.slow
        hypervisor.kernel.call_after(self._chance.uniform(2.0, 50.0) if slow else self._chance.uniform(0.2, 5.0), end)
        try:
            written.wait()
        except ProcessKilled:  # a dead agent's last wish to remove the file is none that kill -9 would hear
            hypervisor.kernel.call_at(hypervisor.kernel.time, lambda: _put_half(file), first=True)
            raise
        on_progress(1, 1)
        if answer is not None:
            raise answer


def _put_half(file: Path) -> None:
    file.write_bytes(_HALF)


# What must be true


def check_platform(world: "World", record: "Record") -> Iterator[str]:
    """What was done fits the endings, began in time and outside of hold-offs; a file with a whole file's name is whole."""
    works: dict[str, list[Call]] = defaultdict(list)
    for agent in world.agents:
        for kind in KINDS:
            for call in agent.hypervisor.works[kind]:
                works[call.action].append(call)
    for action, calls in works.items():
        row = record.actions.get(action)
        if row is None:
            continue
        late = [call.began_clock - to_seconds(row["deadline"]) for call in calls if call.began_clock > to_seconds(row["deadline"])]
        if late:
            yield f"{action}: its {row['kind']} began {late[0]:.6f} s past its deadline"
        if row["kind"] == ActionKind.TAKE_HOST_DUMP and len(calls) > 1:
            yield f"{action}: {len(calls)} times the hypervisor was told to write the memory"
    for row in record.actions.values():
        done = [call for call in works[row["id"]] if call.sent_at is not None]
        if row["kind"] in KINDS and row["ending"] == Ending.SUCCEEDED and not done:
            yield f"{row['id']}: {row['kind']} succeeded, and nothing was done"
        if row["kind"] == ActionKind.RESET_WATCHDOG_TIMER and row["ending"] in (Ending.FAILED, Ending.EXPIRED) and done:
            yield f"{row['id']}: {row['kind']} {row['ending']} ({row['code']}), and the watchdog was fed"
    yield from _check_files(world, record)
    yield from _check_holdoff(world, record)


def _check_files(world: "World", record: "Record") -> Iterator[str]:
    files = {file.name: file for agent in world.agents for file in agent.dumps.glob("*")}
    for name, file in files.items():
        if file.suffix != ".kdump" or file.read_bytes() != _WHOLE:
            yield f"the file {name} is not whole"
    told: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for event in record.events:
        if event["event_type"] == "server.host_dump":
            told[event["action_id"]].append(json.loads(event["payload"]))
    for row in record.actions.values():
        if row["kind"] != ActionKind.TAKE_HOST_DUMP:
            continue
        dumps = told[row["id"]]
        is_lost = not dumps and row["journal_id"] in world.lost_epochs
        if row["ending"] == Ending.SUCCEEDED and not is_lost and (len(dumps) != 1 or Path(dumps[0]["path"]).name not in files):
            yield f"{row['id']}: the memory was written, and {len(dumps)} events tell of a file"
        if row["ending"] in (Ending.FAILED, Ending.EXPIRED) and (dumps or f"{row['server']}-{row['id']}.kdump" in files):
            yield f"{row['id']}: {row['ending']} ({row['code']}), and there is a dump"


def _check_holdoff(world: "World", record: "Record") -> Iterator[str]:
    guests = {guest.id: guest for guest in world.list_guests()}
    signals = list_calls(world)
    for agent in world.agents:
        for call in agent.hypervisor.works[ActionKind.TAKE_HOST_DUMP]:
            if call.found is PowerState.CRASHED:
                continue
            for earlier in signals:
                if earlier.server == call.server and earlier.began_at <= call.began_at:
                    yield from check_pair(world, record, guests[call.server], earlier, call)
