"""One agent with hundreds of BMCs: its memory, threads and processor time, and what becomes of the others when some fall silent.

The BMCs are processes of ``ipmi_sim``, a hundred in each; one process with a tenth of all is frozen in the second half: its ports are open
and silent, which costs an agent the most. The agent is a whole one beside a whole stack, and notes each look at a machine.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from api_gateway.store import Store
from compute_agent.drivers.bmc.options import GROUP
from devstack.bmc_inventory import InventoryEntry, write_inventory
from devstack.ipmi_sim import MOST_BMCS, IpmiSim
from devstack.services import wait_until
from devstack.stack import Stack
from tests.bench.bare_metal import crash, make_entry, reading_store, running_stack
from tests.bench.figures import Figure
from tests.bench.noting_agent import Look, read_looks
from tests.bench.processes import count_threads, read_processor_time, read_resident_mib

T = TypeVar("T")

WINDOW = 60.0
"""Seconds that each state of things is watched: twice the driver's default poll_interval."""
_IDLE = 15.0
"""Seconds that an agent without machines is watched."""
_SILENT_SHARE = 10
_TIMEOUT = 120.0


@dataclass(frozen=True)
class _Size:
    """What the agent's process has."""

    mib: float
    threads: int

    @classmethod
    def read(cls, pid: int) -> _Size:
        return cls(read_resident_mib(pid), count_threads(pid))

    def __str__(self) -> str:
        return f"{self.mib:.0f} MiB and {self.threads} threads"


