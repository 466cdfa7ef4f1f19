"""A fleet in every state that a request can meet, put into a store through the functions that the recorder uses.

The ids are readable: a case that names ``PAUSED`` means the paused server.
"""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from hashlib import sha256

from api_gateway.store import Store, actions, events, heartbeats, matching, reports, servers, subscriptions
from api_gateway.store.actions import ActionRow, ActionState
from api_gateway.store.subscriptions import SubscriptionRow
from compute_agent.contract import versions
from compute_agent.contract.clock import Clock
from compute_agent.contract.models import (
    Capabilities,
    Departure,
    Heartbeat,
    InventoryReport,
    PowerState,
    RemovedServer,
    Server,
    hash_inventory,
)
from compute_agent.contract.notifications import Notification
from compute_agent.contract.watchdogs import Watchdog, WatchdogDevice
from tests.unit.gateway.engine_parts import WATCHDOG_MODELS

PROJECT = "demo"
OTHER_PROJECT = "other"
HOST = "compute-1"
SECOND_HOST = "compute-2"
OLD_HOST = "compute-old"
DOWN_HOST = "compute-down"

RUNNING = "00000000-0000-4000-8000-000000000001"
PAUSED = "00000000-0000-4000-8000-000000000002"
SHUTOFF = "00000000-0000-4000-8000-000000000003"
SUSPENDED = "00000000-0000-4000-8000-000000000004"
CRASHED = "00000000-0000-4000-8000-000000000005"
OTHERS = "00000000-0000-4000-8000-000000000006"
CONFLICT = "00000000-0000-4000-8000-000000000007"
MISSING = "00000000-0000-4000-8000-000000000008"
DELETED = "00000000-0000-4000-8000-000000000009"
OLD_AGENTS = "00000000-0000-4000-8000-00000000000a"
DOWN_AGENTS = "00000000-0000-4000-8000-00000000000b"
DUMPED = "00000000-0000-4000-8000-00000000000c"
UNMEASURED = "00000000-0000-4000-8000-00000000000d"
UNHEARD_OF = "00000000-0000-4000-8000-0000000000ff"

PANICKED_ACTION = "req-00000000-0000-4000-8000-000000000001"
FAILED_ACTION = "req-00000000-0000-4000-8000-000000000002"
SILENT_ACTION = "req-00000000-0000-4000-8000-000000000003"
PENDING_ACTION = "req-00000000-0000-4000-8000-000000000004"
DELETED_ACTION = "req-00000000-0000-4000-8000-000000000005"
RECEIVED_ACTION = "req-00000000-0000-4000-8000-000000000006"
STARTED_ACTION = "req-00000000-0000-4000-8000-000000000007"
UNASKED_ACTION = "req-00000000-0000-4000-8000-000000000008"
OLD_AGENTS_ACTION = "req-00000000-0000-4000-8000-000000000009"
OTHERS_ACTION = "req-00000000-0000-4000-8000-00000000000a"
NO_ACTION = "req-00000000-0000-4000-8000-0000000000ff"

BLACK_BOX_EVENT = "3d5f7a9b1c2e4f608172a3b4c5d6e7f8"
"""The message_id of an event that tells of a black box of DUMPED."""
BLACK_BOX_PARTS = {"diagnostics.json": b'{"state": "crashed"}', "console.log": b"Kernel panic - not syncing\n"}

IDS = {
    name: value
    for name, value in globals().items()
    if name.isupper() and isinstance(value, str) and (value.startswith(("req-", "00000000")))
}
"""Every id above by its name."""

FIRED_EVENT = "fired-of-dumped"
OTHERS_EVENT = "started-of-others"
AGENT_EVENT = "agent-up"
DIAGNOSTICS_EVENT = "diagnostics-of-dumped"
UNKNOWN_EVENT = "levitated-of-dumped"
CONFLICT_EVENT = "claimed-twice"
"""The message_ids of events, at the positions from 2 in this order; the black box's has 1."""

EVENTS = {name: value for name, value in globals().items() if name.endswith("_EVENT")}

SUBSCRIPTION = "5c000000-0000-4000-8000-000000000001"
"""Of PROJECT, to what happens to its servers."""

