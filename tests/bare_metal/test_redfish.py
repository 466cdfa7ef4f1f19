"""Crash dumps of machines through all the real parts: HTTP, RabbitMQ, the agent, Redfish over TLS, `sushy-emulator`, and QEMU.

What reached a BMC is counted in its own record of requests, and what became of it is asked of libvirt. One BMC has a log and a watchdog
timer, which are ours (``tests/redfish_extras.py``); all others are the emulator as it is.
"""

import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import libvirt
import pytest

from devstack.bmc_inventory import InventoryEntry
from devstack.guests import Guest
from devstack.services import wait_until
from devstack.stack import Stack
from devstack.stack_config import PROJECT, USER
from devstack.sushy_emulator import SushyEmulator
from tests.bare_metal.machines import OFF, PANICKED, show, wait_read
from tests.conformance.libvirt_host import LibvirtHost, started_libvirt_host
from tests.redfish_extras import ExtraFiles
from tests.stack.real_stack import TIMEOUT, running_stack, trigger, wait_asked, wait_for, wait_power_state
from tests.stack.watchdogs_over_http import Seen, change, put, see, wait_events

ADDRESS = "127.0.0.1"
AGENT = {"bmc": {"call_bound": 30, "poll_interval": 5, "attentive_interval": 0.25}}
PLAIN, LOGGED, STOPPED = "plain", "logged", "stopped"
ADVERTISED, MISTYPED, STRANGER = "advertised", "mistyped", "stranger"
CPUS, MEMORY_MIB, MAC = 2, 3072, "52:54:00:c0:ff:ee"
"""What the machine is made of that is off."""
_RESET = "/Actions/ComputerSystem.Reset "


@dataclass(frozen=True)
class World:
    """``plain`` and ``logged`` are the BMCs of a guest each, and ``invented`` is that of nobody; ``stopped`` shares that of ``plain``."""

    stack: Stack
    servers: dict[str, InventoryEntry]
    guests: dict[str, Guest]
    plain: SushyEmulator
    logged: SushyEmulator
    invented: SushyEmulator
    extras: ExtraFiles

    def get_diagnostics(self, name: str, api: str = "v1", **headers: str) -> dict[str, Any]:
        answer = wait_asked(self.stack, self.servers[name].uuid, api, **headers)
        found: dict[str, Any] = answer.body
        return found


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """One whole system; each test leaves all its parts running."""
    directory = tmp_path_factory.mktemp("world")
    with ExitStack() as ends, ThreadPoolExecutor() as pool:
        host = ends.enter_context(started_libvirt_host(directory))
        guests = {name: host.define(kind) for name, kind in ((PLAIN, "panicking"), (LOGGED, "panicking"))}
        stopped = define_stopped(host, directory / "pool")
        uri, extras = host.libvirtd.uri, directory / "extras"
        extras.mkdir()
        plain = SushyEmulator(directory / "plain", libvirt_uri=uri, servers=[guests[PLAIN].uuid, stopped])
        logged = SushyEmulator(
            directory / "logged",
            libvirt_uri=uri,
            servers=[guests[LOGGED].uuid],
            program=("-m", "tests.redfish_extras"),
            environment={"EXTRAS": str(extras)},
        )
        invented = SushyEmulator(directory / "invented")
        for emulator in (plain, logged, invented):
            ends.callback(emulator.stop)
        started = [pool.submit(emulator.start) for emulator in (plain, logged, invented)]
        for guest in (guests[PLAIN], guests[LOGGED]):
            guest.start()
            started.append(pool.submit(guest.wait_ready))
        for emulator in (plain, logged, invented):
            wait_until(emulator.ca_file.exists, TIMEOUT, "the BMC to have its certificate")
        servers = {
            PLAIN: make_entry(PLAIN, plain, system=guests[PLAIN].uuid),
            STOPPED: make_entry(STOPPED, plain, system=stopped),
            LOGGED: make_entry(LOGGED, logged, system=guests[LOGGED].uuid),
            ADVERTISED: make_entry(ADVERTISED, invented),
            MISTYPED: make_entry(MISTYPED, plain, password="mistyped"),
            STRANGER: make_entry(STRANGER, logged, is_trusted=False),
        }
        stack = ends.enter_context(running_stack(directory / "stack", (), AGENT, machines=(), inventory=list(servers.values())))
        for start in started:
            start.result()
        wait_read(stack, *(servers[name] for name in (PLAIN, STOPPED, LOGGED, ADVERTISED)))
        yield World(stack, servers, guests, plain, logged, invented, ExtraFiles(extras))


