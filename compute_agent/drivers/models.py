"""What a driver tells: servers, readings, states, events, files."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from compute_agent.contract.diagnostics import Hardware
from compute_agent.contract.models import Flavor, PowerState
from compute_agent.contract.watchdogs import Watchdog


@dataclass(frozen=True)
class DriverServer:
    """A server as the driver sees it now.

    ``started_at`` is when the current run of the machine began (None: off or not known), ``state_reason`` the backend's own word for
    why it is in this state (its last word is ``watchdog``, there and in the event, when that paused it). ``arriving`` is true while a
    migration brings it in: it is not this host's yet. ``stopping`` is true while its guest has ended and the event that says so is still to
    come. ``persistent`` false: it vanishes when it stops. ``project``, ``user``, ``name``,
    ``description``, ``flavor`` and ``tags`` come from the server's metadata, None or empty when it has none, and so does
    ``host_dump_after_panic``: whether its operator wants the hypervisor to write its memory to a file when it panics. ``foreign_owner``
    is another control plane that manages this server as well (``nova``), or None. ``watchdog`` is None only where the driver does not look.
    ``unread`` is empty, or a sentence for people: the server is there, and why nobody can say in which state. Its state is that of the last
    reading then, or PENDING.

    ``started_at`` is the same in every reading of one run, to the microsecond and whatever is done to the clock: another value is taken
    for another run, and that ends a hold-off. A driver that can only compute it (now minus uptime, say) gives None.
    """

    id: str
    name: str | None
    project: str | None
    user: str | None
    instance_name: str
    power_state: PowerState
    state_reason: str = ""
    vcpus: int | None = None
    memory_mib: int | None = None
    started_at: datetime | None = None
    persistent: bool = True
    arriving: bool = False
    stopping: bool = False
    description: str | None = None
    flavor: Flavor | None = None
    tags: tuple[str, ...] = ()
    foreign_owner: str | None = None
    host_dump_after_panic: bool | None = None
    watchdog: Watchdog | None = None
    unread: str = ""


@dataclass(frozen=True)
class NicCounters:
    """A network card's counters since the start; None where the platform has none. ``mac`` in lower case with colons."""

    device: str | None = None
    mac: str | None = None
    rx_octets: int | None = None
    rx_packets: int | None = None
    rx_errors: int | None = None
    rx_drop: int | None = None
    tx_octets: int | None = None
    tx_packets: int | None = None
    tx_errors: int | None = None
    tx_drop: int | None = None


@dataclass(frozen=True)
class DiskCounters:
    """A disk's counters since the start; None where the platform has none."""

    device: str | None = None
    read_bytes: int | None = None
    read_requests: int | None = None
    write_bytes: int | None = None
    write_requests: int | None = None
    errors: int | None = None


@dataclass(frozen=True)
class CollectedDiagnostics:
    """One reading of one server. Counters count since its start; what the platform does not say is None.

    ``monotonic`` is the agent's monotonic clock in seconds right after the counters were read: rates are worked out between two readings
    of the same run. ``cpu_times`` in ns by processor number. ``memory_*`` in KiB: the platform's own unit, so that nothing is lost.
    ``free_form`` holds further whole numbers for the older diagnostics format. ``errors``: each part that could not be read, and why.
    ``hardware``: what only a bare-metal machine tells.
    """

    server: str
    power_state: PowerState
    collected_at: datetime
    monotonic: float
    driver_word: str
    hypervisor: str | None = None
    hypervisor_os: str | None = None
    started_at: datetime | None = None
    config_drive: bool = False
    cpu_times: Mapping[int, int | None] = field(default_factory=dict)
    memory_maximum_kib: int | None = None
    memory_used_kib: int | None = None
    nics: Sequence[NicCounters] = ()
    disks: Sequence[DiskCounters] = ()
    free_form: Mapping[str, int] = field(default_factory=dict)
    errors: Mapping[str, str] = field(default_factory=dict)
    hardware: Hardware | None = None


@dataclass(frozen=True)
class VcpuState:
    """A virtual processor as the platform sees it: ``state`` in the platform's own word (``running``, ``blocked``, ``offline``)."""

    number: int
    state: str
    cpu_time: int | None = None
    host_cpu: int | None = None


@dataclass(frozen=True)
class InspectedServer:
    """What a black box keeps of a server beside its diagnostics. ``state_reason`` and the vCPUs' states are the platform's own words.

    ``configuration`` is the platform's own text (a domain's XML) **without secrets**: passwords, keys and tokens are cut out of it by the
    driver, who alone knows where they are.
    """

    power_state: PowerState
    state_reason: str = ""
    vcpus: Sequence[VcpuState] = ()
    configuration: str | None = None


class DriverEventKind(StrEnum):
    """What a driver may report on its own."""

    STARTED = "started"
    STOPPED = "stopped"
    PAUSED = "paused"
    RESUMED = "resumed"
    SUSPENDED = "suspended"
    REBOOTED = "rebooted"
    PANICKED = "panicked"
    CRASH_KERNEL_STARTED = "crash_kernel_started"
    WATCHDOG_FIRED = "watchdog_fired"
    DEFINED = "defined"
    UNDEFINED = "undefined"
    MIGRATED_AWAY = "migrated_away"
    BACKEND_LOST = "backend_lost"
    BACKEND_BACK = "backend_back"
    LOG_READ = "log_read"


@dataclass(frozen=True)
class DriverEvent:
    """Something that happened, as the backend told it. ``server`` is None for events about the backend itself.

    ``reason`` is the backend's own word; of WATCHDOG_FIRED it is what the backend says that the watchdog does (``pause``). DEFINED
    tells of a definition or a device that came, changed or went: the server is to be read anew. BACKEND_LOST and BACKEND_BACK with a
    server: nobody watches, or somebody watches again, this one alone.

    ``power_state`` is the state after it, where that is not the one that the kind implies: a machine whose BMC says that its operating
    system panicked is still switched on. ``cursor``: a platform with a log of its own has been read this far, this event included; it is
    kept with the event, and given back at the next start. LOG_READ: nothing happened, only the cursor moved.
    """

    kind: DriverEventKind
    server: str | None
    occurred_at: datetime
    reason: str = ""
    power_state: PowerState | None = None
    cursor: str | None = None


@dataclass(frozen=True)
class FoundDump:
    """A file on this host with a server's memory: its path and its size in bytes."""

    path: str
    size: int
