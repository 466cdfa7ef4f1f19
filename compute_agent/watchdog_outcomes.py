"""What came of a watchdog's firing, by what was seen of its server afterwards, and the sentences that people read.

Pure tables and functions: ``firings`` applies them. What is seen first is told as what it is, whatever was expected.
"""

from dataclasses import dataclass

from compute_agent.contract.events import WatchdogResult
from compute_agent.contract.models import PowerState, Server
from compute_agent.contract.watchdogs import ExpiryAction, Watchdog, WatchdogDevice
from compute_agent.drivers.models import DriverEventKind, FoundDump

_ACTIONS = frozenset(ExpiryAction)
_REASON = "watchdog"
_MAY_BE_DUMPING = frozenset({_REASON, "dump", "paused", ""})
"""Why platforms say that a server is paused whose memory they may still be writing; "paused" alone: they do not know why."""


@dataclass(frozen=True)
class Verdict:
    """What came of a firing, in a word and in a sentence."""

    result: WatchdogResult
    text: str


def find_device(watchdog: Watchdog | None) -> WatchdogDevice | None:
    """The device that fires: that of the running machine, where the platform tells."""
    return None if watchdog is None else watchdog.live or watchdog.configured


def is_contradicted(expiry_action: str | None, driver_word: str) -> bool:
    """Whether the platform calls it otherwise than it was configured: what is known of the device is old, or was never known."""
    if expiry_action == ExpiryAction.DUMP and driver_word == ExpiryAction.PAUSE:
        return False  # a dump begins with a pause, and that is what platforms tell
    return expiry_action != driver_word


def find_effect(expiry_action: str | None, driver_word: str) -> str:
    """What was really done to the server: the platform's word, but for ``pause``, which it says of a dump too."""
    if expiry_action is None or (is_contradicted(expiry_action, driver_word) and driver_word in _ACTIONS):
        return driver_word
    return expiry_action


def is_watchdogs_pause(reason: str) -> bool:
    """Whether a server is paused by its watchdog, in the platform's words (``watchdog``, ``paused: watchdog``)."""
    return reason.rpartition(": ")[2] == _REASON


def is_paused_by_watchdog(server: Server) -> bool:
    return server.power_state is PowerState.PAUSED and is_watchdogs_pause(server.state_reason)


def shows_end_of_dump(server: Server) -> bool:
    """Whether its watchdog's dump is written no longer: the server runs, sleeps, or was paused for another reason."""
    if server.power_state is PowerState.PAUSED:
        return server.state_reason.rpartition(": ")[2] not in _MAY_BE_DUMPING
    return server.power_state in (PowerState.RUNNING, PowerState.SUSPENDED)


def shows_unseen_firing(before: Server | None, after: Server) -> bool:
    """Whether a server's watchdog has fired and paused it since it was as it is known."""
    return is_paused_by_watchdog(after) and (before is None or not is_paused_by_watchdog(before))


# What events say

_EXPECTED: dict[str, frozenset[DriverEventKind]] = {
    ExpiryAction.RESET: frozenset({DriverEventKind.REBOOTED}),
    ExpiryAction.POWER_CYCLE: frozenset({DriverEventKind.REBOOTED, DriverEventKind.STOPPED, DriverEventKind.STARTED}),
    ExpiryAction.POWEROFF: frozenset({DriverEventKind.STOPPED}),
    ExpiryAction.SHUTDOWN: frozenset({DriverEventKind.STOPPED}),
    ExpiryAction.PAUSE: frozenset({DriverEventKind.PAUSED}),
    ExpiryAction.DUMP: frozenset({DriverEventKind.PAUSED}),
}


def explains(effect: str, kind: DriverEventKind) -> bool:
    """Whether such an event is what this did to its server. An NMI is left out: it may lead to many things, as a crash dump's may."""
    return kind in _EXPECTED.get(effect, frozenset())


