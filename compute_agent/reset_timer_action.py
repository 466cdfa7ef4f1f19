"""The kind ``reset_watchdog_timer``: a watchdog that counts outside its server counts from its beginning again, as if that had fed it.

It is repeatable: to feed a watchdog once more only lets it count from later on. But nothing in the server's state says afterwards whether
it was fed: what a dead agent had begun succeeds when it is done again, and is otherwise unknown.
"""

from collections.abc import Callable

from compute_agent.contract.errors import Code
from compute_agent.contract.models import ActionKind, PowerState
from compute_agent.drivers.base import WatchdogTimer
from compute_agent.drivers.errors import NothingSent
from compute_agent.drivers.models import DriverServer
from compute_agent.journal import ActionState, JournalledAction, JournalTransaction
from compute_agent.kinds import Kind, NotYet, Outcome, Refused


class ResetWatchdogTimer(Kind):
    """Feeds a server's watchdog. Whether it has one that can be fed is for the driver to say."""

    kind = ActionKind.RESET_WATCHDOG_TIMER
    is_repeatable = True

    def check(self, action: JournalledAction) -> DriverServer:
        """A watchdog that counts beside a server which is off may well switch it on."""
        self._get_timer()
        seen = self.get_server(action)
        if seen.power_state is PowerState.SHUTDOWN:
            raise Refused(Code.SERVER_NOT_RUNNING)
        return seen

    def is_begun(self, transaction: JournalTransaction, action: JournalledAction) -> bool:
        return action.state is ActionState.STARTED

    def carry_out(self, action: JournalledAction, seen: DriverServer | None, check_deadline: Callable[[], None]) -> Outcome:
        if seen is None:
            return self._go_on(action, check_deadline)
        return self._reset(action, check_deadline)

    def _go_on(self, action: JournalledAction, check_deadline: Callable[[], None]) -> Outcome:
        """A dead agent has perhaps fed it: no refusal of today makes that undone.

        :raises NotYet: the server cannot be reached now; until its deadline it is tried again.
        """
        try:
            check_deadline()
            self.check(action)
            return self._reset(action, check_deadline)
        except NothingSent as error:
            code, obstacle = error.code, error.reason
        except Refused as refusal:
            code, obstacle = refusal.code, self.result(refusal.code, refusal.reason).reason
        if code is Code.BACKEND_UNAVAILABLE:
            raise NotYet(obstacle, away=True)
        now = self._clock.now()
        reason = f"{self.result(Code.AGENT_RESTARTED).reason} Now: {obstacle}"
        return Outcome(self.result(Code.AGENT_RESTARTED, reason), now, returned_at=now)

    def _reset(self, action: JournalledAction, check_deadline: Callable[[], None]) -> Outcome:
        timer = self._get_timer()
        check_deadline()
        timer.reset_timer(action.request.server)
        now = self._clock.now()
        return Outcome(self.result(Code.WATCHDOG_TIMER_RESET), now, returned_at=now)

    def _get_timer(self) -> WatchdogTimer:
        """:raises Refused: the driver has none."""
        timer = self._driver.watchdog_timer
        if timer is None:
            raise Refused(Code.NOT_SUPPORTED, f"The driver {self._driver.name} has no watchdog that is fed from outside; nothing was done.")
        return timer
