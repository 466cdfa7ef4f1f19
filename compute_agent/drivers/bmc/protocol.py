"""What a protocol to BMCs implements (``ipmi``, ``redfish``): one :class:`Bmc` per machine, made by its :class:`Protocol`.

The driver ``bmc`` is built on these: it knows which machines there are, polls them, and turns what they say into the driver interface. A
protocol knows no inventory and no agent, only how to ask one BMC. It is found by the entry points of ``crashcart.bmc_protocols``.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from compute_agent.contract.diagnostics import Hardware, Health
from compute_agent.contract.models import PowerState
from compute_agent.contract.watchdogs import WatchdogDevice, WatchdogModel
from compute_agent.drivers.models import DiskCounters, DriverEventKind, NicCounters


class Secret:
    """A password: in no ``repr``, no log and no error's text, and nothing pickles it."""

    __slots__ = ("_value",)

    def __init__(self, value: bytes) -> None:
        self._value = value

    def reveal(self) -> bytes:
        return self._value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._value == self._value

    def __hash__(self) -> int:
        return hash(self._value)

    def __repr__(self) -> str:
        return "Secret(***)"

    def __reduce__(self) -> str:
        raise TypeError("a secret is not written anywhere")


@dataclass(frozen=True)
class Target:
    """How one machine's BMC is reached. ``port`` is never 0.

    ``privilege`` and ``cipher`` are IPMI's (a privilege level by name, a cipher suite's number), ``ca_file``, ``verify_tls`` and ``system``
    (which of the systems behind one address, by its path or identity) are Redfish's; None: the protocol's default.
    """

    server: str
    address: str
    port: int
    username: str = ""
    password: Secret = field(default_factory=lambda: Secret(b""))
    privilege: str | None = None
    cipher: int | None = None
    ca_file: Path | None = None
    verify_tls: bool = True
    system: str | None = None


@dataclass(frozen=True)
class TimerState:
    """A BMC's watchdog timer. ``device`` None: nothing is set up. ``running``: it counts, and fires unless it is fed."""

    device: WatchdogDevice | None = None
    running: bool = False


@dataclass(frozen=True)
class MachineState:
    """What changes from minute to minute. ``power_state`` is RUNNING or SHUTDOWN: a BMC knows the power, not the operating system.

    ``reason`` is the BMC's own word. ``started_at`` only where the BMC keeps the time of the last reset and always gives the same
    one. ``timer`` None: this BMC has no watchdog timer.
    """

    power_state: PowerState
    reason: str = ""
    started_at: datetime | None = None
    timer: TimerState | None = None


@dataclass(frozen=True)
class LogRecord:
    """A record of the BMC's own log. ``at`` by the *agent's* clock (a BMC's may be hours off: by how much is asked with each reading), and
    never before it was really written: the end of the second for a log that counts in seconds, and not after the reading. None: the BMC had
    no clock when it wrote it.

    ``events``: what it means, as kinds with a reason each (``WATCHDOG_FIRED`` with the word of its expiry action), in their order; empty
    for what is no news. ``cursor``: the log's after this record; None where that cannot be told, and then an agent that is killed between
    two events of one reading tells the first one again.
    """

    id: str
    text: str
    at: datetime | None = None
    severity: Health | None = None
    events: tuple[tuple[DriverEventKind, str], ...] = ()
    cursor: str | None = None


@dataclass(frozen=True)
class LogReading:
    """Records after the cursor, oldest first, and the cursor after them (opaque, at most 478 characters).

    Without a cursor to begin with there are no records: what was in the log before is history. Where the log was cleared, or has
    wrapped past the cursor, everything in it is after the cursor, and ``lost`` says so.
    """

    records: Sequence[LogRecord]
    cursor: str
    lost: str = ""


@dataclass(frozen=True)
class Polled:
    """One look at a machine. ``log`` None: this BMC has no log, or it cannot be read now (``problem`` says why)."""

    state: MachineState
    log: LogReading | None = None
    problem: str = ""


