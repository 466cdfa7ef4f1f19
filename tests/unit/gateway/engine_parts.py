"""What tests of the engine's steps share: a caster that notes, an agent's voice as bytes on the wire, rows to begin with."""

import uuid
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

from api_gateway.received import Received
from api_gateway.store import Store, actions, heartbeats
from api_gateway.store.actions import ActionRow
from compute_agent.contract import versions
from compute_agent.contract.clock import Clock
from compute_agent.contract.events import EVENT_TYPES
from compute_agent.contract.models import (
    ActionRequest,
    Capabilities,
    EventRange,
    Heartbeat,
    InventoryReport,
    PowerState,
    Server,
    hash_inventory,
)
from compute_agent.contract.notifications import HEARTBEAT_TYPE, Notification, encode, format_timestamp
from compute_agent.contract.watchdogs import Watchdog, WatchdogModel
from tests.databases import write_database

HOST = "host-1"
JOURNAL = "journal-1"
SERVER = "11111111-2222-4333-8444-555555555555"
KIND = "trigger_crash_dump"
WATCHDOG_MODELS = (
    WatchdogModel(
        model="i6300esb",
        expiry_actions=("none", "reset", "poweroff", "shutdown", "pause", "dump", "inject-nmi"),
        managed=True,
        hot_plug=True,
        note="A PCI card of x86 machines.",
    ),
    WatchdogModel(model="ib700", expiry_actions=("none", "reset"), managed=True, hot_plug=False, note="An ISA card of pc machines."),
    WatchdogModel(model="diag288", expiry_actions=(), managed=False, hot_plug=False, note="It belongs to s390x machines."),
)
"""What the platform of every agent here knows."""


class NotingCaster:
    """Notes what it is asked to cast, and raises ``error`` if there is one. Implements ActionCaster."""

    def __init__(self) -> None:
        self.requests: list[ActionRequest] = []
        self.cancelled: list[ActionRequest] = []
        self.resends: list[tuple[str, EventRange]] = []
        self.inventories: list[str] = []
        self.error: Exception | None = None
        self.during_cast: Callable[[ActionRequest], None] = lambda request: None

    def cast_action(self, request: ActionRequest) -> None:
        self.requests.append(request)
        self.during_cast(request)
        if self.error is not None:
            raise self.error

    def cancel_action(self, request: ActionRequest) -> None:
        self.cancelled.append(request)
        self.during_cast(request)
        if self.error is not None:
            raise self.error

    def resend_events(self, host: str, events: EventRange) -> None:
        self.resends.append((host, events))
        if self.error is not None:
            raise self.error

    def report_inventory(self, host: str) -> None:
        self.inventories.append(host)
        if self.error is not None:
            raise self.error


class HeldCasts:
    """Slots whose jobs begin when the test says so: what a broker in alarm makes of a cast."""

    def __init__(self, size: int = 4) -> None:
        self.size = size
        self.jobs: list[Callable[[], None]] = []

    def count_free(self) -> int:
        return self.size - len(self.jobs)

    def start(self, job: Callable[[], None]) -> None:
        self.jobs.append(job)

    def finish(self) -> None:
        """Run what is held, oldest first."""
        while self.jobs:
            self.jobs[0]()
            del self.jobs[0]


