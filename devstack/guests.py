"""Test guests that take an NMI in known ways, and what can be read of them from outside."""

from __future__ import annotations

import os
import re
import subprocess
import uuid as uuids
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import TypeVar
from xml.sax.saxutils import escape, quoteattr

import libvirt

from devstack.guest_commands import GuestCommands, make_pipes
from devstack.guest_image import GuestImage, GuestImages
from devstack.guest_log import GuestLog
from devstack.steps import StepFailed

T = TypeVar("T")

METADATA_NAMESPACE = "https://crashcart.dev/xmlns/server/1.0"
DISK_BYTES = 96 * 1024 * 1024
LOAD_BYTES = 48 * 64 * 1024
"""What a loaded guest has written to its disk when it is ready."""
LOAD_FRAMES = (20, 1000)
"""How many frames, of how many bytes each, it has sent over its tap, where it may have one."""
_SECTOR = 512
_DUMP_COMPLETE = b"crashcart-dump-complete"
_DISK_SECTORS = re.compile(r"^crashcart-disk-sectors: (\d+) (\d+)\s*$", re.MULTILINE)


class GuestKind(StrEnum):
    """How a guest takes an NMI."""

    PANICKING = "panicking"
    """Panics and says so through its pvpanic device; stays crashed."""
    SURVIVING = "surviving"
    """Goes on, and prints how many NMIs it has had."""
    DEAF = "deaf"
    """Goes on and says nothing."""
    LOADED = "loaded"
    """Goes on and says nothing; its processor is busy, it has written ``LOAD_BYTES`` to its disk and sent ``LOAD_FRAMES``."""
    KDUMP = "kdump"
    """Starts its crash kernel, which saves the dump to the disk, and is there again after a reboot."""
    KDUMP_POST_NOTIFIERS = "kdump_post_notifiers"
    """The same, and says through pvpanic that the crash kernel is being started."""

    @property
    def has_crash_kernel(self) -> bool:
        return self in (GuestKind.KDUMP, GuestKind.KDUMP_POST_NOTIFIERS)

    @property
    def kernel_arguments(self) -> str:
        # Without KVM the kernel counts the ticks of its timer for a moment, and panics when a busy host held QEMU up just then.
        arguments = f"console=ttyS1 nmi_watchdog=0 no_timer_check crashcart.kind={self}"
        if self.has_crash_kernel:
            arguments += " crashkernel=96M"
        if self is GuestKind.KDUMP_POST_NOTIFIERS:
            arguments += " crash_kexec_post_notifiers"
        return arguments

    @property
    def has_disk(self) -> bool:
        return self.has_crash_kernel or self is GuestKind.LOADED


