"""Diagnostics and dumps of real guests: field by field against virsh and /proc, with failing disks, odd devices and a frozen QEMU."""

import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import libvirt
import pytest

from compute_agent.contract.models import PowerState
from compute_agent.drivers.base import DiagnosticsSource, Driver
from compute_agent.drivers.errors import BackendUnavailable
from compute_agent.drivers.libvirt.driver import find_os_name
from compute_agent.drivers.models import CollectedDiagnostics, DiskCounters, NicCounters
from devstack.guests import Guest
from devstack.real_parts import may_skip_real_tests
from devstack.services import wait_until
from tests.conformance.libvirt_host import LibvirtHost, started_libvirt_host, within

USER_MAC, TAP_MAC = "52:54:00:aa:bb:01", "52:54:00:aa:bb:02"


class OddGuest(Guest):
    """Has an empty drive, a config drive, a network card without counters, one on a tap where that is allowed, and a disk that fails."""

    nbd_socket: Path | None = None
    may_have_tap = False

    @property
    def tap(self) -> str:
        """The host's name of it, which two test runs at the same time must not share."""
        return f"cc{self.uuid[:8]}"

    def domain_xml(self) -> str:
        config_drive = self.directory / "disk.config"
        config_drive.write_bytes(bytes(1 << 20))
        devices = f"""
    <disk type='file' device='cdrom'><driver name='qemu' type='raw'/><target dev='hda' bus='ide'/><readonly/></disk>
    <disk type='file' device='cdrom'><driver name='qemu' type='raw'/><source file='{config_drive}'/>
      <target dev='hdb' bus='ide'/><readonly/></disk>
    <interface type='user'><mac address='{USER_MAC.upper()}'/><model type='virtio'/></interface>"""
        if self.may_have_tap:
            devices += f"<interface type='ethernet'><mac address='{TAP_MAC}'/><target dev='{self.tap}'/><model type='virtio'/></interface>"
        if self.nbd_socket is not None:
            devices += f"""<disk type='network' device='disk'><driver name='qemu' type='raw' rerror_policy='report'/>
      <source protocol='nbd'><host transport='unix' socket='{self.nbd_socket}'/></source><target dev='vdb' bus='virtio'/></disk>"""
        return super().domain_xml().replace("</devices>", f"{devices}</devices>")


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LibvirtHost]:
    with started_libvirt_host(tmp_path_factory.mktemp("libvirt")) as host:
        yield host


@pytest.fixture(scope="module")
def driver(host: LibvirtHost) -> Iterator[Driver]:
    with host.driver() as (driver, _):
        yield driver


@pytest.fixture(scope="module")
def failing_disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path | None]:
    """The socket of a disk whose every read fails with EIO; None on a laptop without qemu-nbd."""
    if shutil.which("qemu-nbd") is None:
        if not may_skip_real_tests():
            pytest.fail("missing: qemu-nbd (qemu-utils)")
        yield None
        return
    directory = tmp_path_factory.mktemp("nbd")
    image, socket = directory / "image", directory / "socket"
    image.write_bytes(bytes(8 << 20))
    options = f"driver=raw,file.driver=blkdebug,file.image.driver=file,file.image.filename={image}"
    errors = "file.inject-error.0.event=none,file.inject-error.0.errno=5,file.inject-error.0.iotype=read"
    server = subprocess.Popen(["qemu-nbd", "--persistent", "--socket", socket, "--image-opts", f"{options},{errors}"])
    try:
        wait_until(socket.exists, 10, "qemu-nbd to listen")
        yield socket
    finally:
        server.terminate()
        server.wait(10)


@pytest.fixture(scope="module")
def odd(host: LibvirtHost, failing_disk: Path | None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OddGuest]:
    guest = OddGuest(kind="kdump", directory=tmp_path_factory.mktemp("odd"))
    guest.nbd_socket, guest.may_have_tap = failing_disk, host.libvirtd.is_system
    guest.define(host.libvirtd.uri)
    guest.start()
    guest.wait_ready()
    yield guest
    guest.destroy()


def get_source(driver: Driver) -> DiagnosticsSource:
    assert driver.diagnostics is not None
    return driver.diagnostics


def virsh(host: LibvirtHost, *words: str) -> str:
    return subprocess.run(["virsh", "-c", host.libvirtd.uri, *words], check=True, capture_output=True, text=True, timeout=30).stdout


