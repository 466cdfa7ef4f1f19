"""Machines without BMCs: a protocol whose machines are switched, panic, log and fall silent at a word, and count what is asked of them.

It stands in for a network that we do not own; ``tests/conformance`` runs the driver over it, too.
"""

import random
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml
from oslo_config import cfg

import compute_agent.config
from compute_agent.contract.clock import Clock
from compute_agent.contract.diagnostics import Hardware, LogEntry
from compute_agent.contract.models import PowerState
from compute_agent.contract.watchdogs import ExpiryAction, WatchdogDevice, WatchdogModel
from compute_agent.drivers.bmc.driver import BmcParts
from compute_agent.drivers.bmc.options import register_options
from compute_agent.drivers.bmc.protocol import Bmc, LogReading, LogRecord, MachineParts, MachineState, Polled, Protocol, Target, TimerState
from compute_agent.drivers.bmc.protocols import ProtocolNotLoaded, Protocols
from compute_agent.drivers.errors import BackendUnavailable, DriverError, ServerNotRunning, ServerUnsupported
from compute_agent.drivers.models import DriverEvent, DriverEventKind, NicCounters
from tests.fakes import FakeClock

MODEL = WatchdogModel(
    model="fake-timer", expiry_actions=("none", "reset", "poweroff", "power_cycle"), managed=True, hot_plug=True, note="in memory"
)
RESET = WatchdogDevice(model="fake-timer", expiry_action=ExpiryAction.RESET)
COUNTDOWN = 60.0
BOOT, PANIC = (DriverEventKind.REBOOTED, "os_boot"), (DriverEventKind.PANICKED, "os_critical_stop")


def make_uuid(number: int) -> str:
    return f"00000000-0000-4000-8000-{number:012x}"


@dataclass
class FakeMachine:
    """What is at one address. ``signals``: NMIs that it has counted; ``refusal``: what its BMC says to everything."""

    power_state: PowerState = PowerState.RUNNING
    timer: TimerState | None = field(default_factory=TimerState)
    records: list[LogRecord] = field(default_factory=list)
    refusal: str = ""
    panics_at_nmi: bool = False
    started_at: Any = None
    signals: int = 0
    polls: int = 0
    calls: list[str] = field(default_factory=list)
    limits: list[float] = field(default_factory=list)
    seconds_left: float = COUNTDOWN
    during_poll: Callable[[], None] = lambda: None

    @property
    def state(self) -> MachineState:
        word = "on" if self.power_state is PowerState.RUNNING else "off"
        return MachineState(self.power_state, word, self.started_at, self.timer)

    def write(self, *events: tuple[DriverEventKind, str], **details: Any) -> None:
        """A record of its BMC's log."""
        number = str(len(self.records) + 1)
        self.records.append(LogRecord(number, "a record", events=events, cursor=number, **details))

    def pass_time(self, seconds: float) -> None:
        """A timer that counts and was not fed for so long fires, and its BMC notes that."""
        device = None if self.timer is None else self.timer.device
        if self.timer is None or device is None or not self.timer.running:
            return
        self.seconds_left -= seconds
        if self.seconds_left <= 0:
            self.timer = replace(self.timer, running=False)
            self.fire(device.expiry_action)

    def fire(self, word: str) -> None:
        restart = [(DriverEventKind.REBOOTED, f"watchdog {word}")] if word in ("reset", "power_cycle") else []
        self.write((DriverEventKind.WATCHDOG_FIRED, word), *restart)
        if word == ExpiryAction.POWEROFF:
            self.switch(PowerState.SHUTDOWN)

    def switch(self, power_state: PowerState) -> None:
        self.power_state = power_state


class FakeBmc(Bmc):
    def __init__(self, protocol: "FakeProtocol", target: Target) -> None:
        self.target = target
        self.is_closed = False
        self._protocol = protocol
        self._lock = threading.Lock()
        self._polling = 0

    @property
    def machine(self) -> FakeMachine:
        return self._protocol.machines.setdefault(self.target.address, FakeMachine())

    def read_state(self, limit: float) -> MachineState:
        return self._ask("read_state", limit).state

    def poll(self, cursor: str | None, limit: float) -> Polled:
        with self._lock:
            self._polling += 1
            assert self._polling == 1, "two polls of one machine at a time"
        try:
            self.machine.polls += 1
            self.machine.during_poll()
            machine = self._ask("poll", limit)
            records = list(machine.records)
            new = [] if cursor is None else records[int(cursor) :]
            return Polled(machine.state, LogReading(new, str(len(records))))
        finally:
            self._polling -= 1

    def inject_nmi(self, limit: float) -> None:
        machine = self._ask("inject_nmi", limit)
        if machine.power_state is not PowerState.RUNNING:
            raise ServerNotRunning(self.target.server, "the machine is off")
        machine.signals += 1
        if machine.panics_at_nmi:
            machine.write(PANIC)

    def read_parts(self, limit: float) -> MachineParts:
        machine = self._ask("read_parts", limit)
        return MachineParts(
            machine.state,
            cpus=None,
            memory_kib=2**20,
            nics=[NicCounters(mac="52:54:00:00:00:01")],
            hardware=Hardware(power=machine.state.reason, log=tuple(LogEntry(id=each.id, text=each.text) for each in machine.records)),
        )

    def set_timer(self, device: WatchdogDevice | None, limit: float) -> TimerState:
        machine = self._ask("set_timer", limit)
        if machine.timer is None:
            raise ServerUnsupported(self.target.server, "no timer")
        machine.timer = TimerState(device, running=machine.timer.running and device is not None)
        return machine.timer

    def reset_timer(self, limit: float) -> None:
        machine = self._ask("reset_timer", limit)
        assert machine.timer is not None
        machine.timer = replace(machine.timer, running=True)
        machine.seconds_left = COUNTDOWN

    def close(self) -> None:
        self.is_closed = True

    def _ask(self, what: str, limit: float) -> FakeMachine:
        machine = self.machine
        machine.calls.append(what)
        machine.limits.append(limit)
        if self.is_closed or machine.refusal:
            raise BackendUnavailable(self.target.server, machine.refusal or "closed")
        return machine


