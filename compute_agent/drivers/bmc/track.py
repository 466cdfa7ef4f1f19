"""What was told of one machine, and what is to be told after a look at it. Pure: it has no clock and no thread.

A BMC's log tells what happened, its power state what is now; a start shows in several ways (power that came, a time of the last reset,
one or two records of a boot, a watchdog that says that it reset the machine), one after the other and minutes apart. Each start is told
once: what the log adds to a start that was told is no news.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from compute_agent.contract.models import PowerState
from compute_agent.contract.watchdogs import ExpiryAction, Watchdog, WatchdogDevice, WatchdogModel
from compute_agent.drivers.bmc.protocol import LogRecord, MachineState, Polled, TimerState
from compute_agent.drivers.models import DriverEvent, DriverEventKind

BOOT_SPAN = timedelta(minutes=10)
"""How long a start may go on being told by one more kind of sign. Firmware of large machines tests memory for minutes."""

CYCLE_SPAN = timedelta(seconds=15)
"""How long power that a watchdog cycles may take to go and come: a BMC writes its record before it cuts the power."""

_CLOCK_STEP = timedelta(hours=1)
"""By how much a BMC's clock may be set right between two readings of its log."""

_ENDS_A_RUN = frozenset({DriverEventKind.PANICKED, DriverEventKind.WATCHDOG_FIRED, DriverEventKind.STOPPED})
_POWER_CYCLE = (DriverEventKind.WATCHDOG_FIRED, ExpiryAction.POWER_CYCLE)
_RESET_TIME = "reset time changed"


@dataclass
class _Start:
    """A start that was told: when it was, and by which signs it showed."""

    at: datetime
    signs: set[str] = field(default_factory=set)


