"""Whether guests really boot under KVM here: /dev/kvm and libvirt's capabilities may promise it and be wrong."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from devstack.services import Service, wait_until

_BOOT_TIMEOUT = 8.0
READY_MARKER = "crashcart-guest-ready:"


def find_accelerator(cache: Path, kernel: Path, initramfs: Path) -> str:
    """`kvm` when a guest got ready under it, else `qemu`; the verdict on this machine is kept in `cache`."""
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return "qemu"
    verdict = cache / f"accelerator-{_name_machine()}"
    if not verdict.exists():
        verdict.write_text("kvm" if _boots_under_kvm(cache, kernel, initramfs) else "qemu")
    return verdict.read_text()


def _name_machine() -> str:
    """Changes with the kernel and the processor, as the verdict may."""
    model = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return hashlib.sha256(f"{os.uname().release} {model[:1]}".encode()).hexdigest()[:12]


def _boots_under_kvm(cache: Path, kernel: Path, initramfs: Path) -> bool:
    serial = cache / "kvm-test.serial"
    serial.unlink(missing_ok=True)
    machine = Service(
        "KVM test boot",
        [
            *(
                "qemu-system-x86_64",
                "-accel",
                "kvm",
                "-m",
                "128",
                "-nodefaults",
                "-display",
                "none",
                "-no-reboot",
            ),
            *(
                "-kernel",
                str(kernel),
                "-initrd",
                str(initramfs),
                "-append",
                "console=ttyS1 crashcart.kind=deaf",
            ),
            *("-serial", f"file:{serial}"),
        ],
        log=cache / "kvm-test.log",
    )
    machine.start()
    try:
        return wait_until(lambda: _is_settled(machine, serial), _BOOT_TIMEOUT, "a guest under KVM") == "ready"
    except TimeoutError:
        return False
    finally:
        machine.kill()


def _is_settled(machine: Service, serial: Path) -> str:
    if serial.exists() and READY_MARKER in serial.read_text(errors="replace"):
        return "ready"
    return "" if machine.is_running else "ended"
