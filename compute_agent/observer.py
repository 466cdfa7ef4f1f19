"""What happens to servers: driver events become journal rows, and what followed a crash dump signal becomes its observation.

Everything is written in one transaction per event: the server's state, its ``server.*`` event, the observation (what it says is decided
in :mod:`compute_agent.watch`), the outcome of a watchdog's firing (:mod:`compute_agent.firings`), the end of a hold-off. What happened
while nobody was watching is found by comparing states (:meth:`Observer.reconcile`), or told late by a platform with a log of its own, whose
cursor is kept in the event's transaction; what cannot be found either way ends as ``not_observed``, never as ``nothing_seen``.
"""

import logging
import queue
import threading
from collections import Counter
from collections.abc import Callable
from datetime import datetime, timedelta

from compute_agent.causes import Cause, find_cause
from compute_agent.contract.clock import Clock
from compute_agent.contract.models import Departure, Observation, PowerState, Server
from compute_agent.contract.watchdogs import ExpiryAction
from compute_agent.drivers.base import Driver
from compute_agent.drivers.errors import BackendUnavailable
from compute_agent.drivers.models import DriverEvent, DriverEventKind, DriverServer
from compute_agent.dump_search import DumpSearch
from compute_agent.firings import Firings
from compute_agent.journal import Journal, JournalTransaction
from compute_agent.looks import Look, Looks
from compute_agent.observations import (
    CRASHES,
    ENDS_HOLDOFF,
    EVENT_TYPE_OF_KIND,
    KIND_FOUND,
    STANDS_STILL,
    Crash,
    find_event_type,
    find_state_after,
    is_seen_in_state,
)
from compute_agent.survey import StateChange, Survey, compare, describe, find_arrival, find_known
from compute_agent.watch import Watch

LOG = logging.getLogger(__name__)

