"""A gateway and one host's agent, wired up without threads, broker or waiting, so that each does exactly what it must."""

import json
import uuid
from collections.abc import Sequence
from datetime import datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

from falcon import testing
from oslo_config import cfg

from api_gateway.agent_calls import AgentCalls
from api_gateway.cast_slots import ImmediateCasts
from api_gateway.config import load_config
from api_gateway.dispatcher import Dispatcher
from api_gateway.received import Received
from api_gateway.recorder import Recorder
from api_gateway.store import Store
from api_gateway.sweep import Sweep
from api_gateway.wsgi import create_app
from compute_agent.action_queue import ActionQueue
from compute_agent.contract.models import BlackBoxChunk, PowerState, Server
from compute_agent.contract.notifications import Notification, encode
from compute_agent.contract.rpcapi import ComputeAgentAPI
from compute_agent.contract.transport import oslo_messaging, register_messaging_options
from compute_agent.drivers.fake import NmiEffect
from compute_agent.endpoint import Endpoint
from compute_agent.inventory import Inventory
from compute_agent.reporter import Heartbeats, Reporter
from tests.databases import write_database
from tests.fakes import FakeClock
from tests.http.answering_agents import AnsweringAgents
from tests.http.application import AUTHORITY
from tests.simulation.intake import Incoming
from tests.unit.agent.observer_bench import HOST, Bench

STORE_FILE = "gateway.sqlite"
JOURNAL_FILE = "journal.sqlite"
INVENTORY_INTERVAL = 600.0


@cache
def _get_messaging_options() -> cfg.ConfigOpts:
    conf = cfg.ConfigOpts()
    conf(args=[], default_config_files=[])
    register_messaging_options(conf)
    return conf


class Wire:
    """Everything that was sent and not taken yet. Stands in for oslo.messaging's driver and for the publisher."""

    def __init__(self) -> None:
        self.conf = _get_messaging_options()
        self.casts: list[dict[str, Any]] = []
        self.events: list[Notification] = []
        self.heartbeats: list[Notification] = []

    def require_features(self, **features: Any) -> None:
        """All are there."""

    def send(self, target: Any, context: dict[str, Any], message: dict[str, Any], **options: Any) -> None:
        self.casts.append(json.loads(json.dumps(message | {"context": context})))

    def publish(self, rows: Sequence[Notification]) -> int:
        self.events += rows
        return len(rows)

    def publish_heartbeat(self, heartbeat: Notification) -> None:
        self.heartbeats.append(heartbeat)


def receive(notification: Notification) -> Received:
    """As the recorder gets it."""
    return Received(encode(notification), f"agent.{HOST}")


class WholeWay:
    """One host with so many servers, the gateway that knows them, and what is between."""

    def __init__(self, directory: Path, servers: int) -> None:
        self.wire = Wire()
        self.host = Bench(directory / JOURNAL_FILE)
        self.clock: FakeClock = self.host.clock
        self.servers = [self.host.make_server(effect=NmiEffect.PANIC) for _ in range(servers)]
        self.queue = ActionQueue()
        self.reporter = Reporter(self.host.journal, self.wire, self.clock)
        self.inventory = Inventory(self.host.journal, self.host.hypervisor.driver, self.clock, inventory_interval=INVENTORY_INTERVAL)
        self.beats = Heartbeats(
            self.inventory, self.wire, on_missed=self.host.observer.enqueue_comparison, on_all_told=self.reporter.repeat_last
        )
        endpoint = Endpoint(
            self.host.journal,
            self.queue,
            self.clock,
            HOST,
            get_diagnostics=_refuse,
            get_black_box=lambda *_: BlackBoxChunk(total=None),
            on_resend=self.reporter.resend,
            on_report_inventory=self.inventory.request_full,
            on_ended=self.host.observer.action_ended,
        )
        self._rpc = oslo_messaging.RPCDispatcher([endpoint], serializer=None)
        self.store = Store(f"sqlite:///{write_database(directory / STORE_FILE)}")
        caster = ComputeAgentAPI(oslo_messaging.transport.RPCTransport(self.wire))
        parts = (self.store, caster, self.clock)
        self.dispatcher = Dispatcher(*parts, owner="one", slots=ImmediateCasts())
        self.recorder = Recorder(*parts, slots=ImmediateCasts())
        self.sweep = Sweep(*parts, slots=ImmediateCasts())
        agents = AnsweringAgents(self.clock)
        calls = AgentCalls(lambda: agents, threads=1, limit=5.0)
        app = create_app(load_config([], config_files=[]), store=self.store, clock=self.clock, agent_calls=calls)
        self.client = testing.TestClient(app, headers={"Host": AUTHORITY, "OpenStack-API-Version": "compute 2.96"})
        self.report()
        self.record()
        self.beat()
        self.record_heartbeats()

    # On the host

    def deliver(self) -> list[int]:
        """Have the casts that are on the wire taken in and worked off; their sizes in bytes."""
        casts, self.wire.casts[:] = self.wire.casts[:], []
        for cast in casts:
            self._rpc.dispatch(Incoming(cast))
        while (action_id := self.queue.take(0)) is not None:
            self.host.actions.run(action_id)
            self.queue.done(action_id)
        self.host.drain()
        return [len(json.dumps(cast)) for cast in casts]

    def report(self) -> None:
        while self.reporter.step():
            pass

    def beat(self) -> None:
        self.beats.step()

    # At the gateway

    def record(self) -> list[Notification]:
        """Have all events that are on the wire recorded as one batch."""
        events, self.wire.events[:] = self.wire.events[:], []
        self.recorder.record([receive(event) for event in events])
        return events

    def record_heartbeats(self) -> list[Notification]:
        heartbeats, self.wire.heartbeats[:] = self.wire.heartbeats[:], []
        self.recorder.record_heartbeats([receive(heartbeat) for heartbeat in heartbeats])
        return heartbeats

    def post_crash_dump(self, server: str) -> str:
        answer = self.client.simulate_post(f"/v2.1/servers/{server}/action", json={"trigger_crash_dump": None})
        assert answer.status_code == 202, answer.text
        return str(answer.headers["x-compute-request-id"])

    def close(self) -> None:
        self.host.kill()
        self.store.dispose()


def _refuse(server: str, history: bool) -> Any:
    raise AssertionError("nobody asks the agent for diagnostics here")


def build_servers(count: int, now: datetime) -> dict[str, Server]:
    """Servers of another host."""
    made = (
        Server(
            id=str(uuid.uuid5(uuid.NAMESPACE_URL, f"counted/{number}")),
            name=f"web-{number:04}",
            project="demo",
            user="owner",
            power_state=PowerState.RUNNING,
            state_at=now,
            generation=1,
            instance_name=f"instance-{number:08x}",
            vcpus=2,
            memory_mib=2048,
            created_at=now - timedelta(seconds=number),
        )
        for number in range(count)
    )
    return {server.id: server for server in made}
