"""Run one action to its ending: everything is refused that may be refused, then it is journalled, then the one signal is sent.

What makes "never two signals for one action" hold: only the caller whose compare-and-set to ``started`` was *committed* calls the
driver, once; nobody calls it for an action found ``started``. What makes "never past the deadline" hold: the deadline is checked as the
last statement before the call, on the wall clock and on a monotonic countdown from the receipt (which a stepped wall clock cannot move).
"""

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from compute_agent.action_queue import ActionQueue
from compute_agent.contract.clock import Clock
from compute_agent.contract.errors import CODES, Code
from compute_agent.contract.models import ActionResult, Observation, PowerState
from compute_agent.drivers.base import Driver, DriverError, DriverServer, Nmi, NothingSent, ServerNotFound
from compute_agent.journal import ActionState, Journal, JournalledAction, JournalTransaction, JournalUnusable
from compute_agent.observations import STANDS_STILL

__all__ = ["ActionQueue", "Actions", "make_result"]

LOG = logging.getLogger(__name__)

_PAUSED_REASON = "The NMI was handed over; the server is paused, so it fires when the server resumes."
_PAUSED_TEXT = "The server was paused when the NMI was handed over: it fires when the server resumes. See doc/guest-setup.rst."


def make_result(code: Code, reason: str | None = None) -> ActionResult:
    """The ending that ``code`` belongs to, with the table's own sentence unless a better one is known."""
    return ActionResult(ending=CODES[code].ending, code=code, reason=reason or CODES[code].sentence)


@dataclass(frozen=True)
class _Outcome:
    """What came of an action, to be committed. ``returned_at`` is when a call that may have sent something came back or was given up."""

    result: ActionResult
    at: datetime
    returned_at: datetime | None = None
    pending: bool = False


class _Refused(Exception):
    """The action ends here, with nothing sent."""

    def __init__(self, code: Code, reason: str | None = None) -> None:
        self.result = make_result(code, reason)
        super().__init__(self.result.reason)


