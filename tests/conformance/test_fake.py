"""The fake driver passes the suite that every driver passes; what it promises on top is in its unit tests."""

from collections.abc import Iterator

import pytest

from compute_agent.contract.clock import SystemClock
from compute_agent.contract.models import PowerState
from compute_agent.contract.watchdogs import WatchdogDevice
from compute_agent.drivers.fake import FakeHypervisor, NmiEffect
from compute_agent.drivers.fake_devices import make_watchdog
from tests.conformance.diagnostics_suite import DiagnosticsConformance, HostDumpConformance, InspectionConformance
from tests.conformance.fake_machines import FakeMachines
from tests.conformance.suite import DriverConformance, EventLog
from tests.conformance.watchdog_suite import WatchdogConformance, WatchdogLaboratory


class FakeLaboratory(FakeMachines, WatchdogLaboratory):
    """The hypervisor in memory: machines cost nothing, so each call makes a new one."""

    patience = 0.0  # it reports at once or never

    def __init__(self) -> None:
        self._hypervisor = FakeHypervisor(SystemClock())
        self.driver = self._hypervisor.driver
        self.events = EventLog()
        self._hypervisor.subscribe(self.events)
        self._hypervisor.open()

    def make_surviving(self) -> str:
        return self._hypervisor.make_server(effect=NmiEffect.SURVIVE)

    def make_panicking(self) -> str:
        return self._hypervisor.make_server(effect=NmiEffect.PANIC)

    def make_paused(self) -> str:
        return self._hypervisor.make_server(power_state=PowerState.PAUSED, effect=NmiEffect.SURVIVE)

    def make_stopped(self) -> str:
        return self._hypervisor.make_server(power_state=PowerState.SHUTDOWN)

    def make_crashed(self) -> str:
        return self._hypervisor.make_server(power_state=PowerState.CRASHED)

    def make_watched(self, device: WatchdogDevice | None, power_state: PowerState = PowerState.RUNNING) -> str:
        return self._hypervisor.make_server(power_state=power_state, watchdog=device)

    def make_full(self) -> str:
        server = self._hypervisor.make_server()
        self._hypervisor.fill_slots(server)
        return server

    def make_clinging(self, device: WatchdogDevice) -> str:
        return self._hypervisor.make_server(power_state=PowerState.CRASHED, watchdog=device)

    def make_transient(self, device: WatchdogDevice | None) -> str:
        server = self._hypervisor.make_server(watchdog=device)
        self._hypervisor.change(server, persistent=False, watchdog=make_watchdog(None, device, persistent=False))
        return server

    def make_with_unmanaged(self) -> tuple[str, WatchdogDevice]:
        server, device = self._hypervisor.make_server(), WatchdogDevice(model="itco", expiry_action="reset")
        self._hypervisor.change(server, watchdog=make_watchdog(others=(device,), models=()))
        return server, device

    def define_watchdog(self, server: str, device: WatchdogDevice | None) -> None:
        has = self._hypervisor.get_server(server).watchdog
        self._hypervisor.change_device(server, configured=device, live=None if has is None else has.live)

    def pause(self, server: str) -> None:
        self._hypervisor.pause(server)

    def resume(self, server: str) -> None:
        self._hypervisor.resume(server)

    def lose_backend(self, server: str) -> None:
        self._hypervisor.lose_backend()

    def restore_backend(self, server: str) -> None:
        self._hypervisor.restore_backend()


@pytest.fixture(scope="module")
def laboratory() -> Iterator[FakeLaboratory]:
    laboratory = FakeLaboratory()
    yield laboratory
    assert laboratory.driver.lifecycle is not None
    laboratory.driver.lifecycle.close()


class TestFakeDriver(DriverConformance):
    """Nothing of its own."""


class TestFakeDiagnostics(DiagnosticsConformance):
    """Nothing of its own."""


class TestFakeHostDump(HostDumpConformance):
    """Nothing of its own."""


class TestFakeInspection(InspectionConformance):
    """Nothing of its own."""


class TestFakeWatchdogs(WatchdogConformance):
    """Nothing of its own."""
