"""Many hosts' agents in one process, as far as broker and gateway can tell: ``python -m tests.bench.simulated_agents``.

Each host has its own queues at the broker, sends its heartbeats when they are due and after a server of its has changed, sends its full
inventory every ten minutes and when it is asked to, tells of states and firings, withholds an event now and then until it is asked for, and
does the crash dumps that are cast to it. All messages are those of real agents, each from its host's account (the account that all of them
log in with has the tag ``impersonator``). What a host has of its own in reality and not here: a journal, and five connections.

Standard input has a :class:`Plan` in its first line, then a rate of events per second in each line; each is answered, when all agents have
told their inventories and when the rate is taken over, with the :class:`Told` so far. Ends with its standard input.
"""

from __future__ import annotations

import heapq
import json
import queue
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from compute_agent.contract.accounts import build_agent_account
from compute_agent.contract.broker import BrokerAddress, Link
from compute_agent.contract.models import EventRange, PowerState
from compute_agent.contract.notifications import Notification
from compute_agent.contract.publisher import Publisher
from compute_agent.contract.topics import CALL_TOPIC, RPC_EXCHANGE, RPC_TOPIC, build_lock_name
from tests.bench.simulated_hosts import SimulatedHost

INVENTORY_INTERVAL = 600.0
"""Seconds after which an agent tells all of its servers again."""
_HEARTBEAT_GAP = 1.0
"""Seconds between two heartbeats of a host at least."""
_LONGEST_WAIT = 0.02
_WITHHELD = 500
"""Of so many events one is told only when it is asked for."""
_FIRST = 100
"""Messages that are published at a time at the beginning."""


@dataclass(frozen=True)
class Plan:
    """:param url: of an account that may do everything and speak for others
    :param interval: seconds between heartbeats
    """

    url: str
    hosts: int
    servers: int
    interval: float = 30.0


@dataclass
class Told:
    """What the agents have done so far. ``processor_seconds`` are the generator's own."""

    heartbeats: int = 0
    inventories: int = 0
    events: int = 0
    casts: int = 0
    resent: int = 0
    withheld: list[str] = field(default_factory=list)
    processor_seconds: float = 0.0


