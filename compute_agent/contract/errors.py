"""Stable codes: what an ending's ``code`` may say. A code, once published, keeps its meaning for ever.

``CODES`` is the one table: which ending each code belongs to and the sentence used where the writer knows no better.
"""

from dataclasses import dataclass
from enum import StrEnum


class Ending(StrEnum):
    """How an action ended; each action has exactly one, and no version adds another."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    EXPIRED = "expired"
    UNKNOWN = "unknown"


class Code(StrEnum):
    """Why an action ended as it did."""

    SIGNAL_DELIVERED = "signal_delivered"
    NOT_SUPPORTED = "not_supported"
    SERVER_NOT_RUNNING = "server_not_running"
    SERVER_NOT_FOUND = "server_not_found"
    SERVER_MOVED = "server_moved"
    CRASH_DUMP_IN_PROGRESS = "crash_dump_in_progress"
    CLOCK_SKEW = "clock_skew"
    BACKEND_UNAVAILABLE = "backend_unavailable"
    FORBIDDEN = "forbidden"
    CANCELLED = "cancelled"
    INVALID_REQUEST = "invalid_request"
    DRIVER_FAULT = "driver_fault"
    DEADLINE_PASSED = "deadline_passed"
    AGENT_RESTARTED = "agent_restarted"
    ANSWER_LOST = "answer_lost"
    CALL_OVERDUE = "call_overdue"
    JOURNAL_LOST = "journal_lost"
    NOT_REPORTED = "not_reported"
    DIAGNOSTICS_COLLECTED = "diagnostics_collected"
    HOST_DUMP_TAKEN = "host_dump_taken"
    HOST_DUMP_FAILED = "host_dump_failed"
    NO_SPACE = "no_space"
    WATCHDOG_SET = "watchdog_set"
    WATCHDOG_REMOVED = "watchdog_removed"
    NOTHING_TO_CHANGE = "nothing_to_change"
    WATCHDOG_EXISTS = "watchdog_exists"
    WATCHDOG_NOT_CHANGED = "watchdog_not_changed"
    RESUMED = "resumed"
    SERVER_NOT_PAUSED = "server_not_paused"
    WATCHDOG_TIMER_RESET = "watchdog_timer_reset"


@dataclass(frozen=True)
class Meaning:
    """The ending that a code belongs to and its sentence."""

    ending: Ending
    sentence: str


CODES: dict[Code, Meaning] = {
    Code.SIGNAL_DELIVERED: Meaning(Ending.SUCCEEDED, "The driver said that the NMI was delivered."),
    Code.NOT_SUPPORTED: Meaning(Ending.FAILED, "This driver or server cannot take an NMI; nothing was sent."),
    Code.SERVER_NOT_RUNNING: Meaning(Ending.FAILED, "The server is not running; nothing was sent."),
    Code.SERVER_NOT_FOUND: Meaning(Ending.FAILED, "The host has no such server; nothing was sent."),
    Code.SERVER_MOVED: Meaning(Ending.FAILED, "The server left this host or was made anew since the request; nothing was sent."),
    Code.CRASH_DUMP_IN_PROGRESS: Meaning(Ending.FAILED, "An earlier crash dump of this server may still be running; nothing was sent."),
    Code.CLOCK_SKEW: Meaning(Ending.FAILED, "The clocks of gateway and host disagree too much to trust the deadline; nothing was sent."),
    Code.BACKEND_UNAVAILABLE: Meaning(Ending.FAILED, "The hypervisor or BMC could not be reached; nothing was sent."),
    Code.FORBIDDEN: Meaning(Ending.FAILED, "The hypervisor or BMC refused the agent's credentials; nothing was sent."),
    Code.CANCELLED: Meaning(Ending.FAILED, "The action was cancelled before it began; nothing was sent."),
    Code.INVALID_REQUEST: Meaning(Ending.FAILED, "The agent could not read the request; nothing was sent."),
    Code.DRIVER_FAULT: Meaning(
        Ending.UNKNOWN, "The driver failed in a way it does not declare; the NMI was perhaps sent. Do not repeat blindly."
    ),
    Code.DEADLINE_PASSED: Meaning(Ending.EXPIRED, "The deadline passed before anything was sent."),
    Code.AGENT_RESTARTED: Meaning(
        Ending.UNKNOWN, "The agent stopped after it began and before it knew the answer; the NMI was perhaps sent."
    ),
    Code.ANSWER_LOST: Meaning(Ending.UNKNOWN, "The NMI was sent and no answer came; it was perhaps delivered."),
    Code.CALL_OVERDUE: Meaning(Ending.UNKNOWN, "The driver's call has not returned within its bound; the NMI was perhaps sent."),
    Code.JOURNAL_LOST: Meaning(Ending.UNKNOWN, "The agent's journal was lost since the request was sent; the NMI was perhaps sent before."),
    Code.NOT_REPORTED: Meaning(Ending.UNKNOWN, "The agent has not reported by the deadline and its grace; the NMI was perhaps sent."),
    Code.DIAGNOSTICS_COLLECTED: Meaning(Ending.SUCCEEDED, "The diagnostics were collected; they are in the event server.diagnostics."),
    Code.HOST_DUMP_TAKEN: Meaning(Ending.SUCCEEDED, "The hypervisor wrote the server's memory to a file on its host."),
    Code.HOST_DUMP_FAILED: Meaning(Ending.FAILED, "The hypervisor could not write the server's memory; no file was left."),
    Code.NO_SPACE: Meaning(Ending.FAILED, "The host's dump directory has no room for the server's memory; nothing was written."),
    Code.WATCHDOG_SET: Meaning(Ending.SUCCEEDED, "The server has the watchdog that was asked for."),
    Code.WATCHDOG_REMOVED: Meaning(Ending.SUCCEEDED, "The server has no watchdog any more."),
    Code.NOTHING_TO_CHANGE: Meaning(Ending.SUCCEEDED, "It is so already; nothing was changed."),
    Code.WATCHDOG_EXISTS: Meaning(Ending.FAILED, "The server has a watchdog already; nothing was changed."),
    Code.WATCHDOG_NOT_CHANGED: Meaning(Ending.FAILED, "The watchdog could not be changed; the server has the one that it had."),
    Code.RESUMED: Meaning(Ending.SUCCEEDED, "The server runs again."),
    Code.SERVER_NOT_PAUSED: Meaning(Ending.FAILED, "The server is not paused; nothing was done."),
    Code.WATCHDOG_TIMER_RESET: Meaning(Ending.SUCCEEDED, "The server's watchdog counts, from its beginning."),
}
