"""A laboratory of machines behind real BMC software: each has an `ipmi_sim` of its own, reached through a relay that can be cut."""

import itertools
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from compute_agent.contract.clock import SystemClock
from compute_agent.contract.models import PowerState
from compute_agent.contract.watchdogs import WatchdogDevice
from compute_agent.drivers.bmc.protocol import Bmc, Secret, Target
from compute_agent.drivers.ipmi.protocol import IpmiProtocol
from compute_agent.drivers.models import DriverEventKind
from devstack.bmc_inventory import InventoryEntry, write_inventory
from devstack.ipmi_sim import ADMINISTRATOR, IpmiSim, SimulatedBmc
from tests.conformance.bmc_laboratory import BmcLaboratory
from tests.udp_relay import UdpRelay, relaying

_OS_STOP, _BOOT_INITIATED = 0x20, 0x1D
_RUN_TIME_STOP, _HARD_RESET = 0x01, 0x01
_KEPT_ALIVE = 4
"""Machines that are left running: as many as a test makes at most."""
_POLL_INTERVAL = 0.1
_CALL_BOUND = 30.0
"""A machine that stands still for seconds is not to look like BMCs that do; a port that is closed is told at once."""
_CLOCK_AHEAD = 86_400
"""Seconds by which the BMCs' clocks are wrong."""
_DIRECT_LIMIT = 30.0


@dataclass
class _Machine:
    """A machine: its simulator, the relay before it, and the way past the relay."""

    server: str
    simulator: IpmiSim
    relay: UdpRelay
    direct: Bmc
    ended: threading.Event = field(default_factory=threading.Event)

    @property
    def bmc(self) -> SimulatedBmc:
        return self.simulator.bmc

    def write_panic(self) -> None:
        self.bmc.add_log_record(sensor_type=_OS_STOP, offset=_RUN_TIME_STOP)

    def panic_at_nmi(self) -> None:
        """What its kernel does: it notes its panic in the BMC's log."""
        while not self.ended.wait(0.01):
            if self.bmc.count_nmis():
                self.write_panic()
                return


class IpmiLaboratory(BmcLaboratory):
    """The driver for bare metal over an inventory that grows by a machine with each that is made, and loses the oldest."""

    patience = 15.0
    countdown = 2.0
    options: ClassVar = {
        "call_bound": _CALL_BOUND,
        "poll_interval": _POLL_INTERVAL,
        "attentive_interval": _POLL_INTERVAL,
        "watchdog_countdown": countdown,
    }

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.inventory = directory / "inventory.yaml"
        self._machines: dict[str, tuple[_Machine, ExitStack]] = {}
        self._numbers = itertools.count()
        self._protocol = IpmiProtocol(SystemClock(), self.countdown)
        self._write_inventory()
        self.start_driver({})

    def close(self) -> None:
        self.stop_driver()
        for _, ends in self._machines.values():
            ends.close()
        self._protocol.close()

    def pass_time(self, seconds: float) -> None:
        time.sleep(seconds)

    def write_panic(self, server: str) -> None:
        self._get(server).write_panic()

    def make_surviving(self) -> str:
        return self._make().server

    def make_panicking(self) -> str:
        machine = self._make()
        threading.Thread(target=machine.panic_at_nmi).start()
        return machine.server

    def make_stopped(self) -> str:
        return self._make(on=False).server

    def make_watched(self, device: WatchdogDevice | None, power_state: PowerState = PowerState.RUNNING) -> str:
        return self._make(on=power_state is PowerState.RUNNING, device=device).server

    def fire_watchdog(self, server: str) -> None:
        self._get(server).direct.reset_timer(_DIRECT_LIMIT)

    def count_signals(self, server: str) -> int:
        return self._get(server).bmc.count_nmis()

    def wait_for_signals(self, server: str, count: int) -> None:
        """A BMC answers after it did it: there is nothing to wait for."""
        assert self.count_signals(server) >= count

    def start(self, server: str) -> None:
        self._get(server).bmc.set_power(True)

    def stop(self, server: str) -> None:
        self._get(server).bmc.set_power(False)

    def reboot(self, server: str) -> None:
        self._get(server).bmc.add_log_record(sensor_type=_BOOT_INITIATED, offset=_HARD_RESET)

    def remove(self, server: str) -> None:
        _, ends = self._machines.pop(server)
        self._reload()
        ends.close()

    def lose_backend(self, server: str) -> None:
        self._get(server).relay.close_port()

    def restore_backend(self, server: str) -> None:
        self._get(server).relay.open_port()

    def get_bmc(self, server: str) -> SimulatedBmc:
        """For what only BMCs that speak IPMI are asked to do."""
        return self._get(server).bmc

    def restart_bmc(self, server: str) -> None:
        self._get(server).simulator.restart()

    def _get(self, server: str) -> _Machine:
        return self._machines[server][0]

    def _make(self, *, on: bool = True, device: WatchdogDevice | None = None) -> _Machine:
        """A new one, which the driver has looked at."""
        retired = ExitStack()
        while len(self._machines) >= _KEPT_ALIVE:
            retired.callback(self._machines.pop(next(iter(self._machines)))[1].close)
        machine, ends = self._begin()
        machine.bmc.set_power(on)
        if device is not None:
            machine.direct.set_timer(device, _DIRECT_LIMIT)
        self._machines[machine.server] = machine, ends
        since = self.events.position
        self._reload()
        retired.close()
        self.events.wait_for(DriverEventKind.DEFINED, machine.server, since=since, timeout=self.patience)
        self.events.wait_for_cursor(machine.server, timeout=self.patience)
        return machine

    def _begin(self) -> tuple[_Machine, ExitStack]:
        with ExitStack() as ends:
            simulator = IpmiSim(self._directory / f"{next(self._numbers)}", clock_ahead=_CLOCK_AHEAD, whole_watchdog=True)
            simulator.start()
            ends.callback(simulator.stop)
            relay = ends.enter_context(relaying(simulator.bmc.port))
            server, bmc = str(uuid.uuid4()), simulator.bmc
            target = Target(server, bmc.address, bmc.port, ADMINISTRATOR.name, Secret(ADMINISTRATOR.password.encode()))
            machine = _Machine(server, simulator, relay, self._protocol.connect(target))
            ends.callback(machine.ended.set)
            ends.callback(machine.direct.close)
            return machine, ends.pop_all()

    def _reload(self) -> None:
        self._write_inventory()
        assert self.driver.reload is not None
        self.driver.reload.reload()

    def _write_inventory(self) -> None:
        login, address = ADMINISTRATOR, "127.0.0.1"
        entries = [
            InventoryEntry(server, f"machine-{server[:8]}", "ipmi", address, machine.relay.port, login.name, login.password, "p", "u")
            for server, (machine, _) in self._machines.items()
        ]
        write_inventory(self.inventory, entries)


@contextmanager
def open_laboratory(directory: Path) -> Iterator[IpmiLaboratory]:
    laboratory = IpmiLaboratory(directory)
    try:
        yield laboratory
    finally:
        laboratory.close()