class AgentVoice:
    """What one agent would publish, as the recorder receives it: from the account that its host has at the broker."""

    def __init__(self, clock: Clock, host: str = HOST, journal: str = JOURNAL) -> None:
        self._clock = clock
        self.host = host
        self.journal = journal
        self.incarnation = 1
        self.number = 0
        self.sequence = 0
        self.inject_nmi = True
        self.diagnostics = False
        self.host_dump = False
        self.watchdog = False
        self.resume = False
        self.watchdog_timer = False

    def tell(self, event_type: str, *, server: str | None = SERVER, sequence: int | None = None, **body: Any) -> Received:
        """One event; without ``sequence`` the next one of the journal."""
        if sequence is None:
            self.sequence += 1
            sequence = self.sequence
        payload = {
            "version": versions.EVENT_VERSION,
            "server": server,
            "host": self.host,
            "epoch": self.journal,
            "sequence": sequence,
            "occurred_at": self._clock.now().isoformat(),
            **body,
        }
        severity = EVENT_TYPES[event_type].severity if event_type in EVENT_TYPES else "info"
        return self._send(
            Notification(
                message_id=f"{self.journal}-{sequence}",
                event_type=event_type,
                publisher_id=f"compute_agent.{self.host}",
                severity=severity,
                timestamp=format_timestamp(self._clock.now()),
                payload=payload,
            )
        )

    def tell_received(self, action: ActionRow) -> Received:
        return self.tell(
            "action.received",
            action_id=action.id,
            kind=action.kind,
            server=action.server,
            project=action.project,
            user=action.user,
            deadline=action.deadline.isoformat(),
        )

    def tell_ended(self, action: ActionRow, ending: str = "succeeded", code: str = "signal_delivered") -> Received:
        return self.tell(
            "action.ended",
            action_id=action.id,
            kind=action.kind,
            server=action.server,
            ending=ending,
            code=code,
            reason="As the driver said.",
            decided_by="agent",
        )

    def build_heartbeat(self, *servers: Server, stopping: bool = False, full: bool = True) -> Heartbeat:
        self.number += 1
        return Heartbeat(
            host=self.host,
            release=versions.RELEASE,
            rpc_version=versions.RPC_API_VERSION,
            event_version=versions.EVENT_VERSION,
            journal_id=self.journal,
            incarnation=self.incarnation,
            number=self.number,
            sent_at=self._clock.now(),
            interval=30.0,
            stopping=stopping,
            driver_bound=20.0,
            capabilities=Capabilities(
                driver="fake",
                inject_nmi=self.inject_nmi,
                diagnostics=self.diagnostics,
                watchdog=self.watchdog,
                events=True,
                host_dump=self.host_dump,
                resume=self.resume,
                watchdog_timer=self.watchdog_timer,
                watchdog_models=WATCHDOG_MODELS if self.watchdog else (),
            ),
            inventory=InventoryReport(
                readable=True,
                full=full,
                revision=self.number,
                base_revision=self.number - 1,
                hash=hash_inventory({server.id: server.generation for server in servers}),
                servers=servers,
            ),
        )

    def beat(self, *servers: Server, stopping: bool = False, full: bool = True) -> Received:
        heartbeat = self.build_heartbeat(*servers, stopping=stopping, full=full)
        return self._send(
            Notification(
                message_id=uuid.uuid4().hex,
                event_type=HEARTBEAT_TYPE,
                publisher_id=f"compute_agent.{self.host}",
                severity="info",
                timestamp=format_timestamp(self._clock.now()),
                payload=heartbeat.to_wire(),
            )
        )

    def _send(self, notification: Notification) -> Received:
        return Received(encode(notification), f"agent.{self.host}")


def build_server(clock: Clock, server: str = SERVER, *, watchdog: Watchdog | None = None) -> Server:
    return Server(
        id=server,
        name="web",
        project="demo",
        power_state=PowerState.RUNNING,
        state_at=clock.now(),
        generation=1,
        instance_name="instance-1",
        created_at=clock.now(),
        watchdog=watchdog,
    )


def add_agent(store: Store, voice: AgentVoice, clock: Clock) -> None:
    with store.write() as c:
        heartbeats.apply_heartbeats(c, [voice.build_heartbeat()], clock.now())


def add_action(
    store: Store,
    clock: Clock,
    *,
    host: str = HOST,
    server: str = SERVER,
    deadline: float = 30.0,
    kind: str = KIND,
    arguments: Mapping[str, Any] | None = None,
) -> ActionRow:
    """An accepted action, a crash dump unless told otherwise, with its deadline so many seconds from now."""
    row = ActionRow(
        id=f"req-{uuid.uuid4()}",
        kind=kind,
        server=server,
        server_generation=1,
        host=host,
        project="demo",
        user="admin",
        state="accepted",
        accepted_at=clock.now(),
        deadline=clock.now() + timedelta(seconds=deadline),
        updated_at=clock.now(),
        arguments=arguments or {},
    )
    with store.write() as c:
        actions.insert_action(c, row)
    return row


def get_action(store: Store, row: ActionRow) -> ActionRow:
    with store.read() as c:
        return actions.get_action(c, row.id)


def open_store(path: Path) -> Store:
    return Store(f"sqlite:///{write_database(path)}", busy_timeout=0.2)
