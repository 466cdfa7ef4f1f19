"""What a driver's event means for a server's state and for an open observation, and the sentences that people read.

Pure tables and functions: ``observer`` applies them.
"""

from dataclasses import dataclass
from datetime import datetime

from compute_agent.contract.models import Observation, PowerState
from compute_agent.drivers.models import DriverEvent, DriverEventKind

GUIDE = "doc/guest-setup.rst"

EVENT_TYPE_OF_KIND: dict[DriverEventKind, str] = {
    DriverEventKind.STARTED: "server.started",
    DriverEventKind.STOPPED: "server.stopped",
    DriverEventKind.PAUSED: "server.paused",
    DriverEventKind.RESUMED: "server.resumed",
    DriverEventKind.SUSPENDED: "server.suspended",
    DriverEventKind.REBOOTED: "server.rebooted",
    DriverEventKind.PANICKED: "server.panicked",
    DriverEventKind.CRASH_KERNEL_STARTED: "server.crash_kernel_started",
}

_STATE_AFTER: dict[DriverEventKind, PowerState] = {
    DriverEventKind.STARTED: PowerState.RUNNING,
    DriverEventKind.STOPPED: PowerState.SHUTDOWN,
    DriverEventKind.PAUSED: PowerState.PAUSED,
    DriverEventKind.RESUMED: PowerState.RUNNING,
    DriverEventKind.SUSPENDED: PowerState.SUSPENDED,
    DriverEventKind.PANICKED: PowerState.CRASHED,
}

ENDS_HOLDOFF = frozenset({DriverEventKind.STARTED, DriverEventKind.STOPPED, DriverEventKind.REBOOTED})
"""After these no earlier dump can still be running in the guest."""

KIND_FOUND: dict[PowerState, DriverEventKind] = {
    PowerState.PAUSED: DriverEventKind.PAUSED,
    PowerState.CRASHED: DriverEventKind.PANICKED,
    PowerState.SHUTDOWN: DriverEventKind.STOPPED,
}
"""What must have happened to a server that was found in such a state."""

EXPLAINED_BY_SIGNAL = frozenset(
    {DriverEventKind.PANICKED, DriverEventKind.CRASH_KERNEL_STARTED, DriverEventKind.REBOOTED, DriverEventKind.STOPPED}
)
"""What a crash dump signal may lead to: such an event names the signal's action."""


def find_state_after(event: DriverEvent, before: PowerState) -> PowerState:
    """The server's state once the event has happened. A reboot changes it only for a crashed one: a paused one stays paused."""
    kind = event.kind
    if event.power_state is not None:
        return event.power_state
    if kind is DriverEventKind.REBOOTED and before is PowerState.CRASHED:
        return PowerState.RUNNING
    return _STATE_AFTER.get(kind, before)


def is_seen_in_state(event: DriverEvent) -> bool:
    """Whether a comparison of states would have told it, too."""
    return event.power_state is None and event.kind not in (DriverEventKind.REBOOTED, DriverEventKind.CRASH_KERNEL_STARTED)


def find_event_type(before: PowerState, after: PowerState, restarted: bool) -> str:
    """The event that tells of a change which nobody saw happen."""
    if after is PowerState.RUNNING:
        return "server.resumed" if before in (PowerState.PAUSED, PowerState.SUSPENDED) and not restarted else "server.started"
    return {
        PowerState.PAUSED: "server.paused",
        PowerState.SUSPENDED: "server.suspended",
        PowerState.CRASHED: "server.panicked",
    }.get(after, "server.stopped")


CRASHES = frozenset({"server.panicked", "server.crash_kernel_started"})
"""The events that tell of a guest's crash."""


@dataclass(frozen=True)
class Crash:
    """A guest's crash whose event is in the journal. ``action_id`` is the crash dump that may have led to it."""

    server: str
    event_type: str
    occurred_at: datetime
    action_id: str | None = None


@dataclass(frozen=True)
class Finding:
    """An observation to record."""

    observation: Observation
    final: bool
    text: str


