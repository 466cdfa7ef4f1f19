"""How fast events are recorded, with SQLite and PostgreSQL, beside what no recorder over this broker can beat.

The floor reads the same messages out of the same kind of queue with a bare kombu consumer, puts each batch of a hundred into one SQLite
table with one commit, and acknowledges it then. The recorder also keeps each event once and in order, finds gaps, and knows whose it is.
"""

from __future__ import annotations

import sqlite3
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import kombu

from api_gateway.cast_slots import ImmediateCasts
from api_gateway.consumer import QueueConsumer
from api_gateway.received import Received
from api_gateway.recorder import Recorder
from api_gateway.store import Store
from compute_agent.contract.clock import SystemClock
from compute_agent.contract.models import PowerState, Server
from devstack.databases import DatabaseKind, DatabaseServer
from devstack.ports import Ports, find_free_base
from devstack.rabbitmq import PrivateRabbitMQ
from devstack.steps import NotInstalled
from tests.bench.figures import Figure, Goal, Unit
from tests.database_servers import run_database_server
from tests.http.fleet import Agent, build_server
from tests.stack.broker_events import create_address, create_queue, open_quiet_link, publish
from tests.unit.gateway.engine_parts import AgentVoice, NotingCaster

EVENTS = 2000
BATCH = 100
"""Messages in one commit, the recorder's default."""
_SERVERS = 50
_TIMEOUT = 120.0
_FLOOR = f"events per second: kombu consumer and SQLite commit per {BATCH}"
_GOAL = Goal(share=0.7)

Take = Callable[[PrivateRabbitMQ, kombu.Queue], None]
"""Takes all messages of a queue in; returns when they are committed and acknowledged."""


def measure(runs: int) -> list[Figure]:
    """SQLite, and PostgreSQL where it is installed; ``runs`` times in turn, so that a machine that slows down slows all of them.

    :raises StepFailed: the broker did not start.
    """
    with tempfile.TemporaryDirectory(prefix="crashcart-bench-") as name, _broker(Path(name)) as broker:
        stores = {"SQLite": f"sqlite:///{Path(name) / 'gateway.sqlite'}"}
        try:
            with run_database_server(DatabaseKind.POSTGRESQL, durable=True) as server:
                return _measure_stores(broker, Path(name), stores | {"PostgreSQL": _create_database(server)}, runs)
        except NotInstalled as error:
            print(f"not measured on PostgreSQL: {error}")
            return _measure_stores(broker, Path(name), stores, runs)


def _create_database(server: DatabaseServer) -> str:
    return server.create_database("gateway")


@contextmanager
def _broker(directory: Path) -> Iterator[PrivateRabbitMQ]:
    broker = PrivateRabbitMQ(directory, Ports(find_free_base()))
    broker.start()
    try:
        yield broker
    finally:
        broker.stop()


def _measure_stores(broker: PrivateRabbitMQ, directory: Path, urls: dict[str, str], runs: int) -> list[Figure]:
    stores = {database: Store(url) for database, url in urls.items()}
    servers = [build_server(str(uuid.uuid4()), PowerState.RUNNING, datetime.now(UTC), name=f"web-{number}") for number in range(_SERVERS)]
    try:
        for store in stores.values():
            store.upgrade_schema()
            Agent("compute-1", servers={server.id: server for server in servers}).beat(store, datetime.now(UTC))
        takers: dict[str, Take] = {_FLOOR: lambda broker, queue: _take_bare(broker, queue, directory / "bare.sqlite")}
        for database, store in stores.items():
            takers[f"events per second: recorded with {database}"] = lambda broker, queue, store=store: _record(broker, queue, store)  # type: ignore[misc]
        samples: dict[str, list[float]] = {name: [] for name in takers}
        for number in range(runs + 1):
            for name, take in takers.items():
                taken = _measure_one(broker, take, servers)
                if number > 0:  # the first one warms up
                    samples[name].append(taken)
        return [_make_figure(name, taken) for name, taken in samples.items()]
    finally:
        for store in stores.values():
            store.dispose()


def _make_figure(name: str, taken: list[float]) -> Figure:
    is_floor = name == _FLOOR
    return Figure(name, taken, floor=None if is_floor else _FLOOR, unit=Unit.PER_SECOND, goal=None if is_floor else _GOAL)


def _measure_one(broker: PrivateRabbitMQ, take: Take, servers: Sequence[Server]) -> float:
    """Events per second."""
    queue = create_queue("bench.recorder")
    link = open_quiet_link(broker)
    try:
        publish(link, queue, _tell_firings(servers))
        began = time.perf_counter()
        take(broker, queue)
        took = time.perf_counter() - began
        queue(link.channel()).delete()
    finally:
        link.close()
    return EVENTS / took


def _tell_firings(servers: Sequence[Server]) -> list[bytes]:
    """Firings and their outcomes, as one agent with a new journal tells them."""
    voice = AgentVoice(SystemClock(), "compute-1", uuid.uuid4().hex)
    bodies = []
    for number in range(EVENTS // 2):
        server = servers[number % len(servers)].id
        firing = voice.tell("server.watchdog.fired", server=server, model="i6300esb", expiry_action="none", driver_word="none")
        bodies.append(firing.body)
        text = "The watchdog is configured to do nothing; the server goes on as it was."
        fired_event = f"{voice.journal}-{voice.sequence}"
        outcome: dict[str, Any] = {"fired_event": fired_event, "expiry_action": "none", "result": "continued", "text": text}
        bodies.append(voice.tell("server.watchdog.outcome", server=server, **outcome).body)
    return bodies


def _take_bare(broker: PrivateRabbitMQ, queue: kombu.Queue, path: Path) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("CREATE TABLE IF NOT EXISTS events (position INTEGER PRIMARY KEY, body BLOB NOT NULL)")
        arrived: list[kombu.Message] = []
        link = open_quiet_link(broker)
        channel = link.channel()
        channel.basic_qos(0, 2 * BATCH, False)
        kombu.Consumer(channel, [queue], on_message=arrived.append, auto_declare=False).consume()
        left = EVENTS
        while left:
            while len(arrived) < min(BATCH, left):
                link.drain_events(timeout=_TIMEOUT)
            batch, arrived[:] = arrived[:BATCH], arrived[BATCH:]
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany("INSERT INTO events (body) VALUES (?)", [(message.body,) for message in batch])
            connection.execute("COMMIT")
            channel.basic_ack(batch[-1].delivery_tag, multiple=True)
            left -= len(batch)
        link.close()


def _record(broker: PrivateRabbitMQ, queue: kombu.Queue, store: Store) -> None:
    """As the engine does."""
    recorder = Recorder(store, NotingCaster(), SystemClock(), slots=ImmediateCasts())
    recorded = 0
    is_done = threading.Event()

    def record(messages: Sequence[Received]) -> None:
        nonlocal recorded
        recorder.record(messages)
        recorded += len(messages)
        if recorded >= EVENTS:
            is_done.set()

    consumer = QueueConsumer(create_address(broker).open_link, [queue], record, try_store=lambda: None, batch_size=BATCH)
    thread = threading.Thread(target=consumer.run)
    thread.start()
    try:
        if not is_done.wait(_TIMEOUT):
            raise TimeoutError(f"{recorded} of {EVENTS} events were recorded in {_TIMEOUT:g} s")
    finally:
        consumer.stop()
        thread.join()
