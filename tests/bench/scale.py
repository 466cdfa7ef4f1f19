"""A thousand hosts and fifty thousand servers: what they cost the gateway, how far the record is behind, and what the API does meanwhile.

Broker, store, engine and API are real; the hosts are ``simulated_agents``, which say on the wire what as many agents would. In turn: all of
them tell everything at once, then they tell heartbeats alone, then events as well, then clients ask the API, then old events are forgotten.
"""

from __future__ import annotations

import argparse
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Executable, Table, func, select

from api_gateway.cast_slots import ImmediateCasts
from api_gateway.store import Store
from api_gateway.store.counters import list_violations
from api_gateway.store.tables import agents, events, servers
from api_gateway.sweep import Sweep
from compute_agent.contract.clock import SystemClock
from devstack.databases import DatabaseKind
from devstack.rabbitmq import USER
from devstack.services import list_children, wait_until
from devstack.steps import NotInstalled
from tests.bench.fake_stack import FakeAgent, FakeStack, running_fake_stack
from tests.bench.figures import Figure, Goal, Unit
from tests.bench.load import Plan as LoadPlan
from tests.bench.load import generate_load
from tests.bench.processes import read_resident_mib, read_used_processor_time
from tests.bench.simulated_agents import Agents, Plan, running_agents
from tests.bench.simulated_hosts import SimulatedHost
from tests.database_servers import run_database_server
from tests.unit.gateway.engine_parts import NotingCaster

_REAL_HOST = "compute-real"
_HEADERS = {"OpenStack-API-Version": "compute 2.96"}
_KNOWN_TIMEOUT = 300.0
_LOOK = 0.05
"""Seconds between looks at the record; so much may a lag be too long."""
_SETTLE = 5.0
_LOAD_SECONDS = 10.0
_PATIENCE = 90.0
_KEEP = timedelta(days=1)
_PAGE = 1000
_BODY = '{"trigger_crash_dump": null}'


@dataclass(frozen=True)
class Scale:
    """``rate`` is events per second, ``seconds`` how long each state lasts that is measured."""

    hosts: int = 1000
    servers: int = 50
    rate: float = 200.0
    seconds: float = 60.0


@dataclass(frozen=True)
class _Asked:
    """One kind of request, so many a second; ``cpu`` is the bound of the API's processor time for one, in ms."""

    name: str
    rate: float
    goal: Goal | None
    cpu: float | None = None


_DETAIL = _Asked("GET servers/detail of 50", 5.0, Goal(median=6.0))
_LONG_PAGE = _Asked("GET servers/detail of 1,000", 1.0, None, cpu=60.0)
_ACTIONS = _Asked("GET os-instance-actions", 20.0, Goal(median=2.0))
_POST = _Asked("POST trigger_crash_dump", 10.0, Goal(p99=10.0))


def add_options(parser: argparse.ArgumentParser) -> None:
    """Those of the command line."""
    parser.add_argument("--fleet", type=int, default=Scale.hosts, help="scale: hosts with 50 servers each (default %(default)s)")
    parser.add_argument("--events", type=float, default=Scale.rate, help="scale: events per second (default %(default)g)")


def measure(scale: Scale, database: str | None = None) -> list[Figure]:
    """With SQLite, and with PostgreSQL where it is installed.

    :raises RuntimeError: something that was told was not recorded, or an agent was taken for dead.
    """
    figures: list[Figure] = []
    if database != "postgresql":
        figures += _measure_gateway(scale, "SQLite", None, None)
    if database != "sqlite":
        try:
            with run_database_server(DatabaseKind.POSTGRESQL, durable=True) as server:
                figures += _measure_gateway(scale, "PostgreSQL", server.create_database("gateway"), server.pid)
        except NotInstalled as error:
            print(f"not measured on PostgreSQL: {error}")
    return figures


