"""The system under attack: real processes, broker and store, several hosts with an agent each over a hypervisor that outlives it."""

import os
import random
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

from compute_agent.contract.clock import SystemClock
from compute_agent.drivers.fake_server import NmiEffect
from devstack.api_client import ApiClient
from devstack.checks import ROOT
from devstack.databases import DatabaseKind
from devstack.deployment import AgentProgram, AgentSpec, Deployment, FaultPoints
from devstack.link import Link
from devstack.services import Service
from devstack.signing_keys import make_signing_options
from devstack.small_disk import SmallDisk
from devstack.stack import Stack
from devstack.stack_config import Options, merge, write_agent_config
from devstack.steps import Steps
from tests.chaos.hypervisor import Machine, list_ids, write_machines

PROJECTS = ("red", "green", "blue")
_MACHINES = (NmiEffect.SURVIVE,) * 17 + (NmiEffect.CRASH_KERNEL,) * 6 + (NmiEffect.PANIC,) * 2
"""How the machines of a host take an NMI. Most of them stand it, so that nothing but a hold-off keeps the next action waiting."""
CALL_BOUND = 3.0
SKEW = 2.0
HOLDOFF = 3.0
"""Short enough that the next crash dump of a server comes behind it, long enough that a second one often comes within."""
_DISK_BYTES = 1 << 29
_SERVING_TIMEOUT = 60.0
_STOP_GRACE = 15.0
_ARGV = (sys.executable, "-m", "tests.chaos.agent_program")


class Part(Protocol):
    """A process of the system, or the processes of a server."""

    @property
    def is_running(self) -> bool: ...
    def start(self) -> None: ...
    def stop(self) -> object: ...
    def kill(self) -> None: ...
    def freeze(self) -> None: ...
    def thaw(self) -> None: ...


@dataclass(frozen=True)
class Host:
    """One host. ``servers`` are the ids of its machines, and whose each is."""

    name: str
    hypervisor: Path
    agent: Service
    servers: Mapping[str, str]


