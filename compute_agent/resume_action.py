"""The kind ``resume``: a paused server runs again, after its watchdog has paused it, say.

It is repeatable: to resume a server that runs does nothing, so one that a dead agent had begun is gone on with from the server's state.
"""

from collections.abc import Callable

from compute_agent.contract.errors import Code
from compute_agent.contract.models import ActionKind, PowerState
from compute_agent.drivers.models import DriverServer
from compute_agent.journal import ActionState, JournalledAction, JournalTransaction
from compute_agent.kinds import Kind, NotYet, Outcome, Refused


class Resume(Kind):
    """Lets a server run again that is paused, by whomever."""

    kind = ActionKind.RESUME
    is_repeatable = True

    def check(self, action: JournalledAction) -> DriverServer:
        if self._driver.resume is None:
            raise Refused(Code.NOT_SUPPORTED, f"The driver {self._driver.name} cannot resume servers; nothing was done.")
        seen = self.get_server(action)
        if seen.power_state not in (PowerState.RUNNING, PowerState.PAUSED):
            raise Refused(Code.SERVER_NOT_PAUSED, f"The server is {seen.power_state}, not paused; nothing was done.")
        return seen

    def check_at_start(self, transaction: JournalTransaction, action: JournalledAction, seen: DriverServer | None) -> None:
        """Only here: of a former life of the server even nothing is not to be done."""
        assert seen is not None  # narrows the type: check() gave it
        if seen.power_state is PowerState.RUNNING:
            raise Refused(Code.NOTHING_TO_CHANGE)

    def is_begun(self, transaction: JournalTransaction, action: JournalledAction) -> bool:
        return action.state is ActionState.STARTED

    def carry_out(self, action: JournalledAction, seen: DriverServer | None, check_deadline: Callable[[], None]) -> Outcome:
        assert self._driver.resume is not None  # narrows the type: check() saw to it
        resume_server = self._driver.resume.resume_server
        if seen is None:
            power_state = self._look(action).power_state
            if power_state is PowerState.RUNNING:
                return self._succeed()
            if power_state is not PowerState.PAUSED:
                reason = f"{self.result(Code.AGENT_RESTARTED).reason} It is {power_state} now."
                return Outcome(self.result(Code.AGENT_RESTARTED, reason), self._clock.now())
        check_deadline()
        resume_server(action.request.server)
        return self._succeed()

    def _look(self, action: JournalledAction) -> DriverServer:
        """:raises NotYet: nobody can say in what state the server is.
        :raises Refused: there is no such server any more.
        """
        try:
            return self.get_server(action)
        except Refused as refusal:
            if refusal.code is Code.BACKEND_UNAVAILABLE:
                raise NotYet(str(refusal.reason), away=True) from refusal
            raise

    def _succeed(self) -> Outcome:
        now = self._clock.now()
        return Outcome(self.result(Code.RESUMED), now, returned_at=now)
