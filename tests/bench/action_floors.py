"""What an action cannot do without, each alone and one after the other: the least time that a way through the whole system can take.

An action is committed by the gateway, cast, committed three times by its agent (received, started, ended), its events are published and
confirmed at least once, and they are committed by the recorder, of whose batch of a hundred they are three. Nothing else runs meanwhile.
"""

from __future__ import annotations

import json
import sqlite3
import time
import uuid
from collections.abc import Callable
from contextlib import ExitStack, closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import kombu
import psycopg
from oslo_config import cfg

from compute_agent.contract.models import ActionKind, ActionRequest
from compute_agent.contract.transport import RPC_TOPIC, create_rpc_transport, oslo_messaging, register_messaging_options
from devstack.rabbitmq import PrivateRabbitMQ
from tests.bench.figures import Figure, Unit
from tests.stack.broker_events import create_queue, open_quiet_link

EVENTS_OF_ACTION = 3
JOURNAL_COMMITS = 3
BATCH = 100
_TIMES = 200
_WARM_UP = 20
_ROW = json.dumps({"action": "x" * 500})
"""About what a row of an action and an event have."""
_TABLE = "CREATE TABLE floor (id {key}, body TEXT NOT NULL)"
_HOST = "floor"


def measure_floors(broker: PrivateRabbitMQ, directory: Path, database: str | None, name: str) -> list[Figure]:
    """The floors in milliseconds, and last of all the rate that they come to when each waits for the one before.

    :param directory: on the disk that journal and store are on
    :param database: URL of an empty database; None: SQLite
    :param name: of the database, for the figures' names
    """
    with ExitStack() as ending:
        commit = _open_sqlite(ending, directory / "store.sqlite") if database is None else _open_postgresql(ending, database)
        journal = _open_sqlite(ending, directory / "journal.sqlite")
        steps: dict[str, Callable[[], object]] = {
            f"one commit of {name}": lambda: commit(1),
            f"one commit of a batch of {BATCH} in {name}": lambda: commit(BATCH),
            "one commit of a journal": lambda: journal(1),
            "one cast": _open_caster(ending, broker),
            "one confirmed publish": _open_publisher(ending, broker),
        }
        figures = [Figure(f"floor: {what}", _time(step)) for what, step in steps.items()]
    one, batch, journalled, cast, confirm = (figure.median for figure in figures)
    serial = one + cast + JOURNAL_COMMITS * journalled + confirm + batch * EVENTS_OF_ACTION / BATCH
    note = f"{serial:.2f} ms: a commit, a cast, {JOURNAL_COMMITS} of a journal, a confirmed publish, {EVENTS_OF_ACTION}/{BATCH} of a batch"
    return [*figures, Figure(get_sum_name(name), [1000 / serial], unit=Unit.PER_SECOND, note=note)]


def get_sum_name(name: str) -> str:
    """The figure of all floors of an action one after the other."""
    return f"floor: actions one after the other with {name}"


def _time(step: Callable[[], object]) -> list[float]:
    samples = []
    for number in range(_WARM_UP + _TIMES):
        began = time.perf_counter()
        step()
        if number >= _WARM_UP:
            samples.append((time.perf_counter() - began) * 1000)
    return samples


def _open_sqlite(ending: ExitStack, path: Path) -> Callable[[int], None]:
    connection = ending.enter_context(closing(sqlite3.connect(path, isolation_level=None)))
    for statement in ("PRAGMA journal_mode = WAL", "PRAGMA synchronous = FULL", _TABLE.format(key="INTEGER PRIMARY KEY")):
        connection.execute(statement)

    def commit(rows: int) -> None:
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany("INSERT INTO floor (body) VALUES (?)", [(_ROW,)] * rows)
        connection.execute("COMMIT")

    return commit


def _open_postgresql(ending: ExitStack, url: str) -> Callable[[int], None]:
    connection = ending.enter_context(psycopg.connect(url.replace("postgresql+psycopg://", "postgresql://")))
    connection.execute(_TABLE.format(key="BIGSERIAL PRIMARY KEY"))
    connection.commit()

    def commit(rows: int) -> None:
        with connection.cursor() as cursor:
            cursor.executemany("INSERT INTO floor (body) VALUES (%s)", [(_ROW,)] * rows)
        connection.commit()

    return commit


class _Endpoint:
    """Is cast to."""

    def trigger_crash_dump(self, ctxt: dict[str, Any], action: dict[str, Any]) -> None:
        """Nothing to do."""


def _open_caster(ending: ExitStack, broker: PrivateRabbitMQ) -> Callable[[], None]:
    """As the dispatcher casts: mandatory, confirmed, to a queue of the same type, which nobody reads meanwhile."""
    conf = cfg.ConfigOpts()
    register_messaging_options(conf)
    conf([], project="crashcart-bench", default_config_files=[])
    conf.set_override("transport_url", broker.transport_url)
    transport = create_rpc_transport(conf)
    ending.callback(transport.cleanup)
    server = oslo_messaging.get_rpc_server(transport, oslo_messaging.Target(topic=RPC_TOPIC, server=_HOST), [_Endpoint()])
    server.start()  # makes the queue, which stays
    server.stop()
    server.wait()
    client = oslo_messaging.get_rpc_client(transport, oslo_messaging.Target(topic=RPC_TOPIC), retry=0)
    context = client.prepare(server=_HOST, retry=0, transport_options=oslo_messaging.TransportOptions(at_least_once=True))
    now = datetime.now(UTC)
    request = ActionRequest(
        id=f"req-{uuid.uuid4()}",
        kind=ActionKind.TRIGGER_CRASH_DUMP,
        server=str(uuid.uuid4()),
        server_generation=1,
        host=_HOST,
        project="demo",
        user="demo",
        sent_at=now,
        deadline=now + timedelta(seconds=30),
        journal_id=uuid.uuid4().hex,
    ).to_wire()
    return lambda: context.cast({}, "trigger_crash_dump", action=request)


def _open_publisher(ending: ExitStack, broker: PrivateRabbitMQ) -> Callable[[], None]:
    link = open_quiet_link(broker)
    ending.callback(link.close)
    channel = link.channel()
    queue: kombu.Queue = create_queue("bench.floor")
    queue(channel).declare()
    channel.confirm_select()
    properties = {"delivery_mode": 2}

    def publish() -> None:
        message = channel.prepare_message(_ROW, content_type="application/json", content_encoding="utf-8", properties=properties)
        channel.basic_publish_confirm(message, exchange="", routing_key=queue.name, mandatory=True)

    return publish
