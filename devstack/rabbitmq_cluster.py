"""Private RabbitMQ nodes that are one broker: each can be killed, frozen and restarted by itself."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

from devstack.ports import Ports
from devstack.rabbitmq import PrivateRabbitMQ

_BOOT_TIMEOUT = 120.0


class RabbitMQNodes:
    """So many nodes under one directory, the first of which alone is a `PrivateRabbitMQ` like any other."""

    def __init__(self, state_dir: Path, ports: Sequence[Ports], *, hosts: Sequence[str] = ()) -> None:
        """
        :param ports: each node's, all in blocks of their own
        :param hosts: whose agents have accounts of their own
        """
        self.nodes = [PrivateRabbitMQ(state_dir, own, hosts=hosts, cluster=ports) for own in ports]

    @property
    def amqp_ports(self) -> list[int]:
        return [node.ports.amqp for node in self.nodes]

    def start(self) -> None:
        """Start all of them and wait until they are one broker; raises StepFailed.

        A queue that is declared before has no member on the nodes that come later.
        """
        for node in self.nodes:
            node.launch()
        for node in self.nodes:
            node.wait_ready(_BOOT_TIMEOUT)
        if len(self.nodes) > 1:
            self.nodes[0].ctl("await_online_nodes", str(len(self.nodes)))

    def stop(self) -> None:
        """Stop all of them, also when one cannot be; the first one last, whose epmd the others use. Raises the first failure."""
        with ExitStack() as ending, ThreadPoolExecutor(len(self.nodes)) as pool:
            ending.callback(self.nodes[0].stop)
            for future in [pool.submit(node.stop) for node in self.nodes[1:]]:
                future.result()
