"""The fake driver passes what a driver of bare metal must do, too: its servers know their power alone and keep logs here."""

from collections.abc import Mapping

import pytest

from compute_agent.contract.clock import SystemClock
from compute_agent.contract.models import PowerState
from compute_agent.contract.watchdogs import WatchdogDevice
from compute_agent.drivers.fake import FakeHypervisor, NmiEffect
from compute_agent.drivers.fake_backend import COUNTDOWN
from tests.conformance.bare_metal_suite import LogConformance, LogLaboratory, TimerConformance
from tests.conformance.diagnostics_suite import DiagnosticsConformance
from tests.conformance.fake_machines import FakeMachines
from tests.conformance.suite import DriverConformance, EventLog
from tests.conformance.watchdog_suite import TimerLaboratory, WatchdogConformance


class _FastClock(SystemClock):
    """Goes ahead of the system's monotonic clock when it is told to."""

    ahead = 0.0

    def monotonic(self) -> float:
        return super().monotonic() + self.ahead


class FakeBareMetal(FakeMachines, LogLaboratory, TimerLaboratory):
    """The same hypervisor, with servers of bare metal alone."""

    patience = 0.0
    countdown = COUNTDOWN
    samples_devices = True
    knows_sizes = True

    def __init__(self) -> None:
        self._clock = _FastClock()
        self._hypervisor = FakeHypervisor(self._clock)
        self.driver = self._hypervisor.driver
        self.start_driver({})

    def start_driver(self, cursors: Mapping[str, str]) -> None:
        self.events = EventLog()
        self._hypervisor.subscribe(self.events, cursors)
        self._hypervisor.open()

    def stop_driver(self) -> None:
        self._hypervisor.close()

    def pass_time(self, seconds: float) -> None:
        self._clock.ahead += seconds
        self._hypervisor.run_timers()

    def write_panic(self, server: str) -> None:
        self._hypervisor.panic(server)

    def make_surviving(self) -> str:
        return self._hypervisor.make_server(effect=NmiEffect.SURVIVE, bare_metal=True)

    def make_panicking(self) -> str:
        return self._hypervisor.make_server(effect=NmiEffect.PANIC, bare_metal=True)

    def make_stopped(self) -> str:
        return self._hypervisor.make_server(power_state=PowerState.SHUTDOWN, bare_metal=True)

    def make_watched(self, device: WatchdogDevice | None, power_state: PowerState = PowerState.RUNNING) -> str:
        return self._hypervisor.make_server(power_state=power_state, watchdog=device, bare_metal=True)

    def lose_backend(self, server: str) -> None:
        self._hypervisor.lose_server(server)

    def restore_backend(self, server: str) -> None:
        self._hypervisor.restore_server(server)


@pytest.fixture(scope="module")
def laboratory() -> FakeBareMetal:
    return FakeBareMetal()


class TestFakeDriver(DriverConformance):
    """Nothing of its own."""


class TestFakeDiagnostics(DiagnosticsConformance):
    """Nothing of its own."""


class TestFakeWatchdogs(WatchdogConformance):
    """Nothing of its own."""


class TestFakeLogs(LogConformance):
    """Nothing of its own."""


class TestFakeTimers(TimerConformance):
    """Nothing of its own."""
