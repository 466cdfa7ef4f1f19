"""A broker that does to messages what RabbitMQ may do, and where the design claims to stand more, more.

RPC queues: acknowledged on receipt, so that a killed agent loses what it had in memory; a cast that raises was perhaps delivered; a
host whose agent never ran has no queue. Event queue: what was confirmed stays, in order, through restarts; unconfirmed publishes are
there or not; what was not acknowledged comes again, before the rest. Heartbeats are forgotten at a restart and after their TTL.
"""

import json
import random
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from api_gateway.received import Received
from compute_agent.contract.notifications import HEARTBEAT_TTL_MS
from compute_agent.contract.transport import oslo_messaging
from tests.simulation.kernel import Event, Kernel, Process

LEASE = 5.0
"""Seconds that an engine has a host to itself to cast to."""


@dataclass
class Faults:
    """Chances per message, and how long things take (seconds)."""

    latency: float = 0.005
    cast_raises: float = 0.0
    cast_lost: float = 0.0
    cast_repeated: float = 0.0
    delay: float = 0.0
    longest_delay: float = 8.0
    publish_fails: float = 0.0
    event_repeated: float = 0.0
    event_reordered: float = 0.0
    heartbeat_lost: float = 0.0


class ConnectionLost(OSError):
    """What a client sees of a broker that went away."""


@dataclass
class _Message:
    received: Received
    expires_at: float | None = None


@dataclass
class _Queue:
    """``unacked`` is what the one active consumer holds of it."""

    ready: deque[_Message] = field(default_factory=deque)
    unacked: deque[_Message] = field(default_factory=deque)
    consumer: "Consumer | None" = None
    arrival: Event | None = None


