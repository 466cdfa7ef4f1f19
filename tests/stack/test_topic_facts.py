"""What ``doc/notifications-topic.rst`` says, tried at a broker: the bytes of each type, and which queue of a consumer's harms others."""

import json
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import kombu
import pytest
from jsonschema import Draft7Validator

from api_gateway.asyncapi.document import build_document
from compute_agent.contract.broker import Link
from compute_agent.contract.events import EVENT_TYPES
from compute_agent.contract.notifications import EVENTS_EXCHANGE
from compute_agent.contract.publisher import Publisher, PublishFailed
from compute_agent.contract.topics import Severity, routing_key
from devstack.rabbitmq import PrivateRabbitMQ
from devstack.services import wait_until
from tests.contract import golden
from tests.stack.broker_events import create_address, open_quiet_link

Declare = Callable[[dict[str, Any]], kombu.Queue]


@pytest.fixture
def link(broker: PrivateRabbitMQ) -> Iterator[Link]:
    link = open_quiet_link(broker)
    yield link
    link.close()


@pytest.fixture
def publisher(broker: PrivateRabbitMQ) -> Iterator[Publisher]:
    """With the recorder's queue declared, as an agent has it before it tells anything."""
    publisher = Publisher(create_address(broker, "somebody"))
    publisher.publish([golden.make_notification("agent.up")])
    yield publisher
    publisher.close()


@pytest.fixture
def declare(link: Link, publisher: Publisher) -> Iterator[Declare]:
    """Queues of a consumer's own, bound as the page says, and deleted at the end: a full one would hold up the other tests."""
    channel = link.channel()
    made: list[kombu.Queue] = []

    def declare(arguments: dict[str, Any]) -> kombu.Queue:
        queue = kombu.Queue(f"consumer.{uuid.uuid4().hex[:8]}", durable=True, queue_arguments=arguments)(channel)
        queue.queue_declare()
        made.append(queue)
        for severity in Severity:
            channel.queue_bind(queue.name, EVENTS_EXCHANGE.name, routing_key(severity))
        return queue

    yield declare
    for queue in made:
        queue.delete()
    channel.close()


def take(queue: kombu.Queue) -> Any:
    """The oldest message; None when there is none."""
    return queue.get(no_ack=True)


def test_the_bytes_of_each_type_are_what_the_asyncapi_document_says(
    publisher: Publisher, declare: Declare, broker: PrivateRabbitMQ
) -> None:
    document = json.loads(json.dumps(build_document()))
    queue = declare({"x-max-length": 1000, "x-overflow": "drop-head"})
    publisher.publish([golden.make_notification(event_type) for event_type in EVENT_TYPES])
    for event_type, row in EVENT_TYPES.items():
        message = take(queue)
        described = document["components"]["messages"][event_type]
        body = json.loads(message.body)
        inner = described["payload"]["properties"]["oslo.message"]["contentSchema"]
        for schema, value in ((described["payload"], body), (inner, json.loads(body["oslo.message"]))):
            Draft7Validator({**schema, "components": document["components"]}).validate(value)
        assert message.delivery_info["routing_key"] == f"notifications.{row.severity}"
        assert (message.content_type, message.content_encoding) == (described["contentType"], "utf-8")
        properties = message.properties
        assert properties["message_id"] == golden.make_notification(event_type).message_id
        assert properties["delivery_mode"] == document["operations"]["tellEvents"]["bindings"]["amqp"]["deliveryMode"]
        assert properties["user_id"] in broker.transport_url
    assert take(queue) is None


def test_a_full_queue_that_drops_its_oldest_holds_up_nobody_and_has_the_newest(publisher: Publisher, declare: Declare) -> None:
    queue = declare({"x-max-length": 2, "x-overflow": "drop-head"})
    types = ["action.received", "action.started", "action.ended", "action.observed"]
    assert publisher.publish([golden.make_notification(event_type) for event_type in types]) == len(types)
    wait_until(lambda: queue.queue_declare(passive=True).message_count == 2, 10, "the queue to drop what it has no room for")
    kept = [json.loads(json.loads(take(queue).body)["oslo.message"])["event_type"] for _ in range(2)]
    assert kept == types[2:]


def test_a_full_queue_that_refuses_holds_up_whoever_publishes(publisher: Publisher, declare: Declare) -> None:
    """The broker tells the publisher that its event was refused, though all other queues have it."""
    queue = declare({"x-max-length": 1, "x-overflow": "reject-publish"})
    publisher.publish([golden.make_notification("action.received")])
    for _ in range(3):
        with pytest.raises(PublishFailed, match="nack"):
            publisher.publish([golden.make_notification("action.started")])
    queue.purge()
    assert publisher.publish([golden.make_notification("action.started")]) == 1
