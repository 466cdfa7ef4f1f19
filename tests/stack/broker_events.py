"""Queues of a test's own and events to put into them."""

import json
import time
import uuid
from typing import Any

import kombu

from compute_agent.contract import versions
from compute_agent.contract.broker import BrokerAddress, Link
from compute_agent.contract.notifications import Notification, encode, format_timestamp
from devstack.rabbitmq import PrivateRabbitMQ
from devstack.services import PATIENCE
from tests.fakes import FakeClock


def create_queue(name: str) -> kombu.Queue:
    """Like the recorder's: durable, quorum, one active consumer; bound to nothing but the default exchange."""
    return kombu.Queue(
        f"{name}.{uuid.uuid4().hex[:8]}", durable=True, queue_arguments={"x-queue-type": "quorum", "x-single-active-consumer": True}
    )


class PatientAddress(BrokerAddress):
    """A broker that is there and answers slowly, on a machine that stands still, is asked again, as the product does."""

    def open_link(self, **options: Any) -> Link:
        give_up = time.monotonic() + 30 * PATIENCE
        while True:
            try:
                return super().open_link(**options)
            except TimeoutError:
                if time.monotonic() > give_up:
                    raise


def create_address(broker: PrivateRabbitMQ, name: str = "test") -> PatientAddress:
    return PatientAddress(broker.transport_url, name=name)


def open_quiet_link(broker: PrivateRabbitMQ, name: str = "test") -> Link:
    """Without AMQP heartbeats: a test says nothing on it while it waits for something else, however long that takes on a busy machine."""
    return create_address(broker, name).open_link(heartbeat=0)


def publish(link: Link, queue: kombu.Queue, bodies: list[bytes]) -> None:
    """Declare the queue and put the bodies into it, confirmed by the broker."""
    channel = link.channel()
    queue(channel).declare()
    channel.confirm_select()
    for body in bodies:
        message = channel.prepare_message(body, content_type="application/json", content_encoding="utf-8", properties={"delivery_mode": 2})
        channel.basic_publish_confirm(message, exchange="", routing_key=queue.name)
    channel.close()


def count_messages(link: Link, queue: kombu.Queue) -> int:
    channel = link.channel()
    count = int(queue(channel).queue_declare(passive=True).message_count)
    channel.close()
    return count


def build_events(count: int, *, first: int = 1, host: str = "host-1", epoch: str = "journal-1") -> list[bytes]:
    """Events of one host in the order of their sequence; the same message ids at each call."""
    clock = FakeClock()
    return [
        encode(
            Notification(
                message_id=f"{epoch}-{sequence}",
                event_type="test.counted",
                publisher_id=f"compute_agent.{host}",
                severity="info",
                timestamp=format_timestamp(clock.now()),
                payload={
                    "version": versions.EVENT_VERSION,
                    "server": None,
                    "host": host,
                    "epoch": epoch,
                    "sequence": sequence,
                    "occurred_at": clock.now().isoformat(),
                },
            )
        )
        for sequence in range(first, first + count)
    ]


def get_sequence(body: bytes) -> int:
    return int(json.loads(json.loads(body)["oslo.message"])["payload"]["sequence"])


def settle(broker: PrivateRabbitMQ) -> None:
    """Have the tables of the node, and of the others of its cluster, on disk before it is killed.

    RabbitMQ 3.10 writes a new quorum queue's term only seconds later: killed before, the queue never finds a leader again (measured).
    """
    broker.ctl("eval", "[rpc:call(Node, dets, sync, [Table]) || Node <- [node() | nodes()], Table <- rpc:call(Node, dets, all, [])].")