class Broker:
    """Queues, links and what goes wrong with them."""

    def __init__(self, kernel: Kernel, chance: random.Random, faults: Faults) -> None:
        self.kernel = kernel
        self.faults = faults
        self._chance = chance
        self.up = True
        self.cut: set[str] = set()
        self._alarm = False
        self._alarm_over = Event(kernel)
        self._alarm_over.set()
        self._rpc_queues: dict[str, deque[dict[str, Any]]] = {}
        self._rpc_arrivals: dict[str, Event] = {}
        self.overheard: list[dict[str, Any]] = []
        """The casts that somebody saw pass; the last of them."""
        self.crowded: list[str] = []
        """What was cast to a host beside another engine's cast, whose lease was in force."""
        self._casting: dict[str, tuple[Process, float]] = {}
        self.events = _Queue(arrival=Event(kernel))
        self.heartbeats = _Queue(arrival=Event(kernel))
        self.published: list[bytes] = []
        """What came to the exchange of events: a second consumer's queue holds all of it."""
        self.order_kept = True
        """False once an operator's purge, or a fault beyond RabbitMQ's own, put events into another order."""

    # What happens to it

    def stop(self) -> None:
        """It goes down: connections break, what was not acknowledged goes back, what was not durable is gone."""
        self.up = False
        self.heartbeats.ready.clear()
        self.heartbeats.unacked.clear()
        for queue in (self.events, self.heartbeats):
            self._give_back(queue)
            self._wake(queue)
        for arrival in self._rpc_arrivals.values():
            arrival.set()
        self.set_alarm(False)

    def start(self) -> None:
        self.up = True
        self._wake_everybody()

    def set_alarm(self, on: bool) -> None:
        """Memory or disk alarm: publishers block for as long as it lasts."""
        self._alarm = on
        if on:
            self._alarm_over.clear()
        else:
            self._alarm_over.set()

    def set_cut(self, name: str, on: bool) -> None:
        """A cut between the broker and one process."""
        if on:
            self.cut.add(name)
            for queue in (self.events, self.heartbeats):
                if queue.consumer is not None and queue.consumer.process.name == name:
                    self._give_back(queue)
        else:
            self.cut.discard(name)
        self._wake_everybody()

    def purge_events(self) -> int:
        """An operator empties the recorder's queue."""
        count = len(self.events.ready)
        self.events.ready.clear()
        self.order_kept = self.order_kept and not count  # they come again, behind others
        return count

    def forget(self, process: Process) -> None:
        """A process died: its connections are gone."""
        for queue in (self.events, self.heartbeats):
            if queue.consumer is not None and queue.consumer.process is process:
                self._give_back(queue)
                self._wake(queue)

    def reaches(self, process: Process) -> bool:
        return self.up and process.name not in self.cut

    def _give_back(self, queue: _Queue) -> None:
        queue.ready.extendleft(reversed(queue.unacked))
        queue.unacked.clear()
        queue.consumer = None

    def _wake(self, queue: _Queue) -> None:
        assert queue.arrival is not None
        queue.arrival.set()
        queue.arrival.clear()

    def _wake_everybody(self) -> None:
        for queue in (self.events, self.heartbeats):
            self._wake(queue)
        for arrival in self._rpc_arrivals.values():
            arrival.set()

    # RPC

    def declare_rpc_queue(self, host: str) -> None:
        """An agent came to listen; its queue stays when it goes."""
        self._rpc_queues.setdefault(host, deque())
        self._rpc_arrivals.setdefault(host, Event(self.kernel))

    def send_rpc(self, process: Process, host: str, message: dict[str, Any]) -> None:
        """A mandatory, confirmed cast.

        :raises MessageUndeliverable: the host has no queue.
        :raises ConnectionLost: perhaps delivered.
        """
        self.overheard = [*self.overheard[-2:], message]
        is_action = "action" in message["args"]
        if is_action:
            self._watch_crowd(process, host)
        try:
            self._send_rpc(process, host, message)
        finally:
            if is_action and self._casting.get(host, (None,))[0] is process:
                del self._casting[host]

    def _watch_crowd(self, process: Process, host: str) -> None:
        """Whoever was frozen a moment ago cannot know that its lease has run out since it looked."""
        other, began_at = self._casting.get(host, (None, 0.0))
        now = self.kernel.time
        is_leased = now < began_at + LEASE - 0.01 and now > process.frozen_until + LEASE
        if other is not None and other is not process and other.alive and began_at > other.frozen_until + LEASE and is_leased:
            self.crowded.append(f"{process.name} cast to {host} at {now:.3f} beside {other.name}, which began at {began_at:.3f}")
        self._casting[host] = process, now

    def _send_rpc(self, process: Process, host: str, message: dict[str, Any]) -> None:
        self.pass_alarm(process)
        chance, faults = self._chance, self.faults
        raises = self._strikes(faults.cast_raises, "cast raises")
        if not self.reaches(process) or (raises and chance.random() < 0.5):
            raise ConnectionLost("nothing was delivered, but who could know")
        if host not in self._rpc_queues:
            raise oslo_messaging.exceptions.MessageUndeliverable(None, None, None, None)
        if not self._strikes(faults.cast_lost, "cast lost"):
            copies = 2 if self._strikes(faults.cast_repeated, "cast repeated") else 1
            for _ in range(copies):
                self.kernel.call_after(self._draw_delay(), lambda: self._arrive(host, message))
        self.pause(process)
        if raises:
            raise ConnectionLost("delivered, but who could know")

    def take_rpc(self, process: Process, host: str) -> dict[str, Any] | None:
        """The next message for ``host``, acknowledged with this; None when nothing is there now."""
        if not self.reaches(process):
            return None
        queue = self._rpc_queues[host]
        return queue.popleft() if queue else None

    def wait_for_rpc(self, host: str, timeout: float) -> None:
        arrival = self._rpc_arrivals[host]
        arrival.wait(timeout)
        arrival.clear()

    def has_rpc_queue(self, host: str) -> bool:
        return host in self._rpc_queues

    def forge_rpc(self, host: str, message: dict[str, Any]) -> None:
        """From whoever can publish there."""
        if self.up:
            self._arrive(host, message)

    def _arrive(self, host: str, message: dict[str, Any]) -> None:
        self._rpc_queues[host].append(json.loads(json.dumps(message)))
        self._rpc_arrivals[host].set()

    def _strikes(self, rate: float, fault: str) -> bool:
        """Whether chance does it to this message."""
        strikes = self._chance.random() < rate
        if strikes:
            self.kernel.on_fault(fault)
        return strikes

    def _draw_delay(self) -> float:
        if self._strikes(self.faults.delay, "message delayed"):
            return self._chance.uniform(0.1, self.faults.longest_delay)
        return self.faults.latency * self._chance.uniform(0.2, 1.0)

    # Events

    def forge_event(self, message: Received, *, heartbeat: bool = False) -> None:
        """From whoever can publish to that exchange."""
        if self.up and heartbeat:
            self._store_heartbeat(_Message(message, self.kernel.time + HEARTBEAT_TTL_MS / 1000))
        elif self.up:
            self.published.append(message.body)
            self._append_event(message)

    def publish(self, process: Process, messages: Sequence[Received]) -> tuple[int, int]:
        """Take messages in, in order.

        :returns: how many are stored, how many of those are confirmed; fewer than all when the connection breaks meanwhile.
        """
        self.pass_alarm(process)
        if not self.reaches(process):
            return 0, 0
        stored = confirmed = len(messages)
        if self._strikes(self.faults.publish_fails, "publishing broken off"):
            stored = self._chance.randint(0, len(messages))
            confirmed = self._chance.randint(0, stored)
        for message in messages[:stored]:
            self._store_event(message)
        self._wake(self.events)
        return stored, confirmed

    def publish_heartbeat(self, process: Process, message: Received) -> None:
        if not self.reaches(process) or self._alarm:
            raise ConnectionLost("no heartbeats now")
        if self._strikes(self.faults.heartbeat_lost, "heartbeat lost"):
            return
        expires_at = self.kernel.time + HEARTBEAT_TTL_MS / 1000
        self.kernel.call_after(self._draw_delay(), lambda: self._store_heartbeat(_Message(message, expires_at)))

    def _store_event(self, message: Received) -> None:
        self.published.append(message.body)
        if self._strikes(self.faults.event_reordered, "event reordered"):
            self.order_kept = False
            self.kernel.call_after(self._chance.uniform(0.1, self.faults.longest_delay), lambda: self._append_event(message))
        else:
            self._append_event(message)
        if self._strikes(self.faults.event_repeated, "event repeated"):
            self.kernel.call_after(self._chance.uniform(0.0, self.faults.longest_delay), lambda: self._append_event(message))

    def _append_event(self, message: Received) -> None:
        self.events.ready.append(_Message(message))
        self._wake(self.events)

    def _store_heartbeat(self, message: _Message) -> None:
        if self.up:
            self.heartbeats.ready.append(message)
            self._wake(self.heartbeats)

    # Both

    def pass_alarm(self, process: Process) -> None:
        """Block while there is an alarm and a connection to be blocked."""
        self.pause(process)
        while self._alarm and self.reaches(process):
            self._alarm_over.wait(1.0)
            process.check()

    def pause(self, process: Process) -> None:
        self.kernel.sleep(self.faults.latency * self._chance.random())
        process.check()


