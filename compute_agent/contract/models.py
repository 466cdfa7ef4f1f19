"""The things that cross between gateway and agent. Times are timezone-aware UTC."""

import hashlib
import json
from enum import StrEnum
from typing import Annotated

from pydantic import AfterValidator, AwareDatetime, Field, StringConstraints

from compute_agent.contract.errors import Code, Ending
from compute_agent.contract.text import clean_line, clean_tags
from compute_agent.contract.units import GIBIBYTES, MEBIBYTES, Bytes, Seconds
from compute_agent.contract.watchdogs import Watchdog, WatchdogDevice, WatchdogModel
from compute_agent.contract.wire import WireModel

ActionId = Annotated[str, StringConstraints(pattern=r"^req-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$")]
ServerId = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$")]
HostName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9]([A-Za-z0-9._-]{0,253}[A-Za-z0-9])?$")]
"""A host's name becomes part of a queue name: letters, digits, dot, dash, underscore."""
Line = Annotated[str, AfterValidator(clean_line)]
"""A single line without control characters, at most 255 long; both sides cut it, so that no guest's metadata stops a heartbeat."""
Tags = Annotated[tuple[str, ...], AfterValidator(clean_tags)]
"""Tags as the Compute API allows them; others are left out by both sides."""
Amount = Annotated[int, Field(ge=0, le=2**31 - 1)]


class ActionKind(StrEnum):
    """What an operator may ask for."""

    TRIGGER_CRASH_DUMP = "trigger_crash_dump"
    COLLECT_DIAGNOSTICS = "collect_diagnostics"
    TAKE_HOST_DUMP = "take_host_dump"
    SET_WATCHDOG = "set_watchdog"
    REMOVE_WATCHDOG = "remove_watchdog"
    RESUME = "resume"
    RESET_WATCHDOG_TIMER = "reset_watchdog_timer"


class PowerState(StrEnum):
    """The Compute API's power states by name (its numbers: 0, 1, 3, 4, 6, 7)."""

    PENDING = "pending"
    RUNNING = "running"
    PAUSED = "paused"
    SHUTDOWN = "shutdown"
    CRASHED = "crashed"
    SUSPENDED = "suspended"


STANDS_STILL = frozenset({PowerState.PAUSED, PowerState.SUSPENDED})
"""In these nothing goes on in the guest: neither a dump nor an NMI that waits."""


class Observation(StrEnum):
    """What was seen of the guest after a crash dump signal."""

    GUEST_PANICKED = "guest_panicked"
    CRASH_KERNEL_STARTED = "crash_kernel_started"
    GUEST_REBOOTED = "guest_rebooted"
    GUEST_STOPPED = "guest_stopped"
    PENDING_UNTIL_RESUME = "pending_until_resume"
    NOTHING_SEEN_YET = "nothing_seen_yet"
    NOTHING_SEEN = "nothing_seen"
    NOT_OBSERVED = "not_observed"


class DecidedBy(StrEnum):
    """Who wrote an ending."""

    AGENT = "agent"
    GATEWAY = "gateway"


class ActionRequest(WireModel):
    """One action as it is cast to the agent of ``host``.

    ``journal_id`` binds it to the journal of its first cast: an agent with another journal must not run it.
    ``server_generation`` is the one that the host itself reported for this server in its inventory. ``watchdog`` is what a
    ``set_watchdog`` asks for; ``replace`` false: only if the server has none yet.
    """

    id: ActionId
    kind: ActionKind
    server: ServerId
    server_generation: int
    host: HostName
    project: str | None = None
    user: str | None = None
    sent_at: AwareDatetime
    deadline: AwareDatetime
    journal_id: str
    force: bool = False
    global_request_id: str | None = None
    watchdog: WatchdogDevice | None = None
    replace: bool = True

    def fingerprint(self) -> str:
        """The same for every cast of one action; another for any other content under the same id.

        ``sent_at`` is left out: it is the one field that differs from cast to cast. So is what has its default: a key that a later release
        brings must not make another action of one that was journalled before it.
        """
        body = self.model_dump(mode="json", exclude={"sent_at"}, exclude_defaults=True)
        return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


class ActionResult(WireModel):
    """An ending with its stable code and a sentence for people."""

    ending: Ending
    code: Code
    reason: str


