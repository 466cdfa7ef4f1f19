"""The system under attack: real processes, broker and store, several hosts with an agent each over a hypervisor that outlives it."""

import os
import random
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from devstack.api_client import ApiClient
from devstack.databases import DatabaseKind
from devstack.deployment import RUNNING, Deployment, FaultPoints, Installation
from devstack.link import Link
from devstack.services import Service
from devstack.signing_keys import make_signing_options
from devstack.small_disk import SmallDisk
from devstack.stack import Stack
from devstack.stack_config import write_agent_config
from devstack.stack_services import name_agent
from devstack.steps import Steps
from tests.chaos.hosting import SKEW, Hosting, Part

STRANGERS = ("red", "green", "blue")
"""Projects whose members look on, whatever they own."""
SECOND = "second-"
"""How directories of agents begin that were started under the name of another one."""
_DISK_BYTES = 1 << 29
_SERVING_TIMEOUT = 60.0
_STOP_GRACE = 15.0


@dataclass(frozen=True)
class Host:
    """One host. ``servers`` are the ids of its servers, and whose each is; ``hypervisor`` the directory of a fake one."""

    name: str
    hypervisor: Path | None
    agent: Service
    servers: Mapping[str, str]


class ChaosSystem:
    """Every part by name: ``api``, ``engine``, ``broker``, ``database``, the further ones of several with a number (``engine-2``),
    ``agent:HOST``, and what the servers run on; every link by the names of its ends: ``engine–broker``, ``agent:HOST–broker``,
    ``api–database``."""

    def __init__(
        self,
        directory: Path,
        port: int,
        hosting: Hosting,
        *,
        database: DatabaseKind,
        steps: Steps,
        broker_nodes: int = 1,
        gateways: int = 1,
        gateway: Installation = RUNNING,
        fault_points: FaultPoints | None = None,
        deadline: int = 10,
        busy_timeout: float = 5.0,
    ) -> None:
        """
        :param gateway: whose commands the APIs and engines are
        :param deadline: of a crash dump for which none is asked, in seconds
        :param fault_points: by default all that an attack needs
        :param busy_timeout: seconds that the gateway waits for a database that somebody else writes to
        """
        self.directory = directory.resolve()
        self.hosting = hosting
        self.steps = steps
        agents = hosting.list_agents(self.directory)
        self.stack = Stack(
            self.directory,
            port,
            guests=hosting.guests,
            deployment=Deployment(database, broker_nodes, apis=gateways, engines=gateways, agents=agents, gateway=gateway),
            fault_points=fault_points or FaultPoints(links=True, clocks=bool(hosting.guests), disk_bytes=_DISK_BYTES),
            gateway_options={
                "api": {"crash_dump_deadline": deadline, "crash_dump_holdoff": 0},
                "sweep": {"gap_retry": 1, "max_clock_skew": SKEW, "gap_tries": 8},
                "database": {"busy_timeout": busy_timeout},
            },
            steps=steps,
        )
        self.start_seconds = 0.0
        """What it took the services to start, all at a time."""
        self.hosts = {
            spec.host: Host(spec.host, hosting.find_hypervisor(spec.host), agent, hosting.list_servers(spec.host))
            for spec, agent in zip(agents, self.stack.agents, strict=True)
        }

    @property
    def parts(self) -> dict[str, Part]:
        stack = self.stack
        agents: dict[str, Part] = {f"agent:{host.name}": host.agent for host in self.hosts.values()}
        parts: dict[str, Part] = (
            agents | _number("api", stack.apis) | _number("engine", stack.engines) | _number("broker", stack.brokers.nodes)
        )
        parts |= self.hosting.list_parts(stack)
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

    @property
    def projects(self) -> list[str]:
        return sorted({*STRANGERS, *(project for host in self.hosts.values() for project in host.servers.values())})

    def get_journal_directory(self, host: str) -> Path:
        return self.directory / name_agent(host)

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
            starts = [pool.submit(start) for start in (stack.start_broker, stack.upgrade_database, partial(self.hosting.start, stack))]
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
        name = f"{SECOND}{number}-{host.name}"
        signing, _ = make_signing_options(self.directory / "keys")
        link = self.links[f"agent:{host.name}–broker"]
        config = self.directory / f"{name}.conf"
        program = self.hosting.get_agent_program(host.name)
        write_agent_config(
            config,
            host=host.name,
            transport_url=self.stack.broker.build_agent_url(host.name, link.ports),
            driver=self.hosting.make_agent_options(self.stack, host.name),
            state_path=self.directory / name,
            extra=signing,
        )
        return Service(
            name,
            [*program.argv, "--config-file", str(config)],
            env={**os.environ, **program.environment},
            log=self.directory / f"{name}.log",
            record=self.directory / f"{name}.pid",
            cwd=self.directory,
        )


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
