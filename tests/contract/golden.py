"""Golden samples: one of every RPC message and every event type, as this release puts them on the wire.

The samples of a release stay in the tree after it: a later release must still read them. ``regenerate.py`` writes them, the tests
compare them. Everything in them is fixed, so a difference is always a change of the contract.
"""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from compute_agent.contract import events, notifications, topics, versions
from compute_agent.contract.diagnostics import (
    CpuDetails,
    Diagnostics,
    DiagnosticsReply,
    DiagnosticsReport,
    DiskDetails,
    Hardware,
    Health,
    LogEntry,
    MemoryDetails,
    NicDetails,
    Sensor,
    SensorKind,
)
from compute_agent.contract.errors import CODES, Code, Ending
from compute_agent.contract.models import (
    ActionKind,
    ActionRequest,
    BlackBoxChunk,
    Capabilities,
    DecidedBy,
    Departure,
    EventRange,
    Flavor,
    Heartbeat,
    InventoryReport,
    Observation,
    PingReply,
    PowerState,
    RemovedServer,
    Server,
    hash_inventory,
)
from compute_agent.contract.signing import CastSigner
from compute_agent.contract.watchdogs import ExpiryAction, Watchdog, WatchdogDevice, WatchdogModel
from tests.contract import interface
from tests.contract.recorded_rpc import Verbs, record_rpc
from tests.fakes import FakeClock

SAMPLES = Path(__file__).parent / "samples"

ACTION_ID = "req-0b8f1e3a-5a6d-4c1e-9d2b-3f4a5b6c7d8e"
SERVER_ID = "7f1c2d3e-4b5a-4697-8876-655443322110"
LEFT_SERVER_ID = "9a8b7c6d-5e4f-4a3b-8c2d-1e0f9a8b7c6d"
JOURNAL_ID = "6e2f0c1d4b3a49588776655443322110"
BLACK_BOX_ID = "5c0ffee1a2b3c4d5e6f708192a3b4c5d"
HOST = "host-1.example"
ISSUER = "gateway"
SIGNING_KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
MOMENT = datetime(2026, 3, 1, 12, 30, 0, 250000, tzinfo=UTC)
LATER = datetime(2026, 3, 1, 12, 30, 30, 250000, tzinfo=UTC)