_STATES = {
    RUNNING: PowerState.RUNNING,
    PAUSED: PowerState.PAUSED,
    SHUTOFF: PowerState.SHUTDOWN,
    SUSPENDED: PowerState.SUSPENDED,
    CRASHED: PowerState.CRASHED,
    OTHERS: PowerState.RUNNING,
    CONFLICT: PowerState.RUNNING,
    MISSING: PowerState.RUNNING,
    DELETED: PowerState.RUNNING,
    DUMPED: PowerState.RUNNING,
    UNMEASURED: PowerState.RUNNING,
}
_OF_THE_OTHER_PROJECT = frozenset({OTHERS, UNMEASURED})


MANAGED = tuple(model.model for model in WATCHDOG_MODELS if model.managed)
_RESETTING = WatchdogDevice(model="i6300esb", expiry_action="reset")
_WATCHDOGS = {
    RUNNING: Watchdog(configured=_RESETTING, live=_RESETTING, models=MANAGED),
    SHUTOFF: Watchdog(configured=WatchdogDevice(model="ib700", expiry_action="none"), models=MANAGED),
    PAUSED: Watchdog(models=("i6300esb",)),
    CRASHED: Watchdog(live=_RESETTING, pending_restart=True, models=MANAGED),
    SUSPENDED: Watchdog(others=(WatchdogDevice(model="diag288", expiry_action="reset"),)),
}
"""What the servers of the first host have, others on it none; of those on other hosts nothing is told."""


@dataclass
class Agent:
    """What one agent's heartbeats say."""

    host: str
    rpc_version: str = versions.RPC_API_VERSION
    diagnostics: bool = True
    watchdog: bool = True
    number: int = 0
    servers: dict[str, Server] = field(default_factory=dict)

    def beat(self, store: Store, now: datetime, *, removed: tuple[RemovedServer, ...] = (), stopping: bool = False) -> None:
        """Have a heartbeat applied: the full inventory, or with ``removed`` only what left it."""
        self.number += 1
        for server in removed:
            del self.servers[server.id]
        heartbeat = Heartbeat(
            host=self.host,
            release=versions.RELEASE,
            rpc_version=self.rpc_version,
            event_version=versions.EVENT_VERSION,
            journal_id=f"journal-of-{self.host}",
            incarnation=1,
            number=self.number,
            sent_at=now,
            interval=30.0,
            stopping=stopping,
            driver_bound=20.0,
            capabilities=Capabilities(
                driver="fake",
                inject_nmi=True,
                diagnostics=self.diagnostics,
                watchdog=self.watchdog,
                events=True,
                resume=True,
                watchdog_timer=True,
                watchdog_models=WATCHDOG_MODELS if self.watchdog else (),
            ),
            inventory=InventoryReport(
                readable=True,
                full=not removed,
                revision=self.number,
                base_revision=self.number - 1,
                hash=hash_inventory({server.id: server.generation for server in self.servers.values()}),
                servers=() if removed else tuple(self.servers.values()),
                removed=removed,
            ),
        )
        with store.write() as c:
            heartbeats.apply_heartbeats(c, [heartbeat], now)


def build_server(server: str, power_state: PowerState, now: datetime, *, project: str = PROJECT, name: str | None = None) -> Server:
    """Created so many seconds before ``now`` as its id says: the one with the lowest id is the newest."""
    return Server(
        id=server,
        name=name or next(word.lower() for word, value in IDS.items() if value == server),
        project=project,
        user="owner",
        power_state=power_state,
        state_at=now - timedelta(hours=1),
        generation=1,
        instance_name=f"instance-{server[-2:]}",
        vcpus=2,
        memory_mib=512,
        created_at=now - timedelta(days=1, seconds=int(server[-2:], 16)),
    )


def add_fleet(store: Store, clock: Clock) -> None:
    """Servers in every state on four hosts, and actions in every state on one of them."""
    now = clock.now()
    first, second, old = Agent(HOST), Agent(SECOND_HOST), Agent(OLD_HOST, rpc_version="0.9", watchdog=False)
    down = Agent(DOWN_HOST, watchdog=False)
    for server, power_state in _STATES.items():
        project = OTHER_PROJECT if server in _OF_THE_OTHER_PROJECT else PROJECT
        watchdog = _WATCHDOGS.get(server, Watchdog(models=MANAGED))
        first.servers[server] = build_server(server, power_state, now, project=project).model_copy(update={"watchdog": watchdog})
    first.servers[UNMEASURED] = first.servers[UNMEASURED].model_copy(update={"vcpus": None, "memory_mib": None})
    second.servers[CONFLICT] = build_server(CONFLICT, PowerState.RUNNING, now)
    old.servers[OLD_AGENTS] = build_server(OLD_AGENTS, PowerState.RUNNING, now)
    down.servers[DOWN_AGENTS] = build_server(DOWN_AGENTS, PowerState.RUNNING, now)
    for agent in (first, second, old, down):
        agent.beat(store, now)
    _add_actions(store, now)
    add_subscription(store, now)
    add_black_box(store, now)
    _add_events(store, now)
    with store.write() as c:
        matching.match_events(c, now=now)
    down.beat(store, now, stopping=True)
    long_ago = now - timedelta(hours=1)
    first.beat(store, long_ago, removed=(RemovedServer(id=DELETED, departure=Departure.UNDEFINED),))
    with store.write() as c:
        servers.expire_missing(c, now=now, missing_grace=timedelta(minutes=10))
    first.beat(store, now, removed=(RemovedServer(id=MISSING, departure=Departure.GONE),))


