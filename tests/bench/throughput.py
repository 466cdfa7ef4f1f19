"""How many actions a second go all the way: POST, row, cast, journal, driver call, events, record; on this machine, everything on it.

A hundred production agents with the fake driver, each a process with a journal file and connections of its own, the engine, an API with one
worker, a real broker. Every server takes its NMI and shows no sign, so that it can be asked for the next one. First a
thousand actions are asked for as fast as they are accepted: that is what the system can do. Then it is asked for a little less for a
minute; how many are open at a time, and how many events wait for the recorder, must stay bounded meanwhile. At the end each accepted action
must have ended ``succeeded``, and the drivers must have been called once for each.

An action is a part of the API's commit (requests that come together share one) and of two of the dispatcher's (which notes what became of
casts while it claims the next ones), three commits of the journal's (received, started, ended) and, a second later, one for the black box
that each crash dump makes, and a part of the recorder's, which takes up to a hundred events at a time. It is five messages: its cast and
four events, of which the first three mostly go out together. A minute later one more says that nothing was seen; it is no part of this.

The floor is what cannot be left out, one thing after the other (see ``action_floors``). Processor time is of all processes but the load
generator's, which is told apart.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import kombu
from sqlalchemy import select

from api_gateway.store.tables import actions
from compute_agent.contract.notifications import RECORDER_QUEUES
from devstack.api_client import COMPUTE_MICROVERSION
from devstack.databases import DatabaseKind
from devstack.ports import Ports, find_free_base
from devstack.rabbitmq import PrivateRabbitMQ
from devstack.services import wait_until
from devstack.steps import NotInstalled
from tests.bench.action_floors import get_sum_name, measure_floors
from tests.bench.agent_fleet import read_signals
from tests.bench.beside import Beside
from tests.bench.fake_stack import FLEET, FakeAgent, FakeStack, running_fake_stack
from tests.bench.figures import Figure, Goal, Unit
from tests.bench.load import Load, Plan, generate_load
from tests.bench.processes import read_used_processor_time
from tests.database_servers import run_database_server
from tests.stack.broker_events import count_messages, create_address

_SERVERS = 50
"""Of each agent."""
_BURST = 1000
"""Actions at once, at most one of each server."""
_CLIENTS = 8
_SHARE_OF_CAPACITY = 0.95
"""What is asked for when it is to go on like that."""
_WINDOW = 10.0
"""Seconds of which each rate is the mean."""
_SAMPLE_PAUSE = 1.0
_IDLE = 10.0
"""Seconds in which nothing is asked for, to know what of the processor time is not the actions'."""
_END_TIMEOUT = 120.0
_STOP_GRACE = 60.0
_RATE_GOAL = Goal(share=0.5, median=400.0)
_PROCESSOR_GOAL = Goal(median=4.5)
_HEADERS = {"OpenStack-API-Version": f"compute {COMPUTE_MICROVERSION}"}
_BODY = '{"trigger_crash_dump": null}'


@dataclass(frozen=True)
class Scale:
    """How large and how long."""

    hosts: int = 100
    seconds: float = 60.0


def add_options(parser: argparse.ArgumentParser) -> None:
    """Those of the command line."""
    parser.add_argument("--hosts", type=int, default=Scale.hosts, help="throughput: agents (default %(default)s)")
    parser.add_argument("--seconds", type=float, default=Scale.seconds, help="throughput, scale: how long (default %(default)g)")
    parser.add_argument("--database", choices=["sqlite", "postgresql"], help="throughput, scale: only with this one (default: with each)")