class Guest:
    """One domain on a private libvirtd. Its files lie in `directory`/`name`.

    `watchdog` is the one that it is defined with, as `MODEL:EXPIRY_ACTION` (`i6300esb:pause`). `machine` is libvirt's word (`pc`, `q35`).
    With `pci_room` false it has no slot that would take a conventional PCI card while it runs. With `second_monitor` QEMU has another one
    beside libvirt's, on the pipes `monitor`.in and .out: it tells there what it tells libvirt, whether a libvirtd runs or not.
    """

    def __init__(
        self,
        *,
        kind: GuestKind | str = GuestKind.PANICKING,
        name: str = "",
        uuid: str = "",
        directory: Path,
        image: GuestImage | None = None,
        project: str = "",
        user: str = "",
        display_name: str = "",
        panic_device: bool = True,
        on_crash: str = "preserve",
        watchdog: str = "",
        machine: str = "pc",
        pci_room: bool = True,
        second_monitor: bool = False,
    ) -> None:
        self.kind = GuestKind(kind)
        self.uuid = uuid or str(uuids.uuid4())
        self.name = name or f"{self.kind.replace('_', '-')}-{self.uuid[:8]}"
        self.project = project
        self.user = user
        self.display_name = display_name
        self.panic_device = panic_device
        self.on_crash = on_crash
        self.watchdog = watchdog
        self.machine = machine
        self.pci_room = pci_room
        self.second_monitor = second_monitor
        self.directory = directory.resolve() / self.name
        self._log = GuestLog(self.name, self.directory)
        self.serial_log = self._log.serial
        self.console_log = self._log.console
        self.commands = GuestCommands(self.directory / "commands", self.serial_log)
        self.monitor = self.directory / "monitor"
        self._image = image or GuestImages().ensure()
        self._uri = ""

    @property
    def disk_image(self) -> Path | None:
        """The raw disk; None for a guest without one."""
        return self.directory / "disk.raw" if self.kind.has_disk else None

    @property
    def dump_image(self) -> Path | None:
        """The disk that a crash kernel writes its dump to; None for a guest without one."""
        return self.disk_image if self.kind.has_crash_kernel else None

    @property
    def has_tap(self) -> bool:
        """Whether it has a network card on a tap of this host: a loaded guest where the privilege exists to make one."""
        return self.kind is GuestKind.LOADED and os.geteuid() == 0

    def define(self, uri: str) -> None:
        """Make a fresh disk and define the domain, shut off; raises libvirt.libvirtError."""
        self._uri = uri
        self.directory.mkdir(parents=True, exist_ok=True)
        self._log.make_anew()
        self.commands.make_pipes()
        if self.second_monitor:
            make_pipes(self.monitor)
        if self.disk_image is not None:
            self.disk_image.unlink(missing_ok=True)
            with self.disk_image.open("wb") as disk:
                disk.truncate(DISK_BYTES)
        self._on_connection(lambda connection: connection.defineXML(self.domain_xml()))

    def attach_to(self, uri: str) -> None:
        """Use a domain that an earlier command defined."""
        self._uri = uri

    def start(self) -> None:
        """Start the defined domain; raises libvirt.libvirtError."""
        self._on_domain(lambda domain: domain.create())

    def destroy(self) -> None:
        """Switch the domain off, if it is on."""
        self._on_domain(lambda domain: domain.destroy() if domain.isActive() else None)

    def undefine(self) -> None:
        """Forget the domain; its files stay."""
        self._on_domain(lambda domain: domain.undefine())

    def inject_nmi(self) -> None:
        """Past crashcart, straight through libvirt."""
        self._on_domain(lambda domain: domain.injectNMI())

    def suspend(self) -> None:
        """Pause the virtual processors."""
        self._on_domain(lambda domain: domain.suspend())

    def resume(self) -> None:
        """Let them run again."""
        self._on_domain(lambda domain: domain.resume())

    def state(self) -> tuple[int, int]:
        """libvirt's (state, reason)."""
        state, reason = self._on_domain(lambda domain: domain.state())
        return state, reason

    def wait_ready(self, timeout: float = 60.0, boots: int = 1) -> None:
        """Wait until the guest's first process said for the `boots`th time that it is ready; raises StepFailed."""
        self._log.wait_ready(timeout, boots)

    def count_boots(self) -> int:
        """How often the guest got ready since it was defined."""
        return self._log.count_boots()

    def nmi_count(self) -> int:
        """NMIs that a surviving guest counted in /proc/interrupts since its last boot, as far as it said yet."""
        return self._log.nmi_count()

    def count_all_nmis(self) -> int:
        """Those that a surviving guest counted since it was defined, in all its lives."""
        return self._log.count_all_nmis()

    def count_dumps(self) -> int:
        """How often its crash kernel was started since it was defined."""
        return self._log.count_dumps()

    def get_disk_traffic(self) -> tuple[int, int]:
        """Bytes that a loaded guest counted itself until it was ready: read from its disk, and written to it. Raises LookupError."""
        found = _DISK_SECTORS.search(self._log.read_serial())
        if found is None:
            raise LookupError(f"guest {self.name} has not said what it counted")
        return int(found[1]) * _SECTOR, int(found[2]) * _SECTOR

    def has_complete_dump(self) -> bool:
        """True when the crash kernel's last act, the mark in the disk's last sector, is there."""
        if self.dump_image is None:
            return False
        with self.dump_image.open("rb") as disk:
            disk.seek(DISK_BYTES - _SECTOR)
            return disk.read(_SECTOR).startswith(_DUMP_COMPLETE)

    def read_dump_log(self) -> str:
        """The dead kernel's log out of the dump, by makedumpfile; raises StepFailed when it is no readable dump."""
        if self.dump_image is None:
            raise ValueError(f"a {self.kind} guest writes no dump")
        text = self.directory / "dmesg.txt"
        text.unlink(missing_ok=True)
        done = subprocess.run(["makedumpfile", "--dump-dmesg", str(self.dump_image), str(text)], capture_output=True, text=True)
        if done.returncode != 0 or not text.exists():
            raise StepFailed(f"makedumpfile cannot read {self.dump_image}: {done.stderr.strip() or done.stdout.strip()}")
        return text.read_text(errors="replace")

    def domain_xml(self) -> str:
        """The domain as it is defined."""
        command_line = self.kind.kernel_arguments
        model, _, expiry_action = self.watchdog.partition(":")
        if model:
            command_line += f" crashcart.watchdog={model}"
        initramfs = self._image.kdump_initramfs if self.kind.has_crash_kernel else self._image.initramfs
        return f"""
<domain type='{self._image.accelerator}' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
  <name>{escape(self.name)}</name>
  <uuid>{self.uuid}</uuid>
  {self._metadata_xml()}
  <memory unit='MiB'>{320 if self.kind.has_crash_kernel else 128}</memory>
  <vcpu>1</vcpu>
  <os>
    <type arch='x86_64' machine='{self.machine}'>hvm</type>
    <kernel>{escape(str(self._image.kernel))}</kernel>
    <initrd>{escape(str(initramfs))}</initrd>
    <cmdline>{command_line}</cmdline>
  </os>
  <features><acpi/><vmcoreinfo state='on'/></features>
  <on_poweroff>destroy</on_poweroff>
  <on_reboot>restart</on_reboot>
  <on_crash>{self.on_crash}</on_crash>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    {self._disk_xml()}
    {self._nic_xml()}
    <serial type='file'><source path='{escape(str(self.serial_log))}' append='on'/><target port='0'/></serial>
    <serial type='file'><source path='{escape(str(self.console_log))}' append='on'/><target port='1'/></serial>
    <serial type='pipe'><source path='{escape(str(self.commands.path))}'/><target port='3'/></serial>
    {self._pci_xml()}
    {f"<watchdog model='{model}' action='{expiry_action}'/>" if model else ""}
    <memballoon model='virtio'><stats period='5'/></memballoon>
    {"<panic model='isa'/>" if self.panic_device else ""}
  </devices>
  {self._second_monitor_xml()}
</domain>"""

    def _metadata_xml(self) -> str:
        said = {"name": self.display_name, "project": self.project, "user": self.user}
        elements = "".join(f"<crashcart:{key}>{escape(value)}</crashcart:{key}>" for key, value in said.items() if value)
        if not elements:
            return ""
        server = f"<crashcart:server xmlns:crashcart='{METADATA_NAMESPACE}'>{elements}</crashcart:server>"
        return f"<metadata>{server}</metadata>"

    def _disk_xml(self) -> str:
        if self.disk_image is None:
            return ""
        return f"""<disk type='file' device='disk'>
      <driver name='qemu' type='raw'/><source file='{escape(str(self.disk_image))}'/>
      <target dev='vda' bus='virtio'/>
    </disk>"""

    def _nic_xml(self) -> str:
        if not self.has_tap:
            return ""
        # The tap's name must not be that of another stack on this host.
        return f"<interface type='ethernet'><target dev='cc{self.uuid[:8]}'/><model type='virtio'/></interface>"

    def _pci_xml(self) -> str:
        if self.machine == "q35":
            # Nothing but PCI Express without the bridge; a card in the configuration makes libvirt add one for the next start.
            models = ("pcie-root", "pcie-root-port", "pcie-to-pci-bridge") if self.pci_room else ()
            return "".join(f"<controller type='pci' index='{index}' model='{model}'/>" for index, model in enumerate(models))
        return "" if self.pci_room else "<controller type='pci' index='0' model='pci-root'><target hotplug='off'/></controller>"

    def _second_monitor_xml(self) -> str:
        if not self.second_monitor:
            return ""
        path = str(self.monitor).replace(",", ",,")
        words = ("-chardev", f"pipe,id=second,path={path}", "-mon", "chardev=second,mode=control")
        return f"<qemu:commandline>{''.join(f'<qemu:arg value={quoteattr(word)}/>' for word in words)}</qemu:commandline>"

    def _on_domain(self, call: Callable[[libvirt.virDomain], T]) -> T:
        return self._on_connection(lambda connection: call(connection.lookupByUUIDString(self.uuid)))

    def _on_connection(self, call: Callable[[libvirt.virConnect], T]) -> T:
        if not self._uri:
            raise RuntimeError(f"guest {self.name} has not been defined")
        connection = libvirt.open(self._uri)
        try:
            return call(connection)
        finally:
            connection.close()
