"""The diagnostic interrupt through a real simulated BMC, beside what ``ipmitool`` needs for it as a process.

One process of ``ipmi_sim`` has three BMCs: each way in turn gives the machine of its own BMC one NMI, so that a machine that slows down
slows all of them. The simulator counts, and a figure is only shown when it counted one NMI for each call.
"""

from __future__ import annotations

import sys
import tempfile
import time
import uuid as uuids
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from oslo_config import cfg

import compute_agent.config
from api_gateway.store import Store, actions
from compute_agent.contract.clock import SystemClock
from compute_agent.drivers.bmc.driver import create_driver
from compute_agent.drivers.bmc.options import GROUP, register_options
from devstack.bmc_inventory import InventoryEntry, write_inventory
from devstack.ipmi_sim import ADMINISTRATOR, IpmiSim, SimulatedBmc
from devstack.ports import find_free_base
from devstack.services import wait_until
from devstack.stack import Stack
from devstack.stack_config import PROJECT, USER, Options
from tests.bench.figures import Figure

_FLOOR = "ipmitool -R 1 chassis power diag, a process"
_WARM_UP = 3
_TIMEOUT = 30.0
_ROOT = Path(__file__).parents[2]
_PAUSE = 0.05
"""Seconds between two rounds, so that the last reports of one action are no part of the next."""


def measure(runs: int) -> list[Figure]:
    """``runs`` NMIs by each way.

    :raises StepFailed: the stack or the simulator did not come up.
    :raises TimeoutError: an action did not end within 30 s.
    :raises RuntimeError: one ended in another way, or a machine was not given one NMI for each call.
    """
    with tempfile.TemporaryDirectory(prefix="crashcart-bench-") as name:
        directory = Path(name)
        simulator = IpmiSim(directory / "bmcs", 3)
        simulator.start()
        try:
            for_tool, for_driver, for_stack = simulator.bmcs
            stack_entry = make_entry(for_stack, "through-the-stack")
            inventory = directory / "inventory.yaml"
            write_inventory(inventory, [stack_entry])
            with (
                running_stack(directory, {GROUP: {"inventory": inventory}}) as stack,
                reading_store(stack) as store,
                _open_driver(directory, make_entry(for_driver, "through-the-driver")) as inject_nmi,
            ):
                wait_until(lambda: _is_shown(stack, stack_entry.uuid), _TIMEOUT, "the API to show the machine on")
                tool: list[float] = []
                driver: list[float] = []
                whole: list[tuple[float, float]] = []
                for number in range(_WARM_UP + runs):
                    taken = _time(lambda: for_tool.run_ipmitool("-R", "1", "chassis", "power", "diag")), _time(inject_nmi)
                    hops = crash(stack, store, stack_entry.uuid)
                    if number >= _WARM_UP:
                        tool.append(taken[0])
                        driver.append(taken[1])
                        whole.append(hops)
                    time.sleep(_PAUSE)
            _check_counts(simulator.bmcs, _WARM_UP + runs)
        finally:
            simulator.stop()
    return [
        Figure(_FLOOR, tool),
        Figure("inject_nmi of the driver, in this process", driver, floor=_FLOOR, note="the driver reads the power first"),
        Figure("inject_nmi within the agent (started → driver returned)", [each[1] for each in whole], floor=_FLOOR),
        Figure("POST → driver returned", [each[0] for each in whole], floor=_FLOOR),
    ]


def make_entry(bmc: SimulatedBmc, name: str) -> InventoryEntry:
    """How an inventory names the machine of this BMC; its server is another one each time."""
    login = ADMINISTRATOR
    return InventoryEntry(str(uuids.uuid4()), name, "ipmi", bmc.address, bmc.port, login.name, login.password, PROJECT, USER)


@contextmanager
def running_stack(directory: Path, options: Options, looks: Path | None = None) -> Iterator[Stack]:
    """Broker, agent, engine and API, where the agent has the driver for bare metal and these options, for as long as the block lasts.

    :param looks: the agent notes each look at a machine in this file
    """
    stack = Stack(directory / "stack", find_free_base(), machines=(), holdoff=0, agent_options=options)
    if looks is not None:
        stack.agent.argv = [sys.executable, "-m", "tests.bench.noting_agent", *stack.agent.argv[1:]]
        stack.agent.env |= {"LOOKS": str(looks), "PYTHONPATH": str(_ROOT)}
    try:
        stack.up()
        yield stack
    finally:
        stack.down()


@contextmanager
def reading_store(stack: Stack) -> Iterator[Store]:
    """The gateway's store, to be read from only."""
    store = Store(f"sqlite:///{stack.state_dir / 'gateway' / 'gateway.sqlite'}")
    try:
        yield store
    finally:
        store.dispose()


def crash(stack: Stack, store: Store, server: str) -> tuple[float, float]:
    """Milliseconds from the POST until the driver returned, and those of the driver's call alone.

    :raises RuntimeError: the action did not succeed.
    """
    posted = datetime.now().astimezone()
    answer = stack.client.trigger_crash_dump(server)
    if answer.status != 202:
        raise RuntimeError(f"POST answered {answer.status}: {answer.message}")

    def find_ended() -> actions.ActionRow | None:
        with store.read() as c:
            row = actions.get_action(c, answer.request_id)
        return row if row.ending is not None else None

    row = wait_until(find_ended, _TIMEOUT, f"{answer.request_id} to end")
    if row.ending != "succeeded" or row.started_at is None or row.signalled_at is None:
        raise RuntimeError(f"expected a signal: {row}")
    return (row.signalled_at - posted).total_seconds() * 1000, (row.signalled_at - row.started_at).total_seconds() * 1000


@contextmanager
def _open_driver(directory: Path, entry: InventoryEntry) -> Iterator[Callable[[], None]]:
    """The driver in this process, looking at the machine as it does in an agent; its NMI."""
    inventory = directory / "own.yaml"
    write_inventory(inventory, [entry])
    conf = cfg.ConfigOpts()
    compute_agent.config.register_options(conf)
    register_options(conf)
    conf([], default_config_files=[], default_config_dirs=[])
    conf.set_override("inventory", str(inventory), GROUP)
    driver = create_driver(conf, SystemClock())
    nmi, events, lifecycle = driver.nmi, driver.events, driver.lifecycle
    assert nmi is not None
    assert events is not None
    assert lifecycle is not None
    events.subscribe(lambda _event: None, {})
    lifecycle.open()
    try:
        yield lambda: nmi.inject_nmi(entry.uuid)
    finally:
        lifecycle.close()


def _is_shown(stack: Stack, server: str) -> bool:
    return any(shown["id"] == server and shown["status"] == "ACTIVE" for shown in stack.client.list_servers())


def _time(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return (time.perf_counter() - began) * 1000


def _check_counts(bmcs: Sequence[SimulatedBmc], expected: int) -> None:
    counts = [bmc.count_nmis() for bmc in bmcs]
    if counts != [expected] * len(bmcs):
        raise RuntimeError(f"the simulator counted {counts} NMIs instead of {expected} of each way")