def measure(scale: Scale, database: str | None = None) -> list[Figure]:
    """With SQLite, and with PostgreSQL where it is installed.

    :raises RuntimeError: an action was lost, or its driver was called more or less than once.
    """
    figures: list[Figure] = []
    if database != "postgresql":
        figures += _measure_floors(None, "SQLite")
        with _running(scale, None) as stack:
            figures += _measure_stack(stack, scale, "SQLite", None)
    if database != "sqlite":
        try:
            with run_database_server(DatabaseKind.POSTGRESQL, durable=True) as server:
                figures += _measure_floors(server.create_database("floor"), "PostgreSQL")
                with _running(scale, server.create_database("gateway")) as stack:
                    figures += _measure_stack(stack, scale, "PostgreSQL", server.pid)
        except NotInstalled as error:
            print(f"not measured on PostgreSQL: {error}")
    return figures


def _measure_floors(database: str | None, name: str) -> list[Figure]:
    with tempfile.TemporaryDirectory(prefix="crashcart-bench-") as directory:
        broker = PrivateRabbitMQ(Path(directory), Ports(find_free_base()))
        broker.start()
        try:
            return measure_floors(broker, Path(directory), database, name)
        finally:
            broker.stop()


@contextmanager
def _running(scale: Scale, database: str | None) -> Iterator[FakeStack]:
    agents = [FakeAgent(_SERVERS, host=f"host-{number:03}", surviving=_SERVERS) for number in range(scale.hosts)]
    with running_fake_stack(agents=agents, database=database, is_fleet=True) as stack:
        yield stack


@dataclass(frozen=True)
class _Ended:
    """One action as the store shows it."""

    ending: str
    accepted_at: datetime
    recorded_at: datetime


class _Watch(Beside):
    """Looks once a second at what waits, and remembers the most."""

    def __init__(self, stack: FakeStack) -> None:
        super().__init__()
        self._stack = stack
        self.open_actions: list[int] = []
        self.waiting_events: list[int] = []

    def _run(self) -> None:
        link = create_address(self._stack.broker).open_link()
        queue: kombu.Queue = RECORDER_QUEUES[0]
        while not self._stop.wait(_SAMPLE_PAUSE):
            self.open_actions.append(_count_open(self._stack))
            self.waiting_events.append(count_messages(link, queue))
            link.heartbeat_tick()
        link.close()


def _measure_stack(stack: FakeStack, scale: Scale, name: str, database_pid: int | None) -> list[Figure]:
    servers = _list_servers(stack)
    pids = {
        "API": stack.services["crashcart-api"].pid,
        "engine": stack.services["crashcart-engine"].pid,
        f"{scale.hosts} agents": stack.services[FLEET].pid,
        "broker": stack.broker.pid,
    } | ({} if database_pid is None else {"database": database_pid})
    idle = _measure_idle(pids)
    burst = _post(stack, servers[:_BURST], rate=None)
    _await_ended(stack)
    capacity = _find_rate(_list_ended(stack))
    print(f"{name}: {len(burst.latencies)} actions at once: {capacity:.0f}/s; accepted {burst.per_second:.0f}/s", flush=True)
    known = len(burst.latencies)
    rate = capacity * _SHARE_OF_CAPACITY
    asked = [servers[number % len(servers)] for number in range(int(rate * scale.seconds))]
    before = {part: read_used_processor_time(pid) for part, pid in pids.items()}
    with _Watch(stack) as watch:
        load = _post(stack, asked, rate=rate)
        _await_ended(stack)
    used = {part: (read_used_processor_time(pid) - before[part]) * 1000 / len(asked) for part, pid in pids.items()}
    ended = _list_ended(stack)[known:]
    _check(stack, ended, asked=len(asked), in_all=known + len(asked))
    what = f"actions end to end with {name}"
    sustained = f"{len(ended)} in {len(ended) / _find_rate(ended):.1f} s, none lost, one driver call each"
    bounds = f"at most {max(watch.open_actions)} open and {max(watch.waiting_events)} events waiting for the recorder at a time"
    alone = f"the load generator {load.processor_seconds * 1000 / len(asked):.2f} ms more"
    resting = ", ".join(f"{part} {taken:.1f} %" for part, taken in idle.items())
    times = sorted((each.recorded_at - each.accepted_at).total_seconds() * 1000 for each in ended)
    return [
        Figure(f"{what}, all asked for at once", [capacity], floor=get_sum_name(name), unit=Unit.PER_SECOND, goal=_RATE_GOAL),
        Figure(
            f"{what}, {scale.seconds:g} s",
            _list_rates(ended, scale.seconds),
            floor=get_sum_name(name),
            unit=Unit.PER_SECOND,
            goal=_RATE_GOAL,
            note=f"asked for at {rate:.0f}/s; {sustained}; {bounds}",
        ),
        Figure(f"accepted until recorded, {name}", times),
        *(Figure(f"processor time of the {part} for an action, {name}", [taken]) for part, taken in used.items()),
        Figure(
            f"processor time for an action, {name}",
            [sum(used.values())],
            goal=_PROCESSOR_GOAL,
            note=f"{alone}; of a core without any: {resting}",
        ),
    ]


