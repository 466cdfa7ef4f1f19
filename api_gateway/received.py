"""One message as the broker gave it to us."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Received:
    """A body and who sent it."""

    body: bytes
    user: str | None = None
    """The account that published it, which RabbitMQ vouches for (AMQP ``user_id``); None when the publisher set none."""
