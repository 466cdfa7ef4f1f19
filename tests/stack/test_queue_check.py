"""What ``crashcart-manage upgrade-check`` finds out about queues at a broker, and that it changes none."""

import uuid
from collections.abc import Iterator

import kombu
import pytest

from api_gateway.queue_checks import check_queues
from api_gateway.upgrade_checks import Result
from compute_agent.contract.broker import Link
from devstack.rabbitmq import PrivateRabbitMQ
from tests.stack.broker_events import create_address, create_queue, open_quiet_link


@pytest.fixture
def link(broker: PrivateRabbitMQ) -> Iterator[Link]:
    link = open_quiet_link(broker)
    yield link
    link.close()


def test_a_queue_with_other_arguments_is_found_and_one_that_is_not_there_is_not_made(broker: PrivateRabbitMQ, link: Link) -> None:
    ours, missing = create_queue("ours"), create_queue("missing")
    other = kombu.Queue(f"other.{uuid.uuid4().hex[:8]}", durable=True, queue_arguments={"x-queue-type": "quorum"})
    channel = link.channel()
    for queue in (ours, other):
        queue(channel).queue_declare()
    as_today = kombu.Queue(other.name, durable=True, queue_arguments={"x-queue-type": "quorum", "x-single-active-consumer": True})

    (finding,) = check_queues(create_address(broker), (ours, as_today, missing))
    assert (finding.result, finding.text.startswith(f"the broker has these queues with other arguments: {other.name}; ")) == (
        Result.FAILURE,
        True,
    )
    (finding,) = check_queues(create_address(broker), (ours, missing))
    assert finding.result is Result.SUCCESS
    for queue in (ours, other):
        queue(channel).delete()
    with pytest.raises(link.channel_errors):  # as nobody made it
        missing(channel).queue_declare(passive=True)
