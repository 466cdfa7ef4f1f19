"""libvirt's (state, reason) numbers in crashcart's words."""

import libvirt

from compute_agent.contract.models import PowerState

POWER_STATES: dict[int, PowerState] = {
    libvirt.VIR_DOMAIN_NOSTATE: PowerState.PENDING,
    libvirt.VIR_DOMAIN_RUNNING: PowerState.RUNNING,
    libvirt.VIR_DOMAIN_BLOCKED: PowerState.RUNNING,
    libvirt.VIR_DOMAIN_PAUSED: PowerState.PAUSED,
    # The guest has finished its shutdown and its processors have stopped; only the process is still there.
    libvirt.VIR_DOMAIN_SHUTDOWN: PowerState.SHUTDOWN,
    libvirt.VIR_DOMAIN_SHUTOFF: PowerState.SHUTDOWN,
    libvirt.VIR_DOMAIN_CRASHED: PowerState.CRASHED,
    libvirt.VIR_DOMAIN_PMSUSPENDED: PowerState.SUSPENDED,
}
_PAUSED_BUT: dict[int, PowerState] = {
    # QEMU is being started: there is no guest yet that somebody could have paused.
    libvirt.VIR_DOMAIN_PAUSED_STARTING_UP: PowerState.PENDING,
    # It has panicked and libvirt holds it still while it writes a dump of it.
    libvirt.VIR_DOMAIN_PAUSED_CRASHED: PowerState.CRASHED,
}
_SHUT_OFF_BUT: dict[int, PowerState] = {
    # Its memory is in a file: whatever went on in the guest goes on when it is restored.
    libvirt.VIR_DOMAIN_SHUTOFF_SAVED: PowerState.SUSPENDED,
}
_RESTORED = frozenset(
    {
        (libvirt.VIR_DOMAIN_RUNNING, libvirt.VIR_DOMAIN_RUNNING_RESTORED),
        (libvirt.VIR_DOMAIN_RUNNING, libvirt.VIR_DOMAIN_RUNNING_FROM_SNAPSHOT),
        (libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_FROM_SNAPSHOT),
    }
)
_STATE_WORDS = {
    libvirt.VIR_DOMAIN_NOSTATE: "no state",
    libvirt.VIR_DOMAIN_RUNNING: "running",
    libvirt.VIR_DOMAIN_BLOCKED: "blocked",
    libvirt.VIR_DOMAIN_PAUSED: "paused",
    libvirt.VIR_DOMAIN_SHUTDOWN: "shutting down",
    libvirt.VIR_DOMAIN_SHUTOFF: "shut off",
    libvirt.VIR_DOMAIN_CRASHED: "crashed",
    libvirt.VIR_DOMAIN_PMSUSPENDED: "suspended by guest",
}
_REASON_WORDS: dict[int, dict[int, str]] = {
    libvirt.VIR_DOMAIN_RUNNING: {
        libvirt.VIR_DOMAIN_RUNNING_BOOTED: "booted",
        libvirt.VIR_DOMAIN_RUNNING_MIGRATED: "migrated",
        libvirt.VIR_DOMAIN_RUNNING_RESTORED: "restored",
        libvirt.VIR_DOMAIN_RUNNING_FROM_SNAPSHOT: "from snapshot",
        libvirt.VIR_DOMAIN_RUNNING_UNPAUSED: "unpaused",
        libvirt.VIR_DOMAIN_RUNNING_MIGRATION_CANCELED: "migration cancelled",
        libvirt.VIR_DOMAIN_RUNNING_SAVE_CANCELED: "save cancelled",
        libvirt.VIR_DOMAIN_RUNNING_WAKEUP: "woken up",
        libvirt.VIR_DOMAIN_RUNNING_CRASHED: "crashed",
        libvirt.VIR_DOMAIN_RUNNING_POSTCOPY: "post-copy",
        libvirt.VIR_DOMAIN_RUNNING_POSTCOPY_FAILED: "post-copy failed",
    },
    libvirt.VIR_DOMAIN_PAUSED: {
        libvirt.VIR_DOMAIN_PAUSED_USER: "user",
        libvirt.VIR_DOMAIN_PAUSED_MIGRATION: "migration",
        libvirt.VIR_DOMAIN_PAUSED_SAVE: "save",
        libvirt.VIR_DOMAIN_PAUSED_DUMP: "dump",
        libvirt.VIR_DOMAIN_PAUSED_IOERROR: "I/O error",
        libvirt.VIR_DOMAIN_PAUSED_WATCHDOG: "watchdog",
        libvirt.VIR_DOMAIN_PAUSED_FROM_SNAPSHOT: "from snapshot",
        libvirt.VIR_DOMAIN_PAUSED_SHUTTING_DOWN: "shutting down",
        libvirt.VIR_DOMAIN_PAUSED_SNAPSHOT: "snapshot",
        libvirt.VIR_DOMAIN_PAUSED_CRASHED: "crashed",
        libvirt.VIR_DOMAIN_PAUSED_STARTING_UP: "starting up",
        libvirt.VIR_DOMAIN_PAUSED_POSTCOPY: "post-copy",
        libvirt.VIR_DOMAIN_PAUSED_POSTCOPY_FAILED: "post-copy failed",
        14: "API error",  # VIR_DOMAIN_PAUSED_API_ERROR, which libvirt 9.0 does not name yet
    },
    libvirt.VIR_DOMAIN_SHUTDOWN: {libvirt.VIR_DOMAIN_SHUTDOWN_USER: "user"},
    libvirt.VIR_DOMAIN_SHUTOFF: {
        libvirt.VIR_DOMAIN_SHUTOFF_SHUTDOWN: "shutdown",
        libvirt.VIR_DOMAIN_SHUTOFF_DESTROYED: "destroyed",
        libvirt.VIR_DOMAIN_SHUTOFF_CRASHED: "crashed",
        libvirt.VIR_DOMAIN_SHUTOFF_MIGRATED: "migrated",
        libvirt.VIR_DOMAIN_SHUTOFF_SAVED: "saved",
        libvirt.VIR_DOMAIN_SHUTOFF_FAILED: "failed to start",
        libvirt.VIR_DOMAIN_SHUTOFF_FROM_SNAPSHOT: "from snapshot",
        libvirt.VIR_DOMAIN_SHUTOFF_DAEMON: "daemon decided",
    },
    libvirt.VIR_DOMAIN_CRASHED: {libvirt.VIR_DOMAIN_CRASHED_PANICKED: "panicked"},
}


