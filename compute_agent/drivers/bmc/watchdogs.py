"""A BMC's watchdog timer as a server's watchdog.

The device is the timer's set-up: it is there or not, at once, whether the machine runs or not. Whether it counts is not for this agent to
decide: a daemon in the machine's operating system lets it, or an operator with ``reset_timer``.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

from compute_agent.contract.watchdogs import Watchdog, WatchdogDevice, WatchdogModel
from compute_agent.drivers.base import Watchdogs
from compute_agent.drivers.bmc.fleet import Fleet, Machine
from compute_agent.drivers.bmc.limits import CallLimit, Remaining
from compute_agent.drivers.bmc.protocol import MachineState, TimerState
from compute_agent.drivers.bmc.protocols import Protocols
from compute_agent.drivers.bmc.readings import Readings
from compute_agent.drivers.bmc.servers import BmcServers
from compute_agent.drivers.bmc.track import describe_watchdog
from compute_agent.drivers.errors import ServerUnsupported

OnTimer = Callable[[str, TimerState, str], None]
"""Told (server, its timer now, why) when this agent changed one; it must only enqueue."""


class Timers:
    """Reads machines' watchdog timers, and keeps what became of them when they were changed."""

    def __init__(self, fleet: Fleet, servers: BmcServers, readings: Readings, limit: CallLimit, on_change: OnTimer) -> None:
        self._fleet = fleet
        self._servers = servers
        self._readings = readings
        self._limit = limit
        self._on_change = on_change

    def begin(self, server: str) -> tuple[Machine, MachineState, Remaining]:
        """The machine, its state read now, and what is left of the time for one call.

        :raises ServerNotFound, BackendUnavailable: nothing was read.
        """
        machine, remaining = self._fleet.get_machine(server), self._limit.begin(server)
        return machine, self._servers.read(machine, remaining.left()), remaining

    def note(self, machine: Machine, state: MachineState, timer: TimerState, reason: str) -> MachineState:
        """Its timer was changed, and is like this now; returns its state with that: the one read before, or since by somebody else."""
        known = self._readings.find(machine.server)
        after = replace(state if known is None or known.state is None else known.state, timer=timer)
        self._readings.put(machine.server, after, self._limit.clock.monotonic())
        self._on_change(machine.server, timer, reason)
        return after


class BmcWatchdogs(Watchdogs):
    """One exchange changes everything there is, so a change that died in between is simply made again."""

    def __init__(self, protocols: Protocols, timers: Timers) -> None:
        self._protocols = protocols
        self._timers = timers

    def list_models(self) -> Sequence[WatchdogModel]:
        """Those of the protocols that machines of the inventory speak; a reload may bring another."""
        return [model for protocol in self._protocols.list_made() for model in protocol.watchdog_models]

    def get_watchdog(self, server: str) -> Watchdog:
        machine, state, _ = self._timers.begin(server)
        return _describe(machine, state)

    def set_watchdog(self, server: str, device: WatchdogDevice) -> Watchdog:
        machine, state, remaining = self._timers.begin(server)
        timer = _check(machine, state, device)
        if timer.device != device:
            after = machine.get_link().bmc.set_timer(device, remaining.left())
            state = self._timers.note(machine, state, after, "watchdog set")
        return _describe(machine, state)

    def remove_watchdog(self, server: str) -> Watchdog:
        machine, state, remaining = self._timers.begin(server)
        if state.timer is not None and state.timer.device is not None:
            after = machine.get_link().bmc.set_timer(None, remaining.left())
            state = self._timers.note(machine, state, after, "watchdog removed")
        return _describe(machine, state)


def _describe(machine: Machine, state: MachineState) -> Watchdog:
    return describe_watchdog(state, machine.get_link().protocol.watchdog_models)


def _check(machine: Machine, state: MachineState, device: WatchdogDevice) -> TimerState:
    """The timer that is to get it.

    :raises ServerUnsupported: nothing was touched.
    """
    protocol = machine.get_link().protocol
    if state.timer is None:
        raise ServerUnsupported(machine.server, "its BMC has no watchdog timer")
    model = next((model for model in protocol.watchdog_models if model.model == device.model), None)
    if model is None or not model.managed:
        raise ServerUnsupported(machine.server, f"its BMC has no watchdog {device.model}: it is reached over {protocol.name}")
    if device.expiry_action not in model.expiry_actions:
        raise ServerUnsupported(machine.server, f"{device.model} has no expiry action {device.expiry_action}")
    return state.timer
