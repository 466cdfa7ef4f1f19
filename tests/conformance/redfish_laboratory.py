"""Machines behind BMCs that speak Redfish: real QEMU guests, each behind a ``sushy-emulator`` of its own, and the driver over them."""

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

import libvirt
import yaml

from compute_agent.contract.models import PowerState
from compute_agent.contract.watchdogs import WatchdogDevice
from compute_agent.drivers.models import DriverEventKind, DriverServer
from devstack.guests import Guest
from devstack.services import wait_until
from devstack.sushy_emulator import SushyEmulator
from tests.conformance.bmc_laboratory import BmcLaboratory
from tests.conformance.libvirt_host import LibvirtHost, started_libvirt_host
from tests.redfish_extras import ExtraFiles

POLL_INTERVAL = 0.3
_PATIENCE = 15.0
_SURVIVING, _PANICKING, _STOPPED = "surviving", "panicking", "deaf"
"""Kinds of guests; the last is for machines that are only switched on and off, and has nothing to boot."""
_SYSTEM = re.compile("<kernel>.*</cmdline>", re.DOTALL)
_EXTRAS_PROGRAM = ("-m", "tests.redfish_extras")


class Machine:
    """A guest and its BMC."""

    def __init__(self, host: LibvirtHost, kind: str, directory: Path) -> None:
        self._host = host
        self.guest: Guest = host.define(kind)
        if kind == _STOPPED:
            with host.libvirtd.connect() as connection:
                connection.defineXML(_SYSTEM.sub("", self.guest.domain_xml()))
        self.server = self.guest.uuid
        directory = directory / self.guest.name
        directory.mkdir()
        self.extras = ExtraFiles(directory)
        self.emulator = SushyEmulator(
            directory,
            libvirt_uri=host.libvirtd.uri,
            servers=[self.server],
            program=_EXTRAS_PROGRAM,
            environment={"EXTRAS": str(directory)},
        )
        self._boots = 0
        self._said = 0

    def switch_on(self) -> None:
        """The power; the guest boots meanwhile, and whoever needs that waits with :meth:`wait_ready`."""
        if self.guest.state()[0] == libvirt.VIR_DOMAIN_CRASHED:
            self.switch_off()
        if self.guest.state()[0] == libvirt.VIR_DOMAIN_SHUTOFF:
            self._boots = self.guest.count_boots() + 1
            self._said = self._count_said()
            self.guest.start()
            self._note_boot()

    def wait_ready(self) -> None:
        """Its guest takes an NMI as it is made to."""
        self.guest.wait_ready(boots=self._boots)

    def switch_off(self) -> None:
        self.guest.destroy()

    def reset(self) -> None:
        """As a BMC does it, of a machine whose firmware is through with its self-test: QEMU's may stand still for good when it is not."""
        wait_until(lambda: self._count_said() > self._said, _PATIENCE, f"the kernel of {self.guest.name} to begin")
        self._said = self._count_said()
        with self._host.libvirtd.connect() as connection:
            connection.lookupByUUIDString(self.server).reset()
        self._boots = self.guest.count_boots() + 1
        self._note_boot()

    def _count_said(self) -> int:
        """Bytes that its kernels wrote to the console so far."""
        return self.guest.console_log.stat().st_size

    def _note_boot(self) -> None:
        """A BMC writes down each, and when it was."""
        self.extras.note_reset()
        self.extras.add_entry("SystemBoot/Restart", "Initiated by power up or hard reset")

    def describe(self) -> dict[str, object]:
        """Its entry in the inventory."""
        return {
            "uuid": self.server,
            "name": self.guest.name,
            "driver": "redfish",
            "address": "127.0.0.1",
            "port": self.emulator.port,
            "username": self.emulator.username,
            "password_file": str(self.emulator.password_file),
            "ca_file": str(self.emulator.ca_file),
        }


