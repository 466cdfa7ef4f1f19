"""Looks for the file that the platform wrote of a server's memory because its watchdog fired: no event names it.

On a thread of its own: the place may be slow, and the observer has other servers to hear of. What is looked for is kept here only; after a
restart the comparison of states begins it again, as long as the journal has no outcome.
"""

import logging
import threading
from dataclasses import dataclass, replace
from datetime import timedelta

from compute_agent.bounded_calls import BoundedCalls, NoAnswer
from compute_agent.contract.clock import Clock
from compute_agent.drivers.base import Driver
from compute_agent.drivers.errors import DriverError
from compute_agent.drivers.models import FoundDump
from compute_agent.journal import Journal
from compute_agent.journal_firings import Firing
from compute_agent.watchdog_outcomes import DUMP_FAILED, Verdict, describe_dump, describe_unknown_dump

LOG = logging.getLogger(__name__)

DUMP_LIMIT = 21_600.0
"""Seconds that a server may stand still while the platform writes its memory: 2 TB at 100 MB/s."""
_RETRY_INTERVAL = 5.0
_PATIENCE = 300.0
"""Seconds for which a place that cannot be read is asked again."""
_LOOK_THREADS = 4
_OUTCOME = "server.watchdog.outcome"


@dataclass(frozen=True)
class _Case:
    """A file to be looked for; ``due`` and ``given_up_at`` by the monotonic clock."""

    firing: Firing
    observed_late: bool
    due: float
    given_up_at: float


class DumpSearch:
    """Takes firings from the observer's thread; the files are looked for one after the other in :meth:`step`."""

    def __init__(self, journal: Journal, driver: Driver, clock: Clock) -> None:
        self._journal = journal
        self._driver = driver
        self._clock = clock
        self._condition = threading.Condition()
        self._cases: dict[str, _Case] = {}
        self._is_woken = False
        self._looks: BoundedCalls[FoundDump | None] = BoundedCalls("expiry-dump", threads=_LOOK_THREADS, limit=driver.call_bound)

    def begin(self, firing: Firing, *, observed_late: bool) -> None:
        """Look for the file of this firing, whose server runs again; only enqueues, and changes nothing if it is looked for already."""
        now = self._clock.monotonic()
        with self._condition:
            self._cases.setdefault(firing.message_id, _Case(firing, observed_late, now, now + _PATIENCE))
            self._condition.notify()

    def is_looking(self, firing: Firing) -> bool:
        """Whether its outcome is this search's to tell."""
        with self._condition:
            return firing.message_id in self._cases

    def step(self, timeout: float) -> bool:
        """Look once for one file, waiting ``timeout`` seconds for something to do at most; False when there was nothing.

        :raises JournalUnusable: what was found cannot be told.
        """
        case = self._find_due(timeout)
        if case is None:
            return False
        try:
            dump = self._find_dump(case.firing)
        except (DriverError, NoAnswer) as error:
            LOG.warning("server %s: the dump that its watchdog caused cannot be looked for: %s", case.firing.server, error)
            self._postpone(case, str(error))
        except Exception as error:
            LOG.exception("server %s: looking for the dump that its watchdog caused failed in a way no driver declares", case.firing.server)
            self._postpone(case, repr(error))
        else:
            self._tell(case, DUMP_FAILED if dump is None else describe_dump(dump), dump)
        return True

    def wake(self) -> None:
        """Let a :meth:`step` that waits return; from any thread."""
        with self._condition:
            self._is_woken = True
            self._condition.notify_all()

    def _find_due(self, timeout: float) -> _Case | None:
        with self._condition:
            end = self._clock.monotonic() + timeout
            while True:
                now = self._clock.monotonic()
                case = min(self._cases.values(), key=lambda case: case.due, default=None)
                if case is not None and case.due <= now:
                    return case
                if now >= end or self._is_woken:
                    self._is_woken = False
                    return None
                self._condition.wait(min(end, end if case is None else case.due) - now)

    def _find_dump(self, firing: Firing) -> FoundDump | None:
        if self._driver.expiry_dumps is None:
            return None
        with self._journal.transaction("read") as transaction:
            former, following = transaction.find_neighbours(firing)
        since, until = firing.at, None
        if firing.observed_late:  # when it fired is not known: after the one before, and no longer ago than a dump takes
            since -= timedelta(seconds=DUMP_LIMIT)
            since = since if former is None else max(since, former.at)
        if following is not None and following.at > since:  # the clock may have been set back
            until = following.at
        find_expiry_dump = self._driver.expiry_dumps.find_expiry_dump
        dump = self._looks.call(firing.message_id, lambda: find_expiry_dump(firing.server, since, until))
        if dump is None:
            return None
        with self._journal.transaction("read") as transaction:
            told = transaction.find_last_event(firing.server, {_OUTCOME})
        is_former = told is not None and told.payload.get("dump_path") == dump.path
        return None if is_former else dump  # the one before wrote it, this one left none

    def _postpone(self, case: _Case, why: str) -> None:
        now = self._clock.monotonic()
        if now >= case.given_up_at:
            self._tell(case, describe_unknown_dump(why), None)
            return
        with self._condition:
            self._cases[case.firing.message_id] = replace(case, due=now + _RETRY_INTERVAL)

    def _tell(self, case: _Case, verdict: Verdict, dump: FoundDump | None) -> None:
        with self._journal.transaction(_OUTCOME) as transaction:
            transaction.conclude_firing(case.firing, verdict, self._clock.now(), dump=dump, observed_late=case.observed_late)
        with self._condition:
            del self._cases[case.firing.message_id]
        LOG.info("server %s: its watchdog (event %s): %s", case.firing.server, case.firing.message_id, verdict.text)
