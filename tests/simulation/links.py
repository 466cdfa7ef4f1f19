"""How the processes of a simulated world speak to its broker: what stands in for the publisher and for oslo.messaging's own driver."""

from collections.abc import Sequence
from typing import Any

from api_gateway.received import Received
from compute_agent.contract.notifications import Notification, encode
from compute_agent.contract.publisher import PublishFailed
from tests.simulation.broker import Broker, ConnectionLost
from tests.simulation.kernel import Process


class SimulatedPublisher:
    """Stands in for ``contract.publisher.Publisher``: the same promises, over the simulated broker."""

    def __init__(self, broker: Broker, process: Process, user: str) -> None:
        """:param user: the account that the broker vouches for"""
        self._broker = broker
        self._process = process
        self._user = user

    def publish(self, rows: Sequence[Notification]) -> int:
        """:raises PublishFailed: see there."""
        stored, confirmed = self._broker.publish(self._process, [Received(encode(row), self._user) for row in rows])
        self._broker.pause(self._process)
        if confirmed < len(rows):
            raise PublishFailed(confirmed, f"connection lost: {stored} stored, {confirmed} confirmed")
        return confirmed

    def publish_heartbeat(self, heartbeat: Notification) -> None:
        """:raises PublishFailed: it was not sent."""
        try:
            self._broker.publish_heartbeat(self._process, Received(encode(heartbeat), self._user))
        except ConnectionLost as error:
            raise PublishFailed(0, str(error)) from error

    def keep_alive(self) -> bool:
        return self._broker.reaches(self._process)

    def abort(self) -> None:
        """A killed process publishes nothing more anyway."""

    def close(self) -> None:
        """There is nothing to close."""


class RpcDriver:
    """Stands in for oslo.messaging's RabbitMQ driver, so that the production client and dispatcher speak over the simulated broker."""

    def __init__(self, conf: Any, broker: Broker, process: Process) -> None:
        self.conf = conf
        self._broker = broker
        self._process = process

    def send(self, target: Any, context: dict[str, Any], message: dict[str, Any], **options: Any) -> None:
        assert not options.get("wait_for_reply"), "the gateway's engine never calls, it casts"
        assert options["transport_options"].at_least_once, "a cast to nobody must be noticed"
        self._broker.send_rpc(self._process, target.server, message | {"context": context})

    def require_features(self, **features: Any) -> None:
        """Whatever the client asks for, it is there."""

    def cleanup(self) -> None:
        """There is nothing to clean up."""