class Agents:
    """They run; :meth:`tell` changes what they do."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def tell(self, rate: float) -> Told:
        """:param rate: events per second from now on

        :raises RuntimeError: they have ended; their own words are on standard error.
        """
        assert self._process.stdin is not None
        self._process.stdin.write(f"{rate}\n")
        self._process.stdin.flush()
        return self.read()

    def read(self) -> Told:
        """Their next answer.

        :raises RuntimeError: see there.
        """
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the simulated agents ended with {self._process.wait()}")
        return Told(**json.loads(line))


@contextmanager
def running_agents(plan: Plan) -> Iterator[Agents]:
    """In a process of their own. Their first answer comes when all inventories are told."""
    process = subprocess.Popen(  # our own interpreter and module
        [sys.executable, "-m", "tests.bench.simulated_agents"],
        cwd=Path(__file__).parents[2],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdin is not None
        process.stdin.write(json.dumps(asdict(plan)) + "\n")
        process.stdin.flush()
        yield Agents(process)
    finally:
        process.kill()
        process.communicate()


class _FleetPublisher(Publisher):
    """Each message from the account of its host."""

    def _send(self, row: Notification, key: str, *, mandatory: bool, delivery_mode: int) -> None:
        self._user = build_agent_account(row.payload["host"])
        super()._send(row, key, mandatory=mandatory, delivery_mode=delivery_mode)


class _Fleet:
    def __init__(self, plan: Plan) -> None:
        self._hosts = [SimulatedHost(number, plan.servers, plan.interval) for number in range(plan.hosts)]
        self._by_name = {host.name: host for host in self._hosts}
        self._interval = plan.interval
        self._events, self._heartbeats = (_FleetPublisher(BrokerAddress(plan.url, name=name)) for name in ("events", "heartbeats"))
        self._casts: Link = BrokerAddress(plan.url, name="casts").open_link()
        self._arrived: deque[tuple[str, Any]] = deque()
        self._due: list[tuple[float, int, str]] = []
        self._heard_at: dict[str, float] = {}
        self._beat_at: dict[str, float] = {}
        self._full_at: dict[str, float] = {}
        """When each host was heard, when its next heartbeat is due, and when the next one with all servers."""
        self._count = 0
        self._rate = 0.0
        self._rate_since = time.monotonic()
        self._told_since = 0
        self._fired: Notification | None = None
        self.told = Told()

    def begin(self) -> None:
        """Queues, ``agent.up`` of all, then everybody's inventory."""
        channel = self._casts.channel()
        quorum = {"x-queue-type": "quorum"}
        for host in self._hosts:
            channel.queue_declare(build_lock_name(host.name), exclusive=True, auto_delete=True)
            for topic in (RPC_TOPIC, CALL_TOPIC):
                name = f"{topic}.{host.name}"
                channel.queue_declare(name, durable=True, auto_delete=False, arguments=quorum)
                channel.queue_bind(name, exchange=RPC_EXCHANGE, routing_key=name)
            name = f"{RPC_TOPIC}.{host.name}"
            channel.basic_consume(name, no_ack=True, callback=lambda message, host=host: self._arrived.append((host.name, message)))
        for start in range(0, len(self._hosts), _FIRST):
            self._publish([host.tell_up() for host in self._hosts[start : start + _FIRST]])
        now = time.monotonic()
        for number, host in enumerate(self._hosts):
            self._full_at[host.name] = now + INVENTORY_INTERVAL * number / len(self._hosts)
            self._send_heartbeat(host, full=True)
            self._plan(host, time.monotonic() + self._interval * (number + 1) / len(self._hosts))

    def set_rate(self, rate: float) -> None:
        self._rate, self._rate_since, self._told_since = rate, time.monotonic(), 0

    def step(self) -> None:
        """Everything that is due, then what comes within a moment."""
        now = time.monotonic()
        while self._due and self._due[0][0] <= now:
            moment, _, name = heapq.heappop(self._due)
            if moment == self._beat_at[name]:  # else another moment was planned meanwhile
                full = now >= self._full_at[name]
                if full:
                    self._full_at[name] += INVENTORY_INTERVAL
                self._send_heartbeat(self._by_name[name], full=full)
                self._plan(self._by_name[name], now + self._interval)
        due = int((now - self._rate_since) * self._rate) - self._told_since
        if due > 0:
            self._told_since += due
            self._publish([told for _ in range(due) for told in self._tell_next()])
        else:
            self._events.keep_alive()
        self._receive()

    def _plan(self, host: SimulatedHost, moment: float) -> None:
        self._beat_at[host.name] = moment
        self._count += 1
        heapq.heappush(self._due, (moment, self._count, host.name))

    def _tell_next(self) -> list[Notification]:
        """By turns a server is paused, another's watchdog fires, the first one goes on, and the firing has its outcome."""
        turn, part = divmod(self.told.events, 4)
        self.told.events += 1
        host = self._hosts[turn % len(self._hosts)]
        place = 2 * (turn // len(self._hosts))
        paused, fired = (host.ids[(place + offset) % len(host.ids)] for offset in (0, 1))
        if part == 0:
            told = self._tell_state(host, paused, "server.paused", PowerState.PAUSED)
        elif part == 1:
            told = host.tell("server.watchdog.fired", fired, model="i6300esb", expiry_action="none", driver_word="none")
            self._fired = told
        elif part == 2:
            told = self._tell_state(host, paused, "server.resumed", PowerState.RUNNING)
        else:
            assert self._fired is not None
            text = "The watchdog is configured to do nothing; the server goes on as it was."
            fired_event = self._fired.message_id
            outcome = {"expiry_action": "none", "result": "continued", "text": text}
            told = host.tell("server.watchdog.outcome", fired, fired_event=fired_event, **outcome)
        if self.told.events % _WITHHELD == 2:
            self.told.withheld.append(told.message_id)
            return []
        return [told]

    def _tell_state(self, host: SimulatedHost, server: str, event_type: str, power_state: PowerState) -> Notification:
        told = host.tell_state(server, event_type, power_state, "user")
        self._plan(host, max(time.monotonic(), self._heard_at[host.name] + _HEARTBEAT_GAP))
        return told

    def _send_heartbeat(self, host: SimulatedHost, *, full: bool) -> None:
        self._heartbeats.publish_heartbeat(host.beat(full=full))
        self._heard_at[host.name] = time.monotonic()
        self.told.heartbeats += 1
        self.told.inventories += full

    def _publish(self, events: list[Notification]) -> None:
        self._events.publish(events)

    def _receive(self) -> None:
        wait = _LONGEST_WAIT
        try:
            while True:
                self._casts.drain_events(timeout=wait)
                wait = 0.001
        except TimeoutError:
            pass
        self._casts.heartbeat_tick()
        self._heartbeats.keep_alive()
        while self._arrived:
            name, message = self._arrived.popleft()
            self._obey(self._by_name[name], json.loads(json.loads(message.body)["oslo.message"]))

    def _obey(self, host: SimulatedHost, message: dict[str, Any]) -> None:
        self.told.casts += 1
        method, arguments = message["method"], message["args"]
        if method == "trigger_crash_dump":
            self._publish(host.tell_crash_dump(arguments["action"]))
            self._plan(host, max(time.monotonic(), self._heard_at[host.name] + _HEARTBEAT_GAP))
        elif method == "resend_events":
            again = host.list_kept(EventRange.from_wire(arguments["events"]))
            self.told.resent += len(again)
            self._publish(again)
        elif method == "report_inventory":
            self._send_heartbeat(host, full=True)


def main() -> None:
    """Until standard input ends."""
    plan = Plan(**json.loads(sys.stdin.readline()))
    fleet = _Fleet(plan)
    fleet.begin()
    rates: queue.SimpleQueue[float | None] = queue.SimpleQueue()
    threading.Thread(target=_read_rates, args=(rates,), daemon=True).start()
    _answer(fleet)
    while True:
        fleet.step()
        while not rates.empty():
            rate = rates.get()
            if rate is None:
                return
            fleet.set_rate(rate)
            _answer(fleet)


def _read_rates(rates: queue.SimpleQueue[float | None]) -> None:
    for line in sys.stdin:
        rates.put(float(line))
    rates.put(None)


def _answer(fleet: _Fleet) -> None:
    fleet.told.processor_seconds = time.process_time()
    print(json.dumps(asdict(fleet.told)), flush=True)


if __name__ == "__main__":
    main()