class Track:
    """One machine's; used by one look at a time.

    :param place: which BMC it has; a cursor into the log of a BMC at another place is worth nothing
    :param kept: the last cursor that was told of this server, None: its log is read from now on
    """

    def __init__(self, server: str, place: str, kept: str | None) -> None:
        self._server = server
        self.place = place
        self._mark = hashlib.sha256(place.encode()).hexdigest()[:8] + ":"
        self._told_of_next, self.cursor = self._unbind(kept)
        self._seen: MachineState | None = None
        self._seen_at: datetime | None = None
        self._log_read_at: datetime | None = None
        self._start: _Start | None = None
        self._cycled_at: datetime | None = None

    def take(self, polled: Polled, now: datetime, since: datetime) -> list[DriverEvent]:
        """The events of a look that was answered: the log's, then what the state shows besides.

        ``since``: when the power was first read to be as it is now, by whomever. An NMI that was sent after that came after the change:
        told of a later time, it would end the hold-off that the NMI began.

        The log's last event carries the new cursor, which is in force only after :meth:`go_on_from`.
        """
        before, state = self._seen, self._overlook_cycle(polled.state, now)
        events = self._read_log(polled, now, since)
        if before is not None:
            events += self._compare(before, state, now, since)
        self._seen, self._seen_at = state, now
        return events

    def go_on_from(self, cursor: str, read_at: datetime) -> None:
        """All events of a reading of the log were told: the next one begins here."""
        self._told_of_next, self.cursor, self._log_read_at = 0, cursor, read_at

    def note_signal(self) -> None:
        """It was sent an NMI: the next boot is another one."""
        self._start = None

    def note_timer(self, timer: TimerState) -> None:
        """Its watchdog timer was changed by this agent, who tells so."""
        if self._seen is not None:
            self._seen = replace(self._seen, timer=timer)

    # The log

    def _read_log(self, polled: Polled, now: datetime, since: datetime) -> list[DriverEvent]:
        if polled.log is None:
            return []
        events: list[DriverEvent] = []
        reached = self.cursor
        # Of a log that was cleared since, the record that was told in part is gone.
        told_before = 0 if polled.log.lost else self._told_of_next
        for record in polled.log.records:
            at = None if record.at is None else min(record.at, now)
            told = () if polled.log.lost and self._is_history(record) else record.events
            for number, (kind, reason) in enumerate(told, start=1):
                if kind is DriverEventKind.REBOOTED:
                    event = self._tell_boot(reason, at, polled.state, since)
                else:
                    event = self._translate(kind, reason, at or now)
                if event is not None and kind is DriverEventKind.REBOOTED and _POWER_CYCLE in told:
                    self._cycled_at = event.occurred_at
                if event is not None and number > told_before:
                    # An agent that is killed in the midst of a reading goes on behind the last event that it kept.
                    is_last = number == len(told)
                    cursor = self._bind(record.cursor or reached) if is_last else self._bind(reached, number)
                    events.append(replace(event, cursor=cursor))
            reached, told_before = record.cursor or reached, 0
        if polled.log.cursor != self.cursor:
            last = events.pop() if events else DriverEvent(DriverEventKind.LOG_READ, self._server, now, "the log was read")
            events.append(replace(last, cursor=self._bind(polled.log.cursor)))
        return events

    def _is_history(self, record: LogRecord) -> bool:
        """Whether it was written before this log was read last, and yet was not in it. Where the place of the last reading is gone, that is
        what another BMC has brought along which took this one's address, with a new mainboard, say.
        """
        return record.at is not None and self._log_read_at is not None and record.at < self._log_read_at - _CLOCK_STEP

    def _bind(self, cursor: str | None, told_of_next: int = 0) -> str | None:
        """A cursor as it is kept: of which BMC it is, and how many events of the record after it were told as well."""
        return None if cursor is None else f"{self._mark}{told_of_next}:{cursor}"

    def _unbind(self, kept: str | None) -> tuple[int, str | None]:
        if kept is None or not kept.startswith(self._mark):
            return 0, None
        told_of_next, _, cursor = kept.removeprefix(self._mark).partition(":")
        return (int(told_of_next), cursor) if told_of_next.isdecimal() else (0, None)

    def _translate(self, kind: DriverEventKind, reason: str, at: datetime) -> DriverEvent:
        if kind in _ENDS_A_RUN and reason != ExpiryAction.NONE:
            self._start = None
        # The operating system is no more; the machine, which is all that a BMC sees, is as much on as it was.
        power_state = PowerState.RUNNING if kind is DriverEventKind.PANICKED else None
        return DriverEvent(kind, self._server, at, reason, power_state=power_state)

    def _tell_boot(self, reason: str, written_at: datetime | None, state: MachineState, since: datetime) -> DriverEvent | None:
        """A boot of a machine that was off is its start; a further sign of a start that was told is nothing.

        A boot ends a hold-off: one of which the BMC does not know when it was is told of the earliest time at which it can have been,
        right after the look before.
        """
        at = written_at or self._seen_at or since
        if self._is_told(reason, at):
            return None
        if state.power_state is not PowerState.RUNNING:
            return None  # off now: it tells of a run that came and went, or the power is being cycled and its start is still to come
        was_off = self._seen is not None and self._seen.power_state is PowerState.SHUTDOWN
        if not was_off:
            self._start = _Start(at, {reason})
            return DriverEvent(DriverEventKind.REBOOTED, self._server, at, reason)
        assert self._seen is not None
        at = min(max(written_at or since, self._seen_at or since), since)
        self._start = _Start(at, {reason})
        # From here on this look compares with a machine that runs: its start is told.
        self._seen = replace(state, timer=self._seen.timer)
        return DriverEvent(DriverEventKind.STARTED, self._server, at, reason)

    def _is_told(self, sign: str, at: datetime) -> bool:
        start = self._start
        if start is None or sign in start.signs or abs(at - start.at) > BOOT_SPAN:
            return False
        start.signs.add(sign)
        return True

    # The state

    def _overlook_cycle(self, state: MachineState, now: datetime) -> MachineState:
        """A power cycle is told as the reboot that it is when its record is read: that the power goes and comes then is no news."""
        is_cycled = self._cycled_at is not None and abs(now - self._cycled_at) <= CYCLE_SPAN
        if is_cycled and self._seen is not None and self._seen.power_state is PowerState.RUNNING:
            return replace(state, power_state=PowerState.RUNNING)
        return state

    def _compare(self, earlier: MachineState, state: MachineState, now: datetime, since: datetime) -> Iterable[DriverEvent]:
        before = self._seen or earlier
        if before.power_state is not state.power_state:
            yield self._tell_power(state, since)
        elif _is_reset(before, state):
            if not self._is_told(_RESET_TIME, since):
                self._start = _Start(since, {_RESET_TIME})
                yield DriverEvent(DriverEventKind.REBOOTED, self._server, since, _RESET_TIME)
            # To be read anew, or the next comparison takes the new time for a start that nobody has told.
            yield DriverEvent(DriverEventKind.DEFINED, self._server, now, _RESET_TIME)
        if _find_device(earlier) != _find_device(state):
            yield DriverEvent(DriverEventKind.DEFINED, self._server, now, "watchdog changed")

    def _tell_power(self, state: MachineState, at: datetime) -> DriverEvent:
        if state.power_state is PowerState.RUNNING:
            self._start = _Start(at)
            return DriverEvent(DriverEventKind.STARTED, self._server, at, state.reason)
        self._start = None
        return DriverEvent(DriverEventKind.STOPPED, self._server, at, state.reason)


def describe_watchdog(state: MachineState, models: Iterable[WatchdogModel]) -> Watchdog:
    """A BMC's timer as a watchdog: it is there at once and for good, and in a machine that is on it is live, whether it counts or not."""
    timer = state.timer
    if timer is None:
        return Watchdog()
    return Watchdog(
        configured=timer.device,
        live=None if state.power_state is PowerState.SHUTDOWN else timer.device,
        models=tuple(model.model for model in models if model.managed),
    )


def _is_reset(before: MachineState, after: MachineState) -> bool:
    times = (before.started_at, after.started_at)
    return after.power_state is PowerState.RUNNING and None not in times and times[0] != times[1]


def _find_device(state: MachineState) -> WatchdogDevice | None:
    return None if state.timer is None else state.timer.device
