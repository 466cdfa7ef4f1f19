"""What a test hears of an agent: the notifications topic, as any consumer has it."""

import time
import uuid
from collections.abc import Callable
from contextlib import suppress

import kombu

from compute_agent.contract.broker import Link
from compute_agent.contract.models import Heartbeat
from compute_agent.contract.notifications import EVENTS_EXCHANGE, HEARTBEAT_TYPE, Notification, decode
from compute_agent.contract.topics import HEARTBEAT_ROUTING_KEY
from compute_agent.reporter import make_publisher_id
from devstack.rabbitmq import PrivateRabbitMQ
from devstack.services import PATIENCE
from tests.stack.broker_events import open_quiet_link


class Ear:
    """A consumer with a queue of its own, as anybody may have one; it hears what one host's agent publishes from now on.

    Other tests' hosts publish at the same broker.
    """

    def __init__(self, broker: PrivateRabbitMQ, host: str) -> None:
        self._broker = broker
        self._publisher_id = make_publisher_id(host)
        self._name = f"ear.{uuid.uuid4().hex[:8]}"
        self.heard: list[Notification] = []
        self._link: Link | None = None
        self.connect()

    def connect(self) -> None:
        self._link = open_quiet_link(self._broker, "ear")
        channel = self._link.channel()
        for key in ("notifications.*", HEARTBEAT_ROUTING_KEY):
            kombu.Queue(self._name, EVENTS_EXCHANGE, routing_key=key, durable=True, expires=60)(channel).declare()
        channel.basic_consume(self._name, callback=lambda message: self._hear(decode(message.body)), no_ack=True)

    def close(self) -> None:
        assert self._link is not None
        with suppress(OSError):  # a broker that was killed or frozen meanwhile has closed it
            self._link.close()

    def wait_for(self, condition: Callable[[], object], what: str, timeout: float = 20) -> None:
        end = time.monotonic() + timeout * PATIENCE
        while not condition():
            assert time.monotonic() < end, f"waited for {what}, heard {[event.event_type for event in self.heard]}"
            try:
                assert self._link is not None
                self._link.drain_events(timeout=0.1)
            except TimeoutError:
                pass

    def events(self, event_type: str, action: str | None = None) -> list[dict[str, object]]:
        return [
            event.payload for event in self.heard if event.event_type == event_type and action in (None, event.payload.get("action_id"))
        ]

    def beats(self) -> list[Heartbeat]:
        return [Heartbeat.from_wire(event.payload) for event in self.heard if event.event_type == HEARTBEAT_TYPE]

    def wait_for_event(self, event_type: str, action: str | None = None, count: int = 1) -> dict[str, object]:
        self.wait_for(lambda: len(self.events(event_type, action)) >= count, event_type)
        return self.events(event_type, action)[-1]

    def _hear(self, notification: Notification) -> None:
        if notification.publisher_id == self._publisher_id:
            self.heard.append(notification)