DEVICE = WatchdogDevice(model="i6300esb", expiry_action=ExpiryAction.INJECT_NMI)
WATCHDOG = Watchdog(
    configured=DEVICE,
    live=WatchdogDevice(model="ib700", expiry_action=ExpiryAction.RESET),
    pending_restart=True,
    others=(WatchdogDevice(model="itco", expiry_action=ExpiryAction.RESET),),
    models=("i6300esb", "ib700"),
)
REQUEST = ActionRequest(
    id=ACTION_ID,
    kind=ActionKind.TRIGGER_CRASH_DUMP,
    server=SERVER_ID,
    server_generation=2,
    host=HOST,
    project="demo",
    user="operator",
    sent_at=MOMENT,
    deadline=LATER,
    journal_id=JOURNAL_ID,
    force=True,
    global_request_id="req-1c9e2f4b-6b7e-4d2f-8e3c-405b6c7d8e9f",
    watchdog=DEVICE,
    replace=False,
)
EVENT_RANGE = EventRange(epoch=JOURNAL_ID, first=17, last=23)
PING_REPLY = PingReply(host=HOST, release=versions.RELEASE, rpc_version=versions.RPC_API_VERSION, journal_id=JOURNAL_ID, incarnation=3)
SERVER = Server(
    id=SERVER_ID,
    name="web-1",
    project="demo",
    user="operator",
    power_state=PowerState.RUNNING,
    state_reason="booted",
    state_at=MOMENT,
    generation=2,
    instance_name="instance-00000001",
    vcpus=2,
    memory_mib=512,
    created_at=MOMENT,
    started_at=MOMENT,
    description="the shop's front",
    flavor=Flavor(name="m1.small", vcpus=2, ram_mib=512, disk_gib=20, ephemeral_gib=10, swap_mib=256),
    tags=("production", "shop"),
    foreign_owner="nova",
    watchdog=WATCHDOG,
)
HEARTBEAT = Heartbeat(
    host=HOST,
    release=versions.RELEASE,
    rpc_version=versions.RPC_API_VERSION,
    event_version=versions.EVENT_VERSION,
    journal_id=JOURNAL_ID,
    incarnation=3,
    number=41,
    sent_at=MOMENT,
    interval=30.0,
    stopping=False,
    driver_bound=20.0,
    capabilities=Capabilities(
        driver="libvirt",
        inject_nmi=True,
        diagnostics=True,
        watchdog=True,
        events=True,
        host_dump=True,
        resume=True,
        watchdog_timer=True,
        watchdog_models=(
            WatchdogModel(
                model="i6300esb", expiry_actions=tuple(ExpiryAction), managed=True, hot_plug=True, note="Any machine with a PCI bus."
            ),
        ),
    ),
    inventory=InventoryReport(
        readable=True,
        full=False,
        revision=8,
        base_revision=7,
        hash=hash_inventory({SERVER_ID: 2}),
        servers=(SERVER,),
        removed=(RemovedServer(id=LEFT_SERVER_ID, departure=Departure.MIGRATED),),
    ),
)
DIAGNOSTICS = Diagnostics(
    state=PowerState.RUNNING,
    driver="libvirt",
    hypervisor="kvm",
    hypervisor_os="Debian GNU/Linux 12 (bookworm)",
    uptime=86_400,
    config_drive=True,
    num_cpus=1,
    num_nics=1,
    num_disks=1,
    cpu_details=(CpuDetails(id=0, time=17_300_000_000, utilisation=15),),
    nic_details=(
        NicDetails(
            mac_address="01:23:45:67:89:ab",
            rx_octets=2_070_139,
            rx_errors=100,
            rx_drop=500,
            rx_packets=26_701,
            rx_rate=300,
            tx_octets=140_208,
            tx_errors=400,
            tx_drop=200,
            tx_packets=662,
            tx_rate=600,
        ),
    ),
    disk_details=(DiskDetails(read_bytes=262_144, read_requests=112, write_bytes=5_778_432, write_requests=488, errors_count=1),),
    memory_details=MemoryDetails(maximum=512, used=256),
)
REPORT = DiagnosticsReport(
    server=SERVER_ID,
    diagnostics=DIAGNOSTICS,
    collected_at=MOMENT,
    age=1.5,
    stale=True,
    errors={"disk vdb": "no counters"},
    free_form={"cpu0_time": 17_300_000_000, "memory": 524_288},
    hardware=Hardware(
        power="on",
        power_watts=212.5,
        health=Health.WARNING,
        sensors=(
            Sensor(name="CPU1 Temp", kind=SensorKind.TEMPERATURE, value=41.0, unit="°C", health=Health.OK),
            Sensor(name="FAN2", kind=SensorKind.FAN, unit="RPM"),
        ),
        firmware={"controller": "2.14", "bios": "3.1"},
        log=(LogEntry(id="17", at=MOMENT, text="Watchdog 2: Hard reset", severity=Health.CRITICAL),),
    ),
)
DIAGNOSTICS_REPLY = DiagnosticsReply(report=REPORT, history=(REPORT,))
BLACK_BOX_CHUNK = BlackBoxChunk(total=5, content="aGVsbG8=")
REPLIES = {"ping": PING_REPLY, "get_diagnostics": DIAGNOSTICS_REPLY, "get_black_box": BLACK_BOX_CHUNK}

_ACTION = {"action_id": ACTION_ID, "kind": ActionKind.TRIGGER_CRASH_DUMP}
_FIRED_EVENT = "4e6a8c0d2b3f50617283a4b5c6d7e8f9"
_STATE = {
    "power_state": PowerState.RUNNING,
    "reason": "booted",
    "observed_late": True,
    "action_id": ACTION_ID,
    "fired_event": _FIRED_EVENT,
}
_ENDING = {
    "ending": Ending.SUCCEEDED,
    "code": Code.SIGNAL_DELIVERED,
    "reason": CODES[Code.SIGNAL_DELIVERED].sentence,
}

