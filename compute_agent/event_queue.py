"""What drivers tell waits here for the observer, who may have to wait himself: for room in the journal, for hours perhaps.

So it is bounded. What finds no room is not forgotten in silence: a platform with a log of its own is told to have it read again; of the
others a :class:`Gap` is kept in the place of what was missed, after which states are compared and the gap is told. A watchdog's NMI is
kept even then, one for each server, because a second one could ruin the dump that it started.
"""

import threading
from collections import Counter, deque
from dataclasses import dataclass, field
from datetime import datetime

from compute_agent.contract.watchdogs import ExpiryAction
from compute_agent.drivers.errors import EventNotTaken
from compute_agent.drivers.models import DriverEvent, DriverEventKind

MOST_WAITING = 10_000


@dataclass
class Gap:
    """Events that were missed in one go: how many, since when, and the NMIs that are told all the same. By ``server``."""

    since: datetime
    count: int = 0
    nmis: dict[str, DriverEvent] = field(default_factory=dict)


Waiting = DriverEvent | frozenset[str] | Gap
"""An event; servers whose states are to be compared; or what was missed."""


class EventQueue:
    """In order. Any thread puts; one takes, and says of each event that it is settled.

    :param most: how many wait at most, gaps not counted
    """

    def __init__(self, most: int = MOST_WAITING) -> None:
        self._most = most
        self._condition = threading.Condition()
        self._waiting: deque[Waiting] = deque()
        self._unsettled_nmis: Counter[str] = Counter()
        self._refused_nmis: set[str] = set()
        self._is_woken = False

    def put(self, event: DriverEvent) -> None:
        """Never blocks.

        :raises EventNotTaken: there is no room; its platform's log keeps it.
        """
        with self._condition:
            server = event.server
            if len(self._waiting) < self._most:
                self._waiting.append(event)
                if server is not None and (event.cursor is not None or event.kind is DriverEventKind.UNDEFINED):
                    self._refused_nmis.discard(server)  # a log is told in order: this one's time has come again, or never will
                if server is not None and is_nmi(event):
                    self._unsettled_nmis[server] += 1
                self._condition.notify()
                return
            gap = self._open_gap(event.occurred_at)
            if event.cursor is not None:
                if server is not None and is_nmi(event):
                    self._refused_nmis.add(server)
                raise EventNotTaken(server, f"{self._most} events wait for the journal already")
            if server is None or not is_nmi(event):
                gap.count += 1
            elif server in gap.nmis:
                gap.count += 1
                gap.nmis[server] = event
            else:
                gap.nmis[server] = event
                self._unsettled_nmis[server] += 1

    def put_comparison(self, servers: frozenset[str], now: datetime) -> None:
        """Never blocks; in a gap all servers are compared anyway."""
        with self._condition:
            if len(self._waiting) < self._most:
                self._waiting.append(servers)
                self._condition.notify()
            else:
                self._open_gap(now)

    def take(self, timeout: float) -> Waiting | None:
        """The next one, waiting ``timeout`` seconds for it at most; None when there is none."""
        with self._condition:
            if not self._waiting and timeout > 0:
                self._condition.wait_for(lambda: self._waiting or self._is_woken, timeout)
            self._is_woken = False
            return self._waiting.popleft() if self._waiting else None

    def wake(self) -> None:
        """Let who waits in :meth:`take` go."""
        with self._condition:
            self._is_woken = True
            self._condition.notify_all()

    def settle(self, event: DriverEvent) -> None:
        """The journal has what was taken, or never will."""
        if event.server is not None and is_nmi(event):
            with self._condition:
                self._unsettled_nmis -= Counter((event.server,))

    def is_empty(self) -> bool:
        with self._condition:
            return not self._waiting

    def has_untold_nmi(self, server: str) -> bool:
        """Whether its watchdog injected an NMI of which the journal does not know yet."""
        with self._condition:
            return self._unsettled_nmis[server] > 0 or server in self._refused_nmis

    def _open_gap(self, since: datetime) -> Gap:
        last = self._waiting[-1]
        if not isinstance(last, Gap):
            last = Gap(since)
            self._waiting.append(last)
        return last


def is_nmi(event: DriverEvent) -> bool:
    """Whether a watchdog injected an NMI."""
    return event.kind is DriverEventKind.WATCHDOG_FIRED and event.reason == ExpiryAction.INJECT_NMI
