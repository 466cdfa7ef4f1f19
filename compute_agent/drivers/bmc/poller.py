"""Looks at machines again and again, keeps what was read and tells what happened."""

import logging
import queue
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from compute_agent.contract.clock import Clock
from compute_agent.contract.errors import Code
from compute_agent.contract.watchdogs import ExpiryAction
from compute_agent.drivers.bmc.events import BmcEvents
from compute_agent.drivers.bmc.fleet import Changes, Fleet, Machine
from compute_agent.drivers.bmc.protocol import Polled, TimerState
from compute_agent.drivers.bmc.readings import NOT_ASKED, Failure, Readings
from compute_agent.drivers.bmc.schedule import Schedule
from compute_agent.drivers.bmc.track import Track
from compute_agent.drivers.errors import BackendUnavailable, DriverError
from compute_agent.drivers.models import DriverEvent, DriverEventKind

LOG = logging.getLogger(__name__)

_SHORT_SHARE = 1 / 3
"""Of the time for a look, while nobody knows of a silence: machines that fall silent together have all threads wait for them, once."""
_ROOM = 2
"""How much longer than the last one a look may take before the BMC is called silent."""


@dataclass
class _Watched:
    """A machine that is looked at. ``told``: whether it was told last that somebody watches it (True) or nobody (False); None: neither.

    ``news`` is what is to be told of its entry as soon as it was looked at: whoever hears of it asks for its state. ``took``: the seconds
    of the last look that was answered.
    """

    track: Track
    failure: str
    took: float = 0.0
    told: bool | None = None
    news: str = ""
    problem: str = ""

    @property
    def answers(self) -> bool:
        return not self.failure


