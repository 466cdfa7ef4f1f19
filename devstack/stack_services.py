"""The agents, engines and APIs of a stack: their processes, their configuration, and where these can be struck."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

from devstack.clocks import ClockOffset
from devstack.databases import DatabaseServer
from devstack.deployment import RUNNING, AgentSpec, Deployment, FaultPoints, Installation
from devstack.island import Island
from devstack.link import Link
from devstack.ports import Ports
from devstack.rabbitmq_cluster import RabbitMQNodes
from devstack.services import Service
from devstack.short_path import ShortPath
from devstack.side_by_side import end_each
from devstack.signing_keys import make_signing_options
from devstack.small_disk import SmallDisk
from devstack.stack_config import HOST, Options, merge, write_agent_config, write_gateway_config
from devstack.steps import StepFailed

_DATABASE = "crashcart"


class StackServices:
    """Found again by any later object with the same directory and deployment; links, which live in this process, are not.

    ``clocks`` and ``islands`` are named as the services are, ``disks`` as the agents or ``store``, ``links`` after service and server
    (``crashcart-engine-broker``, ``crashcart-api-database``).
    """

    def __init__(
        self,
        state_dir: Path,
        ports: Ports,
        deployment: Deployment,
        broker: RabbitMQNodes,
        database: DatabaseServer | None,
        *,
        agent_options: Options,
        gateway_options: Options,
        fault_points: FaultPoints,
    ) -> None:
        self._state_dir = state_dir
        self._ports = ports
        self._deployment = deployment
        self._broker = broker
        self._database = database
        self._agent_options = agent_options
        self._gateway_options = gateway_options
        self._fault_points = fault_points
        self._gateway_paths = [ShortPath(state_dir / _number("gateway", number)) for number in range(1, self._count_gateways() + 1)]
        self.links: dict[str, Link] = {}
        self.clocks: dict[str, ClockOffset] = {}
        self.disks = self._make_disks()
        self.islands = self._make_islands()
        self.agents = [self._make_agent(spec) for spec in deployment.agents]
        self.engines = [self._make_gateway_part("crashcart-engine", number) for number in range(1, deployment.engines + 1)]
        self.apis = [self._make_gateway_part("crashcart-api", number) for number in range(1, deployment.apis + 1)]

    @property
    def urls(self) -> list[str]:
        """Root of each HTTP API."""
        return [f"http://127.0.0.1:{self._ports.get_block(number).api}" for number in range(len(self.apis))]

    def list_all(self) -> list[Service]:
        return [*self.agents, *self.engines, *self.apis]

    def write_config(self, driver: Options) -> None:
        """Write the configuration files anew, as the next start of a service reads them; makes links and disks that are not there."""
        self._open_fault_points()
        agent_signing, gateway_signing = make_signing_options(self._state_dir / "keys")
        for spec, service in zip(self._deployment.agents, self.agents, strict=True):
            link = self.links.get(f"{service.name}-broker")
            route = (link.ports, link.address) if link else ()
            write_agent_config(
                self._state_dir / f"{name_agent(spec.host)}.conf",
                host=spec.host,
                transport_url=self._broker.nodes[0].build_agent_url(spec.host, *route),
                driver=driver,
                state_path=self._state_dir / name_agent(spec.host),
                extra=merge(agent_signing, self._agent_options, spec.options),
            )
        for short in self._gateway_paths:
            short.make()
        # A service over links has ports of its own, so each has a file of its own; without them a gateway's two share one.
        for services in (self.engines, self.apis):
            for number, service in enumerate(services, 1):
                self._write_gateway_config(service, number, gateway_signing)

    def upgrade_database(self) -> None:
        """Make or migrate the gateway's tables; raises StepFailed."""
        if self._database is not None and not (self._state_dir / "database.made").exists():
            self._database.create_database(_DATABASE)
            (self._state_dir / "database.made").touch()
        self.run_manage(self._deployment.gateway, "db", "upgrade")

    def run_manage(self, installation: Installation, *arguments: str) -> None:
        """Run crashcart-manage of an installation over the first gateway's configuration; raises StepFailed."""
        log = self._state_dir / "crashcart-manage.log"
        argv = [*installation.find_command("crashcart-manage"), *self._configure(self._name_config("crashcart-engine", 1)), *arguments]
        variables = {**os.environ, **installation.environment}
        with log.open("ab") as output:
            done = subprocess.run(argv, env=variables, stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
        if done.returncode != 0:
            raise StepFailed(f"crashcart-manage {' '.join(arguments)} failed", log=log, advice="read the log")

    @property
    def database_url(self) -> str:
        """SQLAlchemy's, past any link."""
        return self._build_database_url(None)

    def close(self) -> list[str]:
        """Take away links, disks and short paths, and set the clocks right, when no service runs; in words what of it failed."""
        endings: dict[str, Callable[[], object]] = {f"link {name}": link.close for name, link in self.links.items()}
        endings |= {f"network of {name}": island.end for name, island in self.islands.items()}
        endings |= {f"disk of {name}": disk.unmount for name, disk in self.disks.items()}
        endings |= {f"clock of {name}": clock.reset for name, clock in self.clocks.items()}
        endings |= {f"short path {short.path}": short.remove for short in self._gateway_paths}
        self.links.clear()
        return end_each(endings)

    def forget_database(self) -> None:
        """Its server keeps nothing any more."""
        (self._state_dir / "database.made").unlink(missing_ok=True)

    def _write_gateway_config(self, service: Service, number: int, signing: Options) -> None:
        gateway = min(number, len(self._gateway_paths))
        engine = min(number, len(self.engines))
        link = self.links.get(f"{service.name}-broker")
        write_gateway_config(
            self._state_dir / self._name_config(service.name, number),
            transport_url=self._broker.nodes[0].build_gateway_url(link.ports if link else ()),
            database_url=self._build_database_url(service.name),
            ports=self._ports.get_block(number - 1),
            stream_port=self._ports.get_block(engine - 1).stream,
            state_path=self._state_dir / _number("gateway", gateway),
            wake_socket=self._gateway_paths[engine - 1].path / "dispatcher.sock",
            extra=merge(signing, self._gateway_options),
        )

    def _build_database_url(self, service: str | None) -> str:
        if self._database is None:
            return f"sqlite:///{self._state_dir / 'gateway' / 'gateway.sqlite'}"
        link = self.links.get(f"{service}-database")
        return self._database.build_url(_DATABASE, port=link.ports[0] if link else self._ports.database)

    def _count_gateways(self) -> int:
        return max(self._deployment.apis, self._deployment.engines)

    def _make_disks(self) -> dict[str, SmallDisk]:
        size = self._fault_points.disk_bytes
        if size is None or not SmallDisk.is_available():
            return {}
        disks = {_name_service(spec): SmallDisk(self._state_dir / name_agent(spec.host), size) for spec in self._deployment.agents}
        return disks if self._database else disks | {"store": SmallDisk(self._state_dir / "gateway", size)}

    def _make_islands(self) -> dict[str, Island]:
        if not self._fault_points.islands or not Island.is_available():
            return {}
        # Ports of this stack are numbers that no other one has.
        return {_name_service(spec): Island(port) for spec, port in zip(self._deployment.agents, self._ports.list_all(), strict=False)}

    def _open_fault_points(self) -> None:
        for disk in self.disks.values():
            disk.mount()
        for name, island in self.islands.items():
            if f"{name}-broker" not in self.links:
                island.start()
                self.links[f"{name}-broker"] = Link(self._broker.amqp_ports, island.outside)
        for service in self.list_all() if self._fault_points.links else ():
            if f"{service.name}-broker" not in self.links:
                self.links[f"{service.name}-broker"] = Link(self._broker.amqp_ports)
        for service in (*self.engines, *self.apis) if self._fault_points.links and self._database else ():
            if f"{service.name}-database" not in self.links:
                self.links[f"{service.name}-database"] = Link([self._ports.database])

    def _make_agent(self, spec: AgentSpec) -> Service:
        argv = spec.program.argv if spec.program else RUNNING.find_command("crashcart-agent")
        environment = spec.program.environment if spec.program else {}
        name = _name_service(spec)
        inside = self.islands[name].prefix if name in self.islands else []
        return self._make_service(name, [*inside, *argv, *self._configure(f"{name_agent(spec.host)}.conf")], environment)

    def _make_gateway_part(self, command: str, number: int) -> Service:
        name = _number(command, number)
        installation = self._deployment.gateway
        argv = [*installation.find_command(command), *self._configure(self._name_config(name, number))]
        return self._make_service(name, argv, installation.environment)

    def _name_config(self, service: str, number: int) -> str:
        return f"{service}.conf" if self._fault_points.links else f"{_number('gateway', number)}.conf"

    def _configure(self, name: str) -> list[str]:
        return ["--config-file", str(self._state_dir / name)]

    def _make_service(self, name: str, argv: list[str], environment: Mapping[str, str]) -> Service:
        if self._fault_points.clocks:
            self.clocks[name] = ClockOffset(self._state_dir / f"{name}.clock")
            environment = {**environment, **self.clocks[name].environment}
        return Service(
            name,
            argv,
            env={**os.environ, **environment},
            log=self._state_dir / f"{name}.log",
            record=self._state_dir / f"{name}.pid",
            cwd=self._state_dir,
        )


def _number(name: str, number: int) -> str:
    """The first of several has the name that the only one has."""
    return name if number == 1 else f"{name}-{number}"


def name_agent(host: str) -> str:
    """Of its configuration file and its directory."""
    return "agent" if host == HOST else f"agent-{host}"


def _name_service(spec: AgentSpec) -> str:
    return f"crashcart-{name_agent(spec.host)}"
