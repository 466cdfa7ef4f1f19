"""Which machines there are and how they are: the list out of the last readings, a single one asked now."""

from collections.abc import Callable, Sequence

from compute_agent.contract.clock import Clock
from compute_agent.contract.models import PowerState
from compute_agent.drivers.base import Servers
from compute_agent.drivers.bmc.fleet import Fleet, Machine
from compute_agent.drivers.bmc.limits import CallLimit
from compute_agent.drivers.bmc.protocol import MachineState
from compute_agent.drivers.bmc.readings import NOT_ASKED, Reading, Readings
from compute_agent.drivers.bmc.track import describe_watchdog
from compute_agent.drivers.models import DriverServer


class BmcServers(Servers):
    """Never CRASHED, PAUSED or SUSPENDED: a BMC knows whether the power is on, and nothing of the operating system.

    :param on_change: told of a server whose power was found to be another than in the reading before; it must only enqueue
    """

    def __init__(self, fleet: Fleet, readings: Readings, limit: CallLimit, clock: Clock, on_change: Callable[[str], None]) -> None:
        self._fleet = fleet
        self._readings = readings
        self._limit = limit
        self._clock = clock
        self._on_change = on_change

    def list_servers(self) -> Sequence[DriverServer]:
        """No I/O: the poller reads. A machine that cannot be read is listed, and says why."""
        found = [(machine, self._readings.find(machine.server)) for machine in self._fleet.list_machines()]
        return [
            _describe(machine, None if reading is None else reading.state, _find_unread(machine, reading)) for machine, reading in found
        ]

    def get_server(self, server: str) -> DriverServer:
        """Asks the BMC, unless it was asked less than a second ago."""
        machine = self._fleet.get_machine(server)
        machine.get_link()
        fresh = self._readings.find_fresh(server)
        if fresh is None:
            return _describe(machine, self.read(machine, self._limit.begin(server).left()))
        if fresh.failure is not None:
            raise fresh.failure.make_error(server)
        return _describe(machine, fresh.state)

    def read(self, machine: Machine, seconds: float) -> MachineState:
        """Power and watchdog timer, asked now, for so many seconds at most, and kept.

        :raises BackendUnavailable: the BMC did not answer.
        """
        server, began = machine.server, self._clock.monotonic()
        before = self._readings.find(server)
        state = machine.get_link().bmc.read_state(seconds)
        self._readings.put(server, state, began)
        if before is None or before.failure is not None or before.state is None or before.state.power_state is not state.power_state:
            self._on_change(server)
        return state


def _describe(machine: Machine, state: MachineState | None, unread: str = "") -> DriverServer:
    return DriverServer(
        id=machine.server,
        name=machine.name,
        project=machine.project,
        user=machine.user,
        instance_name=machine.name,
        power_state=PowerState.PENDING if state is None else state.power_state,
        state_reason="" if state is None else state.reason,
        started_at=None if state is None or state.power_state is PowerState.SHUTDOWN else state.started_at,
        watchdog=None if state is None or machine.link is None else describe_watchdog(state, machine.link.protocol.watchdog_models),
        unread=unread,
    )


def _find_unread(machine: Machine, reading: Reading | None) -> str:
    if machine.link is None:
        return machine.problem
    if reading is None:
        return NOT_ASKED
    return "" if reading.failure is None else reading.failure.reason
