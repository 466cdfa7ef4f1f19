"""Whether the queues that exist at the broker are those of the contract: RabbitMQ refuses to declare one with other arguments.

It tells so to nobody but whoever declares it, so a gateway that runs over another release's queues hears nothing, and says so in its log
only. There is no question that changes nothing: a queue that exists is declared once more, one that does not is left alone.
"""

from collections.abc import Sequence

import amqp
import kombu

from api_gateway.upgrade_checks import Finding, Result
from compute_agent.contract.broker import BROKER_ERRORS, BrokerAddress, Link
from compute_agent.contract.notifications import DEAD_LETTER_QUEUE, HEARTBEAT_QUEUE, RECORDER_QUEUES

_QUEUES = (RECORDER_QUEUES[0], DEAD_LETTER_QUEUE, HEARTBEAT_QUEUE)


def check_queues(address: BrokerAddress, queues: Sequence[kombu.Queue] = _QUEUES) -> list[Finding]:
    """Takes some seconds at most."""
    try:
        link = address.open_link()
        try:
            other = [queue.name for queue in queues if _is_other(link, queue)]
            link.close()
        finally:
            link.collect()
    except amqp.AccessRefused as error:
        text = f"the broker {address.label} refuses the account of transport_url, or what it asked for: {error.reply_text}"
        return [Finding("queues", Result.WARNING, text)]
    except BROKER_ERRORS as error:
        text = f"the broker {address.label} could not be asked for its queues ({error!r:.200}); ask again when it is there"
        return [Finding("queues", Result.WARNING, text)]
    if not other:
        return [Finding("queues", Result.SUCCESS, "the gateway's queues can be declared as this release does")]
    text = (
        f"the broker has these queues with other arguments: {', '.join(other)}; upgrade all agents, let the old engine empty them, then "
        "delete each with rabbitmqctl delete_queue before this release's engine is started"
    )
    return [Finding("queues", Result.FAILURE, text)]


def _is_other(link: Link, queue: kombu.Queue) -> bool:
    """:raises BROKER_ERRORS: it cannot be known."""
    try:
        with link.channel() as channel:
            queue(channel).queue_declare(passive=True)
    except amqp.NotFound:
        return False
    try:
        with link.channel() as channel:
            queue(channel).queue_declare()
    except amqp.PreconditionFailed:
        return True
    return False