def define_stopped(host: LibvirtHost, pool: Path) -> str:
    """A machine that is never switched on; its UUID. The emulator shows disks that are volumes of a pool."""
    pool.mkdir()
    chosen = str(uuid.uuid4())
    with host.libvirtd.connect() as connection:
        volumes = connection.storagePoolCreateXML(f"<pool type='dir'><name>pool</name><target><path>{pool}</path></target></pool>")
        volume = volumes.createXML("<volume><name>disk.raw</name><capacity unit='MiB'>1</capacity></volume>")
        connection.defineXML(
            f"""<domain type='qemu'><name>{STOPPED}</name><uuid>{chosen}</uuid><memory unit='MiB'>{MEMORY_MIB}</memory><vcpu>{CPUS}</vcpu>
            <os><type arch='x86_64' machine='pc'>hvm</type></os>
            <devices>
              <disk type='file' device='disk'><source file='{volume.path()}'/><target dev='vda' bus='virtio'/></disk>
              <interface type='user'><mac address='{MAC}'/></interface>
            </devices></domain>"""
        )
    return chosen


def make_entry(name: str, bmc: SushyEmulator, *, password: str = "", is_trusted: bool = True, **options: object) -> InventoryEntry:
    """How the inventory names a machine; ``options`` are further fields."""
    if is_trusted:
        options["ca_file"] = str(bmc.ca_file)
    login = (bmc.username, password or bmc.password)
    return InventoryEntry(str(uuid.uuid4()), name, "redfish", ADDRESS, bmc.port, *login, PROJECT, USER, options)


def count_resets(bmc: SushyEmulator) -> int:
    """Requests to reset a machine, of any kind and however they were answered, that the BMC took."""
    return sum("POST" in line and _RESET in line for line in bmc.log.read_text().splitlines())


def assert_panicked_once(guest: Guest, bmc: SushyEmulator) -> None:
    """One NMI was asked for, and libvirt knows what its kernel made of it."""
    panicked = (libvirt.VIR_DOMAIN_CRASHED, libvirt.VIR_DOMAIN_CRASHED_PANICKED)
    wait_until(lambda: guest.state() == panicked, TIMEOUT, f"libvirt to see that {guest.name} has panicked")
    assert count_resets(bmc) == 1


def test_a_crash_dump_over_redfish_is_one_nmi_and_the_machine_panics(world: World) -> None:
    stack, server = world.stack, world.servers[PLAIN]
    action_id = trigger(stack, server)
    action = wait_for(stack, action_id, ending="succeeded", code="signal_delivered")
    assert action["decided_by"] == "agent"
    assert_panicked_once(world.guests[PLAIN], world.plain)
    second = stack.client.trigger_crash_dump(server.uuid)
    assert (second.status, action_id in second.message) == (409, True), second.text
    # The power is all that this BMC sees: the machine is on.
    assert show(stack, server)["power_state"] == "running"
    assert count_resets(world.plain) == 1


def test_a_panic_that_a_bmcs_log_tells_is_what_came_of_the_crash_dump(world: World) -> None:
    stack, server = world.stack, world.servers[LOGGED]
    action_id = trigger(stack, server)
    wait_for(stack, action_id, ending="succeeded", observation="guest_panicked", final=True)
    assert_panicked_once(world.guests[LOGGED], world.logged)
    (told,) = wait_events(stack, server, PANICKED)
    assert (told["payload"]["action_id"], told["payload"]["observed_late"]) == (action_id, False)
    (entry,) = world.get_diagnostics(LOGGED)["hardware"]["log"]
    assert (entry["severity"], "critical stop" in entry["text"]) == ("critical", True), entry