def _measure_gateway(scale: Scale, database: str, url: str | None, database_pid: int | None) -> list[Figure]:
    with running_fake_stack(agents=[FakeAgent(1, host=_REAL_HOST)], database=url) as stack:
        stack.broker.ctl("set_user_tags", USER, "impersonator")  # may name the account of each host
        plan = Plan(stack.broker.url, scale.hosts, scale.servers)
        began = time.monotonic()
        with running_agents(plan) as agents:
            return _Run(stack, scale, agents, database, database_pid).measure(began)


class _Run:
    """One gateway over one kind of store."""

    def __init__(self, stack: FakeStack, scale: Scale, agents: Agents, database: str, database_pid: int | None) -> None:
        self._stack = stack
        self._store = stack.store
        self._scale = scale
        self._agents = agents
        self._database = database
        self._pids = {
            "engine": stack.services["crashcart-engine"].pid,
            "API": stack.services["crashcart-api"].pid,
            "broker": stack.broker.pid,
        } | ({} if database_pid is None else {"database": database_pid})
        self._port = int(stack.client.url.rpartition(":")[2])
        self._posted = 0

    def measure(self, began: float) -> list[Figure]:
        told = self._agents.read()
        told_after = time.monotonic() - began
        known = self._scale.hosts * self._scale.servers + 1
        wait_until(lambda: _count(self._store, servers) == known, _KNOWN_TIMEOUT, f"{known} servers to be known", interval=0.1)
        known_after = time.monotonic() - began
        self._say(f"{known} servers are known after {known_after:.1f} s; all was told after {told_after:.1f} s")
        note = f"queues and bindings of {self._scale.hosts} hosts included; told after {told_after:.1f} s"
        figures = [
            Figure(self._name(f"until {known - 1:,} servers are known"), [known_after], unit=Unit.SECONDS, note=note),
            *self._measure_heartbeats(),
            *self._measure_events(),
        ]
        told = self._agents.tell(self._scale.rate)
        for asked in (_DETAIL, _LONG_PAGE, _POST, _ACTIONS):
            figures += self._measure_requests(asked)
        figures += [
            Figure(self._name(f"memory of the {part}"), [read_resident_mib(_find_worker(self._pids[part]))], unit=Unit.MIB)
            for part in ("engine", "API")
        ]
        self._agents.tell(0.0)
        self._check()
        figures += self._measure_retention()
        print(f"{self._database}: {told}", flush=True)
        return figures

    def _measure_heartbeats(self) -> list[Figure]:
        self._agents.tell(0.0)
        time.sleep(_SETTLE)
        before = self._agents.tell(0.0)
        used = self._use_of(lambda: time.sleep(self._scale.seconds))
        after = self._agents.tell(0.0)
        beats = after.heartbeats - before.heartbeats
        self._quiet, self._beats_cost = used, {part: taken * 1000 / beats for part, taken in used.items()}
        note = f"{beats} heartbeats in {self._scale.seconds:g} s, {after.inventories - before.inventories} of them with all servers"
        return self._list_costs("heartbeats alone", used, note)

    def _measure_events(self) -> list[Figure]:
        """Each state change brings an early heartbeat, which counts as part of what the event costs."""
        self._agents.tell(self._scale.rate)
        time.sleep(_SETTLE)
        before, size = self._agents.tell(self._scale.rate), self._measure_store()
        with _watching(self._store) as lags:
            used = self._use_of(lambda: time.sleep(self._scale.seconds))
            after = self._agents.tell(self._scale.rate)
        count, grown = after.events - before.events, self._measure_store() - size
        seen = [lag for message_id, lag in lags if message_id not in set(after.withheld)]
        beats = (after.heartbeats - before.heartbeats) / self._scale.seconds
        each = {part: (taken - self._quiet[part]) * 1000 / count for part, taken in used.items()}
        rates = f"{count / self._scale.seconds:.0f} events/s, {beats:.0f} heartbeats/s"
        note = f"{rates}; {after.resent} events that were withheld came when they were asked for"
        agents = (after.processor_seconds - before.processor_seconds) / self._scale.seconds
        per_day = grown / count * self._scale.rate * 86_400 / 2**30
        return [
            Figure(
                self._name("event told until it can be read in the record"),
                seen,
                goal=Goal(p99=1000.0),
                note=f"{note}; the simulated agents took {agents:.0%} of a core beside",
            ),
            *self._list_costs(f"{self._scale.rate:g} events/s", used, note),
            *(Figure(self._name(f"processor time of the {part} for an event"), [taken]) for part, taken in each.items()),
            Figure(
                self._name("growth of the store for 1,000 events"),
                [grown / count * 1000 / 2**20],
                unit=Unit.MIB,
                note=f"{per_day:.1f} GiB a day at {self._scale.rate:g} events/s",
            ),
        ]

    def _list_costs(self, when: str, used: Mapping[str, float], note: str) -> list[Figure]:
        return [
            Figure(self._name(f"processor time of the {part}, {when}"), [taken * 100 / self._scale.seconds], unit=Unit.PERCENT, note=note)
            for part, taken in used.items()
        ]

    def _measure_requests(self, asked: _Asked) -> list[Figure]:
        requests = self._list_requests(asked, int(asked.rate * _LOAD_SECONDS))
        plan = LoadPlan(self._port, requests, clients=4, rate=asked.rate, headers=_HEADERS)
        before = read_used_processor_time(self._pids["API"])
        load = generate_load(plan, expected=202 if asked is _POST else 200)
        each = (read_used_processor_time(self._pids["API"]) - before) * 1000 / len(requests)
        self._say(f"{asked.name}: {each:.2f} ms of the API's processor time")
        goal = None if asked.cpu is None else Goal(median=asked.cpu)
        return [
            Figure(self._name(asked.name), load.latencies, goal=asked.goal, note=f"{asked.rate:g} a second while the fleet runs"),
            Figure(self._name(f"{asked.name}, processor time of the API"), [each], goal=goal),
        ]

    def _list_requests(self, asked: _Asked, count: int) -> list[tuple[str, str, str]]:
        if asked is _DETAIL:
            return [("GET", "/v2.1/servers/detail?all_tenants=1&limit=50", "")] * count
        if asked is _LONG_PAGE:
            return [("GET", f"/v2.1/servers/detail?all_tenants=1&limit={_PAGE}", "")] * count
        hosts = [SimulatedHost(number, self._scale.servers, 30.0) for number in range(min(count, self._scale.hosts))]
        # The last server of a host is told of least.
        chosen = [hosts[number % len(hosts)].ids[-1 - number // len(hosts)] for number in range(count)]
        if asked is _ACTIONS:
            return [("GET", f"/v2.1/servers/{server}/os-instance-actions", "") for server in chosen]
        self._posted += count
        return [("POST", f"/v2.1/servers/{server}/action", _BODY) for server in chosen]

    def _measure_retention(self) -> list[Figure]:
        """Forget all that is recorded, let as much come again while the sweep goes on, and compare how large the store is."""
        clock = _ShiftedClock()
        sweep = Sweep(self._store, NotingCaster(), clock, slots=ImmediateCasts(), events_keep=_KEEP.days)
        clock.shift = _KEEP
        full, count = self._measure_file(), _count(self._store, events)
        used = time.process_time()
        while _count(self._store, events):
            sweep.prune()
        forgotten = (time.process_time() - used) * 1000 / count
        self._vacuum()
        self._agents.tell(self._scale.rate)
        wait = min(self._scale.seconds, count / self._scale.rate)
        deadline = time.monotonic() + wait
        while time.monotonic() < deadline:
            sweep.prune()
            time.sleep(1.0)
        self._agents.tell(0.0)
        grown = (self._measure_file() - full) / 2**20
        note = f"{full / 2**20:.0f} MiB before {count} events were forgotten and {wait:g} s of new ones came and went"
        return [
            Figure(self._name("growth of the store with retention"), [grown], unit=Unit.MIB, goal=Goal(median=1.0), note=note),
            Figure(self._name("forgetting an event, processor time of the sweep"), [forgotten]),
        ]

    def _check(self) -> None:
        """Everything that was told is in the record, once; nobody was taken for dead."""
        told = self._agents.tell(0.0)
        expected = self._scale.hosts + told.events + 5 * self._posted
        of_fleet = events.c.host.startswith("compute-0")
        with_conditions = select(func.count()).select_from(events).where(of_fleet, events.c.event_type != "agent.down")
        wait_until(lambda: self._read(with_conditions) >= expected, _PATIENCE, f"{expected} events to be recorded", interval=0.5)
        recorded, up = self._read(with_conditions), self._read(select(func.count()).select_from(agents).where(agents.c.state == "up"))
        with self._store.read() as c:
            violations = list_violations(c)
        if (recorded, up, violations) != (expected, self._scale.hosts + 1, {}):
            raise RuntimeError(f"{recorded} of {expected} events are recorded, {up} agents are up, violations: {violations}")

    def _read(self, query: Executable) -> int:
        with self._store.read() as c:
            return int(c.execute(query).scalar_one())

    def _use_of(self, work: Callable[[], object]) -> dict[str, float]:
        """Seconds of processor time that each part takes meanwhile."""
        before = {part: read_used_processor_time(pid) for part, pid in self._pids.items()}
        work()
        return {part: read_used_processor_time(pid) - before[part] for part, pid in self._pids.items()}

    def _measure_store(self) -> int:
        """Bytes that rows and indexes take."""
        with self._store.read() as c:
            if c.dialect.name == "sqlite":
                pages, free, size = (
                    int(c.exec_driver_sql(f"PRAGMA {name}").scalar_one()) for name in ("page_count", "freelist_count", "page_size")
                )
                return (pages - free) * size
            return int(c.exec_driver_sql("SELECT pg_total_relation_size('events')").scalar_one())

    def _measure_file(self) -> int:
        with self._store.read() as c:
            if c.dialect.name == "sqlite":
                return int(c.exec_driver_sql("PRAGMA page_count").scalar_one()) * int(c.exec_driver_sql("PRAGMA page_size").scalar_one())
            return int(c.exec_driver_sql("SELECT pg_total_relation_size('events')").scalar_one())

    def _vacuum(self) -> None:
        """What PostgreSQL's own does within minutes."""
        with self._store.read() as c:
            if c.dialect.name != "sqlite":
                c.rollback()
                c.execution_options(isolation_level="AUTOCOMMIT").exec_driver_sql("VACUUM events")

    def _name(self, what: str) -> str:
        return f"{what}, {self._database}"

    def _say(self, what: str) -> None:
        print(f"{self._database}: {what}", flush=True)


class _ShiftedClock(SystemClock):
    """So much later."""

    shift = timedelta()

    def now(self) -> datetime:
        return super().now() + self.shift


@contextmanager
def _watching(store: Store) -> Iterator[list[tuple[str, float]]]:
    """Which events appear in the record while the block lasts, and how many ms after they came about."""
    seen: list[tuple[str, float]] = []
    stop = threading.Event()
    query = select(events.c.position, events.c.message_id, events.c.occurred_at)

    def look() -> None:
        with store.read() as c:
            last = int(c.execute(select(func.max(events.c.position))).scalar_one() or 0)
        while not stop.wait(_LOOK):
            with store.read() as c:
                rows = c.execute(query.where(events.c.position > last)).all()
            now = SystemClock().now()
            seen.extend((row.message_id, (now - row.occurred_at).total_seconds() * 1000) for row in rows)
            last = max([last, *(row.position for row in rows)])

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield seen
    finally:
        stop.set()
        thread.join()


def _find_worker(pid: int) -> int:
    """What serves: a child, where a parent only looks after it."""
    return next((child.pid for child in list_children(pid)), pid)


def _count(store: Store, table: Table) -> int:
    with store.read() as c:
        return int(c.execute(select(func.count()).select_from(table)).scalar_one())
