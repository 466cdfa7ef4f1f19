"""What a sender is given, and what came of it."""

from dataclasses import dataclass
from typing import Any, Protocol

from api_gateway.store.subscriptions import SubscriptionRow


@dataclass(frozen=True)
class Message:
    """One event for one subscriber.

    :param delivery: the same at each try, and for no other event or subscriber
    :param event: as ``/v1/events`` shows it to the subscription's maker
    :param server_name: what its server is called; None: it is about none, or about one that the store does not know
    """

    subscription: SubscriptionRow
    delivery: str
    event: dict[str, Any]
    server_name: str | None


class NotDelivered(Exception):
    """A try failed; perhaps the target has it all the same. The text is a sentence for the subscriber and has no secrets.

    :param retry_after: seconds before which the target does not want to be tried again
    :param is_final: the target does not want this one at all
    """

    def __init__(self, reason: str, *, retry_after: float = 0.0, is_final: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.retry_after = retry_after
        self.is_final = is_final


class Sender(Protocol):
    """Delivers to one kind of target. Called from several threads at the same time."""

    def send(self, message: Message) -> None:
        """Try once, in bounded time; the target has it when this returns.

        :raises NotDelivered: why not.
        """
        ...
