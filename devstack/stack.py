"""One whole system under one state directory: broker, libvirtd and guests or machines with BMCs, agents, engines, APIs, all private."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from devstack.api_client import ApiClient
from devstack.bmc_inventory import InventoryEntry
from devstack.clocks import ClockOffset
from devstack.databases import make_database_server
from devstack.deployment import DEFAULT_GUESTS, AgentProgram, AgentSpec, Deployment, FaultPoints, GuestSpec, Installation
from devstack.fleet import Fleet, Machine, MachineSpec, forget_saved_machines
from devstack.guest_image import GuestImage
from devstack.guests import Guest
from devstack.island import Island
from devstack.libvirtd import PrivateLibvirtd
from devstack.link import Link
from devstack.ports import DEFAULT_BASE, Ports
from devstack.rabbitmq import PrivateRabbitMQ
from devstack.rabbitmq_cluster import RabbitMQNodes
from devstack.services import ProcessId, Service, iterate_command_lines
from devstack.side_by_side import end_each, run_side_by_side
from devstack.small_disk import SmallDisk, detach_mount, list_mounts
from devstack.stack_config import HOST, Options, merge, write_openrc
from devstack.stack_guests import StackGuests, make_image
from devstack.stack_services import StackServices
from devstack.steps import StepFailed, Steps

__all__ = ["DEFAULT_GUESTS", "DEFAULT_STATE", "AgentProgram", "AgentSpec", "Deployment", "FaultPoints", "GuestSpec", "Stack"]

DEFAULT_STATE = Path(__file__).parent / ".state"
_OWN_PROGRAMS = (b"beam", b"epmd", b"libvirtd", b"qemu-system", b"ipmi_sim", b"postgres", b"mariadbd", b"crashcart-")
_SERVICE_TIMEOUT = 40.0
_SERVICE_GRACE = 15.0


class Stack:
    """The same directory, port and deployment always mean the same stack, whichever command made this object."""

    def __init__(
        self,
        state_dir: Path = DEFAULT_STATE,
        port: int = DEFAULT_BASE,
        *,
        guests: Iterable[GuestSpec] = DEFAULT_GUESTS,
        machines: Iterable[MachineSpec] | None = None,
        inventory: Iterable[InventoryEntry] = (),
        holdoff: float | None = None,
        agent_options: Options | None = None,
        gateway_options: Options | None = None,
        agent_program: AgentProgram | None = None,
        deployment: Deployment | None = None,
        fault_points: FaultPoints | None = None,
        steps: Steps | None = None,
    ) -> None:
        """
        :param machines: the agent serves these through their BMCs; then the stack has neither libvirtd nor guests
        :param inventory: further machines of the agent's inventory, which are the caller's own
        :param agent_program: runs instead of crashcart-agent; then the stack has neither libvirtd nor guests nor machines
        :param deployment: by default one of each part; none of several agents has guests or machines of the stack
        """
        self.state_dir = state_dir.resolve()
        self.deployment = deployment or Deployment(agents=(AgentSpec(HOST, agent_program),))
        self.ports = Ports(port, self.deployment.port_blocks)
        self.steps = steps or Steps()
        hosts = [agent.host for agent in self.deployment.agents]
        node_ports = [self.ports.get_block(number) for number in range(self.deployment.broker_nodes)]
        self.brokers = RabbitMQNodes(self.state_dir, node_ports, hosts=hosts)
        self.database = make_database_server(self.deployment.database, self.state_dir, self.ports)
        self._fleet = None if machines is None else Fleet(self.state_dir, machines, inventory)
        is_alone = len(hosts) == 1 and self.deployment.agents[0].program is None
        self._has_hypervisor = is_alone and self._fleet is None
        self._guests = StackGuests(self.state_dir, guests if self._has_hypervisor else [], self.steps)
        # The same span on both sides: the gateway refuses with 409 what the agent would refuse later.
        agent_holdoff: Options = {} if holdoff is None else {"agent": {"crash_dump_holdoff": f"{holdoff:g}"}}
        gateway_holdoff: Options = {} if holdoff is None else {"api": {"crash_dump_holdoff": math.ceil(holdoff)}}
        self._services = StackServices(
            self.state_dir,
            self.ports,
            self.deployment,
            self.brokers,
            self.database,
            agent_options=merge(agent_holdoff, agent_options or {}),
            gateway_options=merge(gateway_holdoff, gateway_options or {}),
            fault_points=fault_points or FaultPoints(),
        )
        self.agents: list[Service] = self._services.agents
        self.engines: list[Service] = self._services.engines
        self.apis: list[Service] = self._services.apis

    @property
    def agent(self) -> Service:
        """The first one."""
        return self.agents[0]

    @property
    def engine(self) -> Service:
        """The first one."""
        return self.engines[0]

    @property
    def api(self) -> Service:
        """The first one."""
        return self.apis[0]

    @property
    def broker(self) -> PrivateRabbitMQ:
        """Its first node."""
        return self.brokers.nodes[0]

    @property
    def libvirtd(self) -> PrivateLibvirtd:
        return self._guests.libvirtd

    @property
    def guests(self) -> dict[str, Guest]:
        return self._guests.guests

    @property
    def machines(self) -> dict[str, Machine]:
        """Those that its agent serves through their BMCs, by name."""
        return self._fleet.machines if self._fleet is not None else {}

    @property
    def links(self) -> dict[str, Link]:
        """Its fault points, once it is up, as those that follow; see `StackServices` for the names."""
        return self._services.links

    @property
    def islands(self) -> dict[str, Island]:
        return self._services.islands

    @property
    def clocks(self) -> dict[str, ClockOffset]:
        return self._services.clocks

    @property
    def disks(self) -> dict[str, SmallDisk]:
        return self._services.disks

    @property
    def database_url(self) -> str:
        """SQLAlchemy's, of the gateway's database."""
        return self._services.database_url

    @property
    def url(self) -> str:
        """Root of the first HTTP API."""
        return self._services.urls[0]

    @property
    def client(self) -> ApiClient:
        """A caller of the project that owns the guests."""
        return ApiClient(self.url)

    @property
    def clients(self) -> list[ApiClient]:
        """The same caller at each API."""
        return [ApiClient(url) for url in self._services.urls]

    @property
    def is_up(self) -> bool:
        """True when any part of it runs."""
        return any(running for _, running in self.list_parts())

    def list_parts(self) -> list[tuple[str, int | None]]:
        """Every process with its pid, None for one that does not run."""
        parts = [(f"RabbitMQ {number}" if number > 1 else "RabbitMQ", node) for number, node in enumerate(self.brokers.nodes, 1)]
        found: list[tuple[str, int | None]] = [(name, part.pid if part.is_running else None) for name, part in parts]
        if self.database is not None:
            found.append((self.database.name, self.database.pid if self.database.is_running else None))
        if self._fleet is None:
            found.append(("libvirtd", self.libvirtd.pid if self.libvirtd.is_running else None))
        found += [(service.name, service.pid if service.is_running else None) for service in self._services.list_all()]
        return found + (self._fleet.list_parts() if self._fleet is not None else [])

    def up(self) -> None:
        """Bring everything up, what can be side by side; raises StepFailed. What was started is left as it is then."""
        self.check_free()
        self.state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        (self.state_dir / "port").write_text(f"{self.ports.base}\n")
        self.start_database()
        self.write_config()
        servers = [self.start_hypervisor] if self._has_hypervisor else [self.start_machines]
        run_side_by_side(self.start_broker, *servers, self.upgrade_database)
        self.start_services()
        self.wait_serving()
        if self._knows_servers:
            self._write_client_files()

    def down(self) -> None:
        """Stop everything that this directory knows of; raises StepFailed when something of it is left. A database server's rows go."""
        problems: list[str] = []
        # Callers first, then what they call; libvirtd and the BMCs at last, whose guests end with them.
        for services in (self.apis, self.engines, self.agents):
            with ThreadPoolExecutor() as pool:
                for service in services:
                    pool.submit(self._stop_part, service.name, partial(service.stop, _SERVICE_GRACE), problems)
        with ThreadPoolExecutor() as pool:
            pool.submit(self._stop_part, "RabbitMQ", self.brokers.stop, problems)
            if self.database is not None:
                pool.submit(self._stop_part, self.database.name, self.database.end, problems)
            if self._fleet is None:
                pool.submit(self._stop_part, "libvirtd and its guests", self.libvirtd.end, problems)
            else:
                pool.submit(self._stop_part, "BMCs and their machines", self._fleet.end, problems)
        problems += self._services.close()
        if self.database is not None:
            self._services.forget_database()
        problems += [f"still running: {left}" for left in self._list_left()]
        left = list_mounts(self.state_dir)  # of a command that was killed
        problems += end_each({f"mount {place}": partial(detach_mount, place) for place in reversed(left)})
        if problems:
            raise StepFailed("; ".join(problems), advice="look at these processes, end them by hand, run devstack/down again")

    def write_config(self) -> None:
        """Write the configuration files anew, as the next start of a service reads them."""
        if self._fleet is not None:
            self._fleet.write_files()
        else:
            forget_saved_machines(self.state_dir)
        self._services.write_config(self._fleet.agent_options if self._fleet is not None else self._guests.agent_options)

    def start_database(self) -> None:
        """Start the database server, if there is one, and wait for it; raises StepFailed."""
        if self.database is not None:
            with self.steps.step(f"{self.database.name}, private"):
                self.database.start()

    def start_broker(self) -> None:
        """Start the broker and wait for it; raises StepFailed."""
        nodes = self.deployment.broker_nodes
        with self.steps.step("RabbitMQ, private node" if nodes == 1 else f"RabbitMQ, {nodes} private nodes"):
            self.brokers.start()

    def start_hypervisor(self) -> None:
        """Start libvirtd and the guests and wait until these are ready; raises StepFailed."""
        self._guests.start()

    def start_machines(self) -> None:
        """Start the BMCs and the machines, if there are any, and wait until their guests are ready; raises StepFailed."""
        if self._fleet is None:
            return
        image = make_image(self.steps) if self._fleet.has_guests else None
        starts = [partial(self._start_machine, machine, image) for machine in self.machines.values()]
        run_side_by_side(*starts, at_once=(os.cpu_count() or 1) + 1)

    def _start_machine(self, machine: Machine, image: GuestImage | None) -> None:
        with self.steps.step(machine.describe(image)):
            machine.start(image)

    def upgrade_database(self) -> None:
        """Make or migrate the gateway's tables; raises StepFailed."""
        with self.steps.step("database of the gateway"):
            self._services.upgrade_database()

    def run_manage(self, installation: Installation, *arguments: str) -> None:
        """Run crashcart-manage of an installation for the first gateway; raises StepFailed."""
        with self.steps.step(f"crashcart-manage {' '.join(arguments)}"):
            self._services.run_manage(installation, *arguments)

    def start_services(self) -> None:
        """Start agents, engines and APIs; they wait for each other themselves."""
        for service in (*self.engines, *self.apis, *self.agents):
            service.start()

    def wait_serving(self) -> None:
        """Wait until each API answers and lists every guest and machine in the state it has; raises StepFailed.

        Which servers an agent program of the caller's has, and who may list them, is the caller's to know and to wait for.
        """
        advice = "read the log; the configuration is beside it"
        for api, client in zip(self.apis, self.clients, strict=True):
            with self.steps.step(f"{api.name} on {client.url}"):
                api.wait_ready(client.is_healthy, _SERVICE_TIMEOUT, "GET /healthcheck answers 200", advice)
        if not self._knows_servers:
            return
        with self.steps.step("crashcart-agent and crashcart-engine, servers listed"):
            self.agent.wait_ready(self._lists_servers, _SERVICE_TIMEOUT, "the API lists every server", advice)
            self.engine.wait_ready(lambda: True, _SERVICE_TIMEOUT, "it runs", advice)

    @property
    def _knows_servers(self) -> bool:
        return self._has_hypervisor or self._fleet is not None

    def _lists_servers(self) -> bool:
        shown = {server["id"]: server["status"] for server in self.client.list_servers()}
        running = self._guests.list_running()
        running |= {machine.uuid: machine.spec.running for machine in self.machines.values()}
        return all(shown.get(uuid) == ("ACTIVE" if is_on else "SHUTOFF") for uuid, is_on in running.items())

    def _write_client_files(self) -> None:
        write_openrc(self.state_dir / "openrc", self.ports)
        servers = [
            {"id": server["id"], "name": server["name"], "status": server["status"], "project_id": server["tenant_id"], "host": HOST}
            for server in self.client.list_servers()
        ]
        (self.state_dir / "servers.json").write_text(json.dumps(servers, indent=2) + "\n")

    def check_free(self) -> None:
        """Raise StepFailed when the stack runs already or something else has its ports."""
        if self.is_up:
            raise StepFailed(
                f"a stack runs already under {self.state_dir}",
                advice=f"devstack/down --state {self.state_dir}, or choose another directory with --state and other ports with --port",
            )
        taken = self.ports.list_taken()
        if taken:
            raise StepFailed(
                f"ports of 127.0.0.1 are taken: {', '.join(map(str, taken))}",
                advice=f"choose another block of ten with --port (this one begins at {self.ports.base})",
            )

    def _stop_part(self, name: str, stop: Callable[[], object], problems: list[str]) -> None:
        def tell() -> None:
            with self.steps.step(f"{name} stopped"):
                stop()

        problems += end_each({name: tell})

    def _list_left(self) -> list[str]:
        """Processes that still name this directory on their command line, other than this one and its parents."""
        needle = str(self.state_dir).encode() + b"/"
        left = []
        for pid, command_line in iterate_command_lines():
            is_ours = any(word in command_line for word in _OWN_PROGRAMS)
            if is_ours and needle in command_line and ProcessId.find_running(pid) is not None:
                left.append(f"pid {pid} ({command_line.replace(bytes(1), b' ')[:80].decode(errors='replace')})")
        return left
