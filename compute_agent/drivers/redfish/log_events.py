"""What an entry of a BMC's log means.

Redfish names the sensor's type as IPMI does, and leaves what happened to messages whose keys and sentences are each vendor's own. So the
sensor's type says what an entry may mean, and the words of its message which of that it is; without a sensor's type the words must be
unmistakable. An entry of which that cannot be said is no news: better one event less than one that did not happen.
"""

import re

from compute_agent.contract.watchdogs import ExpiryAction
from compute_agent.drivers.models import DriverEventKind
from compute_agent.drivers.redfish.documents import Document, find_text, list_words

Events = tuple[tuple[DriverEventKind, str], ...]

_OVER = "Deassert"
_WATCHDOG_TYPES = frozenset({"watchdog", "watchdog 1", "watchdog 2", "watchdog2"})
_STOP_TYPES = frozenset({"os stop/shutdown", "os critical stop"})
_START_TYPES = frozenset({"systemboot/restart", "system boot/restart initiated", "system boot / restart initiated"})
_BOOT_TYPES = frozenset({"baseosboot/installationstatus", "base os boot/installation status", "os boot"})
_WATCHDOG_KEYS = frozenset({"IPMIWatchdog"})
"""OpenBMC's: the action is in the message's argument, and no sensor is named."""
_OF_THE_BMC = re.compile(r"\b(bmc|management controller|management engine|idrac|ilo|xcc)\b")
_WATCHDOG = re.compile(r"\bwatchdog\b|\basr\b")
_PANIC = re.compile(r"critical stop|kernel panic|bug ?check|error during system startup|unrecoverable os")
_PANIC_ALONE = re.compile(r"(os|run-?time|run time)\b.{0,20}critical stop|kernel panic")
_INSTALLATION = re.compile(r"install")
_WORDS: tuple[tuple[re.Pattern[str], ExpiryAction], ...] = (
    (re.compile(r"power(ed|ing)?[ _-]?cycl"), ExpiryAction.POWER_CYCLE),
    (re.compile(r"power(ed|ing)?[ _-]?(down|off)|shut(ting)? ?down"), ExpiryAction.POWEROFF),
    (re.compile(r"\breset|reboot|restart"), ExpiryAction.RESET),
    (re.compile(r"expired|time(d)?[ -]?out|status only|no action"), ExpiryAction.NONE),
)
_BEFORE = re.compile(r"(?<!no )interrupt|pre-?time-?out")
_NMI = re.compile(r"\bnmi\b|non-?maskable|diagnostic")
_EXPIRED = re.compile(r"expired|time(d)?[ -]?out|interrupt|timer (has )?(reset|power)")


def read_events(entry: Document) -> Events:
    """What happened, in its order; empty for what is no news."""
    if find_text(entry, "EntryCode") == _OVER:
        return ()
    sensor = (find_text(entry, "SensorType") or "").lower()
    key = (find_text(entry, "MessageId") or "").rpartition(".")[2]
    words = " ".join([find_text(entry, "Message") or "", *list_words(entry, "MessageArgs")]).lower()
    if sensor in _WATCHDOG_TYPES or key in _WATCHDOG_KEYS or (not sensor and _names_watchdog(words)):
        return _read_firing(words)
    if _PANIC.search(words) if sensor in _STOP_TYPES else not sensor and _PANIC_ALONE.search(words):
        return ((DriverEventKind.PANICKED, "os_critical_stop"),)
    if sensor in _START_TYPES:
        return ((DriverEventKind.REBOOTED, "system_boot"),)
    if sensor in _BOOT_TYPES and not _INSTALLATION.search(words):
        return ((DriverEventKind.REBOOTED, "os_boot"),)
    return ()


def _names_watchdog(words: str) -> bool:
    """The host's, and that it fired: a BMC has watchdogs for itself too."""
    return bool(_WATCHDOG.search(words) and _EXPIRED.search(words) and not _OF_THE_BMC.search(words))


def _read_firing(words: str) -> Events:
    if _BEFORE.search(words):
        # Before the timer's end an NMI is the only interrupt that anybody outside the machine would call an event.
        return ((DriverEventKind.WATCHDOG_FIRED, ExpiryAction.INJECT_NMI),) if _NMI.search(words) else ()
    action = next((action for pattern, action in _WORDS if pattern.search(words)), None)
    if action is None:
        return ()
    fired = (DriverEventKind.WATCHDOG_FIRED, action.value)
    # The BMC says that it did it: the machine runs anew.
    did = action in (ExpiryAction.RESET, ExpiryAction.POWER_CYCLE)
    return (fired, (DriverEventKind.REBOOTED, "watchdog")) if did else (fired,)
