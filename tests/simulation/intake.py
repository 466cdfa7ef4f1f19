"""What lies between a simulated broker and the workers of an agent."""

from collections.abc import Callable
from typing import Any

from compute_agent.action_queue import ActionQueue, Turn


class WakingQueue(ActionQueue):
    """The production queue; workers wait for it in virtual time."""

    def __init__(self, wake: Callable[[], None]) -> None:
        super().__init__()
        self._wake = wake

    def add(self, server: str, action_id: str, turn: Turn = Turn.ACT) -> None:
        super().add(server, action_id, turn)
        self._wake()

    def done(self, action_id: str) -> None:
        super().done(action_id)
        self._wake()


class Incoming:
    """One message: what oslo.messaging's dispatcher needs of a message."""

    def __init__(self, message: dict[str, Any]) -> None:
        self.ctxt: dict[str, Any] = message["context"]
        self.message = message
        self.client_timeout = None