@pytest.mark.parametrize(
    ("name", "code", "says"),
    [
        (ADVERTISED, "not_supported", "advertises a diagnostic interrupt and has none"),
        (MISTYPED, "forbidden", "does not accept the credentials"),
        (STRANGER, "backend_unavailable", "ca_file"),
    ],
)
def test_a_refusal_says_what_is_wrong_with_the_way_to_the_machine(world: World, name: str, code: str, says: str) -> None:
    bmcs = (world.plain, world.logged, world.invented)
    before = [count_resets(bmc) for bmc in bmcs]
    action = wait_for(world.stack, trigger(world.stack, world.servers[name]), ending="failed", code=code)
    assert says in action["reason"]
    reached = [count_resets(bmc) - count for bmc, count in zip(bmcs, before, strict=True)]
    assert reached == [0, 0, 1 if name == ADVERTISED else 0]


def test_a_machine_that_is_off_is_refused_and_tells_what_it_is_made_of(world: World) -> None:
    """It shares its BMC with another one."""
    stack, server = world.stack, world.servers[STOPPED]
    before = count_resets(world.plain)
    wait_power_state(stack, server, OFF)
    refusal = stack.client.trigger_crash_dump(server.uuid)
    assert (refusal.status, "stopped" in refusal.message) == (409, True), refusal.text
    assert count_resets(world.plain) == before
    told = world.get_diagnostics(STOPPED)
    diagnostics = told["diagnostics"]
    assert (told["errors"], told["hardware"]["power"], diagnostics["state"]) == ({}, "off", "shutdown")
    assert (diagnostics["num_cpus"], diagnostics["memory_details"]["maximum"], diagnostics["num_disks"]) == (CPUS, MEMORY_MIB, 1)
    assert [nic["mac_address"] for nic in diagnostics["nic_details"]] == [MAC]


def test_a_machine_that_is_on_is_bare_metal_to_clients_of_today(world: World) -> None:
    told = world.get_diagnostics(LOGGED, "v2.1", **{"OpenStack-API-Version": "compute 2.48"})
    assert (told["driver"], told["hypervisor"], told["state"], told["num_cpus"]) == ("ironic", None, "running", 1)
    envelope = world.get_diagnostics(LOGGED)
    assert told == envelope["diagnostics"]
    assert {sensor["name"] for sensor in envelope["hardware"]["sensors"]} >= {"CPU Temp", "BaseBoard System Fan"}
    assert "BMC" in envelope["hardware"]["firmware"]
    # The emulator tells of memory in whole GiB, and this machine has less than one.
    assert "memory" in envelope["errors"]


def test_a_machines_watchdog_timer_is_shown_set_and_removed(world: World) -> None:
    stack, server = world.stack, world.servers[LOGGED]
    assert see(stack, server) == Seen(None, None, False)
    for device, actions in (("redfish:reset", ("ResetSystem", "None")), ("redfish:inject-nmi", ("None", "DiagnosticInterrupt"))):
        change(stack, server, device)
        assert see(stack, server) == Seen(device, device, False)
        timer = world.extras.get_timer()
        assert (timer["FunctionEnabled"], timer["TimeoutAction"], timer["WarningAction"]) == (True, *actions)
    refusal = put(stack, server, "redfish:pause")
    assert (refusal.status, "it has none, reset, poweroff, power_cycle, inject-nmi" in refusal.message) == (400, True), refusal.text
    change(stack, server, None)
    assert see(stack, server) == Seen(None, None, False)
    assert world.extras.get_timer()["FunctionEnabled"] is False


def test_a_machine_whose_bmc_has_no_watchdog_timer_can_have_none(world: World) -> None:
    assert see(world.stack, world.servers[PLAIN]) == Seen(None, None, False)
    refusal = put(world.stack, world.servers[PLAIN], "redfish:reset")
    assert (refusal.status, "This server can have none" in refusal.message) == (400, True), refusal.text