EVENT_BODIES: dict[str, dict[str, Any]] = {
    "action.received": {
        **_ACTION,
        "project": "demo",
        "user": "operator",
        "deadline": LATER,
        "global_request_id": REQUEST.global_request_id,
    },
    "action.started": _ACTION,
    "action.ended": {
        **_ACTION,
        **_ENDING,
        "project": "demo",
        "user": "operator",
        "decided_by": DecidedBy.AGENT,
        "started_at": MOMENT,
        "signalled_at": MOMENT,
        "global_request_id": REQUEST.global_request_id,
    },
    "action.revised": {**_ACTION, **_ENDING, "previous_ending": Ending.UNKNOWN, "previous_code": Code.NOT_REPORTED},
    "action.observed": {
        **_ACTION,
        "observation": Observation.GUEST_PANICKED,
        "final": True,
        "observed_at": MOMENT,
        "text": "The guest reported a kernel panic.",
    },
    "action.id_conflict": {**_ACTION, "reason": "another request came under this id"},
    "server.started": _STATE,
    "server.stopped": {**_STATE, "power_state": PowerState.SHUTDOWN, "reason": "shut down by the guest"},
    "server.paused": {**_STATE, "power_state": PowerState.PAUSED, "reason": "paused by an operator"},
    "server.resumed": _STATE,
    "server.suspended": {**_STATE, "power_state": PowerState.SUSPENDED, "reason": "suspended by the guest"},
    "server.rebooted": {**_STATE, "reason": "reset by the guest"},
    "server.panicked": {**_STATE, "power_state": PowerState.CRASHED, "reason": "pvpanic"},
    "server.crash_kernel_started": {**_STATE, "reason": "pvpanic: crash loaded"},
    "server.claimed_twice": {"hosts": (HOST, "host-2.example")},
    "server.diagnostics": {"action_id": ACTION_ID, "report": REPORT},
    "server.host_dump": {"action_id": ACTION_ID, "path": "/var/lib/crashcart/dumps/web-1.kdump", "bytes": 18_874_368, "duration": 0.9},
    "server.host_dump_failed": {"code": Code.NO_SPACE, "reason": CODES[Code.NO_SPACE].sentence},
    "server.black_box": {
        "black_box_id": BLACK_BOX_ID,
        "cause": "server.panicked",
        "action_id": ACTION_ID,
        "parts": (
            events.BlackBoxPart(name="console.log", bytes=5, sha256="2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"),
        ),
    },
    "server.watchdog.fired": {"model": "i6300esb", "expiry_action": ExpiryAction.DUMP, "driver_word": "pause", "observed_late": True},
    "server.watchdog.outcome": {
        "fired_event": _FIRED_EVENT,
        "expiry_action": ExpiryAction.DUMP,
        "result": events.WatchdogResult.DUMPED,
        "reason": "unpaused",
        "text": "The hypervisor wrote the server's memory and let it run on.",
        "dump_path": "/var/lib/libvirt/qemu/dump/3-web-1-2026-03-01-12:30:00",
        "dump_bytes": 134_217_728,
        "observed_late": True,
    },
    "server.watchdog.changed": {"watchdog": WATCHDOG, "action_id": ACTION_ID},
    "server.watchdog.drifted": {"wanted": DEVICE, "found": WATCHDOG, "action_id": ACTION_ID},
    "agent.up": {"release": versions.RELEASE, "journal_id": JOURNAL_ID, "incarnation": 3, "reason": "started"},
    "agent.down": {"release": versions.RELEASE, "journal_id": JOURNAL_ID, "incarnation": 3, "reason": "no heartbeat for 90 s"},
    "agent.cast_refused": {"count": 3, "reasons": {"replayed": 1, "unsigned": 2}, "since": MOMENT},
    "agent.events_missed": {"count": 12, "since": MOMENT},
    "events.lost": {"lost_epoch": JOURNAL_ID, "first": 17, "last": 23, "reason": "pruned by age"},
}
"""Event type -> what its payload says beside who, where and when; every optional key is used."""

HOST_EVENTS = frozenset({"agent.up", "agent.down", "agent.cast_refused", "agent.events_missed", "events.lost"})
"""Events about a host: they name no server."""


