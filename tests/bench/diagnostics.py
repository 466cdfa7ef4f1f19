"""What diagnostics cost beside the raw calls of libvirt: collecting those of 1, 10 and 50 servers, and the sampler's processor time.

The servers are real QEMU processes with one processor, a disk, a network card and a balloon, but their guests never boot: each is started
paused, so that QEMU's own processor time is nothing but its answers. A guest with a balloon driver and more devices costs more.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import libvirt

from compute_agent.contract.clock import SystemClock
from compute_agent.drivers.base import DiagnosticsSource
from compute_agent.sampler import Sampler
from tests.bench.figures import Figure
from tests.bench.libvirt_guests import find_qemus, running_quiet_host, start_guests
from tests.bench.processes import read_processor_time
from tests.conformance.libvirt_host import LibvirtHost

SIZES = (1, 10, 50)
SAMPLE_INTERVAL = 30.0
"""Seconds, the sampler's default, for which its cost is worked out."""
_PAUSE = 0.5
"""Seconds between two samples that are measured, so that the caches are not warmer than they need be."""
_WANTED = (
    libvirt.VIR_DOMAIN_STATS_STATE
    | libvirt.VIR_DOMAIN_STATS_BALLOON
    | libvirt.VIR_DOMAIN_STATS_VCPU
    | libvirt.VIR_DOMAIN_STATS_INTERFACE
    | libvirt.VIR_DOMAIN_STATS_BLOCK
)
_FLAGS = libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_ACTIVE | libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT


@dataclass(frozen=True)
class _ProcessorTime:
    """Nanoseconds so far of the three that a sample keeps busy."""

    agent: int
    libvirtd: int
    qemu: int

    @property
    def total(self) -> int:
        return self.agent + self.libvirtd + self.qemu

    def since(self, earlier: _ProcessorTime) -> _ProcessorTime:
        return _ProcessorTime(self.agent - earlier.agent, self.libvirtd - earlier.libvirtd, self.qemu - earlier.qemu)


def measure(runs: int, most: int = SIZES[-1]) -> list[Figure]:
    """Start a private libvirtd and up to ``most`` servers, and measure with each number of them.

    :raises StepFailed: libvirtd did not start.
    :raises libvirt.libvirtError: a server did not.
    """
    figures: list[Figure] = []
    with (
        tempfile.TemporaryDirectory(prefix="crashcart-bench-") as directory,
        running_quiet_host(Path(directory)) as host,
        host.driver() as (driver, _events),
        host.libvirtd.connect() as connection,
    ):
        assert driver.diagnostics is not None
        servers: list[str] = []
        for size in sorted({min(size, most) for size in SIZES}):
            servers += start_guests(connection, Path(directory), size - len(servers))
            figures += _measure_collection(driver.diagnostics, connection, servers, runs)
            figures.append(_measure_sampler(driver.diagnostics, host, servers, runs))
    return figures


def _measure_collection(source: DiagnosticsSource, connection: libvirt.virConnect, servers: Sequence[str], runs: int) -> list[Figure]:
    """Of all servers at once, and freshly of each."""
    domains = [connection.lookupByUUIDString(server) for server in servers]

    def collect_each() -> None:
        for server in servers:
            source.collect_diagnostics(server)

    def ask_for_each() -> None:
        for domain in domains:
            connection.domainListGetStats([domain], _WANTED, 0)

    def sample() -> None:
        if len(source.sample_servers()) != len(servers):
            raise RuntimeError("a sample lacks servers")

    # In turn, so that a machine that slows down slows all of them.
    calls: dict[str, Callable[[], object]] = {
        "libvirt, stats of all": lambda: connection.getAllDomainStats(_WANTED, _FLAGS),
        "one sample of all": sample,
        "libvirt, stats of each": ask_for_each,
        "fresh diagnostics of each": collect_each,
    }
    for call in calls.values():
        call()
    samples: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(runs):
        for name, call in calls.items():
            began = time.perf_counter()
            call()
            samples[name].append((time.perf_counter() - began) * 1000)
    floors = {"one sample of all": "libvirt, stats of all", "fresh diagnostics of each": "libvirt, stats of each"}
    of_size = f" ({len(servers)} servers)"
    return [Figure(name + of_size, taken, floor=floors[name] + of_size if name in floors else None) for name, taken in samples.items()]


def _measure_sampler(source: DiagnosticsSource, host: LibvirtHost, servers: Sequence[str], runs: int) -> Figure:
    """Processor time that a sample adds to what all three take when nothing is sampled."""
    sampler = Sampler(source, SystemClock(), list_servers=lambda: servers)
    qemus = find_qemus(host, list(servers))
    idle = _spend(lambda: None, host, qemus, runs)
    busy = _spend(sampler.step, host, qemus, runs)
    added = [(after.total - sum(each.total for each in idle) / runs) / 1e6 for after in busy]
    shares = [
        f"{name} {(sum(getattr(each, name) for each in busy) - sum(getattr(each, name) for each in idle)) / runs / 1e6:.2f} ms"
        for name in ("agent", "libvirtd", "qemu")
    ]
    percent = sum(added) / runs / (SAMPLE_INTERVAL * 1000) * 100
    note = f"{percent:.3f} % of a core with a sample every {SAMPLE_INTERVAL:g} s: {', '.join(shares)} of each; the servers are paused"
    return Figure(f"processor time added by a sample ({len(servers)} servers)", added, note=note)


def _spend(work: Callable[[], object], host: LibvirtHost, qemus: Sequence[int], runs: int) -> list[_ProcessorTime]:
    """What each of ``runs`` periods took, with ``work`` done once in it."""
    spent: list[_ProcessorTime] = []
    before = _read_processor_time(host, qemus)
    for _ in range(runs):
        work()
        time.sleep(_PAUSE)
        after = _read_processor_time(host, qemus)
        spent.append(after.since(before))
        before = after
    return spent


def _read_processor_time(host: LibvirtHost, qemus: Sequence[int]) -> _ProcessorTime:
    return _ProcessorTime(time.process_time_ns(), read_processor_time(host.libvirtd.pid), sum(map(read_processor_time, qemus)))
