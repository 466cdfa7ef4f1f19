"""The contract between the agent and a driver: capability interfaces and the errors that a driver may raise.

A driver is a :class:`Driver`: a holder of small capability objects, or None for what it cannot do at all. What it can do is
*derived* from that, so it cannot disagree with the code. The driver's author implements 1 to 4 abstract methods per capability; one
conformance suite (``tests/conformance``) runs over every driver.

There are five kinds of "no" and one "perhaps". Of a "no" it is certain that **nothing was sent**; after :class:`OutcomeUnknown`
nothing is ever sent again for that action. Raise nothing else on purpose: any other exception is taken for a "perhaps".
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from compute_agent.contract.errors import Code
from compute_agent.contract.models import Capabilities, Flavor, PowerState
from compute_agent.contract.watchdogs import Watchdog, WatchdogDevice, WatchdogModel


class DriverError(Exception):
    """Base of what a driver may raise; ``code`` is the stable code that the action ends with."""

    code: Code

    def __init__(self, server: str | None, reason: str) -> None:
        super().__init__(reason)
        self.server = server
        self.reason = reason


class NothingSent(DriverError):
    """Base of the five kinds of "no": certainly nothing was sent."""


class CapabilityUnsupported(NothingSent):
    """This driver or this kind of machine never can."""

    code = Code.NOT_SUPPORTED


class ServerUnsupported(NothingSent):
    """This server cannot, as it is configured now (no such device, say)."""

    code = Code.NOT_SUPPORTED


class ServerNotFound(NothingSent):
    """The host has no such server."""

    code = Code.SERVER_NOT_FOUND


class ServerNotRunning(NothingSent):
    """The server is off or has already crashed: there is nobody to take the signal."""

    code = Code.SERVER_NOT_RUNNING


class BackendUnavailable(NothingSent):
    """Hypervisor or BMC could not be reached or was busy; nothing was sent and it is safe to try again.

    The raiser may set ``code`` where another one says more: ``Code.FORBIDDEN`` when the backend refused our credentials, say.
    """

    code = Code.BACKEND_UNAVAILABLE

    def __init__(self, server: str | None, reason: str, code: Code = Code.BACKEND_UNAVAILABLE) -> None:
        super().__init__(server, reason)
        self.code = code


class OutcomeUnknown(DriverError):
    """It was sent, or perhaps sent, and no answer came. Never raised when the driver knows that nothing was sent."""

    code = Code.ANSWER_LOST


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


@dataclass(frozen=True)
class DriverEvent:
    """Something that happened, as the backend told it. ``server`` is None for events about the backend itself.

    ``reason`` is the backend's own word; of WATCHDOG_FIRED it is what the backend says that the watchdog does (``pause``). DEFINED
    tells of a definition or a device that came, changed or went: the server is to be read anew.
    """

    kind: DriverEventKind
    server: str | None
    occurred_at: datetime
    reason: str = ""


class Servers(ABC):
    """Which servers this host has. Required of every driver.

    Called from the inventory's and the actions' threads, several at once; may block up to the driver's bound.
    """

    @abstractmethod
    def list_servers(self) -> Sequence[DriverServer]:
        """All servers, those that are off too.

        :raises BackendUnavailable: the list could not be read *completely*. Never return a part of it.
        """

    @abstractmethod
    def get_server(self, server: str) -> DriverServer:
        """One server, read now.

        :raises ServerNotFound: the backend answered that there is none.
        :raises BackendUnavailable: the backend did not answer.
        """


class Nmi(ABC):
    """Injects a non-maskable interrupt."""

    @abstractmethod
    def inject_nmi(self, server: str) -> None:
        """Send exactly one NMI; return when the backend said that it was delivered.

        Called from a worker thread, at most once per action and never for two actions of one server at a time. Never retry inside: a
        second NMI can ruin the dump that the first one started. Read the state first and raise :class:`ServerNotRunning` for a
        server that is off or has crashed already; a paused server is signalled (it fires when it resumes).

        :raises CapabilityUnsupported, ServerUnsupported, ServerNotFound, ServerNotRunning, BackendUnavailable: nothing was sent.
        :raises OutcomeUnknown: sent, or perhaps sent, without an answer.
        """


class DiagnosticsSource(ABC):
    """Reads what the platform knows of servers: counters, sizes, states."""

    @abstractmethod
    def collect_diagnostics(self, server: str) -> CollectedDiagnostics:
        """Everything about one server, read now.

        Called from a worker thread, several servers at a time; may be repeated at will and changes nothing. May block as long as the
        platform does: the caller gives up waiting by itself. A part that cannot be read is left null and named in ``errors``; odd devices
        never spoil the rest. Servers that are off, paused or have crashed are answered too, with what is known of them.

        :raises CapabilityUnsupported, ServerNotFound, BackendUnavailable: nothing was read.
        """

    @abstractmethod
    def sample_servers(self) -> Sequence[CollectedDiagnostics]:
        """All running servers at once, as cheaply as the platform can, without waiting for a busy one (that one is left out).

        Called every ``sample_interval`` seconds from the sampler's thread. Rates and utilisation are worked out from two of these.

        :raises BackendUnavailable: nothing was read.
        """


class HostDump(ABC):
    """Writes a server's memory to a file on this host, without the guest's help."""

    @abstractmethod
    def take_host_dump(self, server: str, path: str, on_progress: Callable[[int, int], None]) -> None:
        """Write a compressed dump of the memory only, fit for ``makedumpfile`` and ``crash``, to ``path`` (a file that is not there yet).

        Called from a worker thread, one per server at a time. Blocks until the dump is written; a server that runs stands still meanwhile
        and may report that it was paused and resumed. Only the owner may read the file, from the moment that it is there.

        :param on_progress: told (bytes done, bytes in all) now and then, from any thread; neither blocks nor raises
        :raises CapabilityUnsupported, ServerUnsupported, ServerNotFound, ServerNotRunning, BackendUnavailable: there is no file. The last
            has ``Code.HOST_DUMP_FAILED`` when the platform began and could not finish, ``Code.NO_SPACE`` when the disk is full.
        :raises OutcomeUnknown: nobody knows whether the file is complete, or whether it is still being written.
        """


class Watchdogs(ABC):
    """Manages one watchdog per server, in its configuration and in the running machine."""

    @abstractmethod
    def list_models(self) -> Sequence[WatchdogModel]:
        """The watchdogs that the platform knows. Asked at any time from any thread: no I/O, always the same answer."""

    @abstractmethod
    def get_watchdog(self, server: str) -> Watchdog:
        """What the server has, read now, and which models it can be given. Called from worker threads; may be repeated at will.

        :raises ServerNotFound, BackendUnavailable: nothing was read.
        """

    @abstractmethod
    def set_watchdog(self, server: str, device: WatchdogDevice) -> Watchdog:
        """Give the server this watchdog and no other managed one; returns what it has then. Setting what is there changes nothing.

        Called from a worker thread, never for two changes of one server at a time; blocks up to the driver's bound. **Convergent**: called
        again after a call that died at any step (process killed, backend gone) it goes on from what is there, and called with the former
        device it goes back. Everything that can be known before is checked *before* anything is touched. A running machine is changed
        where the platform can, otherwise at its next start (``pending_restart``). It never ends with less than the former or the new
        device: where the new one cannot be had after the former went, the former is put back before this raises.

        :raises ServerUnsupported: this server cannot have it, or has one that is not managed; nothing was changed, the reason says why.
        :raises ServerNotFound, BackendUnavailable: nothing was changed. The latter has ``Code.WATCHDOG_NOT_CHANGED`` when the platform
            refused or failed, and the server has the one that it had.
        :raises OutcomeUnknown: the backend went away meanwhile; what the server has is to be read, and the call repeated.
        """

    @abstractmethod
    def remove_watchdog(self, server: str) -> Watchdog:
        """Take the managed watchdog away; returns what is there then. Removing what is not there changes nothing.

        Called, repeated, and raises as :meth:`set_watchdog`. A device counts as gone only when the platform has told so, not when a request
        to take it away was accepted.
        """


@dataclass(frozen=True)
class FoundDump:
    """A file on this host with a server's memory: its path and its size in bytes."""

    path: str
    size: int


