"""What strikes processes, machines and the broker of a simulated world, as steps of a script. Times in virtual seconds."""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from compute_agent.contract.models import PowerState
from tests.simulation.hypervisor import Guest
from tests.simulation.plan import Plan
from tests.simulation.step import Step, draw_moments, list_guest_names, list_guests_with_logs

if TYPE_CHECKING:
    from tests.simulation.world import World

ENGINE = "engine"


@dataclass(frozen=True)
class Kill(Step):
    """kill -9 of a process, which is started again ``away`` seconds later."""

    name: str
    away: float

    def apply(self, world: "World") -> None:
        process = world.find_process(self.name)
        if process is not None and process.alive:
            world.kernel.note(self.name, "is killed")
            world.probes.strike("process killed", self.away)
            world.kill(process, self.away)

    def fits(self, plan: Plan) -> bool:
        return is_there(self.name, plan)


@dataclass(frozen=True)
class Freeze(Step):
    """SIGSTOP of a process, and SIGCONT after that."""

    name: str
    seconds: float

    def apply(self, world: "World") -> None:
        process = world.find_process(self.name)
        if process is not None and process.alive:
            world.kernel.note(self.name, f"is frozen for {self.seconds} s")
            world.freeze(process, self.seconds)

    def fits(self, plan: Plan) -> bool:
        return is_there(self.name, plan)


@dataclass(frozen=True)
class Cut(Step):
    """No way between a process and the broker."""

    name: str
    seconds: float

    def apply(self, world: "World") -> None:
        world.kernel.note(self.name, "is cut off from the broker")
        world.probes.strike("cut", self.seconds)
        world.broker.set_cut(self.name, True)
        world.kernel.call_after(self.seconds, lambda: world.broker.set_cut(self.name, False))

    def fits(self, plan: Plan) -> bool:
        return is_there(self.name, plan)


@dataclass(frozen=True)
class LoseJournal(Step):
    """An agent is killed and its journal deleted before it starts again."""

    host: int
    away: float

    def apply(self, world: "World") -> None:
        agent = world.agents[self.host]
        if agent.process.alive:
            world.kernel.note(agent.host, "is killed and its journal deleted")
            world.probes.strike("journal lost", self.away + 20.0)
            world.kernel.call_after(0.1, agent.lose_journal)
            world.kill(agent.process, self.away)


@dataclass(frozen=True)
class StopDaemon(Step):
    """The hypervisor's daemon is away."""

    host: int
    seconds: float

    def apply(self, world: "World") -> None:
        hypervisor = world.agents[self.host].hypervisor
        world.kernel.note(hypervisor.host, "hypervisor's daemon stops")
        world.probes.strike("daemon away", self.seconds)
        hypervisor.set_up(False)
        world.kernel.call_after(self.seconds, lambda: hypervisor.set_up(True))


@dataclass(frozen=True)
class StepClock(Step):
    """A host's wall clock is set, by that many seconds."""

    host: int
    by: float

    def apply(self, world: "World") -> None:
        clock = world.agents[self.host].hypervisor.clock
        world.kernel.note(world.agents[self.host].host, f"wall clock steps by {self.by} s")
        world.probes.strike("clock stepped", 20.0)
        clock.step(self.by)


@dataclass(frozen=True)
class StopBroker(Step):
    """The broker is down."""

    seconds: float

    def apply(self, world: "World") -> None:
        if not world.broker.up:
            return
        world.kernel.note("broker", "stops")
        world.probes.strike("broker down", self.seconds)
        world.broker.stop()
        world.kernel.call_after(self.seconds, world.start_broker)


@dataclass(frozen=True)
class RaiseAlarm(Step):
    """The broker blocks its publishers."""

    seconds: float

    def apply(self, world: "World") -> None:
        world.kernel.note("broker", "alarm")
        world.probes.strike("broker in alarm", self.seconds)
        world.broker.set_alarm(True)
        world.kernel.call_after(self.seconds, lambda: world.broker.set_alarm(False))


@dataclass(frozen=True)
class Purge(Step):
    """An operator empties the recorder's queue."""

    def apply(self, world: "World") -> None:
        purged = world.broker.purge_events()
        world.kernel.note("broker", f"an operator purges {purged} events")
        if purged:
            world.probes.strike("queue purged", 20.0)


@dataclass(frozen=True)
class FireWatchdog(Step):
    """A guest's watchdog fires, if it has one and runs."""

    guest: str

    def apply(self, world: "World") -> None:
        agent = world.find_agent(self.guest)
        if agent is not None:
            world.watchdogs[world.agents.index(agent)].fire(agent.hypervisor.guests[world.guest_ids[self.guest]], agent.process)


