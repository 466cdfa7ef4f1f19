"""Run one action to its ending: everything is refused that may be refused, then it is journalled, then it is done, once.

What makes "never two signals for one action" hold: only the caller whose compare-and-set to ``started`` was *committed* lets its kind
call the driver, once; nobody does for an action found ``started``, except to go on with what its kind says can be gone on with (a
device that is half changed; never a signal). What makes "never past the deadline" hold: the deadline is checked as
the last statement before the call, on the wall clock and on a monotonic countdown from the receipt (which no stepped wall clock moves).
"""

import logging
import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta

from compute_agent.action_queue import ActionQueue
from compute_agent.contract.clock import Clock
from compute_agent.contract.errors import Code
from compute_agent.contract.models import ActionResult, Observation
from compute_agent.drivers.errors import DriverError, NothingSent
from compute_agent.drivers.models import DriverServer
from compute_agent.journal import ActionState, Journal, JournalFull, JournalledAction, JournalTransaction, JournalUnusable
from compute_agent.kinds import Kind, NotYet, Outcome, Refused, make_result

__all__ = ["ActionQueue", "Actions", "make_result"]

LOG = logging.getLogger(__name__)

_PAUSED_TEXT = "The server was paused when the NMI was handed over: it fires when the server resumes. See doc/guest-setup.rst."

_RETRY_INTERVAL = 2.0
"""Seconds until what could be neither carried out nor ended is tried again."""


@dataclass(frozen=True)
class _Pause:
    """Why an action waits, and until which monotonic reading."""

    reason: str
    retry_at: float