class RedfishLaboratory(BmcLaboratory):
    """Three machines at most. They are made side by side, and are in the inventory from when a test first needs them."""

    patience = _PATIENCE
    countdown = 1.0
    options: ClassVar = {"poll_interval": POLL_INTERVAL, "attentive_interval": POLL_INTERVAL, "call_bound": 30.0}

    def __init__(self, host: LibvirtHost, directory: Path) -> None:
        self._host = host
        self._directory = directory
        self.inventory = directory / "inventory.yaml"
        self._machines: dict[str, Machine] = {}
        self._emulators: list[SushyEmulator] = []
        self._pool = ThreadPoolExecutor()
        self._coming = {kind: self._pool.submit(self._prepare, kind) for kind in (_SURVIVING, _STOPPED, _PANICKING)}
        self._write_inventory()
        self.start_driver({})

    def end(self) -> None:
        """Nothing of it runs any more."""
        self.stop_driver()
        self._pool.shutdown()
        for emulator in self._emulators:
            emulator.stop()

    def get_machine(self, server: str) -> Machine:
        return next(machine for machine in self._machines.values() if machine.server == server)

    def make_surviving(self) -> str:
        return self._make_on(_SURVIVING)

    def make_panicking(self) -> str:
        server = self._make_on(_PANICKING)
        self.get_machine(server).wait_ready()
        return server

    def make_stopped(self) -> str:
        machine = self._get(_STOPPED)
        machine.switch_off()
        self._wait_until_seen(machine, PowerState.SHUTDOWN)
        return machine.server

    def make_watched(self, device: WatchdogDevice | None, power_state: PowerState = PowerState.RUNNING) -> str:
        assert self.driver.watchdog is not None
        server = self.make_surviving() if power_state is PowerState.RUNNING else self.make_stopped()
        if device is None:
            self.driver.watchdog.remove_watchdog(server)
        else:
            self.driver.watchdog.set_watchdog(server, device)
        return server

    def fire_watchdog(self, server: str) -> None:
        self.get_machine(server).extras.add_entry("Watchdog", "Timer expired, status only (no action, no interrupt)")

    def pass_time(self, seconds: float) -> None:
        raise NotImplementedError("nothing over Redfish lets a timer count")

    def write_panic(self, server: str) -> None:
        self.get_machine(server).extras.add_entry("OS Stop/Shutdown", "Run-time critical stop")

    def count_signals(self, server: str) -> int:
        """A guest that boots counts nothing yet: tests ask before they signal it."""
        machine = self.get_machine(server)
        machine.wait_ready()
        return machine.guest.nmi_count()

    def wait_for_signals(self, server: str, count: int) -> None:
        wait_until(lambda: self.count_signals(server) >= count, self.patience, f"the guest to count {count} NMIs")

    def start(self, server: str) -> None:
        self.get_machine(server).switch_on()

    def stop(self, server: str) -> None:
        self.get_machine(server).switch_off()

    def reboot(self, server: str) -> None:
        self.get_machine(server).reset()

    def remove(self, server: str) -> None:
        machine = self.get_machine(server)
        self._machines = {kind: kept for kind, kept in self._machines.items() if kept is not machine}
        self._write_inventory()
        self._reload()
        machine.emulator.stop()
        machine.guest.undefine()

    def lose_backend(self, server: str) -> None:
        self.get_machine(server).emulator.kill()

    def restore_backend(self, server: str) -> None:
        self.get_machine(server).emulator.start()

    def _make_on(self, kind: str) -> str:
        machine = self._get(kind)
        machine.switch_on()
        self._wait_until_seen(machine, PowerState.RUNNING)
        return machine.server

    def _get(self, kind: str) -> Machine:
        if kind not in self._machines:
            coming = self._coming.pop(kind, None) or self._pool.submit(self._prepare, kind)
            machine = coming.result()
            self._machines[kind] = machine
            self._write_inventory()
            self._reload()
        return self._machines[kind]

    def _prepare(self, kind: str) -> Machine:
        machine = Machine(self._host, kind, self._directory)
        self._emulators.append(machine.emulator)
        if kind != _STOPPED:
            machine.switch_on()  # the guest boots while its BMC starts
        machine.emulator.start()
        return machine

    def _wait_until_seen(self, machine: Machine, power_state: PowerState) -> None:
        """A change that no poll has seen yet would be told in the midst of a test."""

        def find() -> DriverServer | None:
            listed = self.driver.servers.list_servers()
            return next((server for server in listed if server.id == machine.server and server.power_state is power_state), None)

        wait_until(
            lambda: (seen := find()) is not None and not seen.unread, self.patience, f"{machine.guest.name} to be seen {power_state}"
        )

    def _write_inventory(self) -> None:
        machines = [machine.describe() for machine in self._machines.values()]
        self.inventory.write_text(yaml.safe_dump({"machines": machines}))

    def _reload(self) -> None:
        assert self.driver.reload is not None
        self.driver.reload.reload()


@contextmanager
def started_redfish_laboratory(directory: Path) -> Iterator[RedfishLaboratory]:
    """With a private libvirtd; nothing of it runs afterwards."""
    with started_libvirt_host(directory) as host:
        laboratory = RedfishLaboratory(host, directory)
        try:
            laboratory.events.wait_for(DriverEventKind.BACKEND_BACK, None, since=0, timeout=laboratory.patience)
            yield laboratory
        finally:
            laboratory.end()
