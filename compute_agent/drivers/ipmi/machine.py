"""Whole looks at a machine, each in one login: its state, what is new of it, and everything that can be told."""

from collections.abc import Sequence
from typing import TypeVar

from compute_agent.contract.clock import Clock
from compute_agent.contract.diagnostics import Hardware, Health, LogEntry, Sensor
from compute_agent.drivers.bmc.protocol import MachineParts, MachineState, Polled
from compute_agent.drivers.errors import BackendUnavailable, ServerUnsupported
from compute_agent.drivers.ipmi.asking import Silence
from compute_agent.drivers.ipmi.chassis import Chassis, read_chassis
from compute_agent.drivers.ipmi.controller import read_firmware
from compute_agent.drivers.ipmi.exchange import Conversation
from compute_agent.drivers.ipmi.sel import read_last_entries, read_log
from compute_agent.drivers.ipmi.sensors import Repository, begin_repository, find_power_watts, read_record, read_sensors, read_version
from compute_agent.drivers.ipmi.watchdog_timer import find_registers

T = TypeVar("T")

_LOG_ENTRIES = 20
_SEVERITY = list(Health)


class KnownSensors:
    """What is known of one BMC's sensors, kept from one conversation to the next."""

    def __init__(self) -> None:
        self.repository: Repository | None = None


def read_state(server: str) -> Conversation[MachineState]:
    """Power and watchdog timer.

    :raises BackendUnavailable: one of them cannot be read now.
    """
    chassis = yield from read_chassis(server)
    return (yield from _read_timer(server, chassis))


def poll(server: str, cursor: str | None, clock: Clock, until: float) -> Conversation[Polled]:
    """State, and what is new in the log; ``until`` on the monotonic clock is when no further record is begun.

    :raises BackendUnavailable: not even the state can be read.
    """
    state = yield from read_state(server)
    try:
        log = yield from read_log(server, cursor, clock, until)
    except (BackendUnavailable, ServerUnsupported) as failure:
        return Polled(state, problem=failure.reason)
    return Polled(state, log, problem="" if log is not None else "this BMC keeps no event log")


def read_parts(server: str, known: KnownSensors, clock: Clock, until: float) -> Conversation[MachineParts]:
    """All that a BMC tells. Processors, memory, disks and the machine's network cards are none of it: IPMI has no commands for them.

    ``until`` on the monotonic clock is when nothing else is begun; what is missing then is named.

    :raises BackendUnavailable: not even the state can be read.
    """
    chassis = yield from read_chassis(server)
    state = yield from _read_timer(server, chassis)
    parts = _Parts(clock, until)
    firmware = yield from parts.read("firmware", read_firmware(server))
    watts = yield from parts.read("power_watts", find_power_watts(server))
    log: Sequence[LogEntry] | None = yield from parts.read("log", read_last_entries(server, _LOG_ENTRIES, clock, until))
    sensors = yield from parts.read("sensors", _read_sensors(server, known, clock, until, parts.errors))
    hardware = Hardware(
        power=chassis.word,
        power_watts=watts,
        health=_find_worst(chassis.health, *(sensor.health for sensor in sensors or ())),
        sensors=tuple(sensors or ()),
        firmware=firmware or {},
        log=tuple(log or ()),
    )
    return MachineParts(state, hardware=hardware, errors=parts.errors)


class _Parts:
    """Reads part after part, until the BMC falls silent or the time is over; ``errors`` says what is missing, and why."""

    def __init__(self, clock: Clock, until: float) -> None:
        self._clock = clock
        self._until = until
        self._silence = ""
        self.errors: dict[str, str] = {}

    def read(self, name: str, conversation: Conversation[T]) -> Conversation[T | None]:
        if not self._silence and self._clock.monotonic() >= self._until:
            self._silence = "the BMC answers too slowly: there was no time left for it"
        if self._silence:
            conversation.close()
            self.errors[name] = self._silence
            return None
        try:
            return (yield from conversation)
        except (ServerUnsupported, BackendUnavailable) as failure:
            self.errors[name] = failure.reason
            self._silence = failure.reason if isinstance(failure, Silence) else ""
            return None


def _read_timer(server: str, chassis: Chassis) -> Conversation[MachineState]:
    registers = yield from find_registers(server)
    return MachineState(chassis.power_state, chassis.reason, timer=None if registers is None else registers.state)


def _read_sensors(server: str, known: KnownSensors, clock: Clock, until: float, errors: dict[str, str]) -> Conversation[list[Sensor]]:
    """Half of the time is for learning which sensors there are: a BMC tells of hundreds over seconds, and of each only once."""
    version = yield from read_version(server)
    if known.repository is None or known.repository.version != version:
        known.repository = begin_repository(version)
    halfway = (clock.monotonic() + until) / 2
    while not known.repository.is_complete and clock.monotonic() < halfway:
        known.repository = yield from read_record(server, known.repository)
    sensors, missing = yield from read_sensors(server, known.repository, clock, until)
    if missing:
        errors["sensors"] = f"{missing} sensors were not read: the BMC answers too slowly"
    elif not known.repository.is_complete:
        errors["sensors"] = f"only {len(sensors)} sensors are known so far: the BMC tells of them slowly; the next reading has more"
    return sensors


def _find_worst(*healths: Health | None) -> Health | None:
    return max((health for health in healths if health is not None), key=_SEVERITY.index, default=None)
