"""Notifications: exchange, queues, the envelope, and the one table of event types with their payloads.

An event travels in the standard oslo.messaging notification envelope 2.0, so that a plain notification listener can read it.
``message_id`` is the event's identity (publishing it again keeps it); ``_unique_id`` is fresh for each attempt, because an
oslo.messaging listener never acknowledges a message whose ``_unique_id`` it has seen (measured; see messaging facts).
Within one (epoch, server) events come in the order of ``sequence``.
"""

import json
import uuid
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from kombu import Exchange, Queue
from pydantic import AwareDatetime

from compute_agent.contract.diagnostics import DiagnosticsReport
from compute_agent.contract.errors import Code, Ending
from compute_agent.contract.models import (
    ActionId,
    ActionKind,
    DecidedBy,
    HostName,
    Observation,
    PowerState,
    ServerId,
)
from compute_agent.contract.watchdogs import Watchdog, WatchdogDevice, Word
from compute_agent.contract.wire import WireModel

EVENTS_EXCHANGE = Exchange("crashcart.events", type="topic", durable=True)
DEAD_EXCHANGE = Exchange("crashcart.dead", type="fanout", durable=True)
TOPIC = "notifications"
"""Topic for listeners: oslo.messaging turns it into the routing keys ``notifications.<severity>``."""

HEARTBEAT_ROUTING_KEY = "heartbeats"
HEARTBEAT_TTL_MS = 60_000


class Severity(StrEnum):
    """The notification's priority, which is also the tail of its routing key."""

    INFO = "info"
    WARN = "warn"
    ERROR = "error"


def routing_key(severity: Severity) -> str:
    return f"{TOPIC}.{severity}"


_NO_DELIVERY_LIMIT = 2**31 - 1
"""RabbitMQ 4 drops what a quorum queue delivered 20 times; how often a recorder died says nothing about an event. -1 means the same only
since 4.0: earlier releases refuse it."""

RECORDER_QUEUES: tuple[Queue, ...] = tuple(
    Queue(
        "crashcart.recorder",
        EVENTS_EXCHANGE,
        routing_key=routing_key(severity),
        durable=True,
        queue_arguments={
            "x-queue-type": "quorum",
            "x-single-active-consumer": True,
            "x-delivery-limit": _NO_DELIVERY_LIMIT,
            # What an operator's own policy takes away from here is kept as well; "at-least-once" needs "reject-publish".
            "x-dead-letter-exchange": DEAD_EXCHANGE.name,
            "x-dead-letter-strategy": "at-least-once",
            "x-overflow": "reject-publish",
        },
    )
    for severity in Severity
)
"""The recorder's one queue, once per binding. Agents declare and bind it too: no event is dropped before a recorder ran."""

DEAD_LETTER_QUEUE = Queue(
    "crashcart.recorder.dead",
    DEAD_EXCHANGE,
    durable=True,
    queue_arguments={"x-queue-type": "quorum", "x-delivery-limit": _NO_DELIVERY_LIMIT},
)
"""What the broker gave up on, by an operator's limit on length, age or deliveries; the recorder drains it as well."""

HEARTBEAT_QUEUE = Queue(
    "crashcart.heartbeats",
    EVENTS_EXCHANGE,
    routing_key=HEARTBEAT_ROUTING_KEY,
    durable=True,
    queue_arguments={
        # One reader at a time: what comes back to one says that all before it was read, not that it waits with another one.
        "x-single-active-consumer": True,
        "x-message-ttl": HEARTBEAT_TTL_MS,
        "x-max-length": 100_000,
        "x-overflow": "drop-head",
    },
)


class EventPayload(WireModel):
    """What every event says: who, where, and its place in the order.

    ``epoch`` is the journal (or the gateway's store) that the event was committed to, ``sequence`` its number there, from 1, without
    gaps. ``server`` is None only for events about a host.
    """

    version: str
    server: ServerId | None = None
    host: HostName
    epoch: str
    sequence: int
    occurred_at: AwareDatetime


class ActionReceived(EventPayload):
    """The agent has the action in its journal. Carries all that a recorder needs to know an action it has never seen.

    ``global_request_id`` is the id that the caller's own service gave to what it is doing, where it sent one.
    """

    action_id: ActionId
    kind: ActionKind
    project: str | None = None
    user: str | None = None
    deadline: AwareDatetime
    global_request_id: str | None = None


class ActionStarted(EventPayload):
    """The next thing that the agent does is the driver call."""

    action_id: ActionId
    kind: ActionKind


