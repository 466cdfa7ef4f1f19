"""One whole system under one state directory: private broker, libvirtd and guests or machines with BMCs, agent, engine, API."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import uuid as uuids
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

from devstack.api_client import ApiClient
from devstack.bmc_inventory import InventoryEntry
from devstack.fleet import Fleet, Machine, MachineSpec, forget_saved_machines
from devstack.guest_image import GuestImage, GuestImages
from devstack.guests import Guest, GuestKind
from devstack.libvirtd import PrivateLibvirtd
from devstack.ports import DEFAULT_BASE, Ports
from devstack.rabbitmq import PrivateRabbitMQ
from devstack.services import ProcessId, Service, iterate_command_lines
from devstack.short_path import ShortPath
from devstack.signing_keys import make_signing_options
from devstack.stack_config import HOST, PROJECT, USER, Options, merge, write_agent_config, write_gateway_config, write_openrc
from devstack.steps import StepFailed, Steps

DEFAULT_STATE = Path(__file__).parent / ".state"
_OWN_PROGRAMS = (b"beam", b"epmd", b"libvirtd", b"qemu-system", b"ipmi_sim", b"crashcart-")
_SERVICE_TIMEOUT = 40.0
_SERVICE_GRACE = 15.0


@dataclass(frozen=True)
class GuestSpec:
    """A guest that a stack shall have, in the words of `Guest`. Without a uuid it keeps the one of the last start in the same directory."""

    name: str
    kind: GuestKind = GuestKind.PANICKING
    running: bool = True
    uuid: str = ""
    on_crash: str = "preserve"
    watchdog: str = ""
    machine: str = "pc"
    pci_room: bool = True
    second_monitor: bool = False


@dataclass(frozen=True)
class AgentProgram:
    """What a stack runs as its agent instead of the installed command: one over a hypervisor of its own."""

    argv: Sequence[str]
    environment: Mapping[str, str]


DEFAULT_GUESTS = (GuestSpec("web-1", GuestKind.KDUMP), GuestSpec("web-2", GuestKind.PANICKING, running=False))


class Stack:
    """The same directory and port always mean the same stack, whichever command made this object."""

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
        steps: Steps | None = None,
    ) -> None:
        """
        :param machines: the agent serves these through their BMCs; then the stack has neither libvirtd nor guests
        :param inventory: further machines of the agent's inventory, which are the caller's own
        :param agent_program: runs instead of crashcart-agent; then the stack has neither libvirtd nor guests nor machines
        """
        self.state_dir = state_dir.resolve()
        self.ports = Ports(port)
        self.steps = steps or Steps()
        self.broker = PrivateRabbitMQ(self.state_dir, self.ports, hosts=(HOST,))
        self.libvirtd = PrivateLibvirtd(self.state_dir)
        self.guests: dict[str, Guest] = {}
        self._gateway_path = ShortPath(self.state_dir / "gateway")
        self._fleet = None if machines is None else Fleet(self.state_dir, machines, inventory)
        self._has_hypervisor = agent_program is None and self._fleet is None
        self.agent = self._make_service("crashcart-agent", "agent.conf", agent_program)
        self.engine = self._make_service("crashcart-engine", "gateway.conf")
        self.api = self._make_service("crashcart-api", "gateway.conf")
        self._specs = list(guests) if self._has_hypervisor else []
        # The same span on both sides: the gateway refuses with 409 what the agent would refuse later.
        agent_holdoff: Options = {} if holdoff is None else {"agent": {"crash_dump_holdoff": f"{holdoff:g}"}}
        gateway_holdoff: Options = {} if holdoff is None else {"api": {"crash_dump_holdoff": math.ceil(holdoff)}}
        self._agent_options = merge(agent_holdoff, agent_options or {})
        self._gateway_options = merge(gateway_holdoff, gateway_options or {})

    @property
    def url(self) -> str:
        """Root of the HTTP API."""
        return f"http://127.0.0.1:{self.ports.api}"

    @property
    def client(self) -> ApiClient:
        """A caller of the project that owns the guests."""
        return ApiClient(self.url)

    @property
    def machines(self) -> dict[str, Machine]:
        """Those that its agent serves through their BMCs, by name."""
        return self._fleet.machines if self._fleet is not None else {}

    @property
    def is_up(self) -> bool:
        """True when any part of it runs."""
        return any(running for _, running in self.list_parts())

    def list_parts(self) -> list[tuple[str, int | None]]:
        """Every process with its pid, None for one that does not run."""
        parts: list[tuple[str, PrivateRabbitMQ | PrivateLibvirtd | Service]] = [("RabbitMQ", self.broker)]
        if self._fleet is None:
            parts.append(("libvirtd", self.libvirtd))
        parts += [(service.name, service) for service in (self.agent, self.engine, self.api)]
        bmcs = self._fleet.list_parts() if self._fleet is not None else []
        return [(name, part.pid if part.is_running else None) for name, part in parts] + bmcs

    def up(self) -> None:
        """Bring everything up, what can be side by side; raises StepFailed. What was started is left as it is then."""
        self.check_free()
        self.state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        (self.state_dir / "port").write_text(f"{self.ports.base}\n")
        self.write_config()
        servers = [self.start_hypervisor] if self._has_hypervisor else [self.start_machines]
        _run_side_by_side(self.start_broker, *servers, self.upgrade_database)
        self.start_services()
        self.wait_serving()
        if self._knows_servers:
            self._write_client_files()

    def down(self) -> None:
        """Stop everything that this directory knows of; raises StepFailed when something of it is left."""
        problems: list[str] = []
        # Callers first, then what they call; libvirtd and the BMCs at last, whose guests end with them.
        for name, stop in [
            ("crashcart-api", lambda: self.api.stop(_SERVICE_GRACE)),
            ("crashcart-engine", lambda: self.engine.stop(_SERVICE_GRACE)),
            ("crashcart-agent", lambda: self.agent.stop(_SERVICE_GRACE)),
        ]:
            self._stop_part(name, stop, problems)
        with ThreadPoolExecutor() as pool:
            pool.submit(self._stop_part, "RabbitMQ", self.broker.stop, problems)
            if self._fleet is None:
                pool.submit(self._stop_part, "libvirtd and its guests", self.libvirtd.end, problems)
            else:
                pool.submit(self._stop_part, "BMCs and their machines", self._fleet.end, problems)
        self._gateway_path.remove()
        problems += [f"still running: {left}" for left in self._list_left()]
        if problems:
            raise StepFailed("; ".join(problems), advice="look at these processes, end them by hand, run devstack/down again")

    def write_config(self) -> None:
        """Write the configuration files anew, as the next start of a service reads them."""
        self._gateway_path.make()
        agent_signing, gateway_signing = make_signing_options(self.state_dir / "keys")
        if self._fleet is not None:
            self._fleet.write_files()
            driver = self._fleet.agent_options
        else:
            forget_saved_machines(self.state_dir)
            driver = {"agent": {"driver": "libvirt"}, "libvirt": {"uri": self.libvirtd.uri, "auto_dump_path": self.libvirtd.dump_dir}}
        write_agent_config(
            self.state_dir / "agent.conf",
            transport_url=self.broker.build_agent_url(HOST),
            driver=driver,
            state_path=self.state_dir / "agent",
            extra=merge(agent_signing, self._agent_options),
        )
        write_gateway_config(
            self.state_dir / "gateway.conf",
            transport_url=self.broker.gateway_url,
            ports=self.ports,
            state_path=self.state_dir / "gateway",
            wake_socket=self._gateway_path.path / "dispatcher.sock",
            extra=merge(gateway_signing, self._gateway_options),
        )

    def start_broker(self) -> None:
        """Start the broker and wait for it; raises StepFailed."""
        with self.steps.step("RabbitMQ, private node"):
            self.broker.start()

    def start_hypervisor(self) -> None:
        """Start libvirtd and the guests and wait until these are ready; raises StepFailed."""
        image = self._make_image()
        with self.steps.step("libvirtd, private"):
            self.libvirtd.start()
        if self._specs:
            self._define_guests(image)
        boots = [partial(self._boot_guest, spec, image) for spec in self._specs if spec.running]
        _run_side_by_side(*boots, at_once=(os.cpu_count() or 1) + 1)

    def start_machines(self) -> None:
        """Start the BMCs and the machines, if there are any, and wait until their guests are ready; raises StepFailed."""
        if self._fleet is None:
            return
        image = self._make_image() if self._fleet.has_guests else None
        starts = [partial(self._start_machine, machine, image) for machine in self.machines.values()]
        _run_side_by_side(*starts, at_once=(os.cpu_count() or 1) + 1)

    def _start_machine(self, machine: Machine, image: GuestImage | None) -> None:
        with self.steps.step(machine.describe(image)):
            machine.start(image)

    def _make_image(self) -> GuestImage:
        with self.steps.step("guest image" if GuestImages().is_built else "guest image, built from Debian's kernels"):
            return GuestImages().ensure()

    def _boot_guest(self, spec: GuestSpec, image: GuestImage) -> None:
        with self.steps.step(f"guest {spec.name} ({spec.kind}, {image.accelerator}) booted"):
            self.guests[spec.name].start()
            self.guests[spec.name].wait_ready()

    def upgrade_database(self) -> None:
        """Make or migrate the gateway's tables; raises StepFailed."""
        log = self.state_dir / "crashcart-manage.log"
        with self.steps.step("database of the gateway"):
            argv = [*_find_command("crashcart-manage"), "--config-file", str(self.state_dir / "gateway.conf"), "db", "upgrade"]
            with log.open("ab") as output:
                done = subprocess.run(argv, stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
            if done.returncode != 0:
                raise StepFailed("crashcart-manage db upgrade failed", log=log, advice="read the log")

    def start_services(self) -> None:
        """Start agent, engine and API; they wait for each other themselves."""
        for service in (self.engine, self.api, self.agent):
            service.start()

    def wait_serving(self) -> None:
        """Wait until the API answers and lists every guest and machine in the state it has; raises StepFailed.

        Which servers an agent program of the caller's has, and who may list them, is the caller's to know and to wait for.
        """
        advice = "read the log; the configuration is beside it"
        with self.steps.step(f"crashcart-api on {self.url}"):
            self.api.wait_ready(self.client.is_healthy, _SERVICE_TIMEOUT, "GET /healthcheck answers 200", advice)
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
        running = {self.guests[spec.name].uuid: spec.running for spec in self._specs}
        running |= {machine.uuid: machine.spec.running for machine in self.machines.values()}
        return all(shown.get(uuid) == ("ACTIVE" if is_on else "SHUTOFF") for uuid, is_on in running.items())

    def _define_guests(self, image: GuestImage) -> None:
        """Define what shall be there, undefine what an earlier start left."""
        kept = self._read_guest_ids()
        self._specs = [replace(spec, uuid=spec.uuid or kept.get(spec.name) or str(uuids.uuid4())) for spec in self._specs]
        with self.libvirtd.connect() as connection:
            for domain in connection.listAllDomains():
                if domain.isActive():
                    domain.destroy()
                domain.undefine()
        for spec in self._specs:
            guest = Guest(
                kind=spec.kind,
                name=spec.name,
                uuid=spec.uuid,
                directory=self.state_dir / "guests",
                image=image,
                project=PROJECT,
                user=USER,
                on_crash=spec.on_crash,
                watchdog=spec.watchdog,
                machine=spec.machine,
                pci_room=spec.pci_room,
                second_monitor=spec.second_monitor,
            )
            guest.define(self.libvirtd.uri)
            self.guests[spec.name] = guest
        (self.state_dir / "guests.json").write_text(json.dumps([asdict(spec) for spec in self._specs], indent=2))

    def _read_guest_ids(self) -> dict[str, str]:
        path = self.state_dir / "guests.json"
        return {spec["name"]: spec["uuid"] for spec in json.loads(path.read_text())} if path.exists() else {}

    def _write_client_files(self) -> None:
        write_openrc(self.state_dir / "openrc", self.ports)
        servers = [
            {"id": server["id"], "name": server["name"], "status": server["status"], "project_id": server["tenant_id"], "host": HOST}
            for server in self.client.list_servers()
        ]
        (self.state_dir / "servers.json").write_text(json.dumps(servers, indent=2) + "\n")

    def _make_service(self, name: str, config: str, program: AgentProgram | None = None) -> Service:
        return Service(
            name,
            [*(program.argv if program else _find_command(name)), "--config-file", str(self.state_dir / config)],
            env={**os.environ, **(program.environment if program else {})},
            log=self.state_dir / f"{name}.log",
            record=self.state_dir / f"{name}.pid",
            cwd=self.state_dir,
        )

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
        try:
            with self.steps.step(f"{name} stopped"):
                stop()
        except (OSError, TimeoutError, subprocess.SubprocessError) as error:
            problems.append(f"{name}: {error}")

    def _list_left(self) -> list[str]:
        """Processes that still name this directory on their command line, other than this one and its parents."""
        needle = str(self.state_dir).encode() + b"/"
        left = []
        for pid, command_line in iterate_command_lines():
            is_ours = any(word in command_line for word in _OWN_PROGRAMS)
            if is_ours and needle in command_line and ProcessId.find_running(pid) is not None:
                left.append(f"pid {pid} ({command_line.replace(bytes(1), b' ')[:80].decode(errors='replace')})")
        return left


def _find_command(name: str) -> list[str]:
    """The installed command beside this interpreter."""
    return [str(Path(sys.executable).parent / name)]


def _run_side_by_side(*steps: Callable[[], None], at_once: int | None = None) -> None:
    """Run every step in a thread of its own, no more than ``at_once`` of them; the first failure is raised when all have ended."""
    with ThreadPoolExecutor(at_once or len(steps)) as pool:
        for future in [pool.submit(step) for step in steps]:
            future.result()