class Poller:
    """Each :meth:`step` is one look at one machine; :meth:`open` has threads do it.

    One lock is over all that is told, so what is told of a machine is in order, whichever thread tells it.
    """

    def __init__(self, fleet: Fleet, readings: Readings, events: BmcEvents, schedule: Schedule, clock: Clock, limit: float) -> None:
        self._fleet = fleet
        self._readings = readings
        self._events = events
        self._clock = clock
        self._limit = limit
        self._schedule = schedule
        self._changed = threading.Condition()
        self._telling = threading.Lock()
        self._watched: dict[str, _Watched] = {}
        self._first_round: frozenset[str] | None = None
        self._not_looked_at: set[str] = set()
        self._is_first_round_over = False
        self._is_closing = False
        self._work: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []

    def open(self, threads: int) -> None:
        """Begin to look, on so many threads and one that says when."""
        self.begin()
        workers = [threading.Thread(target=self._run_worker, name=f"bmc-look-{number}", daemon=True) for number in range(1, threads + 1)]
        self._threads = [threading.Thread(target=self._run_schedule, name="bmc-schedule", daemon=True), *workers]
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Ask all threads to end after their looks; :meth:`join` waits for them."""
        with self._changed:
            self._is_closing = True
            self._changed.notify_all()
        for _ in self._threads:
            self._work.put(None)

    def join(self, timeout: float) -> None:
        until = self._clock.monotonic() + timeout
        for thread in self._threads:
            thread.join(max(0.0, until - self._clock.monotonic()))
            if thread.is_alive():
                LOG.warning("%s did not end within %.0f s", thread.name, timeout)

    def begin(self) -> None:
        """All machines that there are now are to be looked at, which is the first round."""
        try:
            machines = list(self._fleet.list_machines())
        except BackendUnavailable:
            return  # a reload begins it
        with self._telling:
            self._first_round = frozenset(machine.server for machine in machines if machine.link is not None)
            self._not_looked_at = set(self._first_round)
            for machine in machines:
                self._watch(machine)
            self._end_first_round()

    def step(self) -> bool:
        """Look at the machine that is due; False when none is."""
        with self._changed:
            server = self._schedule.take(self._clock.monotonic())
        if server is None:
            return False
        self._look(server)
        return True

    # What others know

    def attend(self, server: str) -> None:
        """It was, or was perhaps, sent an NMI: what it does next matters."""
        with self._telling:
            watched = self._watched.get(server)
            if watched is not None:
                watched.track.note_signal()
        with self._changed:
            self._schedule.attend(server, self._clock.monotonic())
            self._changed.notify_all()

    def hurry(self, server: str) -> None:
        """Something about it differs from what was told."""
        with self._changed:
            self._schedule.hurry(server, self._clock.monotonic())
            self._changed.notify_all()

    def note_timer(self, server: str, timer: TimerState, reason: str) -> None:
        """This agent changed its watchdog timer."""
        with self._telling:
            watched = self._watched.get(server)
            if watched is not None:
                watched.track.note_timer(timer)
                self._events.tell([DriverEvent(DriverEventKind.DEFINED, server, self._clock.now(), reason)])

    def update(self, changes: Changes) -> None:
        """The fleet was loaded anew."""
        if self._first_round is None:
            self.begin()
            return
        for server in sorted(changes.went):
            self._forget(server)
        for server in sorted(changes.came | changes.altered):
            machine = self._fleet.find_machine(server)
            if machine is not None:
                self._take_over(machine, "added to the inventory" if server in changes.came else "changed in the inventory")

    def _forget(self, server: str) -> None:
        with self._changed:
            self._schedule.remove(server)
        with self._telling:
            if self._watched.pop(server, None) is None:
                return
            self._readings.forget(server)
            self._events.tell([DriverEvent(DriverEventKind.UNDEFINED, server, self._clock.now(), "taken out of the inventory")])
            self._events.forget_cursor(server)
            self._end_first_round(server)

    def _take_over(self, machine: Machine, news: str) -> None:
        server = machine.server
        with self._telling:
            watched = self._watch(machine)
            watched.news = news
            if machine.link is None:
                watched.failure = machine.problem
                self._events.tell([*self._take_news(server, watched), *self._tell_watch(server, watched)])
                self._end_first_round(server)

    def _watch(self, machine: Machine) -> _Watched:
        """Of a machine without a way to its BMC, what was seen of it is kept; of one with another BMC, nothing."""
        server, link = machine.server, machine.link
        watched = self._watched.get(server)
        if watched is None or (link is not None and link.place != watched.track.place):
            place, cursor = ("", None) if link is None else (link.place, self._events.find_cursor(server))
            self._readings.forget(server)
            watched = self._watched[server] = _Watched(Track(server, place, cursor), failure=machine.problem or NOT_ASKED)
        with self._changed:
            if link is None:
                self._schedule.remove(server)
            else:
                now = self._clock.monotonic()
                self._schedule.add(server, now)
                self._schedule.hurry(server, now)
            self._changed.notify_all()
        return watched

    # One look

    def _look(self, server: str) -> None:
        answered = False
        try:
            machine, watched = self._fleet.find_machine(server), self._watched.get(server)
            if machine is None or machine.link is None or watched is None or machine.link.place != watched.track.place:
                return  # a reload is under way: it has the new BMC, and what is known of the old one's log
            began = self._clock.monotonic()
            failure = None
            try:
                polled = machine.link.bmc.poll(watched.track.cursor, self._find_limit(watched))
                watched.took = self._clock.monotonic() - began
                self._take(server, watched, polled, began)
                answered = True
            except DriverError as error:
                failure = Failure.describe(error) if self._is_in_force(machine) else None
            except Exception as error:
                # A fault of ours with one BMC's answers must not end the watch over all others.
                LOG.exception("server %s: looking at it failed in a way that no protocol declares", server)
                failure = Failure(f"the agent could not make sense of its BMC: {type(error).__name__}", Code.BACKEND_UNAVAILABLE)
            # Out here, as oslo.log adds the exception that is being caught to each line, which would say all of it twice.
            if failure is not None:
                self._take_failure(server, watched, failure, began)
        finally:
            with self._changed:
                self._schedule.done(server, self._clock.monotonic(), answered=answered)
                self._changed.notify_all()

    def _find_limit(self, watched: _Watched) -> float:
        """A BMC that is silent for the first time is given up soon, and asked again for the whole time; one that is slow has its time."""
        if watched.failure and watched.failure is not NOT_ASKED:
            return self._limit
        return min(self._limit, max(_SHORT_SHARE * self._limit, _ROOM * watched.took))

    def _is_in_force(self, machine: Machine) -> bool:
        """False for one whose BMC was let go meanwhile, which is why it gave no answer."""
        now = self._fleet.find_machine(machine.server)
        return not self._is_closing and now is not None and now.link is machine.link

    def _take(self, server: str, watched: _Watched, polled: Polled, began: float) -> None:
        self._log(server, watched, polled)
        with self._telling:
            if self._watched.get(server) is not watched:
                return
            since = self._readings.put(server, polled.state, began)
            now = self._clock.now()
            events = watched.track.take(polled, now, since)
            watched.failure = ""
            told = self._events.tell([*self._take_news(server, watched), *events])
            if told and polled.log is not None:
                watched.track.go_on_from(polled.log.cursor, now)
            self._events.tell(self._tell_watch(server, watched))
            self._end_first_round(server)
        if any(event.kind is DriverEventKind.WATCHDOG_FIRED and event.reason == ExpiryAction.INJECT_NMI for event in events):
            with self._changed:
                self._schedule.attend(server, self._clock.monotonic())

    def _take_failure(self, server: str, watched: _Watched, failure: Failure, began: float) -> None:
        with self._telling:
            if self._watched.get(server) is not watched:
                return
            self._readings.put_failure(server, failure, began)
            if failure.reason != watched.failure:
                LOG.warning("server %s: %s", server, failure.reason)
            watched.failure = failure.reason
            self._events.tell([*self._take_news(server, watched), *self._tell_watch(server, watched)])
            self._end_first_round(server)

    def _log(self, server: str, watched: _Watched, polled: Polled) -> None:
        if polled.log is not None and polled.log.lost:
            LOG.warning("server %s: its BMC's log has gaps: %s", server, polled.log.lost)
        if polled.problem != watched.problem:
            watched.problem = polled.problem
            LOG.warning("server %s: its BMC's log: %s", server, polled.problem or "can be read again")

    # What is told; all of it under the lock

    def _take_news(self, server: str, watched: _Watched) -> list[DriverEvent]:
        news, watched.news = watched.news, ""
        return [DriverEvent(DriverEventKind.DEFINED, server, self._clock.now(), news)] if news else []

    def _tell_watch(self, server: str, watched: _Watched) -> list[DriverEvent]:
        """Until the first round is over, its end tells of all that take part."""
        is_for_later = not self._is_first_round_over and server in (self._first_round or ())
        if is_for_later or watched.told is watched.answers:
            return []
        watched.told = watched.answers
        return [_make_watch_event(server, watched, self._clock.now())]

    def _end_first_round(self, server: str = "") -> None:
        """``server`` was looked at; after the last one it is told what is watched from now on."""
        if self._is_first_round_over:
            return
        self._not_looked_at.discard(server)
        if self._not_looked_at:
            return
        self._is_first_round_over = True
        now = self._clock.now()
        silent = [(server, watched) for server, watched in self._watched.items() if not watched.answers]
        for watched in self._watched.values():
            watched.told = watched.answers
        LOG.info("%d machines were looked at for the first time, %d of them did not answer", len(self._watched), len(silent))
        self._events.tell([DriverEvent(DriverEventKind.BACKEND_BACK, None, now, "every machine was looked at"), *_list_lost(silent, now)])

    # The threads

    def _run_schedule(self) -> None:
        with self._changed:
            while not self._is_closing:
                now = self._clock.monotonic()
                server = self._schedule.take(now)
                if server is not None:
                    self._work.put(server)
                else:
                    self._changed.wait(self._schedule.find_wait(now))

    def _run_worker(self) -> None:
        while (server := self._work.get()) is not None and not self._is_closing:
            self._look(server)


def _make_watch_event(server: str, watched: _Watched, now: datetime) -> DriverEvent:
    if watched.answers:
        return DriverEvent(DriverEventKind.BACKEND_BACK, server, now, "its BMC answers")
    return DriverEvent(DriverEventKind.BACKEND_LOST, server, now, watched.failure)


def _list_lost(silent: Iterable[tuple[str, _Watched]], now: datetime) -> list[DriverEvent]:
    return [_make_watch_event(server, watched, now) for server, watched in silent]