_PANICKED = Finding(Observation.GUEST_PANICKED, True, "The guest panicked after the NMI, as its pvpanic device reported.")
_PANICKED_AND_ON = Finding(
    Observation.GUEST_PANICKED,
    True,
    "The operating system panicked after the NMI, as its platform's log says; the server is switched on still. If it is writing its dump, "
    "a second NMI would ruin that: do not trigger again before it has rebooted.",
)
_CRASH_KERNEL = Finding(
    Observation.CRASH_KERNEL_STARTED,
    False,
    "The guest panicked after the NMI and its crash kernel started; it is probably writing its dump. Do not trigger again: a second NMI "
    "can ruin it. The reboot at its end is reported too.",
)
_REBOOTED = Finding(
    Observation.GUEST_REBOOTED,
    True,
    "The guest rebooted after the NMI, as one does after kdump has written its dump or after panic=SECONDS. Look for the dump in the "
    f"guest. {GUIDE} says what each set-up shows.",
)
_STOPPED = Finding(Observation.GUEST_STOPPED, True, "The server stopped after the NMI.")
_MOVED = Finding(
    Observation.NOT_OBSERVED, True, "The server moved to another host after the NMI; what the guest did there was not connected to it."
)
LEFT = Finding(
    Observation.NOT_OBSERVED,
    True,
    "The server left this host after the NMI, while its agent, hypervisor or management controller was away.",
)
PANICKED_LATE = Finding(
    Observation.GUEST_PANICKED,
    True,
    "The server was found crashed after the NMI; it panicked while its host's agent, hypervisor or management controller was away.",
)
STOPPED_LATE = Finding(
    Observation.GUEST_STOPPED,
    True,
    "The server was found stopped, or started anew, after the NMI; that happened while its host's agent, hypervisor or management "
    "controller was away.",
)
PENDING_TOO_LONG = Finding(
    Observation.NOT_OBSERVED,
    True,
    "The server stayed paused for a day after the NMI was handed over. The NMI still fires when it resumes, and nobody watches any more.",
)

_FINDING_OF_KIND: dict[DriverEventKind, Finding] = {
    DriverEventKind.PANICKED: _PANICKED,
    DriverEventKind.CRASH_KERNEL_STARTED: _CRASH_KERNEL,
    DriverEventKind.REBOOTED: _REBOOTED,
    DriverEventKind.STOPPED: _STOPPED,
    # Its stop was missed; a running server cannot start.
    DriverEventKind.STARTED: STOPPED_LATE,
    DriverEventKind.MIGRATED_AWAY: _MOVED,
    DriverEventKind.UNDEFINED: LEFT,
}


def find_finding(event: DriverEvent) -> Finding | None:
    """What an event after a signal says of the guest; None: nothing."""
    if event.kind is DriverEventKind.PANICKED and event.power_state is PowerState.RUNNING:
        return _PANICKED_AND_ON
    return _FINDING_OF_KIND.get(event.kind)


_WATCHDOGS_DOING: dict[DriverEventKind, str] = {
    DriverEventKind.REBOOTED: "reset the server",
    DriverEventKind.STOPPED: "had it stop",
    DriverEventKind.STARTED: "had it start anew",
    DriverEventKind.PANICKED: "made it panic with an NMI of its own",
    DriverEventKind.CRASH_KERNEL_STARTED: "made it panic with an NMI of its own",
}


def find_finding_by_watchdog(kind: DriverEventKind, last: Observation | None, fired_event: str) -> Finding | None:
    """What an event that came from the server's watchdog alone says of an earlier signal; None: nothing.

    The signal did not lead to it, and now nothing can follow the signal any more.
    """
    doing = _WATCHDOGS_DOING.get(kind)
    if doing is None:
        return None
    if last is Observation.CRASH_KERNEL_STARTED:
        text = f"The guest's crash kernel started after the NMI; then its watchdog fired and {doing} (event {fired_event}): the dump is "
        return Finding(last, True, text + "probably not complete.")
    text = f"Nothing was seen of the guest after the NMI until its watchdog fired and {doing} (event {fired_event}). If it was writing its "
    return Finding(Observation.NOTHING_SEEN, True, text + "dump, that was cut off.")


def describe_silence(seconds: float) -> Finding:
    """Nothing was seen for a while, and it is too early to say more."""
    return Finding(
        Observation.NOTHING_SEEN_YET,
        False,
        f"Nothing was seen of the guest for {seconds:.0f} s after the NMI. A guest that is writing its dump looks exactly like this; do "
        f"not trigger again. If it stays like this, the guest may ignore NMIs: {GUIDE} says how to set it up.",
    )


def describe_end_of_watch(last: Observation | None, *, interrupted: bool, watched_for: float) -> Finding:
    """The last word when the time for observing is over.

    :param interrupted: the agent, the hypervisor or the management controller was away meanwhile, or the driver reports no events
    """
    minutes = f"{watched_for / 60:.0f} min"
    if last is Observation.CRASH_KERNEL_STARTED:
        return Finding(
            last,
            True,
            f"The guest's crash kernel started and no reboot followed within {minutes}: the dump may have failed or still be running.",
        )
    if interrupted:
        return Finding(
            Observation.NOT_OBSERVED,
            True,
            "The guest was not watched all the time after the NMI (its host's agent, hypervisor or management controller was away): it may "
            f"have panicked or rebooted unseen. Look into the guest; {GUIDE} says where.",
        )
    return Finding(
        Observation.NOTHING_SEEN,
        True,
        f"Nothing was seen of the guest within {minutes} after the NMI. It probably ignores NMIs, or panicked without telling (a VM "
        f"needs a pvpanic device for that) and without rebooting: {GUIDE} says how to set it up.",
    )