class Actions:
    """Runs actions out of the journal. Every method may be called from any thread.

    :param kinds: one for each kind of action that may be in the journal
    :param max_clock_skew: seconds that a request's ``sent_at`` may lie in this host's future
    :param on_ended: told each action whose ending was committed here, as it was then
    :param on_given_up: told the id of each that was ended because its call does not come back, while a thread still waits for it
    """

    def __init__(
        self,
        journal: Journal,
        kinds: Sequence[Kind],
        clock: Clock,
        *,
        max_clock_skew: float,
        on_ended: Callable[[JournalledAction], None],
        on_given_up: Callable[[str], None] = lambda action_id: None,
    ) -> None:
        self._journal = journal
        self._kinds = {kind.kind: kind for kind in kinds}
        self._clock = clock
        self._max_clock_skew = timedelta(seconds=max_clock_skew)
        self._on_ended = on_ended
        self._on_given_up = on_given_up
        self._lock = threading.Lock()
        self._unrecorded: dict[str, Outcome] = {}
        self._nothing_open_at: int | None = None
        self._pauses: dict[str, _Pause] = {}
        self._patient_since: dict[str, float] = {}
        self._at_work: set[str] = set()
        self.late_returns = 0
        """How many driver calls came back after their action had been ended as unknown."""

    def recover(self) -> list[str]:
        """Call once at start, before any worker: ends what a dead agent had begun and what is not repeatable, returns the ids of the
        actions to be run, in order.
        """
        with self._journal.transaction("read") as transaction:
            started = transaction.list_actions(ActionState.STARTED)
        for action in started:
            kind = self._get_kind(action)
            # Nobody knows until when the dead agent's call may have gone out: a reset seen before now may have been before the signal.
            now = self._clock.now()
            if not kind.is_repeatable:
                self._end(action.request.id, Outcome(kind.result(Code.AGENT_RESTARTED), now, returned_at=now))
        with self._journal.transaction("read") as transaction:
            # What is not repeatable was ended above; should one still be here, it is left to end_overdue(), never to a worker.
            started = [action for action in transaction.list_actions(ActionState.STARTED) if self._get_kind(action).is_repeatable]
            begun = {action.request.id for action in started if self._is_begun(transaction, action)}
            received = transaction.list_actions(ActionState.RECEIVED)
        if started or received:
            with self._journal.transaction("action.recovered") as transaction:
                for action in (*started, *received):
                    if action.state is ActionState.STARTED and action.request.id not in begun:
                        transaction.return_action(action.request.id, self._clock.now())
                    else:
                        transaction.restart_countdown(action.request.id, self._clock.now())
        with self._lock:
            # However long nobody was here to go on with them: their time is not up before a worker has had its try.
            self._patient_since.update(dict.fromkeys(begun, math.inf))
        return [action.request.id for action in (*started, *received)]

    def run(self, action_id: str) -> None:
        """Bring one action to its ending in the caller's thread; returns at once when it is neither ``received`` nor begun.

        What can be neither carried out nor ended now is left as it is: :meth:`list_due` names it when it is to be tried again.

        :raises JournalFull: there is no room to write what has to be written before it may go on; it waits, as above.
        :raises JournalUnusable: nothing more can be written. If the ending of what was carried out could not be, :meth:`end_overdue` tries
            it again, and nobody carries it out a second time.
        """
        with self._lock:
            if action_id in self._at_work:
                return
            self._at_work.add(action_id)
        try:
            self._run(action_id)
        except JournalFull as error:
            self._put_off(action_id, NotYet(str(error)))
            raise
        finally:
            with self._lock:
                self._at_work.discard(action_id)

    def list_at_work(self) -> set[str]:
        """The ids of those that a thread is at, perhaps long after their ending: in a call that does not come back."""
        with self._lock:
            return set(self._at_work)

    def list_due(self) -> list[str]:
        """The ids of actions that are to be run again now."""
        now = self._clock.monotonic()
        with self._lock:
            return [action_id for action_id, pause in self._pauses.items() if now >= pause.retry_at]

    def _run(self, action_id: str) -> None:
        with self._lock:
            unrecorded = self._unrecorded.get(action_id)
        if unrecorded is not None:
            self._end(action_id, unrecorded)
            return
        with self._journal.transaction("read") as transaction:
            action = transaction.find_action(action_id)
            is_begun = action is not None and self._is_begun(transaction, action)
        if action is None or not (is_begun or action.state is ActionState.RECEIVED):
            self._forget_waiting(action_id)
            return
        kind = self._get_kind(action)
        with self._lock:
            if self._patient_since.get(action_id) == math.inf:
                self._patient_since[action_id] = self._clock.monotonic()
        try:
            seen = None
            if is_begun:
                with self._journal.transaction("read") as transaction:
                    self._check_generation(transaction, action)
            else:
                seen = self._check(action)
                if not self._start(action, seen):
                    return
        except Refused as refusal:
            self._end(action_id, self._refuse(kind, refusal), action.state)
            return
        except NotYet as wait:
            self._put_off(action_id, wait)
            return
        try:
            outcome = self._carry_out(action, seen)
        except NotYet as wait:
            self._put_off(action_id, wait)
            return
        self._end(action_id, outcome)

    def _is_begun(self, transaction: JournalTransaction, action: JournalledAction) -> bool:
        kind = self._get_kind(action)
        return action.state is ActionState.STARTED and kind.is_repeatable and kind.is_begun(transaction, action)

    def _put_off(self, action_id: str, wait: NotYet) -> None:
        now = self._clock.monotonic()
        with self._lock:
            before = self._pauses.get(action_id)
            self._pauses[action_id] = _Pause(wait.reason, now + _RETRY_INTERVAL)
            if wait.away:
                self._patient_since[action_id] = now
        if before is None or before.reason != wait.reason:
            LOG.info("action %s host %s: waits: %s", action_id, self._journal.host, wait.reason)

    def _forget_waiting(self, action_id: str) -> None:
        with self._lock:
            self._pauses.pop(action_id, None)
            self._patient_since.pop(action_id, None)

    def end_overdue(self) -> None:
        """One sweep: actions still waiting at their deadline expire; a call that is not back ``call_bound`` after it is unknown.

        :raises JournalUnusable: nothing more can be written.
        """
        with self._lock:
            unrecorded = dict(self._unrecorded)
        for action_id, outcome in unrecorded.items():
            self._end(action_id, outcome)
        changes = self._journal.count_changes()
        if changes == self._nothing_open_at:
            return
        with self._journal.transaction("read") as transaction:
            waiting = transaction.list_actions(ActionState.RECEIVED)
            begun = transaction.list_actions(ActionState.STARTED)
        self._nothing_open_at = None if waiting or begun else changes
        for action in waiting:
            if self._is_past_deadline(action):
                result = self._get_kind(action).result(Code.DEADLINE_PASSED)
                self._end(action.request.id, Outcome(result, self._clock.now()), ActionState.RECEIVED)
                self._let_go(action.request.id)
        for action in begun:
            kind = self._get_kind(action)
            if self._is_call_overdue(action, kind.call_bound):
                # The call may go out as long as it is not back: should the agent die before that, the hold-off counts from here.
                now = self._clock.now()
                self._end(action.request.id, Outcome(self._give_up(action, kind), now, returned_at=now), ActionState.STARTED)
                self._let_go(action.request.id)

    def _let_go(self, action_id: str) -> None:
        """Its ending is written: a thread that is still at it is in a call which perhaps never returns."""
        with self._lock:
            is_at_work = action_id in self._at_work
        if is_at_work:
            self._on_given_up(action_id)

    def _give_up(self, action: JournalledAction, kind: Kind) -> ActionResult:
        with self._lock:
            pause = self._pauses.get(action.request.id)
        if pause is None:
            return kind.result(Code.CALL_OVERDUE)
        return kind.result(Code.ANSWER_LOST, f"{kind.result(Code.ANSWER_LOST).reason} Last: {pause.reason}")

    def _get_kind(self, action: JournalledAction) -> Kind:
        return self._kinds[action.request.kind]

    # Refusals

    def _refuse(self, kind: Kind, refusal: Refused) -> Outcome:
        return Outcome(kind.result(refusal.code, refusal.reason), self._clock.now())

    def _check(self, action: JournalledAction) -> DriverServer | None:
        """Everything that can be known before ``started``; cheap and certain refusals first.

        :raises Refused: with nothing sent.
        """
        request = action.request
        if request.journal_id != self._journal.journal_id:
            raise Refused(Code.JOURNAL_LOST)
        self._check_deadline(action)
        ahead = request.sent_at - action.received_at
        if ahead > self._max_clock_skew:
            raise Refused(
                Code.CLOCK_SKEW,
                f"The request came {ahead.total_seconds():.1f} s before it was sent, by this host's clock; "
                f"{self._max_clock_skew.total_seconds():g} s are allowed. Nothing was sent.",
            )
        return self._get_kind(action).check(action)

    def _start(self, action: JournalledAction, seen: DriverServer | None) -> bool:
        """The last refusals and ``started`` in one transaction.

        :raises Refused: with nothing sent.
        """
        with self._journal.transaction("action.started") as transaction:
            if transaction.find_state(action.request.id) is not ActionState.RECEIVED:
                return False  # else the hold-off would find this action's own signal
            self._check_generation(transaction, action)
            self._get_kind(action).check_at_start(transaction, action, seen)
            started = transaction.start_action(action.request.id, self._clock.now())
        if started:
            self._log(action, "started")
        return started

    def _check_generation(self, transaction: JournalTransaction, action: JournalledAction) -> None:
        if transaction.find_generation(action.request.server) != action.request.server_generation:
            raise Refused(Code.SERVER_MOVED)

    def _check_deadline(self, action: JournalledAction) -> None:
        if self._is_past_deadline(action):
            raise Refused(Code.DEADLINE_PASSED)

    # The doing and what came of it

    def _carry_out(self, action: JournalledAction, seen: DriverServer | None) -> Outcome:
        """Let the kind do it. Only ever called by the one whose ``started`` was committed."""
        kind = self._get_kind(action)
        try:
            return kind.carry_out(action, seen, lambda: self._check_deadline(action))
        except Refused as refusal:
            return self._refuse(kind, refusal)
        except NotYet:
            raise
        except NothingSent as error:
            return Outcome(kind.result(error.code, error.reason), self._clock.now())
        except DriverError as error:
            now = self._clock.now()
            return Outcome(kind.result(Code.ANSWER_LOST, error.reason), now, returned_at=now)
        except Exception as error:
            LOG.exception("action %s: the driver failed in a way that it does not declare", action.request.id)
            now = self._clock.now()
            sentence = kind.result(Code.DRIVER_FAULT).reason
            return Outcome(kind.result(Code.DRIVER_FAULT, f"{sentence} ({error!r})"), now, returned_at=now)

    def _end(self, action_id: str, outcome: Outcome, only_if: ActionState | None = None) -> None:
        """Commit an ending; whoever comes second changes nothing.

        :param only_if: end it only if it is in this state (a worker may have moved it since it was looked at)
        :raises JournalUnusable: it is not written. Without ``only_if``, when it tells what was done, it is kept for :meth:`end_overdue`;
            what was only decided is to be decided anew, by what is true then.
        """
        try:
            with self._journal.transaction("action.ended") as transaction:
                action = transaction.get_action(action_id)
                if only_if is not None and action.state is not only_if:
                    return
                ended = self._write_ending(transaction, action, outcome)
        except JournalUnusable:
            if only_if is None:
                with self._lock:
                    self._unrecorded[action_id] = outcome
            raise
        with self._lock:
            self._unrecorded.pop(action_id, None)
        self._forget_waiting(action_id)
        if ended is not None:
            self._log(action, f"ended {outcome.result.ending}: {outcome.result.code}: {outcome.result.reason}")
            self._on_ended(ended)
        elif outcome.returned_at is not None:
            with self._lock:
                self.late_returns += 1
            self._log(action, f"driver call came back after the ending was written, with {outcome.result.code}; the ending stays")

    def _write_ending(self, transaction: JournalTransaction, action: JournalledAction, outcome: Outcome) -> JournalledAction | None:
        """The action as it is then; None: it had ended already."""
        result = outcome.result
        delivered = result.code is Code.SIGNAL_DELIVERED
        action_id = action.request.id
        if action.result != result:  # not when this very outcome is written a second time, its first commit being in doubt
            for event in outcome.events:
                transaction.append_event(event.event_type, server=action.request.server, occurred_at=outcome.at, body=event.body)
        ended = transaction.end_action(action_id, result, outcome.at, signalled_at=outcome.returned_at if delivered else None)
        if outcome.returned_at is not None and (ended is None or not delivered):
            # The ending has not said it: the answer was lost or late, and the signal may have gone out until the call came back.
            transaction.record_signal_time(action_id, outcome.returned_at)
        if ended is None:
            return None
        self._get_kind(action).keep(transaction, action, result)
        if outcome.pending:
            transaction.observe(action_id, Observation.PENDING_UNTIL_RESUME, outcome.at, final=False, text=_PAUSED_TEXT)
            return transaction.get_action(action_id)
        return ended

    # Time

    def _is_past_deadline(self, action: JournalledAction) -> bool:
        if self._clock.now() >= action.request.deadline:
            return True
        return action.monotonic_limit is not None and self._clock.monotonic() >= action.monotonic_limit

    def _is_call_overdue(self, action: JournalledAction, bound: float) -> bool:
        """By the countdown alone where there is one: a wall clock stepped forward must not give up a call that just began."""
        with self._lock:
            patient_since = self._patient_since.get(action.request.id)
        if patient_since is not None and self._clock.monotonic() < patient_since + bound:
            return False
        if action.monotonic_limit is not None:
            return self._clock.monotonic() >= action.monotonic_limit + bound
        return self._clock.now() >= action.request.deadline + timedelta(seconds=bound)

    def _log(self, action: JournalledAction, what: str) -> None:
        LOG.info("action %s server %s host %s: %s", action.request.id, action.request.server, action.request.host, what)
