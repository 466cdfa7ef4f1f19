"""Processor time of an agent with fifty servers to which nothing happens, its sampler off and on; and of an engine and an API beside.

The servers are real QEMU processes under a private libvirtd, paused, so that theirs is nothing but what the agent asks for. What the
sampler costs libvirtd and QEMU counts as well: what they take with it less what they take without. An agent with the fake driver shows
what is not libvirt's.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from devstack.services import list_children
from tests.bench.fake_stack import FakeAgent, FakeStack, running_fake_stack
from tests.bench.figures import Figure, Goal, Unit
from tests.bench.libvirt_guests import find_qemus, make_agent, running_quiet_host, start_guests
from tests.bench.processes import read_processor_time

WINDOW = 30.0
"""Seconds of one sample: one period of heartbeats, and of the sampler."""
_LEAST_SAMPLES, _MOST_SAMPLES = 3, 8
_SETTLING = 12.0
"""Seconds after the start that are not idle ones: first comparisons, both heartbeats, the lock's first renewals."""
_SERVERS = 50
_GOAL = Goal(median=0.3)
_SAMPLING_GOAL = Goal(median=1.5)
_OFF: Mapping[str, object] = {"sample_interval": 0}


def measure(runs: int) -> list[Figure]:
    """``runs`` windows of half a minute with each agent, three at least and eight at most.

    :raises StepFailed: a part did not come up.
    :raises libvirt.libvirtError: a server did not.
    """
    windows = min(max(runs, _LEAST_SAMPLES), _MOST_SAMPLES)
    with tempfile.TemporaryDirectory(prefix="crashcart-bench-") as name, running_quiet_host(Path(name)) as host:
        with host.libvirtd.connect() as connection:
            servers = start_guests(connection, Path(name), _SERVERS)
        backends = [host.libvirtd.pid, *find_qemus(host, servers)]
        with running_fake_stack(agents=[make_agent(host, _SERVERS, **_OFF)]) as stack:
            off = _watch(stack, backends, windows)
        with running_fake_stack(agents=[make_agent(host, _SERVERS)]) as stack:
            on = _watch(stack, backends, windows)
    with running_fake_stack(agents=[FakeAgent(_SERVERS, options={"agent": _OFF})]) as stack:
        fake = _watch(stack, [], windows)
    agent, backend = "crashcart-agent", "backend"
    idle_backend = sum(off[backend]) / windows
    sampling = [mine + theirs - idle_backend for mine, theirs in zip(on[agent], on[backend], strict=True)]
    shares = f"agent {sum(on[agent]) / windows:.3f}, added in libvirtd and QEMU {sum(on[backend]) / windows - idle_backend:.3f}"
    of = f"with {_SERVERS} servers"
    return [
        Figure(f"idle agent {of}, sampler off", off[agent], unit=Unit.PERCENT, goal=_GOAL, note="libvirt driver"),
        Figure(f"idle agent {of}, sampler on, with libvirtd's and QEMU's", sampling, unit=Unit.PERCENT, goal=_SAMPLING_GOAL, note=shares),
        Figure(f"idle agent {of}, sampler off, fake driver", fake[agent], unit=Unit.PERCENT),
        Figure("idle engine", off["crashcart-engine"], unit=Unit.PERCENT),
        Figure("idle API", off["crashcart-api"], unit=Unit.PERCENT),
    ]


def _watch(stack: FakeStack, backends: Sequence[int], windows: int) -> dict[str, list[float]]:
    """Percent of a core that each service (with its worker processes) and all the backend's processes took in each window."""
    time.sleep(_SETTLING)
    groups = {name: [service.pid, *(child.pid for child in list_children(service.pid))] for name, service in stack.services.items()}
    groups["backend"] = list(backends)
    found: dict[str, list[float]] = {name: [] for name in groups}
    for _ in range(windows):
        before, began = _read(groups), time.monotonic()
        time.sleep(WINDOW)
        after, seconds = _read(groups), time.monotonic() - began
        for name, samples in found.items():
            samples.append((after[name] - before[name]) / 1e9 / seconds * 100)
    return found


def _read(groups: Mapping[str, Sequence[int]]) -> dict[str, int]:
    return {name: sum(map(read_processor_time, pids)) for name, pids in groups.items()}
