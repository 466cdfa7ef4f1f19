"""Events: the payload models, and the one table of event types with their payloads.

Within one (epoch, server) events come in the order of ``sequence``.
"""

from dataclasses import dataclass
from enum import StrEnum

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
from compute_agent.contract.topics import Severity
from compute_agent.contract.units import Bytes, Seconds
from compute_agent.contract.watchdogs import Watchdog, WatchdogDevice, Word
from compute_agent.contract.wire import WireModel


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

    ``global_request_id`` is the id that the caller's own service gave to what it is doing, where it sent one. Nothing is sent after
    ``deadline``.
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
    """The action's ending.

    ``started_at`` is right before the driver's call, ``signalled_at`` when that returned, for endings after which something was sent.
    """

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
    """What followed the signal; after a ``final`` one no other comes.

    ``observed_at`` is when the guest did it, ``text`` a sentence with advice for people.
    """

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
    """A server changed its state. ``observed_late``: it happened while agent, hypervisor or management controller was away.

    ``action_id`` is the crash dump, ``fired_event`` the ``message_id`` of the ``server.watchdog.fired`` that led, or may have led, to it.
    """

    power_state: PowerState
    reason: str
    observed_late: bool = False
    action_id: ActionId | None = None
    fired_event: str | None = None


class ServerClaimedTwice(EventPayload):
    """Two ``hosts`` run the server at the same time; actions on it are refused until one lets go."""

    hosts: tuple[HostName, HostName]


class ServerDiagnostics(EventPayload):
    """What a ``collect_diagnostics`` action collected."""

    action_id: ActionId
    report: DiagnosticsReport


class HostDumpTaken(EventPayload):
    """The hypervisor wrote a server's memory, ``bytes`` long, to ``path`` on its host, in ``duration`` seconds.

    No ``action_id``: after a panic, unasked.
    """

    action_id: ActionId | None = None
    path: str
    bytes: Bytes
    duration: Seconds


class HostDumpFailed(EventPayload):
    """A memory dump that the agent began by itself failed; one that was asked for says so in its ending."""

    code: Code
    reason: str


class BlackBoxPart(WireModel):
    """One file of a black box: its size in bytes and the digest that its fetched contents must have."""

    name: str
    bytes: Bytes
    sha256: str


class ServerBlackBox(EventPayload):
    """What the agent kept on its host of a server that was crashed or crashed itself. ``cause`` is the event or action kind behind it.

    The gateway fetches its ``parts`` from the host by ``black_box_id``.
    """

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
    dump_bytes: Bytes | None = None
    observed_late: bool = False


class WatchdogChanged(EventPayload):
    """What a server has after an action changed its watchdog; it comes right before the action's ending."""

    watchdog: Watchdog
    action_id: ActionId


class WatchdogDrifted(EventPayload):
    """Somebody else changed a watchdog that was set through crashcart. ``wanted`` None: it had been removed.

    ``action_id`` is the agent's own action that sets it again, where its configuration says so.
    """

    wanted: WatchdogDevice | None = None
    found: Watchdog
    action_id: ActionId | None = None


class AgentState(EventPayload):
    """An agent came up or is considered down.

    ``release`` is the agent's, ``journal_id`` that of its journal. ``incarnation`` counts its starts over that journal.
    """

    release: str | None = None
    journal_id: str
    incarnation: int
    reason: str


class CastRefusals(EventPayload):
    """Casts and calls, ``count`` of them, whose signature did not hold, since ``since``; nothing was done of them.

    ``reasons``: how many for which reason.
    """

    count: int
    reasons: dict[str, int]
    since: AwareDatetime


class EventsMissed(EventPayload):
    """Events of the hypervisor, ``count`` of them from ``since`` on, that an agent could not keep: its journal had no room for too long.

    What came of them was found by comparing states right before this, and is told as ``observed_late``.
    """

    count: int
    since: AwareDatetime


class EventsLost(EventPayload):
    """A named gap: the sequences ``first`` to ``last`` of ``lost_epoch``, both included, are gone, and why. ``last`` is
    9007199254740991 (2^53 - 1) where nobody knows how many there were from ``first`` on, if any: the whole journal is gone."""

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
    "server.watchdog.changed": EventType(WatchdogChanged, Severity.INFO),
    "server.watchdog.drifted": EventType(WatchdogDrifted, Severity.WARN),
    "agent.up": EventType(AgentState, Severity.INFO),
    "agent.down": EventType(AgentState, Severity.WARN),
    "agent.cast_refused": EventType(CastRefusals, Severity.WARN),
    "agent.events_missed": EventType(EventsMissed, Severity.ERROR),
    "events.lost": EventType(EventsLost, Severity.ERROR),
}