class ChaosSystem:
    """Every part by name: ``api``, ``engine``, ``broker``, ``database``, the further ones of several with a number (``engine-2``), and
    ``agent:HOST``; every link by the names of its ends: ``engine–broker``, ``agent:HOST–broker``, ``api–database``."""

    def __init__(
        self, directory: Path, port: int, *, hosts: int, database: DatabaseKind, broker_nodes: int, gateways: int, steps: Steps
    ) -> None:
        self.directory = directory.resolve()
        self.steps = steps
        names = [f"host-{number}" for number in range(1, hosts + 1)]
        agents = [AgentSpec(name, self._make_program(name), _make_agent_options(name)) for name in names]
        self.stack = Stack(
            self.directory,
            port,
            deployment=Deployment(database=database, broker_nodes=broker_nodes, apis=gateways, engines=gateways, agents=agents),
            fault_points=FaultPoints(links=True, disk_bytes=_DISK_BYTES),
            gateway_options={
                "api": {"crash_dump_deadline": 10, "crash_dump_holdoff": 0},
                "sweep": {"gap_retry": 1, "max_clock_skew": SKEW, "gap_tries": 8},
            },
            steps=steps,
        )
        self.start_seconds = 0.0
        """What it took the services to start, all at a time."""
        self.hosts = {name: self._make_host(name, agent) for name, agent in zip(names, self.stack.agents, strict=True)}

    @property
    def parts(self) -> dict[str, Part]:
        stack = self.stack
        agents: dict[str, Part] = {f"agent:{host.name}": host.agent for host in self.hosts.values()}
        parts: dict[str, Part] = (
            agents | _number("api", stack.apis) | _number("engine", stack.engines) | _number("broker", stack.brokers.nodes)
        )
        return parts if stack.database is None else {**parts, "database": stack.database}

    @property
    def links(self) -> dict[str, Link]:
        services = {part.name: name for name, part in self.parts.items() if isinstance(part, Service)}
        found = {}
        for name, link in self.stack.links.items():
            service, _, server = name.rpartition("-")
            found[f"{services[service]}–{server}"] = link
        return found

    @property
    def disks(self) -> dict[str, SmallDisk]:
        """Those of the journals by their agents' names, that of SQLite's file as ``store``."""
        services = {part.name: name for name, part in self.parts.items() if isinstance(part, Service)}
        return {services.get(name, name): disk for name, disk in self.stack.disks.items()}

    @property
    def servers(self) -> dict[str, Host]:
        return {server: host for host in self.hosts.values() for server in host.servers}

    def get_journal_directory(self, host: str) -> Path:
        return self.directory / f"agent-{host}"

    def list_journals(self) -> list[Path]:
        """Those of second agents and those that were put away, too."""
        return sorted(self.directory.glob("*/journal.sqlite"))

    def create_clients(self, project: str | None = None) -> list[ApiClient]:
        """A member of a project at each API; without one an admin."""
        headers = None
        if project is not None:
            headers = {"X-Project-Id": project, "X-User-Id": f"member-of-{project}", "X-Roles": "member,reader"}
        return [ApiClient(client.url, headers) for client in self.stack.clients]

    def up(self, before_services: Callable[[], None]) -> None:
        """Start everything and wait until every server is listed; raises StepFailed.

        :param before_services: called when there is a broker and nobody who says anything to it
        """
        stack = self.stack
        stack.check_free()
        stack.start_database()
        stack.write_config()
        with ThreadPoolExecutor() as pool:
            starts = [pool.submit(stack.start_broker), pool.submit(stack.upgrade_database)]
            for start in starts:
                start.result()
        before_services()
        began = time.monotonic()
        with self.steps.step(f"APIs, engines, and the agents of {len(self.hosts)} hosts"):
            stack.start_services()
            wanted = set(self.servers)
            for api, client in zip(stack.apis, self.create_clients(), strict=True):
                api.wait_ready(client.is_healthy, _SERVING_TIMEOUT, "the API serves")
                api.wait_ready(partial(_lists_all, client, wanted), _SERVING_TIMEOUT, "every server is listed")
        self.start_seconds = time.monotonic() - began

    def down(self) -> None:
        """Stop everything; raises StepFailed when something is left."""
        self.stack.down()

    def stop_callers(self) -> None:
        """The APIs and every agent, in order; the engines still record what they have said."""
        _stop_all([*self.stack.apis, *self.stack.agents])

    def stop_engines(self) -> None:
        _stop_all(self.stack.engines)

    def stop_part(self, name: str) -> None:
        """As an init system does."""
        part = self.parts[name]
        if isinstance(part, Service):
            part.stop(_STOP_GRACE)
        else:
            part.stop()  # broker nodes and database servers have a patience of their own

    def make_second_agent(self, host: Host, number: int) -> Service:
        """Another agent of a host, with a journal of its own; not started yet."""
        name = f"second-{number}-{host.name}"
        signing, _ = make_signing_options(self.directory / "keys")
        link = self.links[f"agent:{host.name}–broker"]
        config = self.directory / f"{name}.conf"
        write_agent_config(
            config,
            host=host.name,
            transport_url=self.stack.broker.build_agent_url(host.name, link.ports),
            driver=_make_agent_options(host.name),
            state_path=self.directory / name,
            extra=signing,
        )
        return Service(
            name,
            [*_ARGV, "--config-file", str(config)],
            env={**os.environ, **self._make_program(host.name).environment},
            log=self.directory / f"{name}.log",
            record=self.directory / f"{name}.pid",
            cwd=self.directory,
        )

    def _make_program(self, host: str) -> AgentProgram:
        return AgentProgram(_ARGV, {"CHAOS_HOST": str(self._get_hypervisor(host)), "PYTHONPATH": str(ROOT)})

    def _get_hypervisor(self, host: str) -> Path:
        return self.directory / f"hypervisor-{host}"

    def _make_host(self, name: str, agent: Service) -> Host:
        machines = [Machine(PROJECTS[number % len(PROJECTS)], effect) for number, effect in enumerate(_MACHINES)]
        directory = self._get_hypervisor(name)
        write_machines(directory, machines)
        ids = list_ids(directory, name, SystemClock())
        return Host(name, directory, agent, {server: machine.project for server, machine in zip(ids, machines, strict=True)})


def _make_agent_options(host: str) -> Options:
    agent = {"driver": "fake", "crash_dump_holdoff": HOLDOFF, "max_clock_skew": SKEW, "heartbeat_interval": 5}
    return merge({"agent": agent}, {"fake": {"seed": host, "call_bound": CALL_BOUND}})


def _number(name: str, parts: Sequence[Part]) -> dict[str, Part]:
    """The first of several is called as the only one."""
    return {name if number == 1 else f"{name}-{number}": part for number, part in enumerate(parts, 1)}


def _stop_all(services: Sequence[Service]) -> None:
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda service: service.stop(_STOP_GRACE), services))


def _lists_all(admin: ApiClient, wanted: set[str]) -> bool:
    return wanted <= {server["id"] for server in admin.get("/v2.1/servers/detail?all_tenants=1&limit=1000").body["servers"]}


def choose_client(clients: list[ApiClient], chance: random.Random) -> ApiClient:
    """As a load balancer does that knows nothing."""
    return clients[0] if len(clients) == 1 else chance.choice(clients)
