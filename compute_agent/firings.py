"""Watchdogs that fired: told at once, and what came of each told once.

A firing waits in the journal for its outcome; timers count from the times there, so it goes on after a restart of the agent. What is kept
here beside it (whom nobody watched for a while) is found again by the first comparison after one.
"""

import logging
from collections.abc import Callable, Collection, Mapping
from datetime import datetime, timedelta

from compute_agent.contract.models import PowerState, Server
from compute_agent.contract.watchdogs import ExpiryAction, Watchdog
from compute_agent.drivers.base import Driver
from compute_agent.drivers.models import DriverEvent, DriverEventKind
from compute_agent.dump_search import DUMP_LIMIT, DumpSearch
from compute_agent.journal import JournalTransaction
from compute_agent.journal_firings import Firing
from compute_agent.watchdog_outcomes import (
    CONTINUED,
    EVENT_KINDS,
    FIRED_AGAIN,
    NOT_OBSERVED,
    Verdict,
    describe_long_dump,
    describe_silence,
    describe_unknown_dump,
    explains,
    find_device,
    find_verdict,
    is_contradicted,
    is_paused_by_watchdog,
    judge_state,
    shows_end_of_dump,
    shows_unseen_firing,
)

LOG = logging.getLogger(__name__)

_HELD_BACK = timedelta(seconds=1)
"""QEMU tells a second firing within a second when that second is over: after what it led to."""