class Actions:
    """Runs actions out of the journal. Every method may be called from any thread.

    :param crash_dump_holdoff: seconds after a signal in which further crash dumps of that server are refused, not counting those in
        which it was paused; 0 = off
    :param max_clock_skew: seconds that a request's ``sent_at`` may lie in this host's future
    :param on_ended: told the id of each action whose ending was committed here
    """

    def __init__(
        self,
        journal: Journal,
        driver: Driver,
        clock: Clock,
        *,
        crash_dump_holdoff: float,
        max_clock_skew: float,
        on_ended: Callable[[str], None],
    ) -> None:
        self._journal = journal
        self._driver = driver
        self._clock = clock
        self._holdoff = timedelta(seconds=crash_dump_holdoff)
        self._max_clock_skew = timedelta(seconds=max_clock_skew)
        self._on_ended = on_ended
        self._lock = threading.Lock()
        self._unrecorded: dict[str, _Outcome] = {}
        self.late_returns = 0
        """How many driver calls came back after their action had been ended as unknown."""

    def recover(self) -> list[str]:
        """Call once at start, before any worker: ends what a dead agent had begun, returns the ids of what it had not, in order.

        A crash dump is not repeatable: found ``started`` it was perhaps sent, so it ends as unknown and is never run again.
        """
        with self._journal.transaction("read") as transaction:
            begun = transaction.list_actions(ActionState.STARTED)
            received = transaction.list_actions(ActionState.RECEIVED)
        for action in begun:
            # Nobody knows until when the dead agent's call may have gone out: a reset seen before now may have been before the signal.
            now = self._clock.now()
            self._end(action.request.id, _Outcome(make_result(Code.AGENT_RESTARTED), now, returned_at=now))
        if received:
            with self._journal.transaction("action.recovered") as transaction:
                for action in received:
                    transaction.restart_countdown(action.request.id, self._clock.now())
        return [action.request.id for action in received]

    def run(self, action_id: str) -> None:
        """Bring one action to its ending in the caller's thread; returns at once when it is not (or no longer) ``received``.

        :raises JournalUnusable: nothing more can be written. If the ending could not be, :meth:`end_overdue` tries it again.
        """
        with self._journal.transaction("read") as transaction:
            action = transaction.find_action(action_id)
        if action is None or action.state is not ActionState.RECEIVED:
            return
        try:
            nmi, server = self._check(action)
            if not self._start(action, server):
                return
        except _Refused as refusal:
            self._end(action_id, _Outcome(refusal.result, self._clock.now()), ActionState.RECEIVED)
            return
        self._end(action_id, self._signal(action, nmi, paused=server.power_state is PowerState.PAUSED))

    def end_overdue(self) -> None:
        """One sweep: actions still waiting at their deadline expire; a call that is not back ``call_bound`` after it is unknown.

        :raises JournalUnusable: nothing more can be written.
        """
        with self._lock:
            unrecorded = dict(self._unrecorded)
        for action_id, outcome in unrecorded.items():
            self._end(action_id, outcome)
        with self._journal.transaction("read") as transaction:
            waiting = transaction.list_actions(ActionState.RECEIVED)
            begun = transaction.list_actions(ActionState.STARTED)
        for action in waiting:
            if self._is_past_deadline(action):
                self._end(action.request.id, _Outcome(make_result(Code.DEADLINE_PASSED), self._clock.now()), ActionState.RECEIVED)
        for action in begun:
            if self._is_call_overdue(action):
                # The call may go out as long as it is not back: should the agent die before that, the hold-off counts from here.
                now = self._clock.now()
                self._end(action.request.id, _Outcome(make_result(Code.CALL_OVERDUE), now, returned_at=now), ActionState.STARTED)

    # Refusals

    def _check(self, action: JournalledAction) -> tuple[Nmi, DriverServer]:
        """Everything that can be known before ``started``; cheap and certain refusals first.

        :raises _Refused: with nothing sent.
        """
        request = action.request
        if request.journal_id != self._journal.journal_id:
            raise _Refused(Code.JOURNAL_LOST)
        if self._is_past_deadline(action):
            raise _Refused(Code.DEADLINE_PASSED)
        ahead = request.sent_at - action.received_at
        if ahead > self._max_clock_skew:
            raise _Refused(
                Code.CLOCK_SKEW,
                f"The request came {ahead.total_seconds():.1f} s before it was sent, by this host's clock; "
                f"{self._max_clock_skew.total_seconds():g} s are allowed. Nothing was sent.",
            )
        if self._driver.nmi is None:
            raise _Refused(Code.NOT_SUPPORTED, f"The driver {self._driver.name} cannot inject an NMI; nothing was sent.")
        server = self._get_server(action)
        if server.arriving:
            raise _Refused(Code.SERVER_MOVED, "The server is being migrated to this host and is not its own yet; nothing was sent.")
        if server.power_state in (PowerState.SHUTDOWN, PowerState.CRASHED):
            raise _Refused(Code.SERVER_NOT_RUNNING, f"The server is {server.power_state}; nothing was sent.")
        return self._driver.nmi, server

    def _get_server(self, action: JournalledAction) -> DriverServer:
        try:
            return self._driver.servers.get_server(action.request.server)
        except ServerNotFound as error:
            with self._journal.transaction("read") as transaction:
                known = transaction.find_known_server(action.request.server)
            # A server that this host once had has left; one that it never had was never here.
            raise _Refused(Code.SERVER_NOT_FOUND if known is None else Code.SERVER_MOVED) from error
        except DriverError as error:
            # Only read from so far: whatever the driver says of the reading, nothing was sent.
            raise _Refused(error.code if isinstance(error, NothingSent) else Code.BACKEND_UNAVAILABLE, error.reason) from error
        except Exception as error:
            LOG.exception("action %s: reading server %s failed in a way no driver declares", action.request.id, action.request.server)
            raise _Refused(Code.BACKEND_UNAVAILABLE, f"The server could not be read: {error!r}. Nothing was sent.") from error

    def _start(self, action: JournalledAction, server: DriverServer) -> bool:
        """The last refusals and ``started`` in one transaction: nothing can come between the hold-off and the signal record.

        :raises _Refused: with nothing sent.
        """
        with self._journal.transaction("action.started") as transaction:
            if transaction.get_action(action.request.id).state is not ActionState.RECEIVED:
                return False  # else the hold-off would find this action's own signal
            self._check_generation(transaction, action)
            if not action.request.force:
                self._check_holdoff(transaction, action)
            started = transaction.start_action(action.request.id, self._clock.now())
        if started:
            self._log(action, "started")
        return started

    def _check_generation(self, transaction: JournalTransaction, action: JournalledAction) -> None:
        known = transaction.find_known_server(action.request.server)
        if known is None or known.removed_at is not None or known.server.generation != action.request.server_generation:
            raise _Refused(Code.SERVER_MOVED)

    def _check_holdoff(self, transaction: JournalTransaction, action: JournalledAction) -> None:
        signal = transaction.find_signal(action.request.server)
        if signal is None or signal.cleared or not self._holdoff:
            return
        earlier = transaction.find_action(signal.action_id)
        # An NMI handed to a paused server has not even fired yet, however long ago that was.
        pending = earlier is not None and earlier.observation is Observation.PENDING_UNTIL_RESUME
        now = self._clock.now()
        known = transaction.find_known_server(action.request.server)
        if known is not None and known.server.power_state in STANDS_STILL:
            now = known.server.state_at  # a dump that it was writing stands still with it, and goes on when it resumes
        if pending or now < signal.at + self._holdoff:
            sent_at = signal.at if earlier is None or earlier.signalled_at is None else earlier.signalled_at
            raise _Refused(
                Code.CRASH_DUMP_IN_PROGRESS,
                f"The crash dump of action {signal.action_id} may still be running (signal at {sent_at.isoformat()}); "
                "a second NMI could ruin it. Nothing was sent.",
            )

    # The signal and what came of it

    def _signal(self, action: JournalledAction, nmi: Nmi, *, paused: bool) -> _Outcome:
        """Send the one signal. Only ever called by the one whose ``started`` was committed."""
        try:
            if self._is_past_deadline(action):
                return _Outcome(make_result(Code.DEADLINE_PASSED), self._clock.now())
            nmi.inject_nmi(action.request.server)
        except NothingSent as error:
            return _Outcome(make_result(error.code, error.reason), self._clock.now())
        except DriverError as error:
            now = self._clock.now()
            return _Outcome(make_result(Code.ANSWER_LOST, error.reason), now, returned_at=now)
        except Exception as error:
            LOG.exception("action %s: the driver failed in a way that it does not declare", action.request.id)
            now = self._clock.now()
            return _Outcome(make_result(Code.DRIVER_FAULT, f"{CODES[Code.DRIVER_FAULT].sentence} ({error!r})"), now, returned_at=now)
        now = self._clock.now()
        return _Outcome(make_result(Code.SIGNAL_DELIVERED, _PAUSED_REASON if paused else None), now, returned_at=now, pending=paused)

    def _end(self, action_id: str, outcome: _Outcome, only_if: ActionState | None = None) -> None:
        """Commit an ending; whoever comes second changes nothing.

        :param only_if: end it only if it is in this state (a worker may have moved it since it was looked at)
        """
        try:
            with self._journal.transaction("action.ended") as transaction:
                action = transaction.get_action(action_id)
                if only_if is not None and action.state is not only_if:
                    return
                ended = self._write_ending(transaction, action, outcome)
        except JournalUnusable:
            with self._lock:
                self._unrecorded[action_id] = outcome
            raise
        with self._lock:
            self._unrecorded.pop(action_id, None)
        if ended:
            self._log(action, f"ended {outcome.result.ending}: {outcome.result.code}: {outcome.result.reason}")
            self._on_ended(action_id)
        elif outcome.returned_at is not None:
            with self._lock:
                self.late_returns += 1
            self._log(action, f"driver call came back after the ending was written, with {outcome.result.code}; the ending stays")

    def _write_ending(self, transaction: JournalTransaction, action: JournalledAction, outcome: _Outcome) -> bool:
        result = outcome.result
        delivered = result.code is Code.SIGNAL_DELIVERED
        action_id = action.request.id
        ended = transaction.end_action(action_id, result, outcome.at, signalled_at=outcome.returned_at if delivered else None)
        if outcome.returned_at is not None:
            # Also when the answer was lost or late: the signal may have gone out until the call came back.
            transaction.record_signal_time(action_id, outcome.returned_at)
        if ended and outcome.pending:
            transaction.observe(action_id, Observation.PENDING_UNTIL_RESUME, outcome.at, final=False, text=_PAUSED_TEXT)
        return ended

    # Time

    def _is_past_deadline(self, action: JournalledAction) -> bool:
        if self._clock.now() >= action.request.deadline:
            return True
        return action.monotonic_limit is not None and self._clock.monotonic() >= action.monotonic_limit

    def _is_call_overdue(self, action: JournalledAction) -> bool:
        """By the countdown alone where there is one: a wall clock stepped forward must not give up a call that just began."""
        if action.monotonic_limit is not None:
            return self._clock.monotonic() >= action.monotonic_limit + self._driver.call_bound
        return self._clock.now() >= action.request.deadline + timedelta(seconds=self._driver.call_bound)

    def _log(self, action: JournalledAction, what: str) -> None:
        LOG.info("action %s server %s host %s: %s", action.request.id, action.request.server, action.request.host, what)