class Capabilities(WireModel):
    """What an agent's driver can do; derived from the driver, never written by hand.

    ``watchdog_models`` are the watchdogs that the platform knows, those too that crashcart does not manage.
    """

    driver: str
    inject_nmi: bool
    diagnostics: bool
    watchdog: bool
    events: bool
    host_dump: bool = False
    resume: bool = False
    watchdog_timer: bool = False
    watchdog_models: tuple[WatchdogModel, ...] = ()


class Flavor(WireModel):
    """What a server was ordered as, which its devices need not say: ``disk_gib`` and ``ephemeral_gib`` in GiB, the others in MiB."""

    name: Line
    vcpus: Amount
    ram_mib: Annotated[Amount, MEBIBYTES]
    disk_gib: Annotated[Amount, GIBIBYTES] = 0
    ephemeral_gib: Annotated[Amount, GIBIBYTES] = 0
    swap_mib: Annotated[Amount, MEBIBYTES] = 0


class Server(WireModel):
    """A server as its host's inventory knows it.

    ``generation`` counts the lives of this UUID on this host (undefined and defined again: another one).
    ``state_at`` is when the host saw the state: of two reports the later one holds.
    ``instance_name`` is what the hypervisor calls it. ``memory_mib`` in MiB. ``created_at`` is when this host saw it first.
    ``foreign_owner`` names another control plane that manages the server too (``nova``): its locks and tasks are not seen here.
    ``watchdog`` None: the agent does not say.
    """

    id: ServerId
    name: str
    project: str
    user: str | None = None
    power_state: PowerState
    state_reason: str = ""
    state_at: AwareDatetime
    generation: int
    instance_name: str
    vcpus: int | None = None
    memory_mib: Annotated[int, MEBIBYTES] | None = None
    created_at: AwareDatetime
    started_at: AwareDatetime | None = None
    description: Line | None = None
    flavor: Flavor | None = None
    tags: Tags = ()
    foreign_owner: Line | None = None
    watchdog: Watchdog | None = None


class Departure(StrEnum):
    """Why a server is no longer in a host's inventory."""

    UNDEFINED = "undefined"
    MIGRATED = "migrated"
    GONE = "gone"


class RemovedServer(WireModel):
    """A server that left a host; ``released`` ownership moves at once when another host runs it."""

    id: ServerId
    departure: Departure


class InventoryReport(WireModel):
    """All servers of a host (``full``) or what changed since ``base_revision``.

    ``readable`` false means that the hypervisor could not be read: the inventory is unavailable, never empty.
    ``hash`` is over the whole inventory at ``revision`` (:func:`hash_inventory`): a difference applied on top of another base shows.
    """

    readable: bool
    full: bool
    revision: int
    base_revision: int
    hash: str
    servers: tuple[Server, ...] = ()
    removed: tuple[RemovedServer, ...] = ()


def hash_inventory(servers: dict[str, int]) -> str:
    """A digest of which servers (id -> generation) an inventory holds; states are left out, they travel as events too."""
    body = json.dumps(sorted(servers.items())).encode()
    return hashlib.sha256(body).hexdigest()[:32]


class Heartbeat(WireModel):
    """Sent by each agent every 30 s and at changes; not durable, the next one replaces it.

    ``incarnation`` counts the starts of the agent over one journal, ``number`` the heartbeats of one incarnation: together they
    order heartbeats. ``interval`` is the time to the next one, in seconds, ``driver_bound`` the longest that a begun driver call may take.
    ``stopping`` is set on the last one of an ordered stop. ``release``, ``rpc_version`` and ``event_version`` are what the agent speaks,
    ``journal_id`` is the ``epoch`` of its events.
    """

    host: HostName
    release: str
    rpc_version: str
    event_version: str
    journal_id: str
    incarnation: int
    number: int
    sent_at: AwareDatetime
    interval: Seconds
    stopping: bool = False
    driver_bound: Seconds
    capabilities: Capabilities
    inventory: InventoryReport


class PingReply(WireModel):
    """An agent's answer to ``ping``."""

    host: HostName
    release: str
    rpc_version: str
    journal_id: str
    incarnation: int


OPEN_END = 2**53 - 1
"""``last`` of a range that has no end, and above every sequence: the largest whole number that each reader of JSON keeps as it is."""


class EventRange(WireModel):
    """An inclusive range of event sequences of one epoch; up to ``OPEN_END``: all from ``first`` on, be there anything or not."""

    epoch: str
    first: int = Field(ge=1)
    last: int = Field(ge=1)


class BlackBoxChunk(WireModel):
    """A piece of one part of a black box, base64. ``total`` is the part's size in bytes; None: there is no such part (any more)."""

    total: Bytes | None
    content: str = ""
