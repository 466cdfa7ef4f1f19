"""What the development stack writes for others to read."""

import configparser
import json
import os
import socket
import stat
import subprocess
from pathlib import Path

import pytest

from devstack.broker_definitions import write_definitions
from devstack.guest_commands import GuestCommands
from devstack.guest_image import GuestImage
from devstack.guests import Guest, GuestKind
from devstack.initramfs import Initramfs
from devstack.ports import BLOCK, Ports, find_free_base
from devstack.stack_config import write_agent_config


def test_options_of_a_test_win_over_those_of_the_stack_and_only_the_owner_may_read_the_file(tmp_path: Path) -> None:
    path = tmp_path / "agent.conf"
    write_agent_config(
        path,
        transport_url="rabbit://u:p@127.0.0.1:1/",
        driver={"agent": {"driver": "libvirt"}},
        state_path=tmp_path / "agent",
        extra={"agent": {"driver": "fake", "first_look": 1}},
    )
    read = configparser.ConfigParser()
    read.read(path)
    assert read["agent"]["driver"] == "fake"
    assert read["agent"]["first_look"] == "1"
    assert read["DEFAULT"]["host"] == "devstack"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_the_broker_gets_a_hash_and_never_the_password(tmp_path: Path) -> None:
    path = tmp_path / "definitions.json"
    write_definitions(path, "crashcart", "secret-word", gateway_password="secret-key", agent_passwords={"compute-1": "secret-sign"})
    assert "secret" not in path.read_text()
    policies = {policy["name"]: policy["definition"] for policy in json.loads(path.read_text())["policies"]}
    assert policies["crashcart-agents"]["message-ttl"] == 3_600_000
    assert policies["crashcart-agents"]["overflow"] == "drop-head"
    assert policies["crashcart-consumers"].keys() == {"message-ttl", "max-length-bytes", "overflow"}


def test_an_initramfs_is_readable_by_cpio(tmp_path: Path) -> None:
    initramfs = Initramfs()
    initramfs.add("/bin/tool", b"#!/bin/sh\n", executable=True)
    initramfs.add_directory("/proc")
    initramfs.write(tmp_path / "archive")
    with (tmp_path / "archive").open("rb") as archive:
        listed = subprocess.run(["cpio", "--list", "--quiet"], stdin=archive, capture_output=True, text=True, check=True)
    assert listed.stdout.split() == ["bin", "bin/tool", "proc"]


def test_ports_of_a_stack_do_not_overlap_with_the_next_block() -> None:
    ports, following = Ports(20000), Ports(20000 + BLOCK)
    assert not set(ports.list_all()) & set(following.list_all())
    named = {ports.api, ports.amqp, ports.epmd, ports.dist, ports.database, ports.stream, *ports.ctl_dist}
    assert named <= set(ports.list_all())


def test_a_block_with_a_listener_is_not_free() -> None:
    base = find_free_base()
    with socket.create_server(("127.0.0.1", base + 3)):
        assert Ports(base).list_taken() == [base + 3]


def make_guest(tmp_path: Path, kind: GuestKind, **options: object) -> Guest:
    image = GuestImage(tmp_path / "vmlinux", tmp_path / "initramfs", tmp_path / "initramfs-kdump", "qemu")
    return Guest(kind=kind, directory=tmp_path, image=image, **options)  # type: ignore[arg-type]


def test_a_guest_carries_its_project_in_crashcarts_own_metadata(tmp_path: Path) -> None:
    xml = make_guest(tmp_path, GuestKind.PANICKING, project="a<b").domain_xml()
    assert "https://crashcart.dev/xmlns/server/1.0" in xml
    assert "<crashcart:project>a&lt;b</crashcart:project>" in xml


@pytest.mark.parametrize(
    ("kind", "expected"), [(GuestKind.KDUMP, False), (GuestKind.KDUMP_POST_NOTIFIERS, True), (GuestKind.PANICKING, False)]
)
def test_only_the_post_notifiers_guest_has_that_on_its_command_line(tmp_path: Path, kind: GuestKind, expected: bool) -> None:
    xml = make_guest(tmp_path, kind).domain_xml()
    assert ("crash_kexec_post_notifiers" in xml) is expected
    assert ("crashkernel=" in xml) is kind.has_crash_kernel


def test_only_a_loaded_guest_says_what_its_disk_counted_and_in_sectors(tmp_path: Path) -> None:
    guest = make_guest(tmp_path, GuestKind.LOADED, name="g")
    assert guest.disk_image is not None
    assert guest.dump_image is None
    assert str(guest.disk_image) in guest.domain_xml()
    guest.serial_log.parent.mkdir()
    guest.serial_log.write_text("crashcart-disk-sectors: 8 6144\r\ncrashcart-guest-ready: loaded 1\r\n")
    assert guest.get_disk_traffic() == (4096, 3 << 20)
    guest.serial_log.write_text("crashcart-guest-ready: loaded 1\r\n")
    with pytest.raises(LookupError):
        guest.get_disk_traffic()


def test_nmis_are_counted_since_the_last_boot_and_half_written_lines_are_ignored(tmp_path: Path) -> None:
    guest = make_guest(tmp_path, GuestKind.SURVIVING, name="g")
    guest.serial_log.parent.mkdir()
    ready = "crashcart-guest-ready: surviving 1\r\n"
    counts = ["crashcart-nmi-count: 0\r\n", "crashcart-nmi-count: 1\r\n", "crashcart-nmi-cou"]
    guest.serial_log.write_text("".join([ready, "crashcart-nmi-count: 7\r\n", ready, *counts]))
    assert guest.nmi_count() == 1
    assert guest.count_boots() == 2


@pytest.mark.parametrize(
    ("machine", "pci_room", "bridges", "refuses"),
    [("pc", True, 0, False), ("pc", False, 0, True), ("q35", True, 1, False), ("q35", False, 0, False)],
)
def test_a_guest_has_room_for_a_card_or_none(tmp_path: Path, machine: str, pci_room: bool, bridges: int, refuses: bool) -> None:
    xml = make_guest(tmp_path, GuestKind.DEAF, machine=machine, pci_room=pci_room, watchdog="ib700:inject-nmi").domain_xml()
    assert xml.count("pcie-to-pci-bridge") == bridges
    assert ("hotplug='off'" in xml) is refuses
    assert f"machine='{machine}'" in xml
    assert "<watchdog model='ib700' action='inject-nmi'/>" in xml
    assert "crashcart.watchdog=ib700" in xml


def test_a_guests_answer_is_that_to_this_command(tmp_path: Path) -> None:
    log = tmp_path / "serial.log"
    commands = GuestCommands(tmp_path / "commands", log)
    commands.make_pipes()
    pipe = os.open(tmp_path / "commands.in", os.O_RDWR)
    try:
        token = commands.send("ls")
        assert os.read(pipe, 100).decode() == f"{token} ls\n"
        log.write_text("crashcart-said 0: no\r\ncrashcart-done 0: 0\r\n")
        with pytest.raises(TimeoutError):
            commands.run("ls", timeout=0.0)
    finally:
        os.close(pipe)
    with pytest.raises(OSError, match="commands"):
        commands.send("ls")