class Consumer:
    """One connection's consumption of one queue; only the first that came is active."""

    def __init__(self, broker: Broker, process: Process, queue: _Queue) -> None:
        """:raises ConnectionLost: the broker is not there, or somebody else consumes."""
        self.process = process
        self._broker = broker
        self._queue = queue
        if not broker.reaches(process) or queue.consumer is not None:
            raise ConnectionLost("cannot consume")
        queue.consumer = self

    def receive(self, limit: int, timeout: float) -> list[Received]:
        """The next messages, at most ``limit``; empty after ``timeout`` seconds without any.

        :raises ConnectionLost: all that was not acknowledged goes back.
        """
        self._check()
        if not self._queue.ready:
            assert self._queue.arrival is not None
            self._queue.arrival.wait(timeout)
            self._check()
        batch: list[_Message] = []
        while self._queue.ready and len(batch) < limit:
            message = self._queue.ready.popleft()
            if message.expires_at is None or message.expires_at > self._broker.kernel.time:
                batch.append(message)
        self._queue.unacked.extend(batch)
        return [message.received for message in batch]

    def acknowledge(self) -> None:
        """Everything received.

        :raises ConnectionLost: it will come again.
        """
        self._check()
        self._queue.unacked.clear()

    def close(self) -> None:
        if self._queue.consumer is self:
            self._broker._give_back(self._queue)

    def _check(self) -> None:
        self.process.check()
        if self._queue.consumer is not self or not self._broker.reaches(self.process):
            self.close()
            raise ConnectionLost("consumer cancelled")