RPC_VERBS: Verbs = {
    **{kind.value: lambda api, kind=kind: api.cast_action(REQUEST.model_copy(update={"kind": kind})) for kind in ActionKind},  # type: ignore[misc]
    "cancel_action": lambda api: api.cancel_action(REQUEST),
    "resend_events": lambda api: api.resend_events(HOST, EVENT_RANGE),
    "report_inventory": lambda api: api.report_inventory(HOST),
    "ping": lambda api: api.ping(HOST, timeout=5),
    "get_diagnostics": lambda api: api.get_diagnostics(HOST, SERVER_ID, timeout=5, history=True),
    "get_black_box": lambda api: api.get_black_box(HOST, BLACK_BOX_ID, "console.log", offset=0, timeout=5),
}
"""By method: how the client is told to send it."""


def make_rpc_samples() -> dict[str, Any]:
    """File name -> what the production client sends for each method, and the reply of the call.

    Nothing of it is signed, as nothing is without a key; ``signature.json`` is the context of one that is.
    """
    samples, _ = record_rpc(RPC_VERBS, REPLIES)
    samples |= {f"{method}.reply": reply.to_wire() for method, reply in REPLIES.items()}
    samples["signature"] = {"context": _sign(ActionKind.TRIGGER_CRASH_DUMP, {"action": REQUEST.to_wire()})}
    return {f"rpc/{name}.json": sample for name, sample in samples.items()}


def _sign(method: str, arguments: dict[str, Any]) -> dict[str, Any]:
    return CastSigner(ISSUER, SIGNING_KEY, FakeClock(MOMENT), new_nonce=lambda: "0" * 32).sign(HOST, method, arguments)


def make_payload(event_type: str) -> dict[str, Any]:
    """The sample payload of one event type, built with its strict model."""
    model = events.EVENT_TYPES[event_type].payload
    return model(
        version=versions.EVENT_VERSION,
        server=None if event_type in HOST_EVENTS else SERVER_ID,
        host=HOST,
        epoch=JOURNAL_ID,
        sequence=17,
        occurred_at=MOMENT,
        **EVENT_BODIES[event_type],
    ).to_wire()


def make_notification(event_type: str) -> notifications.Notification:
    """The sample notification of one event type, or the heartbeat."""
    if event_type == notifications.HEARTBEAT_TYPE:
        severity, payload = topics.Severity.INFO, HEARTBEAT.to_wire()
    else:
        severity, payload = events.EVENT_TYPES[event_type].severity, make_payload(event_type)
    return notifications.Notification(
        message_id="3d5f7a9b1c2e4f608172a3b4c5d6e7f8",
        event_type=event_type,
        publisher_id=f"compute_agent.{HOST}",
        severity=severity,
        timestamp=notifications.format_timestamp(MOMENT),
        payload=payload,
    )


def make_event_samples() -> dict[str, Any]:
    """File name -> the envelope of each event type with the message inside it unpacked, ``_unique_id`` made fixed."""
    samples = {}
    for event_type in (*events.EVENT_TYPES, notifications.HEARTBEAT_TYPE):
        envelope = json.loads(notifications.encode(make_notification(event_type)))
        envelope["oslo.message"] = {**json.loads(envelope["oslo.message"]), "_unique_id": "0" * 32}
        samples[f"events/{event_type}.json"] = envelope
    return samples


def make_interface_samples() -> dict[str, Any]:
    """File name -> what the other release relies on without a message that says it."""
    described = {
        "methods": interface.describe_methods(),
        "models": interface.describe_models(),
        "declarations": interface.describe_declarations(),
    }
    return {f"interface/{name}.json": sample for name, sample in described.items()}


def make_samples() -> dict[str, Any]:
    """All samples of this release by file name."""
    return {**make_rpc_samples(), **make_event_samples(), **make_interface_samples()}


def format_sample(sample: Any) -> str:
    """The text of a sample file: sorted and indented, so that a difference is readable."""
    return json.dumps(sample, indent=2, sort_keys=True) + "\n"


def read_samples(release: str) -> dict[str, str]:
    """File name -> text of the samples that ``release`` left."""
    folder = SAMPLES / release
    return {str(path.relative_to(folder)): path.read_text() for path in sorted(folder.rglob("*.json"))}


def read_sample(release: str, name: str) -> Any:
    """One of them.

    :raises OSError: it left none of that name.
    """
    return json.loads((SAMPLES / release / name).read_text())