def translate_power_state(state: int, reason: int) -> PowerState:
    """The power state of (state, reason); a number of a newer libvirt is PENDING: not known to run."""
    if state == libvirt.VIR_DOMAIN_PAUSED and reason in _PAUSED_BUT:
        return _PAUSED_BUT[reason]
    if state == libvirt.VIR_DOMAIN_SHUTOFF and reason in _SHUT_OFF_BUT:
        return _SHUT_OFF_BUT[reason]
    return POWER_STATES.get(state, PowerState.PENDING)


def describe_state(state: int, reason: int) -> str:
    """libvirt's own word, as "paused: watchdog"; the number where it is not known here; reason 0 is "unknown" and left out."""
    state_word = _STATE_WORDS.get(state, f"state {state}")
    if reason == 0:
        return state_word
    return f"{state_word}: {_REASON_WORDS.get(state, {}).get(reason, f'reason {reason}')}"


def is_run_of_process(state: int, reason: int) -> bool:
    """Whether the machine's present run began with its process: not when there is none, and not when saved memory was loaded into it."""
    if translate_power_state(state, reason) in (PowerState.SHUTDOWN, PowerState.PENDING) or state == libvirt.VIR_DOMAIN_SHUTOFF:
        return False
    return (state, reason) not in _RESTORED