@dataclass(frozen=True)
class MachineParts:
    """What a machine is made of and how it feels. Numbers and lists are None or empty where the BMC does not know; ``errors`` by part."""

    state: MachineState
    cpus: int | None = None
    memory_kib: int | None = None
    nics: Sequence[NicCounters] = ()
    disks: Sequence[DiskCounters] = ()
    hardware: Hardware = field(default_factory=Hardware)
    errors: Mapping[str, str] = field(default_factory=dict)


class Bmc(ABC):
    """One machine's BMC.

    Every method may be called from any thread, and from several at once; each blocks for ``limit`` seconds at most, whatever the BMC does,
    and raises only what ``drivers.errors`` declares (with the target's server). None logs or tells a credential. ``BackendUnavailable``
    with ``Code.FORBIDDEN`` means that the BMC refuses the credentials or the privilege; a ``limit`` that ran out is ``BackendUnavailable``
    for what may be repeated, and ``OutcomeUnknown`` for what was sent once without an answer. After :meth:`close` every call raises
    ``BackendUnavailable``.
    """

    @abstractmethod
    def read_state(self, limit: float) -> MachineState:
        """Power and watchdog timer, asked now.

        :raises BackendUnavailable: the BMC did not answer.
        """

    @abstractmethod
    def poll(self, cursor: str | None, limit: float) -> Polled:
        """State and what is new in the log since ``cursor`` (None: begin here), in as few exchanges as can be.

        :raises BackendUnavailable: not even the state could be read.
        """

    @abstractmethod
    def inject_nmi(self, limit: float) -> None:
        """Send one diagnostic interrupt, **at most once**: no library and no network layer of ours may repeat the request.

        The power state is read first. Returns only when the BMC answered that it did it.

        :raises ServerNotRunning, ServerUnsupported, CapabilityUnsupported, BackendUnavailable: nothing was done.
        :raises OutcomeUnknown: it was sent and no answer that can be believed came.
        """

    @abstractmethod
    def read_parts(self, limit: float) -> MachineParts:
        """Everything that diagnostics tell. A part that cannot be read, or not in time, is left out and named in ``errors``.

        :raises BackendUnavailable: not even the state could be read.
        """

    @abstractmethod
    def set_timer(self, device: WatchdogDevice | None, limit: float) -> TimerState:
        """Set the watchdog timer up, or (None) stop and clear it; returns what is there then. One that counts goes on counting, with its
        countdown; one that stands still is not started (:meth:`reset_timer` does). May be repeated.

        :raises ServerUnsupported: this BMC has no such timer, or not with this expiry action; nothing was changed.
        :raises BackendUnavailable: nothing was changed.
        :raises OutcomeUnknown: no answer came; what is there is to be read.
        """

    @abstractmethod
    def reset_timer(self, limit: float) -> None:
        """Let the timer count from its beginning; starts one that stands still. May be repeated.

        :raises ServerUnsupported: there is none, or none is set up.
        :raises BackendUnavailable: nothing was done.
        :raises OutcomeUnknown: no answer came.
        """

    @abstractmethod
    def close(self) -> None:
        """Let go of what is held for this BMC; calls that wait end at once."""


class Protocol(ABC):
    """What BMCs speak: made once per agent by the entry point's ``create_protocol(conf, clock)``."""

    name: str
    default_port: int
    watchdog_models: tuple[WatchdogModel, ...]

    @abstractmethod
    def connect(self, target: Target) -> Bmc:
        """The BMC at ``target``; no I/O yet.

        :raises ValueError: the target cannot be used with this protocol (an unknown cipher, a CA file that cannot be read); the text says
            why, and holds no credential.
        """

    @abstractmethod
    def close(self) -> None:
        """End all threads and sockets of the protocol; every BMC is closed before."""
