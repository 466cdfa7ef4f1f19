"""Real QEMU processes for benchmarks, whose guests do nothing: their own processor time is nothing but their answers to libvirt."""

from __future__ import annotations

import uuid as uuids
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import libvirt

from tests.bench.fake_stack import FakeAgent
from tests.conformance.libvirt_host import LibvirtHost, running_libvirt_host


@contextmanager
def running_quiet_host(directory: Path) -> Iterator[LibvirtHost]:
    """A private libvirtd for as long as the block lasts, of which libvirt prints no complaint; its guests end with it.

    :raises StepFailed: libvirtd did not start.
    """
    libvirt.registerErrorHandler(lambda *_: None, None)
    with running_libvirt_host(directory) as host:
        yield host


def start_guests(connection: libvirt.virConnect, directory: Path, count: int, *, paused: bool = True) -> list[str]:
    """Servers with one processor, a disk, a network card and a balloon; the ids.

    :param paused: they never begin to run; else their firmware finds nothing to boot, and halts
    :raises libvirt.libvirtError: one did not start.
    """
    servers = [str(uuids.uuid4()) for _ in range(count)]

    def start(server: str) -> None:
        disk = directory / f"{server}.raw"
        with disk.open("wb") as file:
            file.truncate(1 << 20)
        connection.createXML(_make_xml(server, disk), libvirt.VIR_DOMAIN_START_PAUSED if paused else 0)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(start, servers))
    return servers


def find_qemus(host: LibvirtHost, servers: list[str]) -> list[int]:
    """The process id of each."""
    run = host.libvirtd.socket.parent / ("qemu" if host.libvirtd.is_system else "qemu/run")
    return [int((run / f"bench-{server}.pid").read_text()) for server in servers]


def make_agent(host: LibvirtHost, servers: int, *, is_signed: bool = True, **options: object) -> FakeAgent:
    """An agent that serves them through the libvirt driver, for :func:`tests.bench.fake_stack.running_fake_stack`.

    :param is_signed: it obeys what is signed only
    :param options: of its group ``agent``
    """
    unsigned = {} if is_signed else {"signing": {"trusted_keys": ""}}
    return FakeAgent(servers, options={"agent": {"driver": "libvirt", **options}, "libvirt": {"uri": host.libvirtd.uri}, **unsigned})


def _make_xml(server: str, disk: Path) -> str:
    return f"""
<domain type='qemu'>
  <name>bench-{server}</name>
  <uuid>{server}</uuid>
  <memory unit='MiB'>64</memory>
  <vcpu>1</vcpu>
  <os><type arch='x86_64' machine='pc'>hvm</type></os>
  <features><acpi/></features>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='{disk}'/><target dev='vda' bus='virtio'/></disk>
    <interface type='user'><model type='virtio'/></interface>
    <memballoon model='virtio'/>
  </devices>
</domain>"""
