"""One machine's BMC over Redfish: each call is one visit."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from compute_agent.contract.clock import Clock
from compute_agent.contract.watchdogs import WatchdogDevice
from compute_agent.drivers.bmc.protocol import Bmc, LogReading, MachineParts, MachineState, Polled, Target, TimerState
from compute_agent.drivers.errors import ServerUnsupported
from compute_agent.drivers.redfish import reset, watchdog
from compute_agent.drivers.redfish.connection import Connection, Visit
from compute_agent.drivers.redfish.documents import Document
from compute_agent.drivers.redfish.errors import ExchangeError, translated
from compute_agent.drivers.redfish.log import MachineLog
from compute_agent.drivers.redfish.parts import read_parts
from compute_agent.drivers.redfish.system import SystemFinder, read_state

LOG = logging.getLogger(__name__)


class RedfishBmc(Bmc):
    """Calls run in the caller's thread, each over a connection of its own, and are cut off at their limit."""

    def __init__(self, target: Target, connection: Connection, clock: Clock, log_out: Callable[[Connection], None]) -> None:
        self._server = target.server
        self._connection = connection
        self._finder = SystemFinder(target.system)
        self._log = MachineLog(clock)
        self._log_out = log_out

    def read_state(self, limit: float) -> MachineState:
        with self._visit(limit) as visit:
            return read_state(self._finder.read(visit)[1])

    def poll(self, cursor: str | None, limit: float) -> Polled:
        with self._visit(limit) as visit:
            _path, system = self._finder.read(visit)
            state = read_state(system)
            reading, problem = self._read_log(visit, system, cursor)
            return Polled(state, reading, problem)

    def inject_nmi(self, limit: float) -> None:
        with self._visit(limit) as visit:
            reset.inject_nmi(visit, self._finder)

    def read_parts(self, limit: float) -> MachineParts:
        with self._visit(limit) as visit:
            _path, system = self._finder.read(visit)
            return read_parts(visit, system, self._log)

    def set_timer(self, device: WatchdogDevice | None, limit: float) -> TimerState:
        with self._visit(limit) as visit:
            path, _system = self._finder.read(visit)
            return watchdog.set_timer(visit, path, device)

    def reset_timer(self, limit: float) -> None:
        raise ServerUnsupported(self._server, "Redfish cannot reset a watchdog timer: only the server's operating system feeds it")

    def close(self) -> None:
        self._connection.close()
        self._log_out(self._connection)

    def _read_log(self, visit: Visit, system: Document, cursor: str | None) -> tuple[LogReading | None, str]:
        """The log is one thing that can fail, the state is another: a machine whose log cannot be read is still looked at."""
        try:
            return self._log.read(visit, system, cursor), ""
        except ExchangeError as error:
            return None, f"the log cannot be read: {error}"

    @contextmanager
    def _visit(self, limit: float) -> Iterator[Visit]:
        with translated(self._server), self._connection.visit(limit) as visit:
            yield visit
