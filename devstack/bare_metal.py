"""A machine with a BMC: QEMU, started and stopped by a simulated BMC as a power supply is, with that BMC on its system bus."""

from __future__ import annotations

import shlex
import socket
from pathlib import Path

from devstack.guest_commands import GuestCommands
from devstack.guest_image import GuestImage, GuestImages
from devstack.guest_log import GuestLog
from devstack.guests import GuestKind
from devstack.ipmi_sim import BmcSpec, IpmiSim, SimulatedBmc
from devstack.ports import find_free_port
from devstack.services import ProcessId, wait_until

_PORT_FILE = "vm.port"
_MEMORY_MIB = 128


class BareMetalMachine:
    """One machine and its BMC. Files lie in `directory`; any later object with the same one finds both.

    A guest of it has the kernel's IPMI driver: a kernel that panics has an OS critical stop written into the BMC's log.
    """

    def __init__(
        self,
        directory: Path,
        *,
        name: str = "machine",
        kind: GuestKind = GuestKind.PANICKING,
        clock_ahead: int | None = 0,
        whole_watchdog: bool = False,
        cache_dir: Path | None = None,
    ) -> None:
        if kind.has_disk:
            raise ValueError(f"a machine has no disk, which a {kind} guest needs")
        self.name = name
        self.kind = kind
        self.directory = directory.resolve()
        self.log = GuestLog(name, self.directory)
        self.commands = GuestCommands(self.directory / "commands", self.log.serial)
        self._start_script = self.directory / "start"
        self._pid_file = self.directory / "qemu.pid"
        self._vm_port = self._choose_port()
        spec = BmcSpec(f"/bin/sh {shlex.quote(str(self._start_script))}", self._vm_port)
        self.simulator = IpmiSim(
            self.directory / "bmc", [spec], clock_ahead=clock_ahead, whole_watchdog=whole_watchdog, cache_dir=cache_dir
        )

    @property
    def bmc(self) -> SimulatedBmc:
        return self.simulator.bmc

    @property
    def is_on(self) -> bool:
        """Whether QEMU runs."""
        return self.find_process() is not None

    def start(self, image: GuestImage | None = None, *, power_on: bool = True) -> None:
        """Start the BMC, and let it switch the machine on; raises StepFailed. Comes back before the guest is ready."""
        self.log.make_anew()
        self.commands.make_pipes()
        self._start_script.write_text(self._make_start_script(image or GuestImages().ensure()))
        self.simulator.start()
        if power_on:
            self.power_on()

    def power_on(self) -> None:
        """Through the BMC; comes back when the machine has power. Raises StepFailed, TimeoutError."""
        self.bmc.run_ipmitool("chassis", "power", "on")
        wait_until(lambda: self.is_on, 10.0, f"{self.name} to be on")

    def wait_ready(self, timeout: float = 60.0, boots: int = 1) -> None:
        """Wait until the guest got ready for the `boots`th time since :meth:`start`; raises StepFailed."""
        self.log.wait_ready(timeout, boots)

    def end(self) -> None:
        """End the BMC and the machine, and leave the files."""
        self.simulator.stop()
        process = self.find_process()
        if process is not None:
            process.stop(grace=3.0)

    def find_process(self) -> ProcessId | None:
        """The machine's QEMU; None while it is off."""
        try:
            process = ProcessId.find_running(int(self._pid_file.read_text()))
            command_line = Path(f"/proc/{process.pid}/cmdline").read_bytes() if process else b""
        except (FileNotFoundError, ProcessLookupError, ValueError):
            return None
        # The pid may be another's by now.
        return process if str(self._pid_file).encode() in command_line else None

    def _choose_port(self) -> int:
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        saved = self.directory / _PORT_FILE
        if not saved.exists():
            saved.write_text(f"{find_free_port(socket.SOCK_STREAM)}\n")
        return int(saved.read_text())

    def _make_start_script(self, image: GuestImage) -> str:
        argv = ["qemu-system-x86_64", "-name", self.name, "-machine", "pc", "-nodefaults", "-display", "none", "-m", str(_MEMORY_MIB)]
        argv += ["-accel", "kvm" if image.accelerator == "kvm" else "tcg", "-pidfile", str(self._pid_file)]
        argv += ["-kernel", str(image.kernel), "-initrd", str(image.initramfs)]
        argv += ["-append", f"{self.kind.kernel_arguments} crashcart.bmc"]
        lines = (f"file,path={_quote(self.log.serial)},append=on", f"file,path={_quote(self.log.console)},append=on")
        for index, line in [*enumerate(lines), (3, f"pipe,path={_quote(self.commands.path)}")]:
            argv += ["-chardev", f"{line},id=serial{index}", "-device", f"isa-serial,chardev=serial{index},index={index}"]
        # It looks for its BMC until one is there: one that was killed comes back.
        argv += ["-chardev", f"socket,id=bmc,host=127.0.0.1,port={self._vm_port},reconnect=1"]
        argv += ["-device", "ipmi-bmc-extern,id=bmc,chardev=bmc", "-device", "isa-ipmi-kcs,bmc=bmc"]
        return f"exec {shlex.join(argv)}\n"


def _quote(path: Path) -> str:
    """As QEMU wants it within a list."""
    return str(path).replace(",", ",,")
