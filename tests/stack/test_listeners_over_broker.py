"""The topic is anybody's: two consumers that know nothing of each other each see every event, one of them plain oslo.messaging."""

import uuid
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import kombu
import pytest
from oslo_config import cfg

from compute_agent.contract.broker import Link
from compute_agent.contract.events import EVENT_TYPES
from compute_agent.contract.notifications import EVENTS_EXCHANGE, Notification, decode
from compute_agent.contract.publisher import Publisher
from compute_agent.contract.topics import EVENT_TOPIC
from compute_agent.contract.transport import oslo_messaging
from devstack.rabbitmq import PrivateRabbitMQ
from devstack.services import wait_until
from tests.contract import golden
from tests.stack.broker_events import create_address, open_quiet_link

_REPEATED = 30
"""More than what oslo.messaging takes at a time: one that it did not acknowledge would hold up all behind it."""


class Endpoint:
    """What somebody writes who has read oslo.messaging's documentation and nothing of ours."""

    def __init__(self) -> None:
        self.heard: list[Notification] = []

    def _note(self, severity: str, publisher_id: str, event_type: str, payload: dict[str, Any], metadata: dict[str, Any]) -> None:
        self.heard.append(Notification(metadata["message_id"], event_type, publisher_id, severity, metadata["timestamp"], payload))

    def info(self, _context: object, *told: Any) -> None:
        self._note("info", *told)

    def warn(self, _context: object, *told: Any) -> None:
        self._note("warn", *told)

    def error(self, _context: object, *told: Any) -> None:
        self._note("error", *told)


@pytest.fixture
def endpoint(broker: PrivateRabbitMQ) -> Iterator[Endpoint]:
    """A listener with a pool of its own, and of our settings only what the exchange is declared with."""
    conf = cfg.ConfigOpts()
    conf([], default_config_files=[])
    transport = oslo_messaging.get_notification_transport(conf, url=broker.transport_url)
    conf.set_override("amqp_durable_queues", True, group="oslo_messaging_rabbit")
    endpoint = Endpoint()
    target = oslo_messaging.Target(exchange=EVENTS_EXCHANGE.name, topic=EVENT_TOPIC)
    listener = oslo_messaging.get_notification_listener(
        transport, [target], [endpoint], executor="threading", pool=f"somebody.{uuid.uuid4().hex[:8]}"
    )
    listener.start()
    yield endpoint
    listener.stop()
    listener.wait()
    transport.cleanup()


@pytest.fixture
def queue(broker: PrivateRabbitMQ) -> Iterator[tuple[Link, list[Notification]]]:
    """Somebody else, who reads a queue."""
    link = open_quiet_link(broker, "somebody-else")
    channel = link.channel()
    name = f"somebody-else.{uuid.uuid4().hex[:8]}"
    kombu.Queue(name, EVENTS_EXCHANGE, routing_key=f"{EVENT_TOPIC}.*", durable=True, expires=60)(channel).declare()
    heard: list[Notification] = []
    channel.basic_consume(name, callback=lambda message: heard.append(decode(message.body)), no_ack=True)
    yield link, heard
    link.close()


def test_each_of_two_consumers_hears_every_event_of_every_type(
    broker: PrivateRabbitMQ, endpoint: Endpoint, queue: tuple[Link, list[Notification]]
) -> None:
    link, heard = queue
    told = [golden.make_notification(event_type) for event_type in EVENT_TYPES]
    told += told[:1] * _REPEATED  # as after an answer of the broker's that was lost
    publisher = Publisher(create_address(broker, "publisher"))
    assert publisher.publish(told) == len(told)
    publisher.close()

    def both_heard() -> bool:
        with suppress(TimeoutError):
            link.drain_events(timeout=0.05)
        return len(heard) == len(endpoint.heard) == len(told)

    wait_until(both_heard, 30, "both have heard everything")
    assert heard == told
    assert sorted(endpoint.heard, key=str) == sorted(told, key=str)
    assert {"server.watchdog.fired", "server.watchdog.outcome", "server.watchdog.drifted"} <= {one.event_type for one in endpoint.heard}