def measure(runs: int, machines: int) -> list[Figure]:
    """With so many machines; four minutes in which ``runs`` NMIs are sent twice.

    :raises StepFailed: the stack or a simulator did not come up.
    :raises TimeoutError: a machine was never looked at.
    """
    silent = max(1, machines // _SILENT_SHARE)
    with tempfile.TemporaryDirectory(prefix="crashcart-bench-") as name, _running_simulators(Path(name), machines, silent) as simulators:
        entries = [[make_entry(bmc, f"m{number}-{bmc.ipmb:02x}") for bmc in simulator.bmcs] for number, simulator in enumerate(simulators)]
        inventory = Path(name) / "inventory.yaml"
        write_inventory(inventory, ())
        # Looks are to come at one pace in every state of things: attention would add some after each NMI.
        options = {GROUP: {"inventory": inventory, "attentive_span": 0}}
        looks = Path(name) / "looks"
        with running_stack(Path(name), options, looks) as stack, reading_store(stack) as store:
            return _Fleet(stack, store, looks, inventory, simulators[-1], entries).measure(runs)


@contextmanager
def _running_simulators(directory: Path, machines: int, silent: int) -> Iterator[list[IpmiSim]]:
    """So many BMCs in all; the last process has the ``silent`` ones."""
    sizes = [min(MOST_BMCS, machines - silent - done) for done in range(0, machines - silent, MOST_BMCS)] + [silent]
    simulators: list[IpmiSim] = []
    try:
        for number, size in enumerate(sizes):
            # It chooses ports that are free now, so those before it have to have theirs.
            simulators.append(IpmiSim(directory / f"bmcs-{number}", size))
            simulators[-1].start()
        yield simulators
    finally:
        for simulator in simulators:
            if simulator.is_running:
                simulator.stop()


class _Fleet:
    """The measurements, one after the other on one stack."""

    def __init__(
        self, stack: Stack, store: Store, looks: Path, inventory: Path, freezing: IpmiSim, entries: Sequence[Sequence[InventoryEntry]]
    ) -> None:
        self._stack = stack
        self._store = store
        self._looks = looks
        self._inventory = inventory
        self._freezing = freezing
        self._all = [entry for part in entries for entry in part]
        self._healthy = {entry.uuid for part in entries[:-1] for entry in part}

    def measure(self, runs: int) -> list[Figure]:
        empty = _Size.read(self._stack.agent.pid)
        _, idle_share = self._measure_share(lambda: time.sleep(_IDLE))
        first_round = self._measure_first_round()
        pid = self._stack.agent.pid
        read = _Size.read(pid)
        quiet, share = self._measure_share(self._watch)
        calls = self._crash_some(runs)
        self._freezing.freeze()
        falling = self._watch()
        with ThreadPoolExecutor(1) as pool:
            sent = pool.submit(self._crash_some, runs, WINDOW)
            silent = self._watch()
            calls_meanwhile = sent.result()
        later = _Size.read(pid)
        self._freezing.thaw()
        of_size, of_silent = f" ({len(self._all)} BMCs)", f" ({len(self._all) - len(self._healthy)} of {len(self._all)} BMCs silent)"
        sizes = f"the agent has {empty} without machines, {read} after it, {later} at the end"
        took = statistics.median(look.ended - look.began for look in quiet) * 1000
        rate = f"{len(quiet) / WINDOW:.1f} looks a second at those that stay healthy, each of {took:.1f} ms (median)"
        pace = f"the agent has {share:.1f} % of a core, {idle_share:.1f} % without machines; {rate}"
        late = "lateness of a healthy machine's look"
        nmi = "inject_nmi within the agent"
        return [
            Figure("first look at all" + of_size, [first_round], note=sizes),
            Figure(late + of_size, _list_lateness(quiet), note=pace),
            Figure(late + f" in the first {WINDOW:.0f} s" + of_silent, _list_lateness(falling), floor=late + of_size),
            Figure(late + " later" + of_silent, _list_lateness(silent), floor=late + of_size),
            Figure(nmi + of_size, [each[1] for each in calls]),
            Figure(nmi + of_silent, [each[1] for each in calls_meanwhile], floor=nmi + of_size),
            Figure("POST → driver returned" + of_size, [each[0] for each in calls]),
            Figure("POST → driver returned" + of_silent, [each[0] for each in calls_meanwhile], floor="POST → driver returned" + of_size),
        ]

    def _measure_share(self, wait: Callable[[], T]) -> tuple[T, float]:
        """What ``wait`` came back with, and how many percent of a core the agent had meanwhile."""
        pid = self._stack.agent.pid
        spent, began = read_processor_time(pid), time.monotonic()
        result = wait()
        return result, (read_processor_time(pid) - spent) / 1e7 / (time.monotonic() - began)

    def _measure_first_round(self) -> float:
        """Milliseconds from the first look to the end of the last one, by an agent that starts with all machines."""
        write_inventory(self._inventory, self._all)
        self._looks.write_text("")
        self._stack.agent.restart()
        wait_until(lambda: len(self._list_looked_at()) == len(self._all), _TIMEOUT, "every machine to be looked at", interval=0.2)
        wait_until(self._shows_all, _TIMEOUT, "the API to show every machine on", interval=0.5)
        looks = read_looks(self._looks)
        last = {look.server: look.ended for look in reversed(looks)}
        return (max(last.values()) - min(look.began for look in looks)) * 1000

    def _list_looked_at(self) -> set[str]:
        return {look.server for look in read_looks(self._looks)}

    def _shows_all(self) -> bool:
        return len([shown for shown in self._stack.client.list_servers() if shown["status"] == "ACTIVE"]) == len(self._all)

    def _watch(self) -> list[Look]:
        """The looks at healthy machines that end in the next minute."""
        begin = time.monotonic()
        time.sleep(WINDOW)
        return [look for look in read_looks(self._looks) if look.ended >= begin and look.server in self._healthy]

    def _crash_some(self, runs: int, seconds: float = 0.0) -> list[tuple[float, float]]:
        """Healthy machines, each once, spread over so many seconds."""
        servers = sorted(self._healthy)
        calls = []
        for number in range(runs):
            began = time.monotonic()
            calls.append(crash(self._stack, self._store, servers[number * len(servers) // runs]))
            time.sleep(max(0.0, seconds / runs - (time.monotonic() - began)))
        return calls


def _list_lateness(looks: Sequence[Look]) -> list[float]:
    """Milliseconds from the moment that each was due."""
    return [(look.began - look.due) * 1000 for look in looks]