def get_power_state(server: str) -> PowerState:
    """As the fleet begins with it; RUNNING for those on the other hosts."""
    return _STATES.get(server, PowerState.RUNNING)


def add_black_box(
    store: Store, now: datetime, *, message_id: str = BLACK_BOX_EVENT, server: str = DUMPED, host: str = HOST, **payload: object
) -> None:
    """Record that a host kept BLACK_BOX_PARTS of a server."""
    parts = [{"name": name, "bytes": len(text), "sha256": sha256(text).hexdigest()} for name, text in BLACK_BOX_PARTS.items()]
    body = {
        "version": versions.EVENT_VERSION,
        "server": server,
        "host": host,
        "epoch": f"journal-of-{host}",
        "sequence": 1,
        "occurred_at": now.isoformat(),
        "black_box_id": "5c0ffee1a2b3c4d5e6f708192a3b4c5d",
        "cause": "trigger_crash_dump",
        "action_id": PANICKED_ACTION,
        "parts": parts,
        **payload,
    }
    notification = Notification(message_id, "server.black_box", f"compute_agent.{host}", "info", "2026-01-01 00:00:00.000000", body)
    with store.write() as c:
        events.record_events(c, [notification], now=now)


def _add_events(store: Store, now: datetime) -> None:
    """What hosts told besides: of DUMPED, of a server of the other project, of a host, and of two hosts at once."""
    told: tuple[tuple[str, str, str, str | None, dict[str, object]], ...] = (
        (FIRED_EVENT, "server.watchdog.fired", "warn", DUMPED, {"model": "i6300esb", "expiry_action": "pause", "driver_word": "pause"}),
        (OTHERS_EVENT, "server.started", "info", OTHERS, {"power_state": "running", "reason": "booted"}),
        (AGENT_EVENT, "agent.up", "info", None, {"journal_id": f"journal-of-{HOST}", "incarnation": 1, "reason": "started"}),
        (DIAGNOSTICS_EVENT, "server.diagnostics", "info", DUMPED, {"action_id": PANICKED_ACTION, "report": {"server": DUMPED}}),
        (UNKNOWN_EVENT, "server.levitated", "info", DUMPED, {"above": HOST}),
        (CONFLICT_EVENT, "server.claimed_twice", "error", CONFLICT, {"hosts": [HOST, SECOND_HOST]}),
    )
    notifications = []
    for sequence, (message_id, event_type, severity, server, body) in enumerate(told, 2):
        payload = {
            "version": versions.EVENT_VERSION,
            "server": server,
            "host": HOST,
            "epoch": f"journal-of-{HOST}",
            "sequence": sequence,
            "occurred_at": (now + timedelta(seconds=sequence)).isoformat(),
            **body,
        }
        notifications.append(Notification(message_id, event_type, f"compute_agent.{HOST}", severity, "2026-01-01 00:00:00.000000", payload))
    with store.write() as c:
        events.record_events(c, notifications, now=now)


def add_subscription(store: Store, now: datetime) -> None:
    """Somebody of the fleet's project is told of what happens from now on."""
    row = SubscriptionRow(
        id=SUBSCRIPTION,
        project=PROJECT,
        user="owner",
        types=("server.*",),
        severity="info",
        server=None,
        target_kind="webhook",
        target="https://hooks.example/fleet",
        created_at=now,
        secret="whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=",
    )
    with store.write() as c:
        subscriptions.insert_subscription(c, row, most=1)


