"""Two gateways over a database server, and a broker of several nodes: whichever part dies, what was accepted is carried out."""

import os
import threading
from pathlib import Path

import pytest

from devstack.databases import DatabaseKind
from devstack.deployment import FaultPoints
from devstack.services import Service
from tests.stack.broker_events import settle
from tests.stack.deployed import HOSTS, Traffic, check_endings, running_deployment

pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.skipif("CRASHCART_TEST_ALL" not in os.environ, reason="takes long: with --all"),
]
_FAULT_SECONDS = 5.0


def test_each_node_of_the_broker_may_die_while_actions_flow_and_a_gateway_after_the_other(tmp_path: Path) -> None:
    with running_deployment(tmp_path, DatabaseKind.POSTGRESQL, nodes=3) as stack:
        with Traffic(stack) as traffic:
            traffic.wait_flowing()
            settle(stack.broker)
            members = stack.broker.ctl("list_queues", "name", "members").splitlines()
            for node in stack.brokers.nodes:
                node.kill()
                traffic.wait_flowing()
                node.start()
            for service in (stack.engines[0], stack.apis[1]):
                service.kill()
                traffic.wait_flowing()
        endings = check_endings(stack, traffic, tmp_path)
    assert endings["succeeded"] >= 6
    for host in HOSTS:
        assert next(line for line in members if line.startswith(f"compute_agent.{host}\t")).count("@") == 3


def test_the_database_server_may_die_and_be_out_of_reach_while_actions_flow(tmp_path: Path) -> None:
    points = FaultPoints(links=True)
    with running_deployment(tmp_path, DatabaseKind.MARIADB, nodes=1, fault_points=points) as stack:
        assert stack.database is not None
        with Traffic(stack) as traffic:
            traffic.wait_flowing()
            stack.database.kill()
            stack.database.start()
            traffic.wait_flowing()
            for name in ("crashcart-engine-database", "crashcart-engine-2-broker"):
                stack.links[name].cut()
                traffic.wait_flowing()  # through the other gateway
                stack.links[name].heal()
        endings = check_endings(stack, traffic, tmp_path)
    assert endings["succeeded"] >= 4


@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("kind", "nodes"), [(DatabaseKind.POSTGRESQL, 1), (DatabaseKind.MARIADB, 3)])
def test_every_part_may_die_be_frozen_and_be_cut_off_while_actions_flow(tmp_path: Path, kind: DatabaseKind, nodes: int) -> None:
    points = FaultPoints(links=True, islands=True, clocks=True)
    with running_deployment(tmp_path, kind, nodes=nodes, fault_points=points) as stack:
        assert stack.database is not None
        services: list[Service] = [*stack.agents, *stack.engines, *stack.apis]
        with Traffic(stack) as traffic:
            traffic.wait_flowing()
            settle(stack.broker)
            for part in (*services, *stack.brokers.nodes, stack.database):
                part.kill()
                part.start()
                traffic.wait_flowing()
                part.freeze()
                _let_it_be()
                part.thaw()
                traffic.wait_flowing()
            for cable in (*stack.islands.values(), *stack.links.values()):
                cable.cut()
                _let_it_be()
                cable.heal()
                traffic.wait_flowing()
            for clock in stack.clocks.values():
                clock.seconds = 1.0
                traffic.wait_flowing()
                clock.seconds = 0.0
        check_endings(stack, traffic, tmp_path)


def _let_it_be() -> None:
    """For as long as a fault lasts."""
    threading.Event().wait(_FAULT_SECONDS)
