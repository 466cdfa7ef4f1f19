"""Open observations: what is still waited for after each crash dump signal, and what the passing of time says of it.

Timers count from the times in the journal, so an observation goes on after a restart of the agent; what is kept here beside it (which
guests nobody watched for a while, when a paused one resumed) is found again by the first comparison after one.
"""

import logging
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta

from compute_agent.contract.models import Observation, PowerState, Server
from compute_agent.drivers.models import DriverEvent, DriverEventKind
from compute_agent.journal import JournalledAction, JournalTransaction
from compute_agent.observations import (
    LEFT,
    PANICKED_LATE,
    PENDING_TOO_LONG,
    STOPPED_LATE,
    Finding,
    describe_end_of_watch,
    describe_silence,
    find_finding,
    find_finding_by_watchdog,
)

LOG = logging.getLogger(__name__)

PENDING_LIMIT = 86_400.0
"""Seconds that an NMI which waits for a paused server to resume is watched."""


class Watch:
    """Records observations in the caller's transaction.

    :param host: for the log
    :param began_at: when this life of the agent began
    :param has_events: False for a driver that tells nothing by itself: then silence means nothing
    :param first_look: seconds of silence after a signal until ``nothing_seen_yet`` is said
    :param limit: seconds after a signal until the observation gets its last word
    """

    def __init__(self, host: str, *, began_at: datetime, has_events: bool, first_look: float, limit: float) -> None:
        self._host = host
        self._began_at = began_at
        self._has_events = has_events
        self._first_look = first_look
        self.limit = limit
        self._interrupted: set[str] = set()
        self._resumed_at: dict[str, datetime] = {}
        self._lost: set[str] = set()
        self._unread: frozenset[str] = frozenset()
        # Until the first comparison nobody knows what happened before this start.
        self.is_blind = True

    def remember(self) -> Callable[[], None]:
        """What puts back all that is forgotten from now on: for a transaction that is rolled back."""
        interrupted, resumed_at = set(self._interrupted), dict(self._resumed_at)

        def put_back() -> None:
            self._interrupted |= interrupted
            self._resumed_at = resumed_at | self._resumed_at

        return put_back

    def lose(self, server: str) -> None:
        """Nobody watches this one from now on, until :meth:`find_again`."""
        self._lost.add(server)

    def find_again(self, server: str) -> None:
        self._lost.discard(server)

    def note_unread(self, listed: Mapping[str, bool], *, complete: bool) -> None:
        """Which servers nobody could read when they were listed: nobody watched those either, and nobody does until one can.

        :param complete: those that are not listed are none any more
        """
        unread = {server for server, is_unread in listed.items() if is_unread}
        self._unread = frozenset(unread if complete else (self._unread - listed.keys()) | unread)
        if complete:
            self._lost &= listed.keys()

    def list_unread(self) -> frozenset[str]:
        """Those of which no driver has promised to say that they are back: they were never read."""
        return self._unread - self._lost

    def is_blind_to(self, server: str) -> bool:
        """Whether nobody watches this server now."""
        return self.is_blind or server in self._lost or server in self._unread

    def is_late(self, event: DriverEvent) -> bool:
        """Whether the platform's log tells what happened while nobody was watching."""
        return event.cursor is not None and event.server is not None and self.is_blind_to(event.server)

    def interrupt(self, action: JournalledAction) -> None:
        """Nobody saw what its guest did for a while."""
        self._interrupted.add(action.request.id)

    def note_running(self, action_id: str, at: datetime) -> None:
        """Its server runs although its NMI was handed to a paused one: it has nothing to wait for any more."""
        self._resumed_at.setdefault(action_id, at)

    def check_timers(self, transaction: JournalTransaction, now: datetime) -> None:
        """Say what the passing of time says: nothing seen yet, nothing seen, not observed."""
        first_look, limit = timedelta(seconds=self._first_look), timedelta(seconds=self.limit)
        for action in transaction.list_awaiting_time(silent_since=now - first_look, watched_since=now - limit):
            finding = self._find_word_of_time(action, now)
            if finding is not None:
                self._record(transaction, action, finding, now)

    def observe_event(
        self, transaction: JournalTransaction, action: JournalledAction, event: DriverEvent, *, left: bool, fired_event: str | None = None
    ) -> None:
        """:param fired_event: the firing of the server's watchdog that the event came from, and from nothing else"""
        if event.occurred_at < find_begin(action):
            return
        if event.kind is DriverEventKind.RESUMED and action.observation is Observation.PENDING_UNTIL_RESUME:
            self._note_resume(transaction, action, event.occurred_at)
        finding = find_finding(event)
        if fired_event is not None:
            finding = find_finding_by_watchdog(event.kind, action.observation, fired_event)
        if finding is not None and (left or event.kind is not DriverEventKind.UNDEFINED):
            self._record(transaction, action, finding, event.occurred_at)

    def conclude(
        self, transaction: JournalTransaction, action: JournalledAction, server: Server | None, resets: dict[str, datetime], at: datetime
    ) -> None:
        """What the state of now says about an observation that nobody watched."""
        if at < find_begin(action):
            return  # the list is older than the signal
        if server is None:
            self._record(transaction, action, LEFT, at)
        elif server.power_state is PowerState.CRASHED:
            self._record(transaction, action, PANICKED_LATE, at)
        elif server.id in resets and resets[server.id] >= find_begin(action):
            self._record(transaction, action, STOPPED_LATE, resets[server.id])
        elif server.power_state is PowerState.SHUTDOWN:
            self._record(transaction, action, STOPPED_LATE, at)
        else:
            self.interrupt(action)
            if action.observation is Observation.PENDING_UNTIL_RESUME and server.power_state is PowerState.RUNNING:
                self._note_resume(transaction, action, self._resumed_at.get(action.request.id, at))

    def _note_resume(self, transaction: JournalTransaction, action: JournalledAction, at: datetime) -> None:
        """The NMI that waited fires now: from here on the guest is watched, and the hold-off counts."""
        self._resumed_at[action.request.id] = at
        transaction.record_signal_time(action.request.id, at)

    def _find_word_of_time(self, action: JournalledAction, now: datetime) -> Finding | None:
        since = action.signalled_at or find_begin(action)
        if action.observation is Observation.PENDING_UNTIL_RESUME:
            resumed_at = self._resumed_at.get(action.request.id)
            if resumed_at is None:
                return PENDING_TOO_LONG if (now - since).total_seconds() >= PENDING_LIMIT else None
            since = resumed_at
        elapsed = (now - since).total_seconds()
        if elapsed >= self.limit:
            # An action without a start of its own was perhaps begun under another journal: nobody knows when it was signalled.
            is_blind = self.is_blind_to(action.request.server)
            if is_blind and (now - self._began_at).total_seconds() < self._first_look:
                return None  # what this life has not read yet, a log may be about to tell
            interrupted = action.request.id in self._interrupted or is_blind or not self._has_events or action.started_at is None
            return describe_end_of_watch(action.observation, interrupted=interrupted, watched_for=self.limit)
        is_silent = action.observation in (None, Observation.PENDING_UNTIL_RESUME)
        if elapsed >= self._first_look and is_silent and not self.is_blind_to(action.request.server):
            return describe_silence(elapsed)
        return None

    def _record(self, transaction: JournalTransaction, action: JournalledAction, finding: Finding, at: datetime) -> None:
        action_id = action.request.id
        if not transaction.observe(action_id, finding.observation, at, finding.final, finding.text):
            return
        if finding.final:
            self._interrupted.discard(action_id)
            self._resumed_at.pop(action_id, None)
        LOG.info(
            "action %s server %s host %s: observed %s%s",
            *(action_id, action.request.server, self._host, finding.observation, " (final)" if finding.final else ""),
        )


def find_begin(action: JournalledAction) -> datetime:
    """The earliest time at which the signal can have gone out, as far as this journal knows."""
    return action.started_at or action.ended_at or action.received_at
