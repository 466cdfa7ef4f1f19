"""Judges what the processes logged: a traceback is either what a fault of the run must make a library say, or a violation.

A message that nobody can read makes oslo.messaging log a traceback, whenever its reader comes to it: at once, or long afterwards if the
reader was frozen or cut off. So there is no time in which such tracebacks are allowed. Each needs a message of its own instead: one that
was put, before, into a queue that this process reads, and of which the library says just this.
"""

import re
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterator

from devstack.stack_config import HOST
from tests.chaos.history import Line, What
from tests.chaos.record import FOR_EVER, Record, Violation

_OF_POISON = re.compile(
    r"impl_rabbit .*skipping it|oslo_messaging\.rpc\.server .*(NoSuchMethod|UnsupportedVersion|attribute name must be string)"
    r"|oslo_messaging\._drivers\.amqpdriver .*DuplicateMessageError"
)
"""What oslo.messaging itself logs of a message that it cannot read, with a traceback."""
_OF_OUTAGE = re.compile(r"sqlalchemy\.pool\S* .*Exception (during reset or similar|terminating connection|closing connection)")
"""What SQLAlchemy itself logs of a connection that it loses while it takes it back, with a traceback."""
_WRITTEN = 1.0
"""Seconds that may lie between what was done and the line that tells it, on a busy machine."""
_RPC = "compute_agent"
_SHARED = re.compile(rf"{_RPC}(_calls)?(_fanout_\w+)?$")
"""Queues that any of the agents may read."""


def check_logs(record: Record) -> Iterator[Violation]:
    unexplained = _Poison(record)
    for line in sorted(record.lines[What.TRACEBACK], key=_find_time):
        header = line["text"].partition("\n")[0]
        if _OF_POISON.search(header) and unexplained.take(line["part"], header, line.get("logged_at")):
            continue
        if _OF_OUTAGE.search(header) and _was_database_struck(record, line.get("logged_at")):
            continue
        yield Violation(0, f"{line['part']} logged what it did not expect: {line['text']}", line.get("logged_at") or line["at"])


class _Poison:
    """The messages that were put into the queues, and how many of them have explained a traceback."""

    def __init__(self, record: Record) -> None:
        self._record = record
        self._put: dict[str | None, dict[str, list[float]]] = {}
        self._taken: Counter[tuple[str, str]] = Counter()

    def take(self, part: str, header: str, logged_at: float | None) -> bool:
        """Whether there is one more message that explains what a process says. One that was perhaps given back to its queue may do so
        again: as often as a fault came between its reader and the broker."""
        host = _find_host(part)
        until = FOR_EVER
        if logged_at is not None:
            until = logged_at + _WRITTEN + (self._record.find_clock_error(host, logged_at, logged_at) if host else 0.0)
        for says, put in self._list_put(host).items():
            count = bisect_right(put, until)
            if not count or not re.search(says, header):
                continue
            if self._taken[part, says] < count * (1 + self._count_returns(host, put[0], until)):
                self._taken[part, says] += 1
                return True
        return False

    def _list_put(self, host: str | None) -> dict[str, list[float]]:
        """When, in order, by what is said of them."""
        if host not in self._put:
            found = self._put[host] = defaultdict(list)
            for line in self._record.lines[What.POISON]:
                if _reads(host, line["queue"]):
                    found[line.get("says", "")].append(line["at"])
        return self._put[host]

    def _count_returns(self, host: str | None, since: float, until: float) -> int:
        return sum(
            any(part.startswith("broker") for part in window.parts) or (host in window.hosts if host else bool(window.parts))
            for window in self._record.windows
            if window.overlaps(since, until)
        )


def _find_host(part: str) -> str | None:
    """Of an agent's log, that of a second one of the same name among them; None of the gateway's."""
    if part.startswith("second-"):
        return part.split("-", 2)[2]
    if not part.startswith("crashcart-agent"):
        return None
    return part.removeprefix("crashcart-agent").removeprefix("-") or HOST


def _reads(host: str | None, queue: str) -> bool:
    if host is None:
        return not queue.startswith(_RPC)
    return queue in (f"{_RPC}.{host}", f"{_RPC}_calls.{host}") or _SHARED.match(queue) is not None


def _was_database_struck(record: Record, at: float | None) -> bool:
    """Before: a connection that was lost then may be taken back at any time."""
    return any(window.target.endswith("database") and (at is None or window.begins <= at + _WRITTEN) for window in record.windows)


def _find_time(line: Line) -> float:
    return float(line.get("logged_at") or line["at"])
