"""The conformance suite over the libvirt driver, with real QEMU guests."""

from collections.abc import Iterator

import libvirt
import pytest

from devstack.guests import Guest
from devstack.services import wait_until
from tests.conformance.diagnostics_suite import DiagnosticsConformance, HostDumpConformance, InspectionConformance
from tests.conformance.libvirt_host import LibvirtEventLog, LibvirtHost, started_libvirt_host
from tests.conformance.suite import Driver, DriverConformance, Laboratory


class Machine:
    """A guest that is booted only as often as it must be."""

    def __init__(self, host: LibvirtHost, kind: str) -> None:
        self._host = host
        self.guest = host.define(kind)
        self._boots = 0

    @property
    def state(self) -> int:
        return self.guest.state()[0]

    def make_running(self) -> str:
        """Running and ready for an NMI, whatever it was before."""
        if self.state == libvirt.VIR_DOMAIN_CRASHED:
            self.guest.destroy()
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


class LibvirtLaboratory(Laboratory):
    """Three guests, made when a test first needs them."""

    patience = 15.0

    def __init__(self, host: LibvirtHost, driver: Driver, events: LibvirtEventLog) -> None:
        self.driver = driver
        self.events = events
        self._host = host
        self._machines: dict[str, Machine] = {}

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

    def count_signals(self, server: str) -> int:
        return self._find(server).guest.nmi_count()

    def wait_for_signals(self, server: str, count: int) -> None:
        wait_until(lambda: self.count_signals(server) >= count, self.patience, f"the guest to count {count} NMIs")

    def start(self, server: str) -> None:
        self._find(server).start()

    def stop(self, server: str) -> None:
        self._guest(server).destroy()

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

    def lose_backend(self) -> None:
        self._host.libvirtd.kill()

    def restore_backend(self) -> None:
        self._host.libvirtd.start()

    def _get(self, kind: str) -> Machine:
        if kind not in self._machines:
            self._machines[kind] = Machine(self._host, kind)
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