REBOOT_WINDOW = timedelta(seconds=2)
"""One reboot of a guest gives 2 to 6 events within 130 ms (measured with libvirt)."""
_RETRY_INTERVAL = 5.0
_FIRST_COMPARISON = 1.0
"""Seconds that a driver has to say that its backend is there; one without events never says it."""
_NO_CAUSE = Cause()
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
        self._crashes: list[Crash] = []
        self._events: queue.SimpleQueue[DriverEvent | frozenset[str]] = queue.SimpleQueue()
        self._untold_nmis: Counter[str] = Counter()
        self._untold_lock = threading.Lock()
        self._last_reboot: dict[str, datetime] = {}
        self._retry_at: float | None = clock.monotonic() + _FIRST_COMPARISON

    def enqueue(self, event: DriverEvent) -> None:
        """The driver's listener: never blocks, never raises, from any thread."""
        if event.server is not None and _is_nmi(event):
            with self._untold_lock:
                self._untold_nmis[event.server] += 1
        self._events.put(event)

    def has_untold_nmi(self, server: str) -> bool:
        """Whether its watchdog injected an NMI of which the journal does not know yet; from any thread."""
        with self._untold_lock:
            return self._untold_nmis[server] > 0

    def enqueue_comparison(self, servers: frozenset[str]) -> None:
        """Ask for :meth:`reconcile` of these servers on the observer's own thread; from any thread."""
        self._events.put(servers)

    def step(self, timeout: float) -> bool:
        """Take one event, waiting ``timeout`` seconds for it at most; False when there was none.

        :raises JournalUnusable: nothing can be recorded any more.
        """
        try:
            event = self._events.get(timeout=timeout) if timeout > 0 else self._events.get_nowait()
        except queue.Empty:
            return False
        if isinstance(event, DriverEvent):
            self._take(event)
            if event.server is not None and _is_nmi(event):
                with self._untold_lock:
                    self._untold_nmis -= Counter((event.server,))
        else:
            self.reconcile(event)
        return True

    def action_ended(self, action_id: str) -> None:
        """An action has its ending: a server that resumed while it was being signalled has nothing to wait for. From any thread."""
        with self._journal.transaction("observation") as transaction:
            action = transaction.find_action(action_id)
            if action is None or action.observation is not Observation.PENDING_UNTIL_RESUME:
                return
            known = transaction.list_known_servers().get(action.request.server)
        if known is not None and known.server.power_state is PowerState.RUNNING:
            self._watch.note_running(action_id, self._clock.now())

    def check_timers(self) -> None:
        """Say what the passing of time says: nothing seen yet, nothing seen, not observed."""
        if self._retry_at is not None and self._clock.monotonic() >= self._retry_at:
            self.reconcile()
        with self._journal.transaction("observation") as transaction:
            now = self._clock.now()
            self._watch.check_timers(transaction, now)
            self._firings.check_timers(transaction, now, self._watch.is_blind_to)

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
        self._crashes.clear()
        with self._journal.transaction("server.state") as transaction:
            survey = compare(transaction, listed, read_at=read_at, default_project=self._default_project, servers=servers)
            fired = self._tell_unseen_firings(transaction, survey, read_at)
            self._apply(transaction, survey, read_at)
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

    def _is_late(self, event: DriverEvent, server: str) -> bool:
        """Whether the platform's log tells what happened while nobody was watching."""
        return event.cursor is not None and self._watch.is_blind_to(server)

    def _is_echo(self, event: DriverEvent, server: str) -> bool:
        if event.kind is not DriverEventKind.REBOOTED:
            return False
        last = self._last_reboot.get(server)
        self._last_reboot[server] = event.occurred_at
        return last is not None and event.occurred_at - last < REBOOT_WINDOW

    def _take_firing(self, event: DriverEvent, server: str) -> None:
        """Told whatever else is known or can be read of the server."""
        with self._journal.transaction("server.lookup") as transaction:
            known = _find_here(transaction, server)
        seen = self._looks.look(server).seen if self._firings.is_unclear(known, event) else None
        is_late = self._is_late(event, server)
        with self._journal.transaction("server.watchdog.fired") as transaction:
            before = _find_here(transaction, server)
            if before is None:
                self._add(transaction, event, seen)
            else:
                self._change(transaction, event, before, seen)
            after = _find_here(transaction, server)
            watchdog = seen.watchdog if after is None and seen is not None else after.watchdog if after is not None else None
            if self._firings.fire(transaction, event, server, watchdog, self._clock.now(), late=is_late):
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
        is_late = self._is_late(event, server)
        self._crashes.clear()
        with self._journal.transaction("server.state") as transaction:
            before = _find_here(transaction, server)
            cause = self._find_cause(transaction, server, event.kind, event.occurred_at)
            if event.kind in (DriverEventKind.UNDEFINED, DriverEventKind.MIGRATED_AWAY):
                self._remove(transaction, event, before, look)
            elif before is None:
                self._add(transaction, event, look.seen, cause)
            else:
                self._change(transaction, event, before, look.seen, cause)
            left = _find_here(transaction, server) is None
            watchdogs = cause.fired_event if cause.is_watchdog_alone else None
            for action in transaction.list_awaiting_observation(server):
                self._watch.observe_event(transaction, action, event, left=left, fired_event=watchdogs)
            self._firings.observe_event(transaction, event, server, left=left, late=is_late)
            self._keep_cursor(transaction, event)
        self._tell_changes()

    def _is_known(self, server: str) -> bool:
        with self._journal.transaction("server.lookup") as transaction:
            return _find_here(transaction, server) is not None

    def _tell_changes(self) -> None:
        """What was committed is told to those who act on it."""
        for crash in self._crashes:
            self._on_crash(crash)
        self._on_state_change()

    def _note_crash(self, event_type: str, server: str, at: datetime, action_id: str | None) -> None:
        if event_type in CRASHES:
            self._crashes.append(Crash(server, event_type, at, action_id))

    def _remove(self, transaction: JournalTransaction, event: DriverEvent, before: Server | None, look: Look) -> None:
        if before is None:
            return
        is_migrated = event.kind is DriverEventKind.MIGRATED_AWAY
        if not is_migrated and (not look.answered or (look.seen is not None and not look.seen.persistent)):
            return  # not known, or it lost its definition only and runs on until it stops
        departure = Departure.MIGRATED if is_migrated else Departure.UNDEFINED
        transaction.remove_known_server(before.id, departure, event.occurred_at)
        LOG.info("server %s left host %s: %s", before.id, self._journal.host, departure)
        if look.seen is not None and not is_migrated:
            self._add(transaction, event, look.seen)  # defined again meanwhile: another life of the same UUID

    def _add(self, transaction: JournalTransaction, event: DriverEvent, seen: DriverServer | None, cause: Cause = _NO_CAUSE) -> None:
        server = None
        if seen is not None:
            server = find_arrival(transaction, seen, at=event.occurred_at, default_project=self._default_project)
        if server is None:
            LOG.debug("event %s of server %s, which is not on host %s", event.kind, event.server, self._journal.host)
            return
        transaction.put_known_server(server)
        LOG.info("server %s is new on host %s: %s, generation %d", server.id, self._journal.host, server.power_state, server.generation)
        if event.kind in EVENT_TYPE_OF_KIND:
            self._append_state(transaction, event, server, cause)

    def _change(
        self, transaction: JournalTransaction, event: DriverEvent, before: Server, seen: DriverServer | None, cause: Cause = _NO_CAUSE
    ) -> None:
        after = before
        if seen is not None:
            after = describe(
                seen,
                generation=before.generation,
                created_at=before.created_at,
                state_at=before.state_at,
                default_project=self._default_project,
            )
        if event.kind not in EVENT_TYPE_OF_KIND:
            transaction.put_known_server(after.model_copy(update={"power_state": before.power_state, "state_reason": before.state_reason}))
            return
        state = find_state_after(event, before.power_state)
        is_old = event.occurred_at < before.state_at
        if is_old and state is before.power_state and is_seen_in_state(event):
            return  # a comparison of states has told it already
        update = {"power_state": state, "state_reason": event.reason, "state_at": event.occurred_at}
        if event.kind is DriverEventKind.STOPPED:
            update["started_at"] = None
        after = after.model_copy(update=update)
        if not is_old:
            _discount_pause(transaction, before, event.occurred_at)
            transaction.put_known_server(after)
        self._append_state(transaction, event, after, cause)
        if event.kind in ENDS_HOLDOFF:
            transaction.clear_signal(after.id, event.occurred_at)

    def _append_state(self, transaction: JournalTransaction, event: DriverEvent, after: Server, cause: Cause) -> None:
        body = {
            "power_state": after.power_state,
            "reason": event.reason,
            "observed_late": self._is_late(event, after.id),
            "action_id": cause.action_id,
            "fired_event": cause.fired_event,
        }
        transaction.append_event(EVENT_TYPE_OF_KIND[event.kind], server=after.id, occurred_at=event.occurred_at, body=body)
        self._note_crash(EVENT_TYPE_OF_KIND[event.kind], after.id, event.occurred_at, cause.action_id)
        LOG.info(
            "server %s on host %s: %s (%s), now %s, action %s, watchdog %s",
            *(after.id, self._journal.host, event.kind, event.reason, after.power_state),
            *(cause.action_id or "none", cause.fired_event or "none"),
        )

    def _find_cause(self, transaction: JournalTransaction, server: str, kind: DriverEventKind, at: datetime) -> Cause:
        explanation = self._firings.find_explanation(transaction, server, kind)
        return find_cause(transaction, server, kind, at, explanation=explanation, limit=self._watch.limit)

    # After a gap

    def _tell_unseen_firings(self, transaction: JournalTransaction, survey: Survey, at: datetime) -> frozenset[str]:
        """Of servers that are found paused by their watchdog; returns which."""
        candidates = [*survey.arrived, *survey.altered, *(change.after for change in survey.changed)]
        paused = [server for server in candidates if server.power_state is PowerState.PAUSED]
        return frozenset(
            after.id for after in paused if self._firings.find_unseen(transaction, _find_here(transaction, after.id), after, at)
        )

    def _apply(self, transaction: JournalTransaction, survey: Survey, at: datetime) -> None:
        for server in (*survey.arrived, *survey.altered):
            transaction.put_known_server(server)
        for server in survey.arrived:
            LOG.info("server %s is new on host %s: %s, generation %d", server.id, self._journal.host, server.power_state, server.generation)
        for change in survey.changed:
            self._append_late(transaction, change, at)
            transaction.put_known_server(change.after)
            reset_at = change.find_reset(at)
            if reset_at is None:
                _discount_pause(transaction, change.before, at)
            if reset_at is not None:
                transaction.clear_signal(change.after.id, reset_at)
        for server in survey.gone:
            transaction.remove_known_server(server.id, Departure.GONE, at)
            LOG.info("server %s left host %s unseen", server.id, self._journal.host)

    def _append_late(self, transaction: JournalTransaction, change: StateChange, at: datetime) -> None:
        before, after = change.before.power_state, change.after.power_state
        event_type = find_event_type(before, after, change.restarted)
        reset_at = change.find_reset(at)
        occurred_at = reset_at if reset_at is not None and after is PowerState.RUNNING else at
        kind = KIND_FOUND.get(after) if reset_at is None else DriverEventKind.STOPPED
        cause = _NO_CAUSE if kind is None else self._find_cause(transaction, change.after.id, kind, reset_at or at)
        body = {
            "power_state": after,
            "reason": change.after.state_reason or f"found {after}",
            "observed_late": True,
            "action_id": cause.action_id,
            "fired_event": cause.fired_event,
        }
        transaction.append_event(event_type, server=change.after.id, occurred_at=occurred_at, body=body)
        self._note_crash(event_type, change.after.id, occurred_at, cause.action_id)
        LOG.info(
            "server %s on host %s: found %s, was %s, nobody saw it change, action %s, watchdog %s",
            *(change.after.id, self._journal.host, after, before, cause.action_id or "none", cause.fired_event or "none"),
        )


def _find_here(transaction: JournalTransaction, server: str) -> Server | None:
    """A server that this host has, as last committed."""
    entry = transaction.find_known_server(server)
    return None if entry is None or entry.removed_at is not None else entry.server


def _discount_pause(transaction: JournalTransaction, before: Server, until: datetime) -> None:
    if before.power_state in STANDS_STILL:
        transaction.discount_pause(before.id, before.state_at, until)


def _is_nmi(event: DriverEvent) -> bool:
    return event.kind is DriverEventKind.WATCHDOG_FIRED and event.reason == ExpiryAction.INJECT_NMI
