"""What an agent that only listens costs the broker: its queues and its connections, in memory and in processor time."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from compute_agent.contract.broker import BrokerAddress, Link
from devstack.ports import Ports, find_free_base
from devstack.rabbitmq import PrivateRabbitMQ
from tests.bench.figures import Figure, Unit
from tests.bench.processes import read_resident_mib, read_used_processor_time

_QUEUES = 400
_CONNECTIONS = 200
_REST = 10.0
"""Seconds in which nothing is said but the connections' own heartbeats."""
_SETTLE = 3.0


def measure() -> list[Figure]:
    """One node of its own.

    :raises StepFailed: it did not start.
    """
    with tempfile.TemporaryDirectory(prefix="crashcart-bench-") as directory:
        broker = PrivateRabbitMQ(Path(directory), Ports(find_free_base()))
        broker.start()
        links: list[Link] = []
        try:
            address = BrokerAddress(broker.transport_url, name="bench")
            links.append(address.open_link())
            channel = links[0].channel()
            empty = _rest(broker, links)
            began = time.monotonic()
            for number in range(_QUEUES):
                channel.queue_declare(f"bench.{number}", durable=True, auto_delete=False, arguments={"x-queue-type": "quorum"})
            declared = (time.monotonic() - began) * 1000 / _QUEUES
            with_queues = _rest(broker, links)
            for _ in range(_CONNECTIONS):
                links.append(address.open_link())
                links[-1].channel()
            with_connections = _rest(broker, links)
        finally:
            for link in links:
                link.collect()
            broker.stop()
    note = f"{_QUEUES} queues, {_CONNECTIONS} connections with a channel each, heartbeats of 10 s"
    return [
        Figure(
            "memory of the broker for 1,000 quorum queues", [_per_thousand(with_queues[0] - empty[0], _QUEUES)], unit=Unit.MIB, note=note
        ),
        Figure("declaring a quorum queue", [declared]),
        Figure(
            "memory of the broker for 1,000 connections",
            [_per_thousand(with_connections[0] - with_queues[0], _CONNECTIONS)],
            unit=Unit.MIB,
            note=note,
        ),
        Figure(
            "processor time of the broker for 1,000 connections that rest",
            [_per_thousand(with_connections[1] - with_queues[1], _CONNECTIONS)],
            unit=Unit.PERCENT,
        ),
    ]


def _per_thousand(value: float, count: int) -> float:
    return value * 1000 / count


def _rest(broker: PrivateRabbitMQ, links: list[Link]) -> tuple[float, float]:
    """The broker's memory in MiB, and its processor time in percent of a core."""
    time.sleep(_SETTLE)
    before, began = read_used_processor_time(broker.pid), time.monotonic()
    while time.monotonic() < began + _REST:
        for link in links:
            link.heartbeat_tick()
            link.send_heartbeat()
        time.sleep(_REST / 2)
    used = (read_used_processor_time(broker.pid) - before) * 100 / (time.monotonic() - began)
    return read_resident_mib(broker.pid), used
