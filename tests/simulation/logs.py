"""Logs that servers' platforms keep of them, whoever reads them: what a driver of bare metal polls, and what must be true of it.

Each record is told with the cursor after it, to one life of an agent after the other. A server that is out of reach is told of when it is
back, from its log, and its power by a comparison.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

from compute_agent.contract.models import PowerState
from compute_agent.contract.watchdogs import ExpiryAction
from compute_agent.drivers.models import DriverEvent, DriverEventKind, DriverServer

if TYPE_CHECKING:
    from tests.simulation.hypervisor import Guest, Hypervisor

_POLL_INTERVAL = 3.0
_KINDS = frozenset(
    {DriverEventKind.PANICKED, DriverEventKind.CRASH_KERNEL_STARTED, DriverEventKind.REBOOTED, DriverEventKind.WATCHDOG_FIRED}
)
_TYPES = {DriverEventKind.PANICKED: "server.panicked", DriverEventKind.WATCHDOG_FIRED: "server.watchdog.fired"}
"""What each record of is told once; of reboots within a moment only the first is told at all."""
_SETTLED = 10.0
"""Seconds after the first look at a log by which the agent has kept where it begins, and knows the server."""
_NOTICED = 15.0
"""Seconds after which an agent knows that a server is out of reach, however slow its platform is."""
_AS_IF_WATCHED = frozenset({"nothing_seen_yet", "nothing_seen"})
_BY_WATCHDOG = "until its watchdog fired"
"""What is known of a silence when its end is told, out of the log."""


@dataclass(frozen=True)
class Record:
    """``time`` in virtual seconds."""

    event: DriverEvent
    time: float


@dataclass
class Log:
    """One server's. ``told``: records that the present life of the agent was told of or knows; ``history``: those that nobody need tell.

    ``lost_at`` and ``losses``: since when it is out of reach, and the spans in which it was.
    """

    records: list[Record] = field(default_factory=list)
    told: int = 0
    begins: bool = True
    history: int = 0
    began_at: float = 0.0
    lost_at: float | None = None
    losses: list[tuple[float, float]] = field(default_factory=list)
    last_read: DriverServer | None = None

    @property
    def is_lost(self) -> bool:
        return self.lost_at is not None

    def takes(self, event: DriverEvent) -> bool:
        return event.kind in _KINDS

    def describe_unread(self, now: DriverServer) -> DriverServer:
        never = replace(now, power_state=PowerState.PENDING, state_reason="", started_at=None)
        return replace(self.last_read or never, unread="its controller does not answer")


class Logs:
    """Those of one hypervisor's guests."""

    def __init__(self, hypervisor: "Hypervisor") -> None:
        self._hypervisor = hypervisor
        self._greeted = False
        hypervisor.kernel.call_after(_POLL_INTERVAL, self._poll)

    def note(self, guest: "Guest", event: DriverEvent) -> None:
        assert guest.log is not None
        guest.log.records.append(Record(event, self._hypervisor.kernel.time))

    def begin(self, cursors: Mapping[str, str]) -> None:
        """Another life listens."""
        self._greeted = False
        for guest in self._list():
            assert guest.log is not None
            guest.log.last_read = None
            self._begin(guest.log, cursors.get(guest.id))

    def begin_anew(self, guest: "Guest") -> None:
        """It is another server under the same id: what was in its log is not about it."""
        if guest.log is not None:
            self._begin(guest.log, None)

    def tell_all(self) -> None:
        """The first look of a life at everything, or the first after the daemon was away."""
        self._greeted = True
        for guest in self._list():
            self.tell(guest)

    def tell_lost(self) -> None:
        for guest in self._list():
            if guest.log is not None and guest.log.is_lost:
                self._say(DriverEventKind.BACKEND_LOST, guest)

    def lose(self, guest: "Guest") -> None:
        """Its controller does not answer any more."""
        assert guest.log is not None
        if guest.log.is_lost:
            return
        guest.log.last_read = self._hypervisor.describe(guest)
        guest.log.lost_at = self._hypervisor.kernel.time
        self._hypervisor.kernel.note(self._hypervisor.host, f"guest {guest.name} is out of reach")
        self._say(DriverEventKind.BACKEND_LOST, guest)

    def find_again(self, guest: "Guest") -> None:
        """It answers again: first its log is told, then that it is back."""
        assert guest.log is not None
        if guest.log.lost_at is None:
            return
        guest.log.losses.append((guest.log.lost_at, self._hypervisor.kernel.time))
        guest.log.lost_at = None
        self._hypervisor.kernel.note(self._hypervisor.host, f"guest {guest.name} is in reach again")
        self.tell(guest)
        self._say(DriverEventKind.BACKEND_BACK, guest)

    def _list(self) -> "list[Guest]":
        return [guest for guest in self._hypervisor.guests.values() if guest.log is not None]

    def _poll(self) -> None:
        for guest in self._list():
            self.tell(guest)
        self._hypervisor.kernel.call_after(_POLL_INTERVAL, self._poll)

    def _begin(self, log: Log, cursor: str | None) -> None:
        log.begins = cursor is None
        log.told = len(log.records) if cursor is None else int(cursor)
        if cursor is None:
            log.history, log.began_at = len(log.records), self._hypervisor.kernel.time

    def _say(self, kind: DriverEventKind, guest: "Guest") -> None:
        if self._greeted:
            self._hypervisor.tell(DriverEvent(kind, guest.id, self._hypervisor.clock.now(), "its controller"))

    def tell(self, guest: "Guest") -> None:
        """What is in its log and was not told yet, if anybody can read it and anybody listens."""
        log, hypervisor = guest.log, self._hypervisor
        if log is None or log.is_lost or not guest.defined or not self._greeted or not hypervisor.up or not hypervisor.has_listener:
            return
        if log.begins:
            hypervisor.tell(DriverEvent(DriverEventKind.LOG_READ, guest.id, hypervisor.clock.now(), cursor=str(log.told)))
        log.begins = False
        for record in log.records[log.told :]:
            log.told += 1
            hypervisor.tell(replace(record.event, cursor=str(log.told)))


