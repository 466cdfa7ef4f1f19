"""The whole system with the fake driver: real processes, broker and stores, and no hypervisor whose own time would blur the figures."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from api_gateway.store import Store
from devstack.api_client import ApiClient
from devstack.ports import Ports, find_free_base
from devstack.rabbitmq import PrivateRabbitMQ
from devstack.services import Service, wait_until
from devstack.signing_keys import make_signing_options
from devstack.stack_config import HOST, Options, merge, write_agent_config, write_gateway_config

FLEET = "agent-fleet"
"""The service of agents that were forked out of one process."""
_START_TIMEOUT = 60.0


@dataclass(frozen=True)
class FakeAgent:
    """One agent of a stack, with so many servers of its own; ``surviving`` of them show no sign after an NMI, the others panic.

    :param program: runs instead of the installed command, with ``environment`` beside the bench's own
    """

    servers: int
    host: str = HOST
    surviving: int = 0
    program: Sequence[str] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    options: Options = field(default_factory=dict)

    @property
    def service(self) -> str:
        """Its name among the stack's services."""
        return "crashcart-agent" if self.host == HOST else f"crashcart-agent-{self.host}"


@dataclass
class FakeStack:
    """One that runs. ``store`` is the gateway's, to be read from only."""

    client: ApiClient
    store: Store
    services: dict[str, Service]
    broker: PrivateRabbitMQ
    directory: Path


@contextmanager
def running_fake_stack(
    servers: int = 0,
    *,
    agents: Sequence[FakeAgent] = (),
    gateway_options: Options | None = None,
    database: str | None = None,
    is_fleet: bool = False,
) -> Iterator[FakeStack]:
    """Broker, agents, engine and API, for as long as the block lasts.

    :param servers: with no ``agents`` given, there is one with so many servers that panic at an NMI
    :param database: URL of the gateway's, an empty one; None: SQLite
    :param is_fleet: the agents are forked out of one process that has loaded everything (see ``agent_fleet``): a hundred start in seconds
    """
    agents = agents or [FakeAgent(servers)]
    with _making_directory() as directory, ExitStack() as ending:
        ports = Ports(find_free_base())
        broker = PrivateRabbitMQ(directory, ports)
        ending.callback(broker.stop)
        broker.start()
        agent_signing, gateway_signing = make_signing_options(directory / "keys")
        configs = [_write_agent_config(directory, agent, broker, agent_signing) for agent in agents]
        if is_fleet:
            services = {FLEET: _make_fleet(directory, configs)}
        else:
            services = {agent.service: _make_agent(directory, agent, config) for agent, config in zip(agents, configs, strict=True)}
        services |= {name: _make_service(directory, name, "gateway.conf") for name in ("crashcart-engine", "crashcart-api")}
        url = database or f"sqlite:///{directory / 'gateway' / 'gateway.sqlite'}"
        write_gateway_config(
            directory / "gateway.conf",
            transport_url=broker.transport_url,
            ports=ports,
            state_path=directory / "gateway",
            wake_socket=directory / "wake.sock",
            extra=merge(gateway_signing, {"api": {"crash_dump_holdoff": 0}, "database": {"connection": url}}, gateway_options or {}),
        )
        store = Store(url)
        ending.callback(store.dispose)
        store.upgrade_schema()
        for service in services.values():
            ending.callback(service.stop)
            service.start()
        client = ApiClient(f"http://127.0.0.1:{ports.api}")
        expected = sum(agent.servers for agent in agents)
        wait_until(client.is_healthy, _START_TIMEOUT, "the API serves")
        wait_until(lambda: _count_servers(store) == expected, _START_TIMEOUT, "the API knows the servers")
        yield FakeStack(client, store, services, broker, directory)


@contextmanager
def _making_directory() -> Iterator[Path]:
    """Removed in the end, unless the block fails: then it is kept and named, for the logs in it say why."""
    directory = Path(tempfile.mkdtemp(prefix="crashcart-bench-"))
    try:
        yield directory
    except Exception:
        print(f"failed; logs, journals and stores are kept in {directory}", file=sys.stderr, flush=True)
        raise
    except BaseException:
        shutil.rmtree(directory)
        raise
    shutil.rmtree(directory)


def _count_servers(store: Store) -> int:
    with store.read() as c:
        return int(c.exec_driver_sql("SELECT count(*) FROM servers").scalar_one())


def _write_agent_config(directory: Path, agent: FakeAgent, broker: PrivateRabbitMQ, signing: Options) -> Path:
    path = directory / f"{agent.service}.conf"
    write_agent_config(
        path,
        transport_url=broker.transport_url,
        driver={"agent": {"driver": "fake"}, "fake": {"servers": agent.servers, "surviving": agent.surviving, "seed": agent.host}},
        state_path=directory / agent.service,
        extra=merge(signing, {"DEFAULT": {"host": agent.host}, "agent": {"crash_dump_holdoff": 0}}, agent.options),
    )
    return path


def _make_agent(directory: Path, agent: FakeAgent, config: Path) -> Service:
    return _make_service(directory, agent.service, config.name, agent.program or [_find("crashcart-agent")], agent.environment)


def _make_fleet(directory: Path, configs: Sequence[Path]) -> Service:
    command = [sys.executable, "-m", "tests.bench.agent_fleet", *map(str, configs)]
    return Service(FLEET, command, log=directory / f"{FLEET}.log", cwd=Path(__file__).parents[2])


def _make_service(
    directory: Path, name: str, config: str, program: Sequence[str] = (), environment: Mapping[str, str] | None = None
) -> Service:
    command = [*(program or [_find(name)]), "--config-file", str(directory / config)]
    return Service(name, command, env={**os.environ, **(environment or {})}, log=directory / f"{name}.log", cwd=directory)


def _find(name: str) -> str:
    return str(Path(sys.executable).parent / name)
