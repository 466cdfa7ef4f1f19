"""What the tests with real parts need of this machine."""

from __future__ import annotations

import importlib.util
import os
import shutil
from pathlib import Path

_PROGRAMS = ("libvirtd", "qemu-system-x86_64", "epmd", "busybox", "makedumpfile", "gcc", "ipmi_sim", "ipmitool")


def list_missing_parts() -> list[str]:
    """Programs and modules that are not there; empty when the real tests can run."""
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    missing = [program for program in _PROGRAMS if shutil.which(program, path=path) is None]
    if not Path("/usr/lib/rabbitmq/bin/rabbitmq-server").exists():
        missing.append("rabbitmq-server")
    if not Path("/usr/include/OpenIPMI/mcserv.h").exists():
        missing.append("libopenipmi-dev")
    if importlib.util.find_spec("libvirt") is None:
        missing.append("libvirt-python")
    return missing


def may_skip_real_tests() -> bool:
    """On a laptop a test without its real parts is skipped; in CI (CI=true) it must fail, or it would prove nothing."""
    return os.environ.get("CI", "").lower() != "true"
