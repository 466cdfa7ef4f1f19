"""One machine's BMC over IPMI: which conversation each question is."""

from compute_agent.contract.clock import Clock
from compute_agent.contract.watchdogs import WatchdogDevice
from compute_agent.drivers.bmc.protocol import Bmc, MachineParts, MachineState, Polled, Target, TimerState
from compute_agent.drivers.errors import BackendUnavailable
from compute_agent.drivers.ipmi import chassis, machine, watchdog_timer
from compute_agent.drivers.ipmi.exchange import Conversation, T
from compute_agent.drivers.ipmi.sessions import Sessions

_NOTHING_NEW_AFTER = 0.7
"""The share of a call's time after which nothing else is begun, so that what was read is not lost."""
_CLOSED = "this BMC is not served any more"


class IpmiBmc(Bmc):
    """Has each conversation carried out by ``sessions``. ``countdown``: seconds for a timer that has none of its own."""

    def __init__(self, target: Target, sessions: Sessions, clock: Clock, countdown: float) -> None:
        self._target = target
        self._server = target.server
        self._sessions = sessions
        self._clock = clock
        self._countdown = countdown
        self._sensors = machine.KnownSensors()
        self._is_closed = False

    def read_state(self, limit: float) -> MachineState:
        return self._run(machine.read_state(self._server), limit)

    def poll(self, cursor: str | None, limit: float) -> Polled:
        return self._run(machine.poll(self._server, cursor, self._clock, self._until(limit)), limit)

    def inject_nmi(self, limit: float) -> None:
        self._run(chassis.inject_nmi(self._server), limit)

    def read_parts(self, limit: float) -> MachineParts:
        return self._run(machine.read_parts(self._server, self._sensors, self._clock, self._until(limit)), limit)

    def set_timer(self, device: WatchdogDevice | None, limit: float) -> TimerState:
        return self._run(watchdog_timer.set_timer(self._server, device, self._countdown), limit)

    def reset_timer(self, limit: float) -> None:
        self._run(watchdog_timer.reset_timer(self._server), limit)

    def close(self) -> None:
        self._is_closed = True
        self._sessions.give_up(self._target, _CLOSED)

    def _run(self, conversation: Conversation[T], limit: float) -> T:
        if self._is_closed:
            raise BackendUnavailable(self._server, _CLOSED)
        return self._sessions.run(self._target, conversation, limit)

    def _until(self, limit: float) -> float:
        return self._clock.monotonic() + limit * _NOTHING_NEW_AFTER
