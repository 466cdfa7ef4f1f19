"""A broker of one queue in memory, as far as a follower sees of one: it gives again what a broken connection had not acknowledged."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from types import SimpleNamespace
from typing import Any


class SmallBroker:
    """:param bodies: what waits in the queue; None: the connection breaks there, once

    ``when_idle`` is called when everything that waits is delivered; ``breaks_at_heartbeat``: the connection breaks at the next one, once.
    ``sender`` has published it all.
    """

    def __init__(self, bodies: Iterable[bytes | None]) -> None:
        self.waiting: deque[bytes | None] = deque(bodies)
        self.acknowledged: list[bytes] = []
        self.deleted: list[str] = []
        self.refusal: Exception | None = None
        self.when_idle: Callable[[], object] = lambda: None
        self.unacknowledged: dict[int, bytes] = {}
        self.connections = 0
        self.breaks_at_heartbeat = False
        self.sender: str | None = None

    def open_link(self) -> Any:
        self.connections += 1
        self.waiting.extendleft(reversed([self.unacknowledged.pop(tag) for tag in sorted(self.unacknowledged)]))
        return _Link(self)


class _Link:
    def __init__(self, broker: SmallBroker) -> None:
        self._broker = broker
        self._is_open = True
        self._tags = 0
        self._callback: Callable[[Any], object] = lambda _message: None

    def channel(self) -> _Link:
        return self

    def queue_declare(self, *_names: object, **_arguments: object) -> None:
        if self._broker.refusal is not None:
            raise self._broker.refusal

    def queue_bind(self, *_names: object) -> None: ...

    def basic_qos(self, *_numbers: object) -> None: ...

    def basic_consume(self, _queue: str, callback: Callable[[Any], object]) -> None:
        self._callback = callback

    def drain_events(self, timeout: float) -> None:
        if not self._broker.waiting:
            self._broker.when_idle()
            raise TimeoutError
        body = self._broker.waiting.popleft()
        if body is None:
            self._is_open = False
            raise ConnectionResetError("the link broke")
        self._tags += 1
        self._broker.unacknowledged[self._tags] = body
        properties = {} if self._broker.sender is None else {"user_id": self._broker.sender}
        self._callback(SimpleNamespace(body=body, delivery_tag=self._tags, properties=properties))

    def basic_ack(self, tag: int) -> None:
        if not self._is_open:
            raise ConnectionResetError("the link is broken")
        self._broker.acknowledged.append(self._broker.unacknowledged.pop(tag))

    def queue_delete(self, name: str) -> None:
        self._broker.deleted.append(name)

    def heartbeat_tick(self) -> None:
        if self._broker.breaks_at_heartbeat:
            self._broker.breaks_at_heartbeat = self._is_open = False
            raise ConnectionResetError("the link broke")

    def close(self) -> None: ...

    def collect(self) -> None: ...