class ActionEnded(EventPayload):
    """The action's ending. ``signalled_at`` is when the driver's call returned, for endings after which something was sent."""

    action_id: ActionId
    kind: ActionKind
    project: str | None = None
    user: str | None = None
    ending: Ending
    code: Code
    reason: str
    decided_by: DecidedBy
    started_at: AwareDatetime | None = None
    signalled_at: AwareDatetime | None = None
    global_request_id: str | None = None


class ActionRevised(EventPayload):
    """The gateway had given the action up as unknown; the agent's own ending has come and replaces that, once."""

    action_id: ActionId
    kind: ActionKind
    ending: Ending
    code: Code
    reason: str
    previous_ending: Ending
    previous_code: Code


class ActionObserved(EventPayload):
    """What followed the signal. ``observed_at`` is when the guest did it, ``text`` a sentence with advice for people."""

    action_id: ActionId
    kind: ActionKind
    observation: Observation
    final: bool
    observed_at: AwareDatetime
    text: str


class ActionIdConflict(EventPayload):
    """Another request came under the id of a known action; it was refused and the known action was left alone."""

    action_id: ActionId
    kind: ActionKind
    reason: str


class ServerState(EventPayload):
    """A server changed its state. ``observed_late``: it happened while agent or hypervisor connection was away.

    ``action_id`` is the crash dump, ``fired_event`` the ``message_id`` of the ``server.watchdog.fired`` that led, or may have led, to it.
    """

    power_state: PowerState
    reason: str
    observed_late: bool = False
    action_id: ActionId | None = None
    fired_event: str | None = None


class ServerClaimedTwice(EventPayload):
    """Two hosts run the server at the same time; actions on it are refused until one lets go."""

    hosts: tuple[HostName, HostName]


class ServerDiagnostics(EventPayload):
    """What a ``collect_diagnostics`` action collected."""

    action_id: ActionId
    report: DiagnosticsReport


class HostDumpTaken(EventPayload):
    """The hypervisor wrote a server's memory to ``path`` on its host, in ``duration`` seconds. No ``action_id``: after a panic, unasked."""

    action_id: ActionId | None = None
    path: str
    bytes: int
    duration: float


class HostDumpFailed(EventPayload):
    """A memory dump that the agent began by itself failed; one that was asked for says so in its ending."""

    code: Code
    reason: str


class BlackBoxPart(WireModel):
    """One file of a black box: its size in bytes and the digest that its fetched contents must have."""

    name: str
    bytes: int
    sha256: str


class ServerBlackBox(EventPayload):
    """What the agent kept on its host of a server that was crashed or crashed itself. ``cause`` is the event or action kind behind it."""

    black_box_id: str
    cause: str
    action_id: ActionId | None = None
    parts: tuple[BlackBoxPart, ...]


class WatchdogFired(EventPayload):
    """A server's watchdog was not fed in time. ``occurred_at`` is when the hypervisor said so, by its host's clock.

    ``expiry_action`` is the configured one, which need not be what the hypervisor calls it: ``driver_word`` (libvirt says ``pause`` for
    ``dump``, too). ``model`` and ``expiry_action`` are None where nobody knows. ``observed_late``: found from the server's state
    afterwards; ``occurred_at`` is then when it was found.
    """

    model: Word | None = None
    expiry_action: Word | None = None
    driver_word: str
    observed_late: bool = False


class WatchdogResult(StrEnum):
    """What came of a firing."""

    CONTINUED = "continued"
    REBOOTED = "rebooted"
    STOPPED = "stopped"
    PAUSED = "paused"
    DUMPED = "dumped"
    DUMP_FAILED = "dump_failed"
    PANICKED = "panicked"
    CRASH_KERNEL_STARTED = "crash_kernel_started"
    NOTHING_SEEN = "nothing_seen"
    NOT_OBSERVED = "not_observed"


class WatchdogOutcome(EventPayload):
    """What came of a firing; exactly one for each.

    ``fired_event`` is the ``message_id`` of its ``server.watchdog.fired``. ``reason`` is the platform's own word, ``text`` a sentence for
    people. ``dump_path`` (on the host) and ``dump_bytes``: the file that the hypervisor wrote.
    """

    fired_event: str
    expiry_action: Word | None = None
    result: WatchdogResult
    reason: str = ""
    text: str
    dump_path: str | None = None
    dump_bytes: int | None = None
    observed_late: bool = False


class WatchdogDrifted(EventPayload):
    """Somebody else changed a watchdog that was set through crashcart. ``wanted`` None: it had been removed.

    ``action_id`` is the agent's own action that sets it again, where its configuration says so.
    """

    wanted: WatchdogDevice | None = None
    found: Watchdog
    action_id: ActionId | None = None