class ExpiryDumps(ABC):
    """Finds the file that the platform wrote because a watchdog with the expiry action ``dump`` fired."""

    @abstractmethod
    def find_expiry_dump(self, server: str, since: datetime, until: datetime | None = None) -> FoundDump | None:
        """The newest dump of this server that was begun at ``since`` or later, and before ``until``; None: there is none, so it failed.

        Called from a worker thread when the server runs again after the firing; may be repeated at will.

        :raises BackendUnavailable: nobody can say, the place cannot be read.
        """


class Resume(ABC):
    """Lets a paused server run again."""

    @abstractmethod
    def resume_server(self, server: str) -> None:
        """Return when it runs. Called from a worker thread; may be repeated: of a server that runs already it does nothing.

        :raises ServerNotFound: there is none.
        :raises ServerNotRunning: it is neither paused nor running (off, crashed, asleep); nothing was done.
        :raises BackendUnavailable: nothing was done, or the platform refused.
        :raises OutcomeUnknown: no answer came.
        """


class Inspection(ABC):
    """Reads what a server's black box keeps after a crash."""

    @abstractmethod
    def inspect_server(self, server: str) -> InspectedServer:
        """States and configuration of one server, read now.

        Called from a worker thread after a crash dump signal or a panic; may be repeated at will and changes nothing. The caller gives up
        waiting by itself. A crashed, paused or stopped server is answered too; a part that cannot be read is left empty.

        :raises ServerNotFound, BackendUnavailable: nothing was read.
        """

    @abstractmethod
    def read_console_tail(self, server: str, limit: int) -> bytes | None:
        """The last ``limit`` bytes at most of the server's serial console log; None: it has none, or none that can be read here.

        Called only where an operator allowed it: what a console says belongs to the server's owner.

        :raises ServerNotFound, BackendUnavailable: nothing was read.
        """


