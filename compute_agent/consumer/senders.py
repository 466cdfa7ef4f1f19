"""Whose word an event is: the account that published it, which RabbitMQ has checked, held against what the event says of itself.

Whoever may publish events can put any host, journal and sequence into one, and so keep another's from a reader, as a repetition. Where each
agent has an account of its own, that shows.
"""

from collections import OrderedDict
from collections.abc import Collection
from typing import Any

from compute_agent.contract.accounts import build_agent_account
from compute_agent.contract.notifications import Notification

_MOST_EPOCHS = 50_000


class Senders:
    """Believes of a host its own account, ``agent.HOST``, and the gateway's; and of a journal the account that told of it first.

    :param gateway_accounts: those of the gateway, of all its machines; they may speak for every host
    """

    def __init__(self, gateway_accounts: Collection[str]) -> None:
        self._gateway_accounts = frozenset(gateway_accounts)
        self._owners: OrderedDict[str, str] = OrderedDict()

    def find_objection(self, notification: Notification, sender: str | None) -> str | None:
        """Why this account cannot have said this, for people; None when it may."""
        host, epoch = notification.payload.get("host"), notification.payload.get("epoch")
        is_gateway = sender in self._gateway_accounts
        if sender is None:
            return "it names no account that sent it"
        if not is_gateway and (not isinstance(host, str) or sender != build_agent_account(host)):
            return f"account {sender!r} spoke for host {host!r}"
        if not isinstance(epoch, str):
            return None
        owner = self._owners.get(epoch, sender)
        if not is_gateway and owner != sender:
            return f"account {sender!r} spoke for the journal of {owner!r}"
        self._owners[epoch] = sender
        self._owners.move_to_end(epoch)
        if len(self._owners) > _MOST_EPOCHS:
            self._owners.popitem(last=False)
        return None


def find_sender(message: Any) -> str | None:
    """AMQP ``user_id`` of a message of py-amqp's, which RabbitMQ refuses unless it is the publisher's account."""
    sender = message.properties.get("user_id")
    return sender if isinstance(sender, str) else None
