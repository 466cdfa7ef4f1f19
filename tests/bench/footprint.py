"""Resident memory of an agent with the libvirt driver, an API worker and an engine after ten thousand actions; what the last half added.

The actions are real NMIs at real QEMU processes without a system, which take them without a sign, each with its journal rows, events and
observation (over after two seconds of silence, so that ten thousand do not stay open at a time as they never would). Casts are not signed,
which is the default; what signing adds is told beside.
"""

from __future__ import annotations

import itertools
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from sqlalchemy import func, select

from api_gateway.store.tables import actions
from devstack.services import list_children, wait_until
from tests.bench.fake_stack import FakeStack, running_fake_stack
from tests.bench.figures import Figure, Goal, Unit
from tests.bench.libvirt_guests import make_agent, running_quiet_host, start_guests
from tests.bench.load import Plan, generate_load
from tests.bench.processes import count_threads, read_proportional_mib, read_resident_mib

ACTIONS = 10_000
_GOALS = {"crashcart-agent": 75, "crashcart-api": 90, "crashcart-engine": 85}
"""MiB."""
_MOST_GROWTH = Goal(median=2.0)
"""What "flat" means here: MiB that the last half may add."""
_GUESTS = 20
_CLIENTS = 8
_BATCH = 150
"""Actions that are open at a time, below the limit per host."""
_OBSERVATION_LIMIT = 2.0
_TIMEOUT = 120.0
_TELL_EVERY = 1500
_AGENT_OPTIONS = {"first_look": 1.0, "observation_limit": _OBSERVATION_LIMIT}
_UNSIGNED = {"signing": {"private_key": ""}}
_BODY = '{"kind": "trigger_crash_dump", "force": true, "deadline_seconds": 60}'


def measure(count: int = ACTIONS) -> list[Figure]:
    """:param count: actions, of which the growth over the last half is told

    :raises StepFailed: a part did not come up.
    :raises RuntimeError: a request was refused, or an action did not succeed.
    """
    with tempfile.TemporaryDirectory(prefix="crashcart-bench-") as name, running_quiet_host(Path(name)) as host:
        with host.libvirtd.connect() as connection:
            start_guests(connection, Path(name), _GUESTS, paused=False)
        with running_fake_stack(agents=[make_agent(host, _GUESTS)]) as stack:
            signed = _trigger_few(stack)
        agent = make_agent(host, _GUESTS, is_signed=False, **_AGENT_OPTIONS)
        with running_fake_stack(agents=[agent], gateway_options=_UNSIGNED) as stack:
            fresh = _trigger_few(stack)
            return _measure_stack(stack, count, fresh, signed)


def _trigger_few(stack: FakeStack) -> dict[str, float]:
    """Resident MiB of each process when everything was used once."""
    _trigger(stack, [server["id"] for server in stack.client.list_servers()], _GUESTS)
    return {name: read_resident_mib(_find_worker(stack, name)) for name in _GOALS}


def _measure_stack(stack: FakeStack, count: int, fresh: Mapping[str, float], signed: Mapping[str, float]) -> list[Figure]:
    servers = [server["id"] for server in stack.client.list_servers()]
    pids = {name: _find_worker(stack, name) for name in _GOALS}
    _trigger(stack, servers, count // 2)
    half = {name: read_resident_mib(pid) for name, pid in pids.items()}
    _trigger(stack, servers, count - count // 2)
    with stack.store.read() as c:
        succeeded = c.execute(select(func.count()).where(actions.c.ending == "succeeded")).scalar_one()
    if succeeded != count + _GUESTS:
        raise RuntimeError(f"{succeeded} of {count + _GUESTS} actions succeeded")
    figures = []
    for name, pid in pids.items():
        end = read_resident_mib(pid)
        note = (
            f"{fresh[name]:.1f} MiB when it began, {half[name]:.1f} after {count // 2}; with its part of what it shares, "
            f"{read_proportional_mib(pid):.1f} MiB; {count_threads(pid)} threads; signed casts add {signed[name] - fresh[name]:.1f} MiB"
        )
        of_what = f"{name}{' worker' if name == 'crashcart-api' else ''}"
        figures += [
            Figure(f"memory of {of_what} after {count} actions", [end], unit=Unit.MIB, goal=Goal(median=_GOALS[name]), note=note),
            Figure(f"growth of {of_what} over the last {count - count // 2}", [end - half[name]], unit=Unit.MIB, goal=_MOST_GROWTH),
        ]
    return figures


def _find_worker(stack: FakeStack, name: str) -> int:
    """The process that does the work: the API's is a child of the one that was started."""
    pid = stack.services[name].pid
    return next((child.pid for child in list_children(pid)), pid)


def _trigger(stack: FakeStack, servers: Sequence[str], count: int) -> None:
    """So many crash dumps, and wait until all of them are told to the end."""
    port = urlsplit(stack.client.url).port
    assert port is not None
    turns = itertools.cycle(servers)
    began = time.monotonic()
    for first in range(0, count, _BATCH):
        requests = [("POST", f"/v1/servers/{next(turns)}/actions", _BODY) for _ in range(min(_BATCH, count - first))]
        generate_load(Plan(port, requests, clients=_CLIENTS), expected=202)
        wait_until(lambda: _count(stack, actions.c.ending.is_(None)) == 0, _TIMEOUT, "all actions to end")
        if (first + _BATCH) % _TELL_EVERY == 0:
            print(f"[{time.monotonic() - began:7.1f} s] {first + _BATCH} of {count} actions ended", flush=True)
    if count > _GUESTS:
        wait_until(lambda: _count(stack, actions.c.observation_final.is_not(True)) == 0, _TIMEOUT, "all observations to be over")


def _count(stack: FakeStack, condition: object) -> int:
    with stack.store.read() as c:
        return int(c.execute(select(func.count()).select_from(actions).where(condition)).scalar_one())  # type: ignore[arg-type]