CONTINUED = Verdict(WatchdogResult.CONTINUED, "The watchdog is configured to do nothing; the server goes on as it was.")
RESUMED = Verdict(WatchdogResult.CONTINUED, "The server runs again after its watchdog had fired.")
_RESET = Verdict(WatchdogResult.REBOOTED, "The watchdog reset the server.")
_POWER_CYCLED = Verdict(WatchdogResult.REBOOTED, "The watchdog switched the server off and on again.")
_STAYED_OFF = (
    "The watchdog switched the server off, and {seconds:.0f} s after it had fired the server is not on again. crashcart does not start it."
)
_REBOOTED_BY_NMI = Verdict(
    WatchdogResult.REBOOTED,
    "The guest rebooted after its watchdog's NMI, as one does after kdump has written its dump or after panic=SECONDS. Look for the dump "
    "in the guest.",
)
_REBOOTED = Verdict(WatchdogResult.REBOOTED, "The server rebooted after its watchdog had fired.")
_POWERED_OFF = Verdict(WatchdogResult.STOPPED, "The watchdog switched the server off. crashcart does not start it again.")
_SHUT_DOWN = Verdict(WatchdogResult.STOPPED, "The server shut down, as its watchdog had asked it to. crashcart does not start it again.")
_STOPPED = Verdict(WatchdogResult.STOPPED, "The server stopped after its watchdog had fired.")
_STOPPED_IN_DUMP = Verdict(
    WatchdogResult.STOPPED,
    "The server stopped while the hypervisor was to write its memory: a file that it left is not complete.",
)
_PAUSED = Verdict(WatchdogResult.PAUSED, "The watchdog paused the server; it stands still until somebody resumes it.")
_PANICKED = Verdict(WatchdogResult.PANICKED, "The guest panicked after its watchdog's NMI, as its platform reported.")
_CRASH_KERNEL = Verdict(
    WatchdogResult.CRASH_KERNEL_STARTED,
    "The guest panicked after its watchdog's NMI and its crash kernel started; it is probably writing its dump. Do not inject another NMI. "
    "The reboot at its end is reported too.",
)
_MOVED = Verdict(WatchdogResult.NOT_OBSERVED, "The server moved to another host after its watchdog had fired.")
_LEFT = Verdict(WatchdogResult.NOT_OBSERVED, "The server left this host after its watchdog had fired.")
_STARTED_ANEW = Verdict(WatchdogResult.STOPPED, "The server was started anew after its watchdog had fired; its stop was not seen.")

_BY_EFFECT: dict[tuple[str, DriverEventKind], Verdict] = {
    (ExpiryAction.RESET, DriverEventKind.REBOOTED): _RESET,
    (ExpiryAction.POWER_CYCLE, DriverEventKind.REBOOTED): _POWER_CYCLED,
    (ExpiryAction.POWER_CYCLE, DriverEventKind.STARTED): _POWER_CYCLED,
    (ExpiryAction.INJECT_NMI, DriverEventKind.REBOOTED): _REBOOTED_BY_NMI,
    (ExpiryAction.INJECT_NMI, DriverEventKind.PANICKED): _PANICKED,
    (ExpiryAction.INJECT_NMI, DriverEventKind.CRASH_KERNEL_STARTED): _CRASH_KERNEL,
    (ExpiryAction.POWEROFF, DriverEventKind.STOPPED): _POWERED_OFF,
    (ExpiryAction.SHUTDOWN, DriverEventKind.STOPPED): _SHUT_DOWN,
    (ExpiryAction.DUMP, DriverEventKind.STOPPED): _STOPPED_IN_DUMP,
}
_BY_KIND: dict[DriverEventKind, Verdict] = {
    DriverEventKind.REBOOTED: _REBOOTED,
    DriverEventKind.STOPPED: _STOPPED,
    DriverEventKind.STARTED: _STARTED_ANEW,
    DriverEventKind.PANICKED: Verdict(WatchdogResult.PANICKED, "The guest panicked after its watchdog had fired."),
    DriverEventKind.CRASH_KERNEL_STARTED: Verdict(
        WatchdogResult.CRASH_KERNEL_STARTED, "The guest's crash kernel started after its watchdog had fired."
    ),
    DriverEventKind.MIGRATED_AWAY: _MOVED,
    DriverEventKind.UNDEFINED: _LEFT,
}


def find_verdict(effect: str, kind: DriverEventKind, reason: str) -> Verdict | None:
    """What an event after a firing says of it; None: nothing, or not all of it (a dump that goes on or is over, a power cycle's stop)."""
    if kind is DriverEventKind.PAUSED:
        # Somebody else's pause says nothing, unless it is all that can be expected.
        is_its_own = effect == ExpiryAction.PAUSE or effect not in _ACTIONS or is_watchdogs_pause(reason)
        return _PAUSED if is_its_own and effect != ExpiryAction.DUMP else None
    if kind is DriverEventKind.STOPPED and effect == ExpiryAction.POWER_CYCLE:
        return None  # one half of it
    if kind is DriverEventKind.RESUMED:
        return RESUMED if effect == ExpiryAction.PAUSE or effect not in _ACTIONS else None
    return _BY_EFFECT.get((effect, kind), _BY_KIND.get(kind))


