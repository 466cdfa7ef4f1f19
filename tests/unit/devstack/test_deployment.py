"""What a deployment may be, and where its parts find each other."""

from collections.abc import Iterator
from configparser import ConfigParser
from pathlib import Path

import pytest

from devstack.databases import DatabaseKind
from devstack.deployment import AgentSpec, Deployment, FaultPoints
from devstack.ports import Ports, find_free_base
from devstack.rabbitmq_cluster import RabbitMQNodes
from devstack.stack_services import StackServices


@pytest.fixture
def services(tmp_path: Path) -> Iterator[StackServices]:
    deployment = Deployment(broker_nodes=3, agents=[AgentSpec("one"), AgentSpec("two")])
    ports = Ports(find_free_base(3), 3)
    broker = RabbitMQNodes(tmp_path, [ports.get_block(number) for number in range(3)], hosts=["one", "two"])
    points = FaultPoints(links=True)
    made = StackServices(tmp_path, ports, deployment, broker, None, agent_options={}, gateway_options={}, fault_points=points)
    yield made
    made.close()


def read(path: Path) -> ConfigParser:
    parser = ConfigParser(interpolation=None)
    parser.read(path)
    return parser


def test_several_gateways_are_refused_over_a_file_of_one_machine() -> None:
    with pytest.raises(ValueError, match="need PostgreSQL or MariaDB"):
        Deployment(engines=2)
    assert Deployment(DatabaseKind.MARIADB, engines=2).engines == 2


def test_two_agents_of_one_host_are_refused() -> None:
    with pytest.raises(ValueError, match="one host"):
        Deployment(agents=[AgentSpec("one"), AgentSpec("one")])


def test_each_process_has_links_of_its_own_to_every_node(services: StackServices, tmp_path: Path) -> None:
    services.write_config({})
    assert set(services.links) == {f"crashcart-{name}-broker" for name in ("agent-one", "agent-two", "engine", "api")}
    agent = read(tmp_path / "agent-two.conf")["DEFAULT"]
    assert agent["host"] == "two"
    hosts = agent["transport_url"].removeprefix("rabbit://").rstrip("/").split(",")
    assert [int(host.rpartition(":")[2]) for host in hosts] == services.links["crashcart-agent-two-broker"].ports
    assert {host.partition(":")[0] for host in hosts} == {"agent.two"}


def test_a_block_of_ports_of_several_is_like_one_of_its_own() -> None:
    ports = Ports(20000, 3)
    assert ports.get_block(2) == Ports(20020)
    assert len(ports.list_all()) == 30
    with pytest.raises(ValueError, match="3 blocks"):
        ports.get_block(3)