def build_action(action_id: str, server: str, accepted_at: datetime, *, project: str = PROJECT, host: str = HOST) -> ActionRow:
    """An accepted crash dump with 30 s to go from ``accepted_at``."""
    return ActionRow(
        id=action_id,
        kind="trigger_crash_dump",
        server=server,
        server_generation=1,
        host=host,
        project=project,
        user="owner",
        state=ActionState.ACCEPTED,
        accepted_at=accepted_at,
        deadline=accepted_at + timedelta(seconds=30),
        updated_at=accepted_at,
    )


def add_action(store: Store, action_id: str, server: str, accepted_at: datetime, *, project: str = PROJECT, host: str = HOST) -> ActionRow:
    """The same, in the store."""
    row = build_action(action_id, server, accepted_at, project=project, host=host)
    with store.write() as c:
        actions.insert_action(c, row)
    return row


def end_action(
    store: Store,
    row: ActionRow,
    *,
    ending: str = "succeeded",
    code: str = "signal_delivered",
    observation: str | None = None,
    final: bool = True,
) -> None:
    """The agent reports the action through to its end, a millisecond for each step."""
    at = row.accepted_at
    steps = [at + timedelta(milliseconds=number) for number in range(1, 6)]
    epoch = f"journal-of-{row.host}"
    with store.write() as c, reports.reported_actions(c) as reported:
        reports.apply_received(
            reported, row.id, kind=row.kind, server=row.server, host=row.host, epoch=epoch,
            project=row.project, user=row.user, deadline=row.deadline, at=steps[0], now=steps[0],
        )  # fmt: skip
        reports.apply_started(reported, row.id, host=row.host, at=steps[1], now=steps[1])
        reports.apply_ended(
            reported, row.id, host=row.host, epoch=epoch, ending=ending, code=code, reason="As the driver said.",
            at=steps[3], now=steps[3], started_at=steps[1], signalled_at=steps[2] if ending == "succeeded" else None,
        )  # fmt: skip
        if observation is not None:
            reports.apply_observed(
                reported, row.id, host=row.host, epoch=epoch, observation=observation, final=final,
                observed_at=steps[4], text="What it means.", now=steps[4],
            )  # fmt: skip


def _add_actions(store: Store, now: datetime) -> None:
    end_action(store, add_action(store, PANICKED_ACTION, DUMPED, now - timedelta(hours=4)), observation="guest_panicked")
    failed = add_action(store, FAILED_ACTION, DUMPED, now - timedelta(hours=3))
    end_action(store, failed, ending="failed", code="server_not_running")
    silent = add_action(store, SILENT_ACTION, DUMPED, now - timedelta(hours=2))
    end_action(store, silent, observation="nothing_seen")
    add_action(store, PENDING_ACTION, DUMPED, now - timedelta(seconds=1))
    end_action(store, add_action(store, DELETED_ACTION, DELETED, now - timedelta(hours=5)), observation="guest_panicked")


def add_open_actions(store: Store, clock: Clock) -> None:
    """Not in each fleet, because they take a host's room: what agents have and have begun, one that the gateway was not asked for, one
    that was cast to an older release, and one of the other project."""
    since = clock.now() - timedelta(seconds=1)
    for action_id in (RECEIVED_ACTION, STARTED_ACTION):
        _report(store, _cast(store, add_action(store, action_id, SUSPENDED, since)), started=action_id == STARTED_ACTION)
    _report(store, build_action(UNASKED_ACTION, SUSPENDED, since), started=False)
    _cast(store, add_action(store, OLD_AGENTS_ACTION, OLD_AGENTS, since, host=OLD_HOST))
    add_action(store, OTHERS_ACTION, OTHERS, since, project=OTHER_PROJECT)


def _cast(store: Store, row: ActionRow) -> ActionRow:
    """It was perhaps delivered."""
    with store.write() as c:
        actions.change_action(c, row.id, {"cast_count": 1, "last_cast_at": row.accepted_at, "journal_id": f"journal-of-{row.host}"})
    return row


def _report(store: Store, row: ActionRow, *, started: bool) -> None:
    """Its agent has it, or has begun it."""
    at = row.accepted_at + timedelta(milliseconds=1)
    with store.write() as c, reports.reported_actions(c) as reported:
        reports.apply_received(
            reported, row.id, kind=row.kind, server=row.server, host=row.host, epoch=f"journal-of-{row.host}",
            project=row.project, user=row.user, deadline=row.deadline, at=at, now=at,
        )  # fmt: skip
        if started:
            reports.apply_started(reported, row.id, host=row.host, at=at, now=at)
