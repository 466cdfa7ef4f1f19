"""What a BMC accepted and does later: it is followed until it is done, within the limit of the visit."""

from compute_agent.drivers.redfish.connection import Visit
from compute_agent.drivers.redfish.documents import find_link, find_text
from compute_agent.drivers.redfish.errors import ExchangeError, NoAnswer
from compute_agent.drivers.redfish.exchange import Answer

ACCEPTED = 202
_PAUSE = 0.25
"""Seconds between two looks at a task, where the BMC asks for no other pause."""
_LONGEST_PAUSE = 5.0
_NOT_DONE = frozenset({"New", "Starting", "Running", "Pending", "Service", "Stopping", "Cancelling", "Suspended"})
_DONE = "Completed"
_WELL = (None, "OK")


def follow(visit: Visit, answer: Answer) -> None:
    """Return when what ``answer`` accepted has ended well; at once, if it was no 202.

    :raises NoAnswer: it ended badly, or not in time, or nobody can say how. What was done, nobody knows.
    """
    if answer.status != ACCEPTED:
        return
    monitor = answer.location or find_link({"task": answer.body}, "task")
    if monitor is None:
        raise NoAnswer("the BMC accepted it, and does not say where to look what comes of it")
    try:
        while answer.status == ACCEPTED or find_text(answer.body, "TaskState") in _NOT_DONE:
            pause = _find_pause(answer)
            if pause >= visit.remaining:
                raise NoAnswer("the BMC accepted it and had not done it in time")
            visit.pause(pause)
            answer = visit.ask_openly("GET", monitor)
    except NoAnswer:
        raise
    except ExchangeError as error:
        # Also one that cannot even be asked any more: what it accepted, it has.
        raise NoAnswer(f"the BMC accepted it and does not say how it ended: {error}") from error
    state, status = find_text(answer.body, "TaskState"), find_text(answer.body, "TaskStatus")
    if state not in (None, _DONE) or status not in _WELL:
        raise NoAnswer(f"the BMC accepted it, and its task ended as {state} with the status {status}")


def _find_pause(answer: Answer) -> float:
    asked = answer.retry_after or ""
    return min(float(asked), _LONGEST_PAUSE) if asked.isascii() and asked.isdecimal() and len(asked) < 6 else _PAUSE
