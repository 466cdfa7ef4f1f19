"""The gateway says something to itself through the queue of the heartbeats, every few seconds.

What comes back proves that heartbeats get through: a broker in alarm takes no publishes while its consumers look perfectly well, and an
agent that cannot be heard must not be called silent. When the broker dropped or kept the heartbeats it did so with the echoes.
"""

import logging
import uuid
from datetime import datetime
from typing import Protocol

from api_gateway.store import Store
from compute_agent.contract.clock import Clock
from compute_agent.contract.notifications import Notification, format_timestamp
from compute_agent.contract.topics import Severity

LOG = logging.getLogger(__name__)

ECHO_TYPE = "gateway.echo"
ECHO_INTERVAL = 5.0
"""Seconds; a third of the break after which listening counts as begun anew."""


class EchoPublisher(Protocol):
    """What an echo needs of :class:`compute_agent.contract.publisher.Publisher`."""

    def publish_heartbeat(self, heartbeat: Notification) -> None: ...


class Echo:
    """Sends one at each step.

    :param publisher_id: who publishes, as notification listeners are told
    """

    def __init__(self, store: Store, publisher: EchoPublisher, clock: Clock, *, publisher_id: str) -> None:
        self._store = store
        self._publisher = publisher
        self._clock = clock
        self._publisher_id = publisher_id

    def step(self) -> None:
        """:raises PublishFailed: it was not sent: nothing is heard now.
        :raises StoreError: the store's identity cannot be read.
        """
        now = self._clock.now()
        echo = Notification(
            message_id=uuid.uuid4().hex,
            event_type=ECHO_TYPE,
            publisher_id=self._publisher_id,
            severity=Severity.INFO,
            timestamp=format_timestamp(now),
            payload={"store_id": self._store.store_id, "said_at": now.isoformat()},
        )
        self._publisher.publish_heartbeat(echo)


def find_said_at(echo: Notification, *, store_id: str, now: datetime) -> datetime | None:
    """When a gateway of this store said it, at the latest now; None when it is no echo of ours."""
    if echo.payload.get("store_id") != store_id:
        return None
    try:
        said_at = datetime.fromisoformat(echo.payload["said_at"])
    except (KeyError, TypeError, ValueError) as error:
        LOG.warning("an unreadable echo was dropped: %r", error)
        return None
    return None if said_at.tzinfo is None else min(said_at, now)