# What must be true


def check_logs(
    guests: "Sequence[tuple[Guest, bool]]", events: list[dict[str, Any]], list_virtual: Callable[[str, datetime], list[float]]
) -> Iterator[str]:
    """Each record is told once, and nothing is said of the silence of a server that nobody could hear.

    :param guests: each with whether its host's journal was ever lost
    :param list_virtual: the virtual seconds that a time by the clock of a host may have been
    """
    servers = {guest.id for guest, _ in guests if guest.log is not None}
    payloads = [(event["event_type"], json.loads(event["payload"])) for event in events if event["server"] in servers]
    told = Counter((event_type, payload.get("server"), datetime.fromisoformat(payload["occurred_at"])) for event_type, payload in payloads)
    for guest, is_forgotten in guests:
        if guest.log is None:
            continue
        for number, record in enumerate(guest.log.records):
            if record.event.kind not in _TYPES or record.event.reason == ExpiryAction.PAUSE:
                continue  # no platform with a log pauses a server
            count = told[_TYPES[record.event.kind], guest.id, record.event.occurred_at]
            must_be = number >= guest.log.history and record.time > guest.log.began_at + _SETTLED and not is_forgotten
            if count > 1 or (must_be and count != 1 and not guest.redefined):
                yield f"the record {number + 1} of {guest.name} ({record.event.kind} at {record.time:.1f}) was told {count} times"
        for event_type, payload in payloads:
            if event_type != "action.observed" or payload["server"] != guest.id or payload["observation"] not in _AS_IF_WATCHED:
                continue
            if _BY_WATCHDOG in payload["text"]:
                continue
            times = list_virtual(payload["host"], datetime.fromisoformat(payload["occurred_at"]))
            if times and all(any(begin + _NOTICED < at < end - 1.0 for begin, end in guest.log.losses) for at in times):
                yield f"{payload['action_id']}: {payload['observation']} was said at {times[0]:.1f} of {guest.name}, which was out of reach"
