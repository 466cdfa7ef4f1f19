"""A host's hypervisor and its guests, which live on when the agent dies. How an agent speaks to it is in ``driver``.

What an injected NMI does is decided here and counted here: the signals that a guest really got are what the invariants are about.
"""

import random
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from compute_agent.contract.models import PowerState
from compute_agent.contract.watchdogs import Watchdog, WatchdogDevice
from compute_agent.drivers import errors
from compute_agent.drivers.models import DriverEvent, DriverEventKind, DriverServer, FoundDump
from tests.simulation.kernel import START, HostClock, Process
from tests.simulation.logs import Log, Logs

CALL_BOUND = 20.0
MIGRATION = "migration"
"""Why a guest is paused at the end of its migration."""


class LibraryBroke(Exception):
    """What no driver declares: production code logs it with its traceback, and that is right."""


@dataclass
class DriverFaults:
    """Chances per NMI call, and (``slow_read``, ``hanging_read``) per reading of states.

    ``never``: a call does its work or does not, and never comes back. ``hanging_read``: it comes back with nothing, as late as it may.
    """

    unavailable: float = 0.0
    answer_lost: float = 0.0
    undeclared: float = 0.0
    slow: float = 0.0
    slow_read: float = 0.0
    never: float = 0.0
    hanging_read: float = 0.0
    latency: float = 0.02
    longest: float = 2.5 * CALL_BOUND


@dataclass
class Call:
    """One NMI call as the hypervisor saw it begin, in virtual seconds and by its host's clock, which was wrong by ``clock_offset``.

    ``sent_at`` is when the guest got its NMI, None: it never did; ``fired_at`` when it took it: a paused one does when it resumes.
    ``life`` names the life of the agent that called, ``found`` how the server was then where that matters.
    """

    action: str
    server: str
    life: str
    host: str
    began_at: float
    clock_offset: float
    found: PowerState | None = None
    ended_at: float | None = None
    sent_at: float | None = None
    fired_at: float | None = None

    @property
    def began_clock(self) -> float:
        return self.began_at + self.clock_offset

    @property
    def journal(self) -> str:
        return self.life.split("/", maxsplit=1)[0]


@dataclass
class Guest:
    """``takes`` says how it answers an NMI: ``panics``, ``dumps`` (silent, then reboots), ``loads`` (says so, then reboots), ``deaf``.

    ``watchdog`` is the live one, ``first`` the one of the beginning. ``redefined``: it had more than one life, or host. ``starts`` counts
    how often it was switched on, ``hosts`` are those that it has been on.
    ``dumps`` are the files that the platform wrote because its watchdog fired, and when each was begun. ``log``: it is bare metal, whose
    platform notes what happens to it.
    """

    id: str
    name: str
    takes: str
    state: PowerState = PowerState.RUNNING
    started_at: datetime = START
    owed: list[Call] = field(default_factory=list)
    defined: bool = True
    resets: list[float] = field(default_factory=list)
    starts_at: list[float] = field(default_factory=list)
    reason: str = ""
    watchdog: WatchdogDevice | None = None
    configured: WatchdogDevice | None = None
    first: WatchdogDevice | None = None
    redefined: bool = False
    dumps: list[tuple[datetime, FoundDump]] = field(default_factory=list)
    log: Log | None = None
    starts: int = 0
    project: str = "demo"
    hosts: list[str] = field(default_factory=list)
    _home: "Hypervisor | None" = field(default=None, repr=False)

    @property
    def home(self) -> "Hypervisor":
        """Where it is now."""
        assert self._home is not None
        return self._home

    @home.setter
    def home(self, hypervisor: "Hypervisor") -> None:
        self._home = hypervisor
        self.hosts.append(hypervisor.host)