class AgentState(EventPayload):
    """An agent came up or is considered down."""

    release: str | None = None
    journal_id: str
    incarnation: int
    reason: str


class EventsLost(EventPayload):
    """A named gap: these sequences of ``lost_epoch`` are gone, and why."""

    lost_epoch: str
    first: int
    last: int
    reason: str


@dataclass(frozen=True)
class EventType:
    """One row of the table: the payload and how urgent it is unless its writer says otherwise."""

    payload: type[EventPayload]
    severity: Severity


EVENT_TYPES: dict[str, EventType] = {
    "action.received": EventType(ActionReceived, Severity.INFO),
    "action.started": EventType(ActionStarted, Severity.INFO),
    "action.ended": EventType(ActionEnded, Severity.INFO),
    "action.revised": EventType(ActionRevised, Severity.WARN),
    "action.observed": EventType(ActionObserved, Severity.INFO),
    "action.id_conflict": EventType(ActionIdConflict, Severity.ERROR),
    "server.started": EventType(ServerState, Severity.INFO),
    "server.stopped": EventType(ServerState, Severity.INFO),
    "server.paused": EventType(ServerState, Severity.INFO),
    "server.resumed": EventType(ServerState, Severity.INFO),
    "server.suspended": EventType(ServerState, Severity.INFO),
    "server.rebooted": EventType(ServerState, Severity.INFO),
    "server.panicked": EventType(ServerState, Severity.ERROR),
    "server.crash_kernel_started": EventType(ServerState, Severity.ERROR),
    "server.claimed_twice": EventType(ServerClaimedTwice, Severity.ERROR),
    "server.diagnostics": EventType(ServerDiagnostics, Severity.INFO),
    "server.host_dump": EventType(HostDumpTaken, Severity.WARN),
    "server.host_dump_failed": EventType(HostDumpFailed, Severity.ERROR),
    "server.black_box": EventType(ServerBlackBox, Severity.INFO),
    "server.watchdog.fired": EventType(WatchdogFired, Severity.WARN),
    "server.watchdog.outcome": EventType(WatchdogOutcome, Severity.INFO),
    "server.watchdog.drifted": EventType(WatchdogDrifted, Severity.WARN),
    "agent.up": EventType(AgentState, Severity.INFO),
    "agent.down": EventType(AgentState, Severity.WARN),
    "events.lost": EventType(EventsLost, Severity.ERROR),
}

HEARTBEAT_TYPE = "agent.heartbeat"


@dataclass(frozen=True)
class Notification:
    """One message as read from or given to the broker; ``payload`` is plain JSON, known or not."""

    message_id: str
    event_type: str
    publisher_id: str
    severity: str
    timestamp: str
    payload: dict[str, Any]


class UnreadableNotification(Exception):
    """Raised when a message is not an envelope that we can read; the message belongs on the dead-letter shelf."""


def encode(notification: Notification) -> bytes:
    """The body to publish; each call makes a fresh ``_unique_id``."""
    message = {
        "message_id": notification.message_id,
        "publisher_id": notification.publisher_id,
        "event_type": notification.event_type,
        "priority": notification.severity.upper(),
        "payload": notification.payload,
        "timestamp": notification.timestamp,
        "_unique_id": uuid.uuid4().hex,
    }
    return json.dumps({"oslo.version": "2.0", "oslo.message": json.dumps(message)}).encode()


def decode(body: bytes | str) -> Notification:
    """Read an envelope 2.0.

    :raises UnreadableNotification: when it is none; the text says what is wrong with it.
    """
    try:
        envelope = json.loads(body)
        message = json.loads(envelope["oslo.message"])
        notification = Notification(
            message_id=message["message_id"],
            event_type=message["event_type"],
            publisher_id=message["publisher_id"],
            severity=message["priority"].lower(),
            timestamp=message["timestamp"],
            payload=message["payload"],
        )
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise UnreadableNotification(f"not an oslo.messaging envelope 2.0: {error!r}") from error
    texts = (notification.message_id, notification.event_type, notification.publisher_id, notification.timestamp)
    if not all(isinstance(text, str) for text in texts) or not isinstance(notification.payload, dict):
        raise UnreadableNotification("message_id, event_type, publisher_id, timestamp must be text, payload an object")
    return notification


def format_timestamp(moment: datetime) -> str:
    """The envelope's own time format: UTC without a zone, as oslo.messaging writes it."""
    return moment.strftime("%Y-%m-%d %H:%M:%S.%f")
