"""The conformance suite over the libvirt driver, with real QEMU guests."""

from collections.abc import Iterator

import libvirt
import pytest

from compute_agent.contract.models import PowerState
from compute_agent.contract.watchdogs import WatchdogDevice
from compute_agent.drivers.base import Driver
from devstack.guests import Guest
from devstack.services import wait_until
from tests.conformance.diagnostics_suite import DiagnosticsConformance, HostDumpConformance, InspectionConformance
from tests.conformance.libvirt_host import LibvirtEventLog, LibvirtHost, started_libvirt_host
from tests.conformance.libvirt_watchdogs import find_live, give, give_configured, has_cold, make_persistent, make_transient
from tests.conformance.suite import DriverConformance
from tests.conformance.watchdog_suite import WatchdogConformance, WatchdogLaboratory


class Machine:
    """A guest that is booted only as often as it must be."""

    def __init__(self, host: LibvirtHost, guest: Guest) -> None:
        self._host = host
        self.guest = guest
        self._boots = 0

    @property
    def state(self) -> int:
        return self.guest.state()[0]

    def make_running(self) -> str:
        """Running and ready for an NMI, whatever it was before."""
        if self.state == libvirt.VIR_DOMAIN_CRASHED:
            self.make_stopped()
        if self.state == libvirt.VIR_DOMAIN_SHUTOFF:
            self.start()
        if self.state == libvirt.VIR_DOMAIN_PAUSED:
            self.guest.resume()
        self.guest.wait_ready(boots=self._boots)
        return self.guest.uuid

    def make_paused(self) -> str:
        self.make_running()
        self.guest.suspend()
        return self.guest.uuid

    def make_stopped(self) -> str:
        self.guest.destroy()
        self._boots = self.guest.count_boots()  # one that did not get ready never will
        return self.guest.uuid

    def make_crashed(self) -> str:
        if self.state != libvirt.VIR_DOMAIN_CRASHED:
            self.make_running()
            self.guest.inject_nmi()
            wait_until(lambda: self.state == libvirt.VIR_DOMAIN_CRASHED, 10, "the guest to panic")
        return self.guest.uuid

    def start(self) -> None:
        self.guest.start()
        self._boots += 1

    def reboot(self) -> None:
        with self._host.libvirtd.connect() as connection:
            connection.lookupByUUIDString(self.guest.uuid).reset()
        self._boots += 1


class LibvirtLaboratory(WatchdogLaboratory):
    """Four guests, made when a test first needs them."""

    patience = 15.0

    def __init__(self, host: LibvirtHost, driver: Driver, events: LibvirtEventLog) -> None:
        self.driver = driver
        self.events = events
        self._host = host
        self._machines: dict[str, Machine] = {}
        self._transient: Guest | None = None

    def make_surviving(self) -> str:
        return self._get("surviving").make_running()

    def make_panicking(self) -> str:
        return self._get("panicking").make_running()

    def make_paused(self) -> str:
        return self._get("surviving").make_paused()

    def make_stopped(self) -> str:
        return self._get("deaf").make_stopped()

    def make_crashed(self) -> str:
        return self._get("panicking").make_crashed()

    def make_watched(self, device: WatchdogDevice | None, power_state: PowerState = PowerState.RUNNING) -> str:
        machine = self._get("surviving" if power_state is PowerState.RUNNING else "deaf")
        if power_state is PowerState.RUNNING:
            if has_cold(self._host, machine.guest):
                machine.make_stopped()
                give(self._host, machine.guest, None)
            machine.make_running()
        else:
            machine.make_stopped()
        give(self._host, machine.guest, device)
        return machine.guest.uuid

    def make_full(self) -> str:
        """PCI Express has no slot for the card until libvirt adds a bridge for the next start."""
        machine = self._get("full")
        give(self._host, machine.guest, None)
        if machine.state == libvirt.VIR_DOMAIN_SHUTOFF:
            machine.start()
        return machine.guest.uuid

    def make_clinging(self, device: WatchdogDevice) -> str:
        guest = self._get("panicking").guest
        self.make_crashed()
        with self._host.libvirtd.connect() as connection:
            domain = connection.lookupByUUIDString(guest.uuid)
            give_configured(connection, domain, device)
            if find_live(domain) is None:
                domain.attachDeviceFlags(
                    f"<watchdog model='{device.model}' action='{device.expiry_action}'/>", libvirt.VIR_DOMAIN_AFFECT_LIVE
                )
        return guest.uuid

    def make_transient(self, device: WatchdogDevice | None) -> str:
        server = self.make_watched(device)
        self._transient = self._guest(server)
        make_transient(self._host, self._transient)
        return server

    def make_with_unmanaged(self) -> tuple[str, WatchdogDevice]:
        pytest.skip("libvirt refuses diag288 on this architecture, and has itco only from 9.1 on")

    def define_watchdog(self, server: str, device: WatchdogDevice | None) -> None:
        with self._host.libvirtd.connect() as connection:
            give_configured(connection, connection.lookupByUUIDString(server), device)

    def fire_watchdog(self, server: str) -> None:
        self._guest(server).commands.starve_watchdog()

    def count_signals(self, server: str) -> int:
        return self._find(server).guest.nmi_count()

    def wait_for_signals(self, server: str, count: int) -> None:
        wait_until(lambda: self.count_signals(server) >= count, self.patience, f"the guest to count {count} NMIs")

    def start(self, server: str) -> None:
        self._find(server).start()

    def stop(self, server: str) -> None:
        self._find(server).make_stopped()

    def pause(self, server: str) -> None:
        self._guest(server).suspend()

    def resume(self, server: str) -> None:
        self._guest(server).resume()

    def reboot(self, server: str) -> None:
        self._find(server).reboot()

    def remove(self, server: str) -> None:
        machine = self._find(server)
        machine.guest.undefine()
        self._machines = {kind: kept for kind, kept in self._machines.items() if kept is not machine}

    def lose_backend(self, server: str) -> None:
        self._host.libvirtd.kill()

    def restore_backend(self, server: str) -> None:
        self._host.libvirtd.start()

    def _get(self, kind: str) -> Machine:
        if self._transient is not None:
            make_persistent(self._host, self._transient)
            self._transient = None
        if kind not in self._machines:
            guest = self._host.define("deaf", machine="q35", pci_room=False) if kind == "full" else self._host.define(kind)
            self._machines[kind] = Machine(self._host, guest)
        return self._machines[kind]

    def _find(self, server: str) -> Machine:
        return next(machine for machine in self._machines.values() if machine.guest.uuid == server)

    def _guest(self, server: str) -> Guest:
        return self._find(server).guest


@pytest.fixture(scope="module")
def laboratory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LibvirtLaboratory]:
    with started_libvirt_host(tmp_path_factory.mktemp("libvirt")) as host, host.driver() as (driver, events):
        yield LibvirtLaboratory(host, driver, events)


class TestLibvirt(DriverConformance):
    """Everything that the suite demands."""


class TestLibvirtDiagnostics(DiagnosticsConformance):
    """Everything that the suite demands."""


class TestLibvirtHostDump(HostDumpConformance):
    """Everything that the suite demands."""


class TestLibvirtInspection(InspectionConformance):
    """Everything that the suite demands."""


class TestLibvirtWatchdogs(WatchdogConformance):
    """Everything that the suite demands."""