def collect_beside_virsh(host: LibvirtHost, driver: Driver, guest: Guest) -> tuple[CollectedDiagnostics, dict[str, str]]:
    """A reading of a paused guest and what virsh says of the same moment; only its processors may count on a little."""
    guest.suspend()
    try:
        reading = get_source(driver).collect_diagnostics(guest.uuid)
        listed = virsh(host, "domstats", guest.name)
    finally:
        guest.resume()
    return reading, dict(line.strip().split("=", 1) for line in listed.splitlines() if "=" in line)


def test_every_counter_is_the_one_that_virsh_shows(host: LibvirtHost, driver: Driver, odd: Guest) -> None:
    reading, stats = collect_beside_virsh(host, driver, odd)
    assert reading.power_state is PowerState.PAUSED
    assert {number: time // 10**7 for number, time in reading.cpu_times.items() if time is not None} == {
        number: int(stats[f"vcpu.{number}.time"]) // 10**7 for number in range(int(stats["vcpu.current"]))
    }
    assert reading.memory_maximum_kib == int(stats["balloon.maximum"]) == 320 * 1024
    assert reading.memory_used_kib == int(stats["balloon.available"]) - int(stats["balloon.unused"])
    words = {"read_bytes": "rd.bytes", "read_requests": "rd.reqs", "write_bytes": "wr.bytes", "write_requests": "wr.reqs"}
    for number in range(int(stats["block.count"])):
        disk = next(disk for disk in reading.disks if disk.device == stats[f"block.{number}.name"])
        assert {word: getattr(disk, word) for word in words} == {word: int(stats[f"block.{number}.{key}"]) for word, key in words.items()}
    assert len(reading.disks) == int(stats["block.count"])
    assert len(reading.nics) == int(stats["net.count"])


def test_what_the_guest_is_is_what_virsh_shows(host: LibvirtHost, driver: Driver, odd: Guest) -> None:
    reading = get_source(driver).collect_diagnostics(odd.uuid)
    about = dict(re.split(r":\s*", line, maxsplit=1) for line in virsh(host, "dominfo", odd.name).splitlines() if ":" in line)
    assert reading.power_state.value == about["State"]
    assert len(reading.cpu_times) == int(about["CPU(s)"])
    assert f"{reading.memory_maximum_kib} KiB" == about["Max memory"]
    listed = [line.split() for line in virsh(host, "domiflist", odd.name).splitlines()[2:] if line.strip()]
    assert [(nic.device or "-", nic.mac) for nic in reading.nics] == [(columns[0], columns[-1]) for columns in listed]
    drives = [line.split() for line in virsh(host, "domblklist", odd.name).splitlines()[2:] if line.strip()]
    assert [disk.device for disk in reading.disks] == [columns[0] for columns in drives]
    with host.libvirtd.connect() as connection:
        assert reading.hypervisor == re.findall(r"<domain type='(\w+)'", connection.lookupByUUIDString(odd.uuid).XMLDesc())[0]
    assert (reading.hypervisor_os, reading.config_drive) == (find_os_name(), True)


def test_a_taps_counters_are_the_guests_view_of_the_kernels(host: LibvirtHost, driver: Driver, odd: OddGuest) -> None:
    if not host.libvirtd.is_system:
        pytest.skip("a tap needs the privilege to make one")
    nic = next(nic for nic in get_source(driver).collect_diagnostics(odd.uuid).nics if nic.mac == TAP_MAC)
    statistics = Path("/sys/class/net", odd.tap, "statistics")
    assert nic.device == odd.tap
    # What the host sends into the tap the guest receives. The host's own multicasts may come between the two readings.
    assert 0 <= int((statistics / "tx_packets").read_text()) - (nic.rx_packets or 0) <= 5
    assert nic.tx_octets == int((statistics / "rx_bytes").read_text())


def test_devices_without_counters_are_null_and_said(driver: Driver, odd: Guest) -> None:
    reading = get_source(driver).collect_diagnostics(odd.uuid)
    assert next(nic for nic in reading.nics if nic.mac == USER_MAC) == NicCounters(mac=USER_MAC)
    assert reading.errors == {"nics": f"libvirt has no counters of {USER_MAC}"}
    empty = next(disk for disk in reading.disks if disk.device == "hda")
    assert empty == DiskCounters("hda", 0, 0, 0, 0, 0), "QEMU counts for an empty drive as well"


