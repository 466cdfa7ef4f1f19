"""The kind ``trigger_crash_dump``: one NMI at most, and none while an earlier dump may still be running.

A crash dump is not repeatable: found ``started`` after a restart it was perhaps sent, so it ends as unknown and is never run again.
"""

from collections.abc import Callable
from datetime import datetime, timedelta

from compute_agent.contract.clock import Clock
from compute_agent.contract.errors import Code
from compute_agent.contract.models import STANDS_STILL, ActionKind, Observation, PowerState
from compute_agent.drivers.base import Driver
from compute_agent.drivers.models import DriverServer
from compute_agent.journal import Journal, JournalledAction, JournalTransaction
from compute_agent.journal_rows import Signal, SignalCause
from compute_agent.kinds import Kind, Outcome, Refused

_PAUSED_REASON = "The NMI was handed over; the server is paused, so it fires when the server resumes."


class HoldOff:
    """Whether an earlier dump of a server may still be running.

    :param seconds: counted after a signal, not counting those in which the server was paused; 0 = off
    :param has_untold_nmi: says of a server whether its watchdog injected an NMI that is not in the journal yet
    """

    def __init__(self, clock: Clock, seconds: float, has_untold_nmi: Callable[[str], bool] = lambda server: False) -> None:
        self._clock = clock
        self._has_untold_nmi = has_untold_nmi
        self._span = timedelta(seconds=seconds)

    def check(self, transaction: JournalTransaction, server: str, advice: str) -> None:
        """:raises Refused: one may; the text names its action, or the event of its watchdog's firing, and ends with ``advice``."""
        if not self._span:
            return
        if self._has_untold_nmi(server):
            raise Refused(Code.CRASH_DUMP_IN_PROGRESS, f"The server's watchdog injected an NMI a moment ago; {advice}")
        now = self._clock.now()
        known = transaction.find_known_server(server)
        if known is not None and known.server.power_state in STANDS_STILL:
            now = known.server.state_at  # a dump that it was writing stands still with it, and goes on when it resumes
        # Each of them: which was sent last is not what the wall clock says, if that was set meanwhile.
        for signal in transaction.list_uncleared_signals(server):
            self._check_signal(transaction, signal, now, advice)

    def _check_signal(self, transaction: JournalTransaction, signal: Signal, now: datetime, advice: str) -> None:
        earlier = transaction.find_action(signal.action_id)
        # An NMI handed to a paused server has not even fired yet, however long ago that was.
        pending = earlier is not None and earlier.observation is Observation.PENDING_UNTIL_RESUME
        if pending or self._count_since(transaction, signal, now) < self._span:
            sent_at = signal.at if earlier is None or earlier.signalled_at is None else earlier.signalled_at
            whose = f"The crash dump of action {signal.action_id}"
            if signal.cause is SignalCause.WATCHDOG:
                whose = f"A crash dump after the NMI of the server's watchdog (event {signal.action_id})"
            raise Refused(Code.CRASH_DUMP_IN_PROGRESS, f"{whose} may still be running (signal at {sent_at.isoformat()}); {advice}")

    @staticmethod
    def _count_since(transaction: JournalTransaction, signal: Signal, now: datetime) -> timedelta:
        """The time since a signal by the wall clock, or by the monotonic one where that says less: a clock may have been set forward."""
        elapsed = now - signal.at
        monotonic_now, boot = transaction.locate(now)
        if boot != signal.boot:
            return elapsed
        return min(elapsed, timedelta(seconds=monotonic_now - signal.monotonic_at))


class CrashDump(Kind):
    """Injects the NMI."""

    kind = ActionKind.TRIGGER_CRASH_DUMP

    def __init__(self, journal: Journal, driver: Driver, clock: Clock, holdoff: HoldOff) -> None:
        super().__init__(journal, driver, clock)
        self._holdoff = holdoff

    def check(self, action: JournalledAction) -> DriverServer:
        if self._driver.nmi is None:
            raise Refused(Code.NOT_SUPPORTED, f"The driver {self._driver.name} cannot inject an NMI; nothing was sent.")
        server = self.get_server(action)
        if server.power_state in (PowerState.SHUTDOWN, PowerState.CRASHED):
            raise Refused(Code.SERVER_NOT_RUNNING, f"The server is {server.power_state}; nothing was sent.")
        return server

    def check_at_start(self, transaction: JournalTransaction, action: JournalledAction, seen: DriverServer | None) -> None:
        """Nothing can come between the hold-off and the signal record: both are in this transaction."""
        if not action.request.force:
            self._holdoff.check(transaction, action.request.server, "a second NMI could ruin it. Nothing was sent.")

    def carry_out(self, action: JournalledAction, seen: DriverServer | None, check_deadline: Callable[[], None]) -> Outcome:
        """Send the one signal."""
        assert self._driver.nmi is not None  # narrows the types: check() saw to both
        assert seen is not None
        inject_nmi = self._driver.nmi.inject_nmi
        check_deadline()
        inject_nmi(action.request.server)
        now = self._clock.now()
        is_paused = seen.power_state is PowerState.PAUSED
        result = self.result(Code.SIGNAL_DELIVERED, _PAUSED_REASON if is_paused else None)
        return Outcome(result, now, returned_at=now, pending=is_paused)