def _measure_idle(pids: Mapping[str, int]) -> dict[str, float]:
    """How much of a core each takes, in percent, when nothing is asked for."""
    before = {part: read_used_processor_time(pid) for part, pid in pids.items()}
    time.sleep(_IDLE)
    return {part: (read_used_processor_time(pid) - before[part]) * 100 / _IDLE for part, pid in pids.items()}


def _list_servers(stack: FakeStack) -> list[str]:
    """Each host's in turn."""
    with stack.store.read() as c:
        rows = c.exec_driver_sql("SELECT id FROM servers ORDER BY row_number() OVER (PARTITION BY host ORDER BY id), host")
        return [row.id for row in rows]


def _post(stack: FakeStack, servers: Sequence[str], *, rate: float | None) -> Load:
    requests = [("POST", f"/v2.1/servers/{server}/action", _BODY) for server in servers]
    port = int(stack.client.url.rpartition(":")[2])
    return generate_load(Plan(port, requests, clients=_CLIENTS, rate=rate, headers=_HEADERS), expected=202)


def _count_open(stack: FakeStack) -> int:
    with stack.store.read() as c:
        return int(c.exec_driver_sql("SELECT count(*) FROM actions WHERE state IN ('accepted', 'received', 'started')").scalar_one())


def _await_ended(stack: FakeStack) -> None:
    wait_until(lambda: _count_open(stack) == 0, _END_TIMEOUT, "all actions to end", interval=0.1)


def _list_ended(stack: FakeStack) -> list[_Ended]:
    """In the order in which they were accepted."""
    with stack.store.read() as c:
        rows = c.execute(select(actions.c.ending, actions.c.accepted_at, actions.c.recorded_at).order_by(actions.c.accepted_at))
        return [_Ended(*row) for row in rows]


def _find_rate(ended: Sequence[_Ended]) -> float:
    """Per second, from the first that was accepted to the last that was recorded."""
    taken = max(each.recorded_at for each in ended) - min(each.accepted_at for each in ended)
    return len(ended) / taken.total_seconds()


def _list_rates(ended: Sequence[_Ended], seconds: float) -> list[float]:
    """Of each window that the load went on in, but for the first one's beginning, in which nothing can have ended yet."""
    began = min(each.accepted_at for each in ended)
    moments = [(each.recorded_at - began).total_seconds() for each in ended]
    window = min(_WINDOW, seconds)
    return [sum(start <= at < start + window for at in moments) / window for start in (window * n for n in range(int(seconds / window)))]


def _check(stack: FakeStack, ended: Sequence[_Ended], *, asked: int, in_all: int) -> None:
    """:raises RuntimeError: something was lost, failed, or done twice."""
    succeeded = sum(each.ending == "succeeded" for each in ended)
    if succeeded != asked:
        raise RuntimeError(f"of {asked} accepted actions {succeeded} succeeded; {len(ended)} are known")
    if not stack.services[FLEET].stop(_STOP_GRACE):
        raise RuntimeError("the agents did not stop")
    signals = read_signals(stack.directory).total()
    if signals != in_all:
        raise RuntimeError(f"{in_all} actions, and {signals} calls of the drivers")