class FakeProtocol(Protocol):
    """``machines`` by address; one that nobody made runs and is silent about nothing. ``bmcs``: all that were made, in their order."""

    name = "fake"
    default_port = 623
    watchdog_models = (MODEL,)

    def __init__(self) -> None:
        self.machines: dict[str, FakeMachine] = {}
        self.bmcs: list[FakeBmc] = []
        self.is_closed = False

    def connect(self, target: Target) -> FakeBmc:
        if target.cipher == 99:
            raise ValueError("cipher: there is no suite of this number")
        bmc = FakeBmc(self, target)
        self.bmcs.append(bmc)
        return bmc

    def close(self) -> None:
        self.is_closed = True


def make_entry(number: int, **fields: Any) -> dict[str, Any]:
    return {
        "uuid": make_uuid(number),
        "name": f"m{number}",
        "driver": "fake",
        "address": f"10.0.{number // 250}.{number % 250 + 1}",
        **fields,
    }


class Bench:
    """The driver over the fake protocol under a clock that is told, with no thread running until it is opened.

    :param entries: the inventory's; a number stands for so many machines
    """

    def __init__(self, folder: Path, entries: int | list[Any] = 1, *, clock: Clock | None = None, **options: Any) -> None:
        self.clock = clock or FakeClock()
        self.path = folder / "inventory.yaml"
        self.write([make_entry(number) for number in range(1, entries + 1)] if isinstance(entries, int) else entries)
        self.protocol = FakeProtocol()
        self.told: list[DriverEvent] = []
        self._options = options
        self.parts = self.make_parts()
        self.driver = self.parts.driver

    def make_parts(self) -> BmcParts:
        """Another driver over the same machines."""
        conf = cfg.ConfigOpts()
        compute_agent.config.register_options(conf)
        register_options(conf)
        conf([], default_config_files=[], default_config_dirs=[])
        for name, value in {"inventory": str(self.path), **self._options}.items():
            conf.set_override(name, value, "bmc")
        return BmcParts(conf, self.clock, Protocols(conf, self.clock, create=self._create), random.Random(1))

    def write(self, entries: list[Any]) -> None:
        self.path.write_text(yaml.safe_dump({"machines": entries}))

    def machine(self, number: int = 1) -> FakeMachine:
        return self.protocol.machines.setdefault(make_entry(number)["address"], FakeMachine())

    def begin(self, cursors: Mapping[str, str] | None = None) -> None:
        """Subscribed and begun, with every machine looked at once."""
        assert self.driver.events is not None
        self.driver.events.subscribe(self.told.append, cursors or {})
        self.parts.poller.begin()
        self.look()

    def restart(self, cursors: Mapping[str, str]) -> None:
        """As after a kill -9 of the agent."""
        self.told.clear()
        self.parts = self.make_parts()
        self.driver = self.parts.driver
        self.begin(cursors)

    def advance(self, seconds: float) -> None:
        """Time passes, and nobody looks."""
        assert isinstance(self.clock, FakeClock)
        self.clock.advance(seconds)

    def look(self, seconds: float = 0.0) -> list[DriverEvent]:
        """Time passes and every machine that is due is looked at; what was told meanwhile."""
        before = len(self.told)
        self.advance(seconds)
        while self.parts.poller.step():
            pass
        return self.told[before:]

    def reload(self, entries: list[Any]) -> list[DriverEvent]:
        before = len(self.told)
        self.write(entries)
        assert self.driver.reload is not None
        self.driver.reload.reload()
        return self.told[before:]

    def _create(self, name: str) -> Protocol:
        if name == "missing":
            raise ProtocolNotLoaded("its library cannot be imported (No module named 'missing'): pip install 'crashcart[bmc]'")
        if name != "fake":
            raise ProtocolNotLoaded("there is no such protocol; installed: fake")
        return self.protocol


def kinds(events: list[DriverEvent]) -> list[str]:
    return [str(event.kind) for event in events]


def outcome(call: Callable[[], object]) -> type[DriverError] | None:
    try:
        call()
    except DriverError as error:
        return type(error)
    return None