@dataclass(frozen=True)
class LoseGuest(Step):
    """The controller of a server with a log of its own cannot be reached."""

    guest: str
    seconds: float

    def apply(self, world: "World") -> None:
        agent = world.find_agent(self.guest)
        if agent is None:
            return
        guest, logs = agent.hypervisor.guests[world.guest_ids[self.guest]], agent.hypervisor.logs
        if guest.log is not None:
            world.probes.strike("server out of reach", self.seconds)
            logs.lose(guest)
            world.kernel.call_after(self.seconds, lambda: logs.find_again(guest))


@dataclass(frozen=True)
class MoveGuest(Step):
    """Somebody pauses, resumes, stops, starts, reboots, undefines or defines a guest: ``which`` (0 to 1) of what its state allows."""

    guest: str
    which: float

    def apply(self, world: "World") -> None:
        agent = world.find_agent(self.guest)
        if agent is None:
            return
        hypervisor = agent.hypervisor
        guest = hypervisor.guests[world.guest_ids[self.guest]]
        moves: tuple[Callable[[Guest], None], ...] = (hypervisor.pause, hypervisor.pause, hypervisor.stop, hypervisor.reboot)
        if guest.state is PowerState.PAUSED:
            moves = (hypervisor.resume,)
        if not guest.defined:
            moves = (hypervisor.define,)
        elif guest.state is PowerState.SHUTDOWN:
            moves = (hypervisor.start, hypervisor.start, hypervisor.undefine)
        elif guest.state is PowerState.CRASHED:
            moves = (hypervisor.start,)
        moves[int(self.which * len(moves))](guest)


@dataclass(frozen=True)
class PowerOn(Step):
    """Somebody starts a guest that is off."""

    guest: str

    def apply(self, world: "World") -> None:
        agent = world.find_agent(self.guest)
        if agent is not None:
            guest = agent.hypervisor.guests[world.guest_ids[self.guest]]
            agent.hypervisor.define(guest)
            agent.hypervisor.start(guest)


def is_there(name: str, plan: Plan) -> bool:
    """Whether a world of that plan has that process."""
    return name in list_names(plan)


def list_names(plan: Plan) -> list[str]:
    """Of the processes that can be struck at any time."""
    return [*map(name_host, range(plan.hosts)), *map(name_engine, range(plan.engines))]


def name_engine(number: int) -> str:
    return ENGINE if number == 0 else f"{ENGINE}-{number + 1}"


def name_host(number: int) -> str:
    return f"host-{number}"


def draw_misfortunes(plan: Plan, chance: random.Random) -> Iterator[Step]:
    """When what strikes whom, in each minute as often as the plan says."""
    hosts = range(plan.hosts)
    engines = [name_engine(number) for number in range(plan.engines)]
    for host in hosts:
        yield from (Kill(at, name_host(host), chance.choice((0.2, 2.0, 10.0, 40.0))) for at in draw_moments(plan, chance, plan.agent_kills))
        yield from (LoseJournal(at, host, chance.choice((0.2, 2.0, 10.0))) for at in draw_moments(plan, chance, plan.journal_losses))
        yield from (StopDaemon(at, host, chance.uniform(0.5, 40.0)) for at in draw_moments(plan, chance, plan.daemon_stops))
        yield from (StepClock(at, host, chance.choice((-1.0, -0.2, 0.2, 1.0))) for at in draw_moments(plan, chance, plan.clock_steps))
    for name in engines:
        yield from (Kill(at, name, chance.choice((0.2, 2.0, 10.0, 40.0))) for at in draw_moments(plan, chance, plan.engine_kills))
    for name in list_names(plan):
        yield from (Freeze(at, name, chance.choice((0.5, 3.0, 25.0))) for at in draw_moments(plan, chance, plan.freezes))
        yield from (Cut(at, name, chance.uniform(0.5, 40.0)) for at in draw_moments(plan, chance, plan.cuts))
    yield from (StopBroker(at, chance.uniform(0.5, 40.0)) for at in draw_moments(plan, chance, plan.broker_stops))
    yield from (RaiseAlarm(at, chance.uniform(0.5, 40.0)) for at in draw_moments(plan, chance, plan.alarms))
    yield from (Purge(at) for at in draw_moments(plan, chance, plan.purges))


def draw_what_guests_do(plan: Plan, chance: random.Random) -> Iterator[Step]:
    """What happens to the machines themselves."""
    guests = list_guest_names(plan)
    with_logs = list_guests_with_logs(plan)
    for guest in guests:
        yield from (PowerOn(at, guest) for at in draw_moments(plan, chance, plan.power_ons))
    for _ in range(plan.hosts):  # the rates are those of one host
        yield from (MoveGuest(at, chance.choice(guests), chance.random()) for at in draw_moments(plan, chance, plan.guest_moves))
        yield from (FireWatchdog(at, chance.choice(guests)) for at in draw_moments(plan, chance, plan.firings))
        if with_logs:
            moments = draw_moments(plan, chance, plan.losses)
            yield from (LoseGuest(at, chance.choice(with_logs), chance.uniform(0.5, 60.0)) for at in moments)
