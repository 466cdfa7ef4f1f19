"""The contract between the agent and a driver: capability interfaces. What a driver may raise is in ``errors``, what it tells is in
``models``.

A driver is a :class:`Driver`: a holder of small capability objects, or None for what it cannot do at all. What it can do is
*derived* from that, so it cannot disagree with the code. The driver's author implements 1 to 4 abstract methods per capability; one
conformance suite (``tests/conformance``) runs over every driver.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from compute_agent.contract.models import Capabilities
from compute_agent.contract.watchdogs import Watchdog, WatchdogDevice, WatchdogModel
from compute_agent.drivers.models import CollectedDiagnostics, DriverEvent, DriverServer, FoundDump, InspectedServer


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


class WatchdogTimer(ABC):
    """Feeds a watchdog from outside the server, for platforms whose watchdog counts in the machine's management controller."""

    @abstractmethod
    def reset_timer(self, server: str) -> None:
        """Let the server's watchdog count from its beginning again; return when that is certain. One that stands still begins to count.

        Called from a worker thread; may be repeated at will: to do it once more only counts from later on.

        :raises ServerUnsupported: it has no watchdog that could be fed; nothing was done.
        :raises ServerNotFound, ServerNotRunning, BackendUnavailable: nothing was done.
        :raises OutcomeUnknown: no answer came.
        """


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
    def subscribe(self, listener: Callable[[DriverEvent], None], cursors: Mapping[str, str]) -> None:
        """Register the one listener; called once, before :meth:`Driver.open`.

        ``cursors`` holds, by server, the last :attr:`DriverEvent.cursor` that was given and kept: a platform with a log of its own goes on
        reading after it, so that what happened while no agent ran is told once. Of a server without one, only what comes from now on is
        news.

        The listener only enqueues: it never blocks, so it may be called from the backend's own event thread. It raises nothing but
        ``EventNotTaken``, and that only of an event with a cursor: read that log again later, from the cursor before it. What happened
        while the backend was away is not replayed: report BACKEND_LOST and BACKEND_BACK and the agent compares states. On BACKEND_BACK
        every subscription is in force again *before* the event is given. Of a server whose events begin only later, give it again with
        that server: its state alone is compared once more. Where each server has a backend of its own, give both with the server when
        its backend goes and comes, and BACKEND_BACK without one when all were looked at for the first time.
        """


class Lifecycle(ABC):
    """Opens and closes the way to the backend, for drivers that keep one."""

    @abstractmethod
    def open(self) -> None:
        """Begin to connect and keep connecting in the background; does not raise when the backend is away."""

    @abstractmethod
    def close(self) -> None:
        """End all threads of the driver and let go of the backend; afterwards no listener is called any more."""


class Reload(ABC):
    """Takes a changed configuration while serving, for drivers that have files of their own."""

    @abstractmethod
    def reload(self) -> None:
        """Read them anew. Called at SIGHUP, from one thread, after :meth:`Lifecycle.open`; does no I/O but the files'.

        Never raises for what is wrong in them: that is logged, and what was in force before stays so. Servers that came are told as
        DEFINED, those that went as UNDEFINED.
        """


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
    watchdog_timer: WatchdogTimer | None = None
    expiry_dumps: ExpiryDumps | None = None
    resume: Resume | None = None
    events: Events | None = None
    lifecycle: Lifecycle | None = field(default=None, repr=False)
    reload: Reload | None = field(default=None, repr=False)

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
            watchdog_timer=self.watchdog_timer is not None,
            watchdog_models=() if self.watchdog is None else tuple(self.watchdog.list_models()),
        )
