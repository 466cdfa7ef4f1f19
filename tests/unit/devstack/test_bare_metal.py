"""Machines with simulated BMCs are found again by their directories, and what an agent reads of them is right."""

import shlex
import socket
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from compute_agent.drivers.ipmi.sensor_records import SensorRecord, parse_sensor
from devstack.bare_metal import BareMetalMachine
from devstack.bmc_inventory import InventoryEntry, write_inventory
from devstack.bmc_sensors import SENSORS, SimulatedSensor
from devstack.fleet import Fleet, MachineSpec, find_saved_machines, forget_saved_machines
from devstack.guest_image import GuestImage
from devstack.guest_log import GuestLog
from devstack.guests import GuestKind
from devstack.ipmi_sim import MOST_BMCS, OPERATOR, BmcSpec, IpmiSim
from devstack.ports import find_free_port
from devstack.steps import StepFailed


def test_an_inventory_names_files_of_passwords_that_only_the_owner_may_read(tmp_path: Path) -> None:
    path = tmp_path / "bmc_inventory.yaml"
    entry = InventoryEntry("u-1", "m", "redfish", "127.0.0.1", 8000, "admin", "the-word", "p", "u", {"verify_tls": False})
    write_inventory(path, [entry])
    (machine,) = yaml.safe_load(path.read_text())["machines"]
    secret = tmp_path / machine["password_file"]
    assert machine["verify_tls"] is False
    assert secret.read_text() == "the-word\n"
    assert "the-word" not in path.read_text() + repr(entry)
    assert [stat.S_IMODE(file.stat().st_mode) for file in (path, secret)] == [0o600, 0o600]


def test_a_later_command_finds_the_machines_of_a_directory_until_a_stack_without_them_is_started_there(tmp_path: Path) -> None:
    assert find_saved_machines(tmp_path) is None
    fleet = Fleet(tmp_path, [MachineSpec("a", None, running=False), MachineSpec("b", GuestKind.DEAF, login=OPERATOR)])
    fleet.write_files()
    found = Fleet(tmp_path, find_saved_machines(tmp_path) or [])
    assert [(m.name, m.uuid, m.spec.kind, m.spec.running) for m in found.machines.values()] == [
        (m.name, m.uuid, m.spec.kind, m.spec.running) for m in fleet.machines.values()
    ]
    assert [m.bmc.port for m in found.machines.values()] == [m.bmc.port for m in fleet.machines.values()]
    assert OPERATOR.password not in fleet.inventory.read_text()
    assert [name for name, pid in found.list_parts() if pid is None] == ["ipmi_sim of a", "ipmi_sim of b"]
    forget_saved_machines(tmp_path)
    assert find_saved_machines(tmp_path) is None


def test_deeds_of_each_bmc_are_read_from_its_own_file(tmp_path: Path) -> None:
    first, second = IpmiSim(tmp_path, 2).bmcs
    (tmp_path / "22.done").write_text("1.5 nmi\n2.25 power_off\n3.0 nmi\n")
    assert first.list_done() == []
    assert second.list_done_at() == [(1.5, "nmi"), (2.25, "power_off"), (3.0, "nmi")]
    assert second.count_nmis() == 2


def test_bmcs_that_forget_keep_their_ports_and_nothing_else(tmp_path: Path) -> None:
    simulator = IpmiSim(tmp_path)
    simulator.bmc.set_power(False)
    (tmp_path / "20.done").write_text("1.5 nmi\n")
    simulator.forget()
    assert simulator.bmc.is_on
    assert simulator.bmc.count_nmis() == 0
    assert IpmiSim(tmp_path).bmc.port == simulator.bmc.port


def test_a_machine_with_a_guest_is_switched_by_its_guest_alone(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="virtual machine"):
        IpmiSim(tmp_path, [BmcSpec("qemu", 1)]).bmc.set_power(False)


def test_one_process_simulates_as_many_bmcs_as_have_addresses(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="100"):
        IpmiSim(tmp_path, MOST_BMCS + 1)


def test_a_complaint_of_the_simulator_about_a_command_is_raised_whatever_sessions_come_and_go(tmp_path: Path) -> None:
    simulator = IpmiSim(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        (tmp_path / "console.port").write_text(str(listener.getsockname()[1]))
        answers = iter([b"> sel_add 0x20\r\nAdded record 1\r\n> Activate session\r\n", b"> sel_add 0x20\r\n**No record\r\n> "])

        def answer() -> None:
            for said in answers:
                with listener.accept()[0] as console:
                    prompt, _, rest = said.partition(b" ")
                    console.sendall(prompt + b" ")
                    console.recv(100)
                    console.sendall(rest)

        thread = threading.Thread(target=answer)
        thread.start()
        try:
            assert simulator.run_command("sel_add 0x20") == "Added record 1"
            with pytest.raises(StepFailed, match="No record"):
                simulator.run_command("sel_add 0x20")
        finally:
            thread.join()


def test_a_machine_is_started_with_its_bmc_on_its_bus_and_a_comma_in_its_path_is_no_option(tmp_path: Path) -> None:
    machine = BareMetalMachine(tmp_path / "a,b")
    image = GuestImage(tmp_path / "vmlinux", tmp_path / "initramfs", tmp_path / "initramfs-kdump", "qemu")
    argv = shlex.split(machine._make_start_script(image))
    assert argv[:2] == ["exec", "qemu-system-x86_64"]
    assert f"socket,id=bmc,host=127.0.0.1,port={machine.bmc.spec.vm_port},reconnect=1" in argv
    assert any(f"path={tmp_path}/a,,b/serial.log" in word for word in argv)
    assert "crashcart.bmc" in argv[argv.index("-append") + 1]
    assert not machine.is_on


def test_a_panic_that_is_repeated_at_the_end_of_its_trace_is_one(tmp_path: Path) -> None:
    log = GuestLog("m", tmp_path)
    assert log.count_panics() == 0
    panic = "Kernel panic - not syncing: NMI: Not continuing"
    log.console.write_text(f"[    1.9] {panic}\n[    1.9] Call Trace:\n[    2.0] ---[ end {panic} ]---\n")
    assert log.count_panics() == 1


def test_a_simulated_sensor_describes_itself_as_a_bmc_does() -> None:
    read = [(record.name, record.unit, record.read(bytes([sensor.raw, 0xC0, 0, 0])).value) for sensor, record in parse_sensors()]
    assert read == [("CPU Temp", "°C", 45.0), ("12V", "V", 12.0), ("Fan 1", "RPM", 4200.0)]


def parse_sensors() -> Iterator[tuple[SimulatedSensor, SensorRecord]]:
    for sensor in SENSORS:
        record = parse_sensor(sensor.make_record())
        assert record is not None
        yield sensor, record


def test_a_free_port_is_free_for_that_kind_of_socket() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", find_free_port(socket.SOCK_DGRAM)))
