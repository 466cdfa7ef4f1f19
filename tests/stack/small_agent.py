"""An agent without a hypervisor: real RPC in, real notifications out, and an ending for every action."""

import threading
from typing import Any

from oslo_config import cfg

from api_gateway.received import Received
from compute_agent.contract import versions
from compute_agent.contract.clock import SystemClock
from compute_agent.contract.models import Server
from compute_agent.contract.notifications import Notification, decode
from compute_agent.contract.publisher import Publisher, PublishFailed
from compute_agent.contract.transport import RPC_TOPIC, create_rpc_transport, oslo_messaging, register_messaging_options
from devstack.rabbitmq import PrivateRabbitMQ
from devstack.services import PATIENCE
from tests.stack.broker_events import PatientAddress
from tests.unit.gateway.engine_parts import AgentVoice


class SmallAgent:
    """Its endpoint notes every cast; ``answer`` decides what it publishes for an action."""

    target = oslo_messaging.Target(version=versions.RPC_API_VERSION)

    def __init__(self, broker: PrivateRabbitMQ, host: str, journal: str) -> None:
        self.voice = AgentVoice(SystemClock(), host, journal)
        self.actions: list[dict[str, Any]] = []
        self.resends: list[dict[str, Any]] = []
        self.changed = threading.Condition()
        self.mute = False
        self._published: dict[int, Received] = {}
        self._lock = threading.Lock()
        self._publisher = Publisher(PatientAddress(broker.transport_url, name=host))
        conf = cfg.ConfigOpts()
        register_messaging_options(conf)
        conf([], default_config_files=[])
        conf.set_override("transport_url", broker.transport_url)
        self._transport = create_rpc_transport(conf)
        self._server = oslo_messaging.get_rpc_server(
            self._transport, oslo_messaging.Target(topic=RPC_TOPIC, server=host, version=versions.RPC_API_VERSION), [self]
        )

    def start(self) -> None:
        self._server.start()

    def stop(self) -> None:
        self._server.stop()
        self._server.wait()
        self._transport.cleanup()
        self._publisher.abort()
        self._publisher.close()

    def trigger_crash_dump(self, ctxt: Any, action: dict[str, Any]) -> None:
        with self.changed:
            known = any(earlier["id"] == action["id"] for earlier in self.actions)
            self.actions.append(action)
            self.changed.notify_all()
        if not known and not self.mute:
            body = {"action_id": action["id"], "kind": action["kind"], "server": action["server"]}
            self.publish(
                self.voice.tell("action.received", **body, project="demo", user="admin", deadline=action["deadline"]),
                self.voice.tell("action.ended", **body, ending="succeeded", code="signal_delivered", reason="As said.", decided_by="agent"),
            )

    def resend_events(self, ctxt: Any, events: dict[str, Any]) -> None:
        with self.changed:
            self.resends.append(events)
            self.changed.notify_all()
        self.publish(*(self._published[sequence] for sequence in range(events["first"], events["last"] + 1)))

    def report_inventory(self, ctxt: Any) -> None: ...

    def remember(self, *told: Received) -> None:
        """Keep events in the outbox as if they had been sent."""
        for event in told:
            self._published[decode(event.body).payload["sequence"]] = event

    def publish(self, *told: Received) -> None:
        """Until the broker has them."""
        self.remember(*told)
        rows: list[Notification] = [decode(event.body) for event in told]
        with self._lock:
            while rows:
                try:
                    self._publisher.publish(rows)
                except PublishFailed as failure:
                    rows = rows[failure.confirmed :]
                else:
                    return

    def beat(self, *servers: Server) -> None:
        with self._lock:
            self._publisher.publish_heartbeat(decode(self.voice.beat(*servers).body))

    def wait_for_actions(self, count: int, timeout: float = 30) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.actions) >= count, timeout * PATIENCE), (
                f"{len(self.actions)} of {count} casts came"
            )