class Events(ABC):
    """Tells what happens to servers as it happens."""

    @abstractmethod
    def subscribe(self, listener: Callable[[DriverEvent], None]) -> None:
        """Register the one listener; called once, before :meth:`Driver.open`.

        The listener only enqueues: it never blocks and never raises, so it may be called from the backend's own event thread. What
        happened while the backend was away is not replayed: report BACKEND_LOST and BACKEND_BACK and the agent compares states. On
        BACKEND_BACK every subscription is in force again *before* the event is given. Of a server whose events begin only later, give it
        again with that server: its state alone is compared once more.
        """


class Lifecycle(ABC):
    """Opens and closes the way to the backend, for drivers that keep one."""

    @abstractmethod
    def open(self) -> None:
        """Begin to connect and keep connecting in the background; does not raise when the backend is away."""

    @abstractmethod
    def close(self) -> None:
        """End all threads of the driver and let go of the backend; afterwards no listener is called any more."""


@dataclass(frozen=True)
class Driver:
    """A driver: its name and what it can do.

    ``call_bound`` is the longest in seconds that a begun call may take before the agent calls its outcome unknown.
    """

    name: str
    servers: Servers
    call_bound: float
    nmi: Nmi | None = None
    diagnostics: DiagnosticsSource | None = None
    host_dump: HostDump | None = None
    inspection: Inspection | None = None
    watchdog: Watchdogs | None = None
    expiry_dumps: ExpiryDumps | None = None
    resume: Resume | None = None
    events: Events | None = None
    lifecycle: Lifecycle | None = field(default=None, repr=False)

    def capabilities(self) -> Capabilities:
        """What this driver can do, derived from what it holds."""
        return Capabilities(
            driver=self.name,
            inject_nmi=self.nmi is not None,
            diagnostics=self.diagnostics is not None,
            watchdog=self.watchdog is not None,
            events=self.events is not None,
            host_dump=self.host_dump is not None,
            resume=self.resume is not None,
            watchdog_models=() if self.watchdog is None else tuple(self.watchdog.list_models()),
        )
