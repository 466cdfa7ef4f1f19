"""The whole system with the fake driver: real processes, broker and stores, and no hypervisor whose own time would blur the figures."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from api_gateway.store import Store
from devstack.api_client import ApiClient
from devstack.ports import Ports, find_free_base
from devstack.rabbitmq import PrivateRabbitMQ
from devstack.services import Service, wait_until
from devstack.signing_keys import make_signing_options
from devstack.stack_config import merge, write_agent_config, write_gateway_config

_START_TIMEOUT = 60.0


@dataclass
class FakeStack:
    """One that runs. ``store`` is the gateway's, to be read from only."""

    client: ApiClient
    store: Store
    services: dict[str, Service]


@contextmanager
def running_fake_stack(servers: int) -> Iterator[FakeStack]:
    """Broker, agent with so many servers that panic at an NMI, engine and API, for as long as the block lasts."""
    with tempfile.TemporaryDirectory(prefix="crashcart-bench-") as name:
        directory, ports = Path(name), Ports(find_free_base())
        broker = PrivateRabbitMQ(directory, ports)
        broker.start()
        services = {name: _make_service(directory, name, config) for name, config in _CONFIG_OF_SERVICE.items()}
        agent_signing, gateway_signing = make_signing_options(directory / "keys")
        write_agent_config(
            directory / "agent.conf",
            transport_url=broker.transport_url,
            driver={"agent": {"driver": "fake"}, "fake": {"servers": servers}},
            state_path=directory / "agent",
            extra=merge(agent_signing, {"agent": {"crash_dump_holdoff": 0}}),
        )
        write_gateway_config(
            directory / "gateway.conf",
            transport_url=broker.transport_url,
            ports=ports,
            state_path=directory / "gateway",
            wake_socket=directory / "wake.sock",
            extra=merge(gateway_signing, {"api": {"crash_dump_holdoff": 0}}),
        )
        store = Store(f"sqlite:///{directory / 'gateway' / 'gateway.sqlite'}")
        try:
            store.upgrade_schema()
            for service in services.values():
                service.start()
            client = ApiClient(f"http://127.0.0.1:{ports.api}")
            wait_until(client.is_healthy, _START_TIMEOUT, "the API serves")
            wait_until(lambda: len(client.list_servers()) == servers, _START_TIMEOUT, "the API knows the servers")
            yield FakeStack(client, store, services)
        finally:
            for service in services.values():
                if service.is_running:
                    service.stop()
            store.dispose()
            broker.stop()


_CONFIG_OF_SERVICE = {"crashcart-agent": "agent.conf", "crashcart-engine": "gateway.conf", "crashcart-api": "gateway.conf"}


def _make_service(directory: Path, name: str, config: str) -> Service:
    command = [str(Path(sys.executable).parent / name), "--config-file", str(directory / config)]
    return Service(name, command, log=directory / f"{name}.log", cwd=directory)