def test_requests_that_really_failed_are_counted(driver: Driver, odd: Guest, failing_disk: Path | None) -> None:
    if failing_disk is None:
        pytest.skip("no qemu-nbd")
    errors = {disk.device: disk.errors for disk in get_source(driver).collect_diagnostics(odd.uuid).disks}
    assert (errors["vdb"] or 0) >= 1, "the guest has looked for partitions on it"
    assert {device: count for device, count in errors.items() if device != "vdb"} == {"vda": 0, "hda": 0, "hdb": 0}


def test_uptime_is_the_age_of_the_qemu_process(host: LibvirtHost, driver: Driver, odd: Guest) -> None:
    ticks = int(Path(f"/proc/{host.get_guest_pid(odd)}/stat").read_text().rpartition(")")[2].split()[19])
    began = ticks / os.sysconf("SC_CLK_TCK")
    before = time.clock_gettime(time.CLOCK_BOOTTIME)
    reading = get_source(driver).collect_diagnostics(odd.uuid)
    after = time.clock_gettime(time.CLOCK_BOOTTIME)
    assert reading.started_at is not None
    uptime = (reading.collected_at - reading.started_at).total_seconds()
    assert before - began - 1 < uptime < after - began + 1


def test_a_network_card_that_is_plugged_in_shows_in_the_next_sample(host: LibvirtHost, driver: Driver, odd: Guest) -> None:
    source = get_source(driver)

    def count_nics() -> int:
        return len(next(sample for sample in source.sample_servers() if sample.server == odd.uuid).nics)

    before = count_nics()
    mac = "52:54:00:aa:bb:07"
    card = f"<interface type='user'><mac address='{mac}'/><model type='virtio'/></interface>"
    with host.libvirtd.connect() as connection:
        connection.lookupByUUIDString(odd.uuid).attachDeviceFlags(card, libvirt.VIR_DOMAIN_AFFECT_LIVE)
    assert count_nics() == before + 1
    assert get_source(driver).collect_diagnostics(odd.uuid).nics[-1] == NicCounters(mac=mac)
    with host.libvirtd.connect() as connection:
        connection.lookupByUUIDString(odd.uuid).detachDeviceFlags(card, libvirt.VIR_DOMAIN_AFFECT_LIVE)


def test_a_server_whose_qemu_froze_is_left_out_and_the_others_are_read(host: LibvirtHost, driver: Driver, odd: Guest) -> None:
    other, source = host.boot("deaf"), get_source(driver)
    with host.frozen_guest(odd):
        for _ in range(2):
            with within(8):
                assert [sample.server for sample in source.sample_servers()] == [other.uuid]
        with within(1.8):  # less than a frozen one is waited for
            assert [sample.server for sample in source.sample_servers()] == [other.uuid]
            assert source.collect_diagnostics(other.uuid).power_state is PowerState.RUNNING
        with pytest.raises(BackendUnavailable):
            source.collect_diagnostics(odd.uuid)
    wait_until(lambda: len(source.sample_servers()) == 2, 10, "the thawed guest to be read again")
    other.destroy()


def test_the_console_of_a_guest_is_read_to_its_end(driver: Driver, odd: Guest) -> None:
    assert driver.inspection is not None
    tail = driver.inspection.read_console_tail(odd.uuid, 64)
    assert tail == odd.serial_log.read_bytes()[-64:]
    assert tail


def test_a_dump_of_a_panicked_guest_has_the_panic_in_it(host: LibvirtHost, driver: Driver, tmp_path: Path) -> None:
    guest = host.boot("panicking")
    guest.inject_nmi()
    wait_until(lambda: guest.state()[0] == libvirt.VIR_DOMAIN_CRASHED, 10, "the guest to panic")
    assert driver.host_dump is not None
    dump, log = tmp_path / "dump", tmp_path / "log"
    driver.host_dump.take_host_dump(guest.uuid, str(dump), lambda done, total: None)
    guest.destroy()
    with dump.open("rb") as flattened:
        subprocess.run(["makedumpfile", "-R", tmp_path / "plain"], stdin=flattened, check=True, capture_output=True, timeout=60)
    subprocess.run(["makedumpfile", "--dump-dmesg", tmp_path / "plain", log], check=True, capture_output=True, timeout=60)
    assert "Kernel panic - not syncing: NMI" in log.read_text(errors="replace")