EVENT_KINDS: dict[str, DriverEventKind] = {
    "server.rebooted": DriverEventKind.REBOOTED,
    "server.stopped": DriverEventKind.STOPPED,
    "server.paused": DriverEventKind.PAUSED,
    "server.panicked": DriverEventKind.PANICKED,
    "server.crash_kernel_started": DriverEventKind.CRASH_KERNEL_STARTED,
}
"""Events that a firing's own may come after: QEMU holds a second one within a second back, but not what the firing led to."""


# What states say

_PANICKED_LATE = Verdict(
    WatchdogResult.PANICKED, "The server was found crashed after its watchdog had fired; nobody was watching when it happened."
)
_STOPPED_LATE = Verdict(
    WatchdogResult.STOPPED,
    "The server was found stopped, or started anew, after its watchdog had fired; nobody was watching when it happened.",
)
_PAUSED_LATE = Verdict(
    WatchdogResult.PAUSED, "The server was found paused after its watchdog had fired; it stands still until somebody resumes it."
)
NOT_OBSERVED = Verdict(
    WatchdogResult.NOT_OBSERVED,
    "Nobody was watching the server after its watchdog had fired (its host's agent, hypervisor or management controller was away), and it "
    "runs: it may have rebooted or gone on.",
)


def judge_state(effect: str, state: PowerState | None, *, was_reset: bool) -> Verdict | None:
    """What the state of a server that nobody watched for a while says of a firing before that; None: it is waited for more.

    :param state: None: the server has left this host
    :param was_reset: its machine was stopped, or started anew, after the firing
    """
    if state is None:
        return _LEFT
    if state is PowerState.CRASHED:
        return _PANICKED_LATE
    if was_reset or state is PowerState.SHUTDOWN:
        return _STOPPED_LATE
    return _PAUSED_LATE if state is PowerState.PAUSED and effect == ExpiryAction.PAUSE else None


# What time says

DUMP_FAILED = Verdict(
    WatchdogResult.DUMP_FAILED,
    "The server runs again, and the hypervisor left no file with its memory: the dump failed. The hypervisor's log says why; often there "
    "is no room where it writes dumps.",
)
FIRED_AGAIN = Verdict(WatchdogResult.NOTHING_SEEN, "Nothing was seen of the server before its watchdog fired again.")
_DUMP_GOES_ON = "The server has been paused for {seconds:.0f} s and does not run again: the hypervisor still writes its memory, or gave up."


def describe_silence(effect: str, seconds: float, state: PowerState | None) -> Verdict:
    """Nothing more was seen of the server for as long as anybody waits for it.

    :param state: that of the server now, as last known
    """
    if effect == ExpiryAction.POWER_CYCLE and state is PowerState.SHUTDOWN:
        return Verdict(WatchdogResult.STOPPED, _STAYED_OFF.format(seconds=seconds))
    if effect == ExpiryAction.SHUTDOWN:
        text = f"The server still runs {seconds:.0f} s after its watchdog asked it to shut down: it is slow, or does not listen to ACPI."
    elif effect == ExpiryAction.INJECT_NMI:
        text = (
            f"Nothing was seen of the guest for {seconds:.0f} s after its watchdog's NMI. A guest that is writing its dump looks exactly "
            "like this: do not inject another NMI. Otherwise it ignores NMIs, or panicked without telling and without rebooting."
        )
    else:
        text = f"Nothing was seen of the server for {seconds:.0f} s after its watchdog had fired."
    return Verdict(WatchdogResult.NOTHING_SEEN, text)


def describe_long_dump(seconds: float) -> Verdict:
    """A server that its watchdog's dump stopped does not run again."""
    return Verdict(WatchdogResult.PAUSED, _DUMP_GOES_ON.format(seconds=seconds))


def describe_dump(dump: FoundDump) -> Verdict:
    text = f"The hypervisor wrote the server's memory to {dump.path} ({dump.size} bytes); the server runs on."
    return Verdict(WatchdogResult.DUMPED, text)


def describe_unknown_dump(why: str) -> Verdict:
    """Nobody could look for the file."""
    return Verdict(WatchdogResult.NOT_OBSERVED, f"The server runs again; whether the hypervisor wrote its memory cannot be said: {why}")
