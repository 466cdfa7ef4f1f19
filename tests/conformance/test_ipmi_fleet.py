"""Hundreds of BMCs cost an agent neither a thread nor a socket each, whether they answer or not."""

import os
import queue
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from oslo_config import cfg

from compute_agent.contract.clock import SystemClock
from compute_agent.drivers.bmc.driver import create_driver
from compute_agent.drivers.bmc.options import GROUP, register_options
from compute_agent.drivers.models import DriverEvent, DriverEventKind
from devstack.bmc_inventory import InventoryEntry, write_inventory
from devstack.ipmi_sim import ADMINISTRATOR, MOST_BMCS, IpmiSim
from tests.conformance.libvirt_host import require_real_parts

BMCS = 500
POLL_THREADS = 8
_CLOSED_PORT = 1
"""Of the addresses 127.0.9.0 and up, where nobody listens."""
_OWN_DESCRIPTORS = 8
"""A selector, a pair of sockets to wake it, and some that the libraries open once."""
_TIMEOUT = 60.0


@pytest.fixture(scope="module")
def simulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[IpmiSim]:
    require_real_parts()
    simulator = IpmiSim(tmp_path_factory.mktemp("fleet"), MOST_BMCS)
    simulator.start()
    try:
        yield simulator
    finally:
        simulator.stop()


def make_entry(name: str, address: str, port: int) -> InventoryEntry:
    login = ADMINISTRATOR
    return InventoryEntry(str(uuid.uuid4()), name, "ipmi", address, port, login.name, login.password, "demo", "demo")


def count_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_five_hundred_bmcs_have_the_threads_and_sockets_of_one(simulator: IpmiSim, tmp_path: Path) -> None:
    answering = [make_entry(f"answers-{bmc.ipmb:02x}", bmc.address, bmc.port) for bmc in simulator.bmcs]
    absent = [
        make_entry(f"absent-{number}", f"127.0.{9 + number // 250}.{number % 250 + 1}", _CLOSED_PORT) for number in range(BMCS - MOST_BMCS)
    ]
    inventory = tmp_path / "inventory.yaml"
    write_inventory(inventory, answering + absent)
    conf = cfg.ConfigOpts()
    conf([], default_config_files=[])
    register_options(conf)
    conf.set_override("inventory", str(inventory), group=GROUP)
    conf.set_override("poll_threads", POLL_THREADS, group=GROUP)
    threads, descriptors = set(threading.enumerate()), count_descriptors()
    driver = create_driver(conf, SystemClock())
    assert driver.events is not None
    assert driver.lifecycle is not None
    told: queue.SimpleQueue[DriverEvent] = queue.SimpleQueue()
    driver.events.subscribe(told.put, {})
    driver.lifecycle.open()
    try:
        while (event := told.get(timeout=_TIMEOUT)).kind is not DriverEventKind.BACKEND_BACK or event.server is not None:
            pass
        own = sorted(thread.name for thread in set(threading.enumerate()) - threads)
        assert own == [*(f"bmc-look-{number}" for number in range(1, POLL_THREADS + 1)), "bmc-schedule", "ipmi"]
        assert count_descriptors() - descriptors <= POLL_THREADS + _OWN_DESCRIPTORS
        unread = {server.id: server.unread for server in driver.servers.list_servers()}
    finally:
        driver.lifecycle.close()
    assert {unread[entry.uuid] for entry in answering} == {""}
    assert all("nothing listens" in unread[entry.uuid] for entry in absent)
    assert not [thread for thread in set(threading.enumerate()) - threads if thread.name in own]