class Hypervisor:
    """One host's machines. ``up`` false: the daemon is away, and what happens meanwhile is told to nobody.

    ``arriving``: those that a migration is bringing in. ``leftovers``: those that it took away and whose definition stayed, shut off.
    """

    def __init__(self, clock: HostClock, host: str, chance: random.Random, faults: DriverFaults, guests: Sequence[Guest]) -> None:
        self.clock = clock
        self.kernel = clock.kernel
        self.host = host
        self.faults = faults
        self.guests = {guest.id: guest for guest in guests}
        self.arriving: dict[str, Guest] = {}
        self.leftovers: dict[str, Guest] = {}
        self.calls: list[Call] = []
        self.works: dict[str, list[Call]] = defaultdict(list)
        """By kind of action, what else the agent had it do; ``sent_at`` is when it was done, or begun and not to be stopped any more."""
        for guest in guests:
            guest.home = self
        self.up = True
        self.logs = Logs(self)
        self._held: list[Callable[[], None]] | None = None
        self._chance = chance
        self._listener: Callable[[DriverEvent], None] | None = None
        self._listening_process: Process | None = None

    # What people and guests do

    def set_up(self, up: bool) -> None:
        """The daemon is stopped or started; machines do not notice."""
        if up != self.up:
            self.up = up
            kind = DriverEventKind.BACKEND_BACK if up else DriverEventKind.BACKEND_LOST
            self.logs.tell_all()
            self.tell(DriverEvent(kind, None, self._now()), always=True)

    def set_state(self, guest: Guest, state: PowerState, kind: DriverEventKind, reason: str) -> None:
        if guest.state == state and kind is not DriverEventKind.REBOOTED:
            return
        was_off = guest.state in (PowerState.SHUTDOWN, PowerState.CRASHED)
        if guest.state is PowerState.SHUTDOWN and state is PowerState.RUNNING:
            guest.watchdog = guest.configured
        guest.state, guest.reason = state, reason
        if kind in (DriverEventKind.REBOOTED, DriverEventKind.STOPPED):
            guest.resets.append(self.kernel.time)
            guest.owed.clear()
        if was_off and state is PowerState.RUNNING:
            guest.started_at = self._now()  # as a file's time stamp: a clock that is set later does not change it
            guest.starts += 1
            guest.starts_at.append(self.kernel.time)
        if state is PowerState.RUNNING and guest.owed:
            for call in guest.owed:
                call.fired_at = self.kernel.time
            guest.owed.clear()
            self.answer_nmi(guest)
        self.kernel.note(self.host, f"guest {guest.name} {kind}: {reason}")
        self.report(guest, DriverEvent(kind, guest.id, self._now(), reason))

    def pause(self, guest: Guest) -> None:
        if guest.state is PowerState.RUNNING:
            self.set_state(guest, PowerState.PAUSED, DriverEventKind.PAUSED, "operator")

    def resume(self, guest: Guest) -> None:
        if guest.state is PowerState.PAUSED:
            self.set_state(guest, PowerState.RUNNING, DriverEventKind.RESUMED, "operator")

    def stop(self, guest: Guest) -> None:
        if guest.state is not PowerState.SHUTDOWN:
            self.set_state(guest, PowerState.SHUTDOWN, DriverEventKind.STOPPED, "operator")

    def start(self, guest: Guest) -> None:
        if guest.state is PowerState.CRASHED:
            self.stop(guest)
        if guest.state is PowerState.SHUTDOWN:
            self.set_state(guest, PowerState.RUNNING, DriverEventKind.STARTED, "operator")

    def reboot(self, guest: Guest) -> None:
        if guest.state is PowerState.RUNNING:
            self.set_state(guest, PowerState.RUNNING, DriverEventKind.REBOOTED, "operator")

    def undefine(self, guest: Guest) -> None:
        """Only what is off can be undefined here."""
        if guest.defined and guest.state is PowerState.SHUTDOWN:
            guest.defined, guest.redefined = False, True
            self.kernel.note(self.host, f"guest {guest.name} undefined")
            self.tell(DriverEvent(DriverEventKind.UNDEFINED, guest.id, self._now(), "operator"))

    def define(self, guest: Guest) -> None:
        """The same UUID again: another life of it."""
        if not guest.defined:
            guest.defined = True
            self.kernel.note(self.host, f"guest {guest.name} defined")
            self.tell(DriverEvent(DriverEventKind.DEFINED, guest.id, self._now(), "operator"))
            self.logs.begin_anew(guest)

    # The NMI

    def begin_call(self, call: Call, finish: Callable[[Exception | None], None]) -> None:
        """The daemon took a request; ``finish`` is called with its answer. Goes on when the agent that asked dies."""
        self.calls.append(call)
        fate = self._chance.random()
        faults = self.faults
        thresholds = (faults.unavailable, faults.answer_lost, faults.undeclared)
        unavailable, answer_lost, undeclared = (sum(thresholds[: index + 1]) for index in range(3))
        slow = self._chance.random() < faults.slow
        if slow:
            self.kernel.on_fault("driver slow")
        for fault, threshold in zip(
            ("driver unavailable", "answer lost", "undeclared error"), (unavailable, answer_lost, undeclared), strict=True
        ):
            if fate < threshold:
                self.kernel.on_fault(fault)
                break
        takes = self._chance.uniform(0.5, faults.longest) if slow else faults.latency * self._chance.uniform(0.2, 1.0)

        never = bool(faults.never) and self._chance.random() < faults.never
        if never:
            self.kernel.on_fault("driver never answers")

        def end(answer: Exception | None) -> None:
            if never:
                return
            if self._held is not None:
                self._held.append(lambda: end(answer))
                return
            call.ended_at = self.kernel.time
            finish(answer)

        def send() -> None:
            guest = self.guests.get(call.server)
            if call.server in self.leftovers:
                end(errors.ServerNotRunning(call.server, "guest has migrated"))
            elif guest is None or not guest.defined:
                end(errors.ServerNotFound(call.server, "no such guest"))
            elif fate < unavailable or not self.up or (guest.log is not None and guest.log.is_lost):
                end(errors.BackendUnavailable(call.server, "the daemon said no"))
            elif guest.state not in (PowerState.RUNNING, PowerState.PAUSED):
                end(errors.ServerNotRunning(call.server, f"guest is {guest.state}"))
            else:
                lost = fate < undeclared
                if not lost or self._chance.random() < 0.5:
                    self._deliver(guest, call)
                answer: Exception | None = None
                if fate < answer_lost:
                    answer = errors.OutcomeUnknown(call.server, "no answer came")
                elif lost:
                    answer = LibraryBroke("an error that the driver does not declare")
                self.kernel.call_after(takes * self._chance.random(), lambda: end(answer))

        self.kernel.call_after(takes * self._chance.random(), send)

    def hold_answers(self, on: bool) -> None:
        """While on, calls do their work and do not come back."""
        held, self._held = self._held, [] if on else None
        for end in held or []:
            end()

    def _deliver(self, guest: Guest, call: Call) -> None:
        call.sent_at = self.kernel.time
        self.kernel.note(self.host, f"guest {guest.name} got an NMI ({call.action})")
        if guest.state is PowerState.PAUSED:
            guest.owed.append(call)
        else:
            call.fired_at = self.kernel.time
            self.answer_nmi(guest)

    def call_in_this_run(self, guest: Guest, seconds: float, act: Callable[[], None]) -> None:
        """Do something later, if the guest then still runs and was neither reset nor started anew."""
        run = guest.starts, len(guest.resets)

        def unless_reset() -> None:
            if (guest.starts, len(guest.resets)) == run and guest.state is PowerState.RUNNING:
                act()

        self.kernel.call_after(seconds, unless_reset)

    def answer_nmi(self, guest: Guest) -> None:
        """What the guest does, a little later."""

        def later(seconds: float, act: Callable[[], None]) -> None:
            self.call_in_this_run(guest, seconds, act)

        if guest.takes == "panics" and guest.log is not None:
            still_on = ("os_critical_stop", PowerState.RUNNING)
            later(0.011, lambda: guest.home.report(guest, DriverEvent(DriverEventKind.PANICKED, guest.id, self._now(), *still_on)))
        elif guest.takes == "panics":
            later(0.011, lambda: guest.home.set_state(guest, PowerState.CRASHED, DriverEventKind.PANICKED, "pvpanic"))
        elif guest.takes in ("dumps", "loads"):
            if guest.takes == "loads":
                loads = DriverEventKind.CRASH_KERNEL_STARTED
                later(0.011, lambda: guest.home.report(guest, DriverEvent(loads, guest.id, self._now(), "pvpanic")))
            dumping = self._chance.uniform(5.0, 90.0)
            later(dumping, lambda: guest.home.set_state(guest, PowerState.RUNNING, DriverEventKind.REBOOTED, "the dump is written"))

    # The driver

    def draw_hang(self) -> bool:
        """Whether a question is not answered within the driver's bound."""
        hangs = bool(self.faults.hanging_read) and self._chance.random() < self.faults.hanging_read
        if hangs:
            self.kernel.on_fault("reading hangs")
        return hangs

    def draw_reading_time(self) -> float:
        """Seconds that the daemon takes to answer a question."""
        return self._chance.uniform(0.5, 8.0) if self._chance.random() < self.faults.slow_read else 0.002

    def listen(self, process: Process, listener: Callable[[DriverEvent], None], cursors: Mapping[str, str]) -> None:
        self._listening_process, self._listener = process, listener
        self.logs.begin(cursors)

    @property
    def has_listener(self) -> bool:
        return self._listener is not None and self._listening_process is not None and self._listening_process.alive

    def is_listening(self, process: Process) -> bool:
        return self._listening_process is process

    def greet(self, process: Process) -> None:
        """The driver's first connection is made, if the daemon is there; otherwise it will be when the daemon comes."""
        if self.up and self._listening_process is process:
            self.logs.tell_all()
            self.tell(DriverEvent(DriverEventKind.BACKEND_BACK, None, self._now(), "connected"))
            self.logs.tell_lost()

    def report(self, guest: Guest, event: DriverEvent) -> None:
        """What has happened to a guest: noted by its platform, told at once, or told to nobody while it is out of reach."""
        if guest.log is not None and guest.log.takes(event):
            self.logs.note(guest, event)
        elif guest.log is None or not guest.log.is_lost:
            self.logs.tell(guest)  # a driver reads the log and the power at once, and tells the log first
            self.tell(event)

    def tell(self, event: DriverEvent, *, always: bool = False) -> None:
        """To the agent that listens, if there is one and the daemon is there."""
        if self._listener is not None and self.has_listener and (self.up or always):
            self._listener(event)

    def _now(self) -> datetime:
        return self.clock.now()

    def list_described(self) -> list[DriverServer]:
        """As the daemon lists them now, those among them that are on their way in and those of which only the definition stayed."""
        return [
            *(self.describe(guest) for guest in self.guests.values() if guest.defined),
            *(replace(self._describe(guest), power_state=PowerState.PAUSED, arriving=True) for guest in self.arriving.values()),
            *map(self._describe_leftover, self.leftovers.values()),
        ]

    def find_described(self, server: str) -> DriverServer | None:
        """One of them."""
        return next((described for described in self.list_described() if described.id == server), None)

    def _describe_leftover(self, guest: Guest) -> DriverServer:
        return replace(self._describe(guest), power_state=PowerState.SHUTDOWN, state_reason="migrated", started_at=None)

    def describe(self, guest: Guest) -> DriverServer:
        """One that is here."""
        if guest.log is not None and guest.log.is_lost:
            return guest.log.describe_unread(self._describe(guest))
        return self._describe(guest)

    def _describe(self, guest: Guest) -> DriverServer:
        return DriverServer(
            id=guest.id,
            name=guest.name,
            project=guest.project,
            user=None,
            instance_name=f"domain-{guest.name}",
            power_state=guest.state,
            state_reason=guest.reason,
            memory_mib=1,
            started_at=guest.started_at if guest.state in (PowerState.RUNNING, PowerState.PAUSED) else None,
            watchdog=Watchdog(
                configured=guest.configured,
                live=None if guest.state is PowerState.SHUTDOWN else guest.watchdog,
                pending_restart=guest.state is not PowerState.SHUTDOWN and guest.watchdog != guest.configured,
                models=("i6300esb",),
            ),
        )