class Firings:
    """Records firings and their outcomes in the caller's transaction. One thread uses it.

    :param began_at: when this life of the agent began
    :param first_look: seconds of silence after a firing until its outcome is that nothing was seen
    :param limit: the same, while nobody watches the server
    """

    def __init__(self, host: str, driver: Driver, search: DumpSearch, *, began_at: datetime, first_look: float, limit: float) -> None:
        self._host = host
        self._began_at = began_at
        self._driver = driver
        self._search = search
        self._first_look = first_look
        self._limit = limit
        self._interrupted: set[str] = set()
        self._told_at: dict[str, datetime] = {}

    def remember(self) -> Callable[[], None]:
        """What puts back all that is forgotten from now on, and forgets the firings that are told from now on: for a transaction that is
        rolled back."""
        interrupted, told_at = set(self._interrupted), dict(self._told_at)

        def put_back() -> None:
            self._interrupted |= interrupted
            self._told_at = told_at

        return put_back

    # Which device it was

    def is_unclear(self, known: Server | None, event: DriverEvent) -> bool:
        """Whether what is known of the server's watchdog is nothing, or another thing than what the platform says has fired."""
        device = None if known is None else find_device(known.watchdog)
        return device is None or is_contradicted(device.expiry_action, event.reason)

    # Told as they happen

    def fire(
        self, transaction: JournalTransaction, event: DriverEvent, server: str, watchdog: Watchdog | None, now: datetime, *, blind: bool
    ) -> bool:
        """Tell a firing; False when what it leads to is waited for no longer (it was seen before, or a comparison told all of it).

        :param now: when it is told; a platform's log may tell it hours after it happened, with what it led to right behind it
        :param blind: nobody has compared the server since a time in which nobody watched it
        """
        is_from_log = event.cursor is not None
        late = blind and is_from_log
        former = transaction.find_last_firing(server)
        is_found_already = former is not None and former.observed_late and _stands_paused(transaction, server)
        # What a log tells no comparison has found: such a platform pauses nothing. And who is known as paused may have run again unseen.
        if is_found_already and not is_from_log and not blind:
            LOG.info("server %s on host %s: its watchdog's firing was found before its event came", server, self._host)
            return False
        self._conclude_former(transaction, server, event.occurred_at)
        firing = self._add(transaction, server, event.occurred_at, watchdog, event.reason, observed_late=late)
        self._told_at[firing.message_id] = now
        if firing.effect == ExpiryAction.NONE:
            self._conclude(transaction, firing, CONTINUED, event.occurred_at, event.reason, observed_late=late)
            return True
        return not self._conclude_from_before(transaction, firing, former, now)

    def find_explanation(self, transaction: JournalTransaction, server: str, kind: DriverEventKind) -> Firing | None:
        """The firing that such an event comes from, beyond doubt."""
        firings = [each for each in transaction.list_open_firings(server) if explains(each.effect, kind)]
        return next((each for each in firings if not (self._search.is_looking(each) or _has_run_since(transaction, each))), None)

    def observe_event(self, transaction: JournalTransaction, event: DriverEvent, server: str, *, left: bool, late: bool) -> None:
        """An event after a firing; the order of the events counts, their times may have been set back.

        :param late: nobody was watching when it happened
        """
        for firing in transaction.list_open_firings(server):
            if self._search.is_looking(firing) or (event.kind is DriverEventKind.UNDEFINED and not left):
                continue
            is_resumed = firing.effect == ExpiryAction.DUMP and event.kind is DriverEventKind.RESUMED
            if is_resumed or (not left and _has_run_since(transaction, firing)):
                self._look_for_dump(transaction, firing, event.occurred_at, observed_late=False)
                continue
            verdict = find_verdict(firing.effect, event.kind, event.reason)
            if verdict is not None:
                self._conclude(transaction, firing, verdict, event.occurred_at, event.reason, observed_late=late)

    def _conclude_from_before(self, transaction: JournalTransaction, firing: Firing, former: Firing | None, now: datetime) -> bool:
        """Whether what the firing led to was told before the firing itself, which a log may tell long after it happened."""
        last = transaction.find_last_event(firing.server, EVENT_KINDS)
        if last is None or not firing.at - _HELD_BACK < last.occurred_at <= max(firing.at, now):
            return False
        if former is not None and former.concluded_at is not None and last.occurred_at <= former.concluded_at:
            return False  # that was the former one's
        kind = EVENT_KINDS[last.event_type]
        is_nmis = firing.effect == ExpiryAction.INJECT_NMI and kind is not DriverEventKind.PAUSED
        verdict = find_verdict(firing.effect, kind, last.payload["reason"]) if is_nmis or explains(firing.effect, kind) else None
        at = max(firing.at, last.occurred_at)
        return verdict is not None and self._conclude(transaction, firing, verdict, at, last.payload["reason"])

    # After a gap

    def find_unseen(self, transaction: JournalTransaction, before: Server | None, after: Server, at: datetime) -> bool:
        """Tell a firing that paused ``after`` and that nobody saw; it is concluded with the others. False: there was none."""
        if not shows_unseen_firing(before, after):
            return False
        pausing = [each for each in transaction.list_open_firings(after.id) if each.effect in (ExpiryAction.PAUSE, ExpiryAction.DUMP)]
        if not all(_has_run_since(transaction, firing) for firing in pausing):
            return False  # its event came, only the pause was not seen
        self._conclude_former(transaction, after.id, at)
        self._add(transaction, after.id, at, after.watchdog, ExpiryAction.PAUSE, observed_late=True)
        return True

    def conclude(
        self,
        transaction: JournalTransaction,
        servers: Collection[str] | None,
        known: Mapping[str, Server],
        resets: Mapping[str, datetime],
        at: datetime,
        *,
        unread: Collection[str] = (),
    ) -> None:
        """What the states of now say of firings after which nobody was watching ``servers`` (None: any).

        :param unread: of these nobody knows the state of now
        """
        for firing in transaction.list_open_firings():
            if (servers is not None and firing.server not in servers) or self._search.is_looking(firing):
                continue
            server = known.get(firing.server)
            was_reset = firing.server in resets and resets[firing.server] >= firing.at
            if firing.server in unread:
                self._interrupted.add(firing.message_id)
                continue
            if server is not None and _has_run_since(transaction, firing):
                self._look_for_dump(transaction, firing, at, observed_late=True)
                continue
            verdict = judge_state(firing.effect, None if server is None else server.power_state, was_reset=was_reset)
            if verdict is not None:
                reason = "" if server is None else server.state_reason
                self._conclude(transaction, firing, verdict, at, reason, observed_late=True)
            elif firing.effect != ExpiryAction.DUMP:
                self._interrupted.add(firing.message_id)
            elif server is not None and shows_end_of_dump(server):
                self._look_for_dump(transaction, firing, at, observed_late=True)

    # As time passes

    def check_timers(self, transaction: JournalTransaction, now: datetime, is_blind_to: Callable[[str], bool]) -> None:
        """Say what the passing of time says: nothing seen, not observed, a dump without end."""
        for firing in transaction.list_open_firings():
            is_blind = is_blind_to(firing.server)
            elapsed = (now - firing.at).total_seconds()
            if self._search.is_looking(firing) or elapsed < (self._limit if is_blind else self._first_look):
                continue
            # What was told late is waited for as long as anything else, and so is what this life has not read yet.
            known_since = self._told_at.get(firing.message_id, self._began_at if is_blind else firing.at)
            if (now - known_since).total_seconds() < self._first_look:
                continue
            if firing.effect != ExpiryAction.DUMP:
                is_unwatched = is_blind or firing.message_id in self._interrupted or self._driver.events is None
                known = transaction.find_known_server(firing.server)
                state = None if known is None else known.server.power_state
                self._conclude(transaction, firing, NOT_OBSERVED if is_unwatched else describe_silence(firing.effect, elapsed, state), now)
                continue
            known = transaction.find_known_server(firing.server)
            if known is not None and known.server.power_state is PowerState.RUNNING:
                self._look_for_dump(transaction, firing, now, observed_late=False)
            elif elapsed >= DUMP_LIMIT:
                self._conclude(transaction, firing, describe_long_dump(elapsed), now)

    # What the above need

    def _add(
        self, transaction: JournalTransaction, server: str, at: datetime, watchdog: Watchdog | None, word: str, *, observed_late: bool
    ) -> Firing:
        device = find_device(watchdog)
        model, action = (None, None) if device is None else (device.model, device.expiry_action)
        firing = transaction.add_firing(server, at, model=model, expiry_action=action, driver_word=word, observed_late=observed_late)
        LOG.warning(
            "server %s on host %s: its watchdog fired (%s, %s, the platform says %s)%s, event %s",
            *(server, self._host, model or "unknown model", action or "unknown expiry action", word),
            *(", found afterwards" if observed_late else "", firing.message_id),
        )
        return firing

    def _conclude_former(self, transaction: JournalTransaction, server: str, at: datetime) -> None:
        """The server ran on, or it could not fire again."""
        for firing in transaction.list_open_firings(server):
            if self._search.is_looking(firing):
                continue
            if firing.effect == ExpiryAction.DUMP:
                self._look_for_dump(transaction, firing, at, observed_late=False)
            else:
                self._conclude(transaction, firing, FIRED_AGAIN, at)

    def _look_for_dump(self, transaction: JournalTransaction, firing: Firing, at: datetime, *, observed_late: bool) -> None:
        if self._driver.expiry_dumps is not None:
            self._search.begin(firing, observed_late=observed_late)
        else:
            verdict = describe_unknown_dump(f"the driver {self._driver.name} cannot look for the file.")
            self._conclude(transaction, firing, verdict, at, observed_late=observed_late)

    def _conclude(
        self,
        transaction: JournalTransaction,
        firing: Firing,
        verdict: Verdict,
        at: datetime,
        reason: str = "",
        *,
        observed_late: bool = False,
    ) -> bool:
        is_new = transaction.conclude_firing(firing, verdict, at, reason=reason, observed_late=observed_late)
        self._interrupted.discard(firing.message_id)
        self._told_at.pop(firing.message_id, None)
        if is_new:
            LOG.info("server %s on host %s: its watchdog (event %s): %s", firing.server, self._host, firing.message_id, verdict.result)
        return is_new


def _has_run_since(transaction: JournalTransaction, firing: Firing) -> bool:
    """Whether it was a dump, and is over by what the journal says: what stops the server now is no part of it. An agent that died before it
    told what came of it looked for the file, perhaps; the next one knows nothing of that."""
    return firing.effect == ExpiryAction.DUMP and transaction.has_run_since(firing)


def _stands_paused(transaction: JournalTransaction, server: str) -> bool:
    """Paused by its watchdog: while it is, none can fire, for it stands still with the machine."""
    known = transaction.find_known_server(server)
    return known is not None and known.removed_at is None and is_paused_by_watchdog(known.server)
