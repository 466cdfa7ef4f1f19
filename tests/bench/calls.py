"""``GET …/diagnostics`` through API, RPC and an agent with the fake driver, beside bare oslo.messaging calls over the same broker.

The floor's client makes its calls from as many threads as the API has clients, and its server answers with the same body from as many
threads as an agent: no HTTP, no policy, no signature, no look into the store, no driver. Clients ask for servers in turn. Every answer has
to come from the agent: the API is given as many threads for its calls as for its requests, so that none is answered with what was last
known. What that costs, which is what is answered while an agent is away, is a figure by itself.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Sequence
from urllib.parse import urlsplit

from compute_agent.collector import Collector
from compute_agent.contract.clock import SystemClock
from compute_agent.drivers.fake import FakeHypervisor
from compute_agent.sampler import Sampler
from devstack.services import wait_until
from tests.bench.bare_calls import Calls, call_bare, running_bare_server
from tests.bench.fake_stack import FakeAgent, FakeStack, running_fake_stack
from tests.bench.figures import Figure, Goal, Unit
from tests.bench.load import Load, Plan, generate_load
from tests.bench.processes import read_used_processor_time

CLIENTS = (1, 8, 32)
_CALLS = {1: 300, 8: 800, 32: 1600}
"""In each run, by the number of clients."""
_SERVERS = 50
_THREADS = max(CLIENTS)
_GOAL = Goal(share=0.8)
_HEADERS = {"OpenStack-API-Version": "compute 2.48"}
_TIMEOUT = 30.0
_COMPLAINTS = ("a call failed", "a call is stuck")
_GATEWAY_OPTIONS = {"api": {"threads": _THREADS, "agent_call_threads": _THREADS}}


def measure(runs: int) -> list[Figure]:
    """Floor and API in turn, ``runs`` times with each number of clients.

    :raises StepFailed: the stack did not come up.
    :raises RuntimeError: an answer was not what it should be.
    """
    with (
        running_fake_stack(agents=[FakeAgent(_SERVERS)], gateway_options=_GATEWAY_OPTIONS) as stack,
        running_bare_server(stack.broker.transport_url, _make_body()),
    ):
        servers = [server["id"] for server in stack.client.list_servers()]
        _ask(stack, servers, _THREADS, 4 * _THREADS)  # all threads and connections are there
        figures: list[Figure] = []
        for clients in CLIENTS:
            figures += _measure_clients(stack, servers, clients, runs)
        _check_log(stack)
        figures.append(_measure_last_known(stack, servers, runs))
    return figures


def _make_body() -> dict[str, object]:
    """What an agent answers."""
    clock = SystemClock()
    hypervisor = FakeHypervisor(clock)
    server = hypervisor.make_server()
    sampler = Sampler(hypervisor.driver.diagnostics, clock, list_servers=list)
    return Collector(hypervisor.driver, sampler, clock, limit=_TIMEOUT, threads=1).get_reply(server).to_wire()


def _measure_clients(stack: FakeStack, servers: Sequence[str], clients: int, runs: int) -> list[Figure]:
    calls: list[Calls] = []
    loads: list[Load] = []
    used = dict.fromkeys(("crashcart-api", "crashcart-agent"), 0.0)
    for _ in range(runs):
        calls.append(call_bare(stack.broker.transport_url, threads=clients, calls=_CALLS[clients]))
        before = {name: read_used_processor_time(stack.services[name].pid) for name in used}
        loads.append(_ask(stack, servers, clients, _CALLS[clients]))
        for name, seconds in before.items():
            used[name] += read_used_processor_time(stack.services[name].pid) - seconds
    asked = sum(len(load.latencies) for load in loads)
    floor = f"oslo.messaging call, {clients} threads"
    of_services = ", ".join(f"{name} {seconds / asked * 1000:.2f} ms" for name, seconds in used.items())
    bare = sum(each.processor_seconds for each in calls) / sum(len(each.latencies) for each in calls) * 1000
    return [
        Figure(floor, [each.per_second for each in calls], unit=Unit.PER_SECOND, note=_describe(calls, f"the client {bare:.2f} ms")),
        Figure(
            f"GET diagnostics through RPC, {clients} clients",
            [load.per_second for load in loads],
            floor=floor,
            unit=Unit.PER_SECOND,
            goal=_GOAL,
            note=_describe(loads, of_services),
        ),
    ]


def _describe(taken: Sequence[Calls | Load], processor: str) -> str:
    latencies = sorted(itertools.chain.from_iterable(each.latencies for each in taken))
    p99 = latencies[int(len(latencies) * 0.99)]
    return f"p50 {statistics.median(latencies):.1f} ms, p99 {p99:.1f} ms; processor time of each: {processor}"


def _measure_last_known(stack: FakeStack, servers: Sequence[str], runs: int) -> Figure:
    """With the agent stopped in order, so that nobody tries to ask it."""
    stack.services["crashcart-agent"].stop()
    wait_until(lambda: stack.client.get("/v1/agents").body["agents"][0]["state"] == "down", _TIMEOUT, "the agent to be down")
    clients = CLIENTS[1]
    loads = [_ask(stack, servers, clients, _CALLS[clients]) for _ in range(runs)]
    name = f"GET diagnostics, the last known, {clients} clients"
    return Figure(name, [load.per_second for load in loads], unit=Unit.PER_SECOND)


def _ask(stack: FakeStack, servers: Sequence[str], clients: int, count: int) -> Load:
    port = urlsplit(stack.client.url).port
    assert port is not None
    requests = [("GET", f"/v2.1/servers/{server}/diagnostics", "") for server in itertools.islice(itertools.cycle(servers), count)]
    return generate_load(Plan(port, requests, clients=clients, headers=_HEADERS), expected=200)


def _check_log(stack: FakeStack) -> None:
    """:raises RuntimeError: the API has answered without the agent."""
    log = stack.services["crashcart-api"].log
    assert log is not None
    found = [line for line in log.read_text().splitlines() if any(complaint in line for complaint in _COMPLAINTS)]
    if found:
        raise RuntimeError(f"{len(found)} calls had no answer: {found[0]}")
