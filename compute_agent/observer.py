"""What happens to servers: driver events become journal rows, and what followed a crash dump signal becomes its observation.

Everything is written in one transaction per event: the server's state, its ``server.*`` event, the observation (what it says is decided
in :mod:`compute_agent.watch`), the outcome of a watchdog's firing (:mod:`compute_agent.firings`), the end of a hold-off. What happened
while nobody was watching is found by comparing states (:meth:`Observer.reconcile`), or told late by a platform with a log of its own, whose
cursor is kept in the event's transaction; what cannot be found either way ends as ``not_observed``, never as ``nothing_seen``.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta

from compute_agent.contract.clock import Clock
from compute_agent.contract.models import Observation, PowerState
from compute_agent.drivers.base import Driver
from compute_agent.drivers.errors import BackendUnavailable
from compute_agent.drivers.models import DriverEvent, DriverEventKind
from compute_agent.dump_search import DumpSearch
from compute_agent.event_queue import EventQueue, Gap, Waiting
from compute_agent.firings import Firings
from compute_agent.journal import Journal, JournalFull, JournalledAction, JournalTransaction
from compute_agent.looks import Look, Looks
from compute_agent.observations import Crash
from compute_agent.server_states import ServerStates, find_here
from compute_agent.survey import Survey, compare, find_known
from compute_agent.watch import Watch

LOG = logging.getLogger(__name__)

REBOOT_WINDOW = timedelta(seconds=2)
"""One reboot of a guest gives 2 to 6 events within 130 ms (measured with libvirt)."""
_RETRY_INTERVAL = 5.0
_FIRST_COMPARISON = 1.0
"""Seconds that a driver has to say that its backend is there; one without events never says it."""
_LOOKED_UP = frozenset({DriverEventKind.DEFINED, DriverEventKind.UNDEFINED, DriverEventKind.STARTED})


class Observer:
    """Takes driver events and endings from any thread; everything else runs on one thread, step by step.

    ``dump_search`` is to be stepped on a thread of its own.

    :param first_look: seconds of silence after a signal until ``nothing_seen_yet`` is said, after a watchdog's firing until its outcome is
    :param limit: seconds after a signal until the observation gets its last word
    :param on_crash: told of each guest's crash after its event was committed; it must only enqueue
    :param on_state_change: called after a commit that changed a server, to send a heartbeat early; it must only wake
    """

    def __init__(
        self,
        journal: Journal,
        driver: Driver,
        clock: Clock,
        *,
        default_project: str = "demo",
        first_look: float = 60.0,
        limit: float = 1800.0,
        on_crash: Callable[[Crash], None] = lambda crash: None,
        on_state_change: Callable[[], None] = lambda: None,
    ) -> None:
        self._journal = journal
        self._driver = driver
        self._clock = clock
        self._default_project = default_project
        self._looks = Looks(journal.host, driver, clock)
        began_at = clock.now()
        self._watch = Watch(journal.host, began_at=began_at, has_events=driver.events is not None, first_look=first_look, limit=limit)
        self.dump_search = DumpSearch(journal, driver, clock)
        self._firings = Firings(journal.host, driver, self.dump_search, began_at=began_at, first_look=first_look, limit=limit)
        self._on_crash = on_crash
        self._on_state_change = on_state_change
        self._states = ServerStates(journal.host, self._firings, self._watch, default_project=default_project)
        self._events = EventQueue()
        self._unrecorded: Waiting | None = None
        self._last_reboot: dict[str, datetime] = {}
        self._retry_at: float | None = clock.monotonic() + _FIRST_COMPARISON
        self._unread_at = 0.0
        self._nothing_watched_at: int | None = None

    def enqueue(self, event: DriverEvent) -> None:
        """The driver's listener: never blocks, from any thread.

        :raises EventNotTaken: too many wait; its platform's log is to be read again.
        """
        self._events.put(event)

    def has_untold_nmi(self, server: str) -> bool:
        """Whether its watchdog injected an NMI of which the journal does not know yet; from any thread."""
        return self._events.has_untold_nmi(server)

    def wake(self) -> None:
        """Let a :meth:`step` that waits return; from any thread."""
        self._events.wake()

    def enqueue_comparison(self, servers: frozenset[str]) -> None:
        """Ask for :meth:`reconcile` of these servers on the observer's own thread; from any thread."""
        self._events.put_comparison(servers, self._clock.now())

    def step(self, timeout: float) -> bool:
        """Take what waits first, waiting ``timeout`` seconds for it at most; False when there was nothing.

        :raises JournalFull: there is no room to record it; it is the next step's again.
        :raises JournalUnusable: nothing can be recorded any more.
        """
        waiting, self._unrecorded = self._unrecorded, None
        if waiting is None:
            waiting = self._events.take(timeout)
        if waiting is None:
            return False
        try:
            if isinstance(waiting, Gap):
                self._take_gap(waiting)
            else:
                with self._undoing_if_full():
                    if isinstance(waiting, DriverEvent):
                        self._take(waiting)
                    else:
                        self.reconcile(waiting)
        except JournalFull:  # nothing else: one that cannot be taken for what it is must not be tried for ever, before all others
            self._unrecorded = waiting
            raise
        # Not of an NMI whose event could not be taken: as long as this agent lives it holds off what could ruin the dump.
        if isinstance(waiting, DriverEvent):
            self._events.settle(waiting)
        return True

    def _take_gap(self, gap: Gap) -> None:
        """Events were missed: what they did is found by a comparison, as after a loss of the connection, and that they were is told."""
        while gap.nmis:  # each is gone from the gap once it is journalled
            server, event = next(iter(gap.nmis.items()))
            with self._undoing_if_full():
                self._take(event)
            del gap.nmis[server]
            self._events.settle(event)
        self._watch.is_blind = True
        with self._undoing_if_full():
            self.reconcile()
        if gap.count:
            with self._journal.transaction("agent.events_missed") as transaction:
                body = {"count": gap.count, "since": gap.since}
                transaction.append_event("agent.events_missed", server=None, occurred_at=self._clock.now(), body=body)
            LOG.error(
                "host %s: %d events of the driver were missed since %s, as there was no room for more to wait",
                *(self._journal.host, gap.count, gap.since.isoformat(timespec="seconds")),
            )

    @contextmanager
    def _undoing_if_full(self) -> Iterator[None]:
        """What is remembered here beside the journal is as it was when nothing could be written."""
        last_reboot = dict(self._last_reboot)
        put_back = (self._watch.remember(), self._firings.remember())
        try:
            yield
        except JournalFull:
            self._last_reboot = last_reboot
            for each in put_back:
                each()
            raise

    def action_ended(self, action: JournalledAction) -> None:
        """An action has its ending: a server that resumed while it was being signalled has nothing to wait for. From any thread."""
        if action.observation is not Observation.PENDING_UNTIL_RESUME:
            return
        with self._journal.transaction("observation") as transaction:
            now = transaction.get_action(action.request.id)
            known = find_here(transaction, action.request.server)
        if now.observation is Observation.PENDING_UNTIL_RESUME and known is not None and known.power_state is PowerState.RUNNING:
            self._watch.note_running(action.request.id, self._clock.now())

    def check_timers(self) -> None:
        """Say what the passing of time says: nothing seen yet, nothing seen, not observed; after what was seen and still waits is told."""
        monotonic = self._clock.monotonic()
        with self._undoing_if_full():
            if self._retry_at is not None and monotonic >= self._retry_at:
                self.reconcile()
            unread = self._watch.list_unread()
            if unread and monotonic >= self._unread_at:
                self._unread_at = monotonic + _RETRY_INTERVAL
                self.reconcile(unread)
            if self._unrecorded is not None or not self._events.is_empty():
                return
            changes = self._journal.count_changes()
            if changes == self._nothing_watched_at:
                return
            with self._journal.transaction("observation") as transaction:
                now = self._clock.now()
                self._watch.check_timers(transaction, now)
                self._firings.check_timers(transaction, now, self._watch.is_blind_to)
                self._nothing_watched_at = None if transaction.is_watching() else changes

    def reconcile(self, servers: frozenset[str] | None = None) -> bool:
        """Compare the driver's list with the known servers, tell what happened unseen, conclude or mark open observations.

        :param servers: look at these only, of which events were missed; None: nobody was watching, at all
        :returns: False when the driver could not be read; it is then tried again by :meth:`check_timers`.
        """
        read_at = self._clock.now()
        try:
            listed = self._driver.servers.list_servers()
        except BackendUnavailable as error:
            self._retry_at = self._clock.monotonic() + _RETRY_INTERVAL
            LOG.warning("host %s: servers cannot be read: %s", self._journal.host, error)
            return False
        self._states.crashes.clear()
        with self._journal.transaction("server.state") as transaction:
            survey = compare(transaction, listed, read_at=read_at, default_project=self._default_project, servers=servers)
            fired = self._tell_unseen_firings(transaction, survey, read_at)
            self._states.apply(transaction, survey, read_at)
            resets = {change.after.id: reset_at for change in survey.changed if (reset_at := change.find_reset(read_at)) is not None}
            known = find_known(transaction, servers)
            unread = frozenset(seen.id for seen in listed if seen.unread)
            for action in transaction.list_awaiting_observation():
                if action.request.server in unread:
                    self._watch.interrupt(action)
                elif servers is None or action.request.server in servers:
                    self._watch.conclude(transaction, action, known.get(action.request.server), resets, read_at)
            self._firings.conclude(transaction, None if servers is None else servers | fired, known, resets, read_at, unread=unread)
            if servers is None:
                transaction.forget_strange_cursors()
        compared = {seen.id: bool(seen.unread) for seen in listed if servers is None or seen.id in servers}
        self._watch.note_unread(compared, complete=servers is None)
        if servers is None:
            self._watch.is_blind = False
            self._retry_at = None
        self._tell_changes()
        return True

    # One event

    def _take(self, event: DriverEvent) -> None:
        if event.server is None:
            self._take_backend_event(event)
        elif event.kind is DriverEventKind.BACKEND_LOST:
            LOG.warning("server %s on host %s is out of reach: %s", event.server, self._journal.host, event.reason)
            self._watch.lose(event.server)
            self._on_state_change()
        elif event.kind is DriverEventKind.BACKEND_BACK:
            LOG.info("server %s on host %s: %s, comparing its state", event.server, self._journal.host, event.reason)
            self._watch.find_again(event.server)
            self.reconcile(frozenset({event.server}))
        elif event.kind is DriverEventKind.LOG_READ or self._is_echo(event, event.server):
            with self._journal.transaction("server.cursor") as transaction:
                self._keep_cursor(transaction, event)
        else:
            if event.cursor is not None and not self._is_known(event.server):
                # What a log tells is told once: not even a server that went out of reach a moment ago may be taken for a strange one.
                self.reconcile(frozenset({event.server}))
            take = self._take_firing if event.kind is DriverEventKind.WATCHDOG_FIRED else self._take_server_event
            take(event, event.server)

    def _take_backend_event(self, event: DriverEvent) -> None:
        if event.kind is DriverEventKind.BACKEND_LOST:
            self._watch.is_blind = True
            LOG.warning("host %s: hypervisor connection lost: %s", self._journal.host, event.reason)
            self._on_state_change()
        elif event.kind is DriverEventKind.BACKEND_BACK:
            LOG.info("host %s: hypervisor connection is there: %s", self._journal.host, event.reason)
            self.reconcile()

    def _keep_cursor(self, transaction: JournalTransaction, event: DriverEvent) -> None:
        """In the transaction of what the event told: after a kill -9 the platform's log is read on from there."""
        if event.server is not None and event.cursor is not None:
            transaction.keep_cursor(event.server, event.cursor)

    def _is_echo(self, event: DriverEvent, server: str) -> bool:
        if event.kind is not DriverEventKind.REBOOTED:
            return False
        at = event.occurred_at
        # Only those near it, on either side: a clock that was set back must not make echoes of all reboots until it is where it was.
        near = {other: told_at for other, told_at in self._last_reboot.items() if abs(at - told_at) < REBOOT_WINDOW}
        self._last_reboot = near | {server: at}
        return server in near

    def _take_firing(self, event: DriverEvent, server: str) -> None:
        """Told whatever else is known or can be read of the server."""
        with self._journal.transaction("server.lookup") as transaction:
            known = find_here(transaction, server)
        seen = self._looks.look(server).seen if self._firings.is_unclear(known, event) else None
        is_blind = self._watch.is_blind_to(server)
        with self._journal.transaction("server.watchdog.fired") as transaction:
            before = find_here(transaction, server)
            if before is None:
                self._states.add(transaction, event, seen)
            else:
                self._states.change(transaction, event, before, seen)
            after = find_here(transaction, server)
            watchdog = seen.watchdog if after is None and seen is not None else after.watchdog if after is not None else None
            if self._firings.fire(transaction, event, server, watchdog, self._clock.now(), blind=is_blind):
                self._last_reboot.pop(server, None)  # the next one is this firing's, however short ago the last one was
            self._keep_cursor(transaction, event)
        if known is None and seen is None:
            self._retry_at = self._clock.monotonic() + _RETRY_INTERVAL
        self._on_state_change()

    def _take_server_event(self, event: DriverEvent, server: str) -> None:
        look = Look()
        if event.kind in _LOOKED_UP or not self._is_known(server):
            look = self._looks.look(server, always=event.kind is DriverEventKind.UNDEFINED)
            if not look.answered:
                self._retry_at = self._clock.monotonic() + _RETRY_INTERVAL
        is_late = self._watch.is_late(event)
        self._states.crashes.clear()
        with self._journal.transaction("server.state") as transaction:
            before = find_here(transaction, server)
            cause = self._states.find_cause(transaction, server, event.kind, event.occurred_at)
            if event.kind in (DriverEventKind.UNDEFINED, DriverEventKind.MIGRATED_AWAY):
                self._states.remove(transaction, event, before, look)
            elif before is None:
                self._states.add(transaction, event, look.seen, cause)
            else:
                self._states.change(transaction, event, before, look.seen, cause)
            left = find_here(transaction, server) is None
            watchdogs = cause.fired_event if cause.is_watchdog_alone else None
            for action in transaction.list_awaiting_observation(server):
                self._watch.observe_event(transaction, action, event, left=left, fired_event=watchdogs)
            self._firings.observe_event(transaction, event, server, left=left, late=is_late)
            self._keep_cursor(transaction, event)
        self._tell_changes()

    def _is_known(self, server: str) -> bool:
        with self._journal.transaction("server.lookup") as transaction:
            return find_here(transaction, server) is not None

    def _tell_changes(self) -> None:
        """What was committed is told to those who act on it."""
        for crash in self._states.crashes:
            self._on_crash(crash)
        self._on_state_change()

    # After a gap

    def _tell_unseen_firings(self, transaction: JournalTransaction, survey: Survey, at: datetime) -> frozenset[str]:
        """Of servers that are found paused by their watchdog; returns which."""
        candidates = [*survey.arrived, *survey.altered, *(change.after for change in survey.changed)]
        paused = [server for server in candidates if server.power_state is PowerState.PAUSED]
        return frozenset(
            after.id for after in paused if self._firings.find_unseen(transaction, find_here(transaction, after.id), after, at)
        )
