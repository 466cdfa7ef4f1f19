"""The kind ``collect_diagnostics``: a collection whose report comes as an event, for control planes and fleets.

It is repeatable: reading a server changes nothing, so one that a dead agent had begun is simply done again.
"""

from collections.abc import Callable

from compute_agent.contract.clock import Clock
from compute_agent.contract.diagnostics import DiagnosticsReport
from compute_agent.contract.errors import Code
from compute_agent.contract.models import ActionKind
from compute_agent.drivers.base import Driver
from compute_agent.drivers.models import DriverServer
from compute_agent.journal import Journal, JournalledAction
from compute_agent.kinds import Kind, Outcome, Refused, ServerEvent


class CollectDiagnostics(Kind):
    """Asks ``get_report``, which has a limit of its own, so that no worker waits for a hypervisor that hangs."""

    kind = ActionKind.COLLECT_DIAGNOSTICS
    is_repeatable = True

    def __init__(self, journal: Journal, driver: Driver, clock: Clock, get_report: Callable[[str], DiagnosticsReport]) -> None:
        super().__init__(journal, driver, clock)
        self._get_report = get_report

    def check(self, action: JournalledAction) -> DriverServer | None:
        """The server itself is not read before: the collection says whether there is one, and has a limit."""
        if self._driver.diagnostics is None:
            raise Refused(Code.NOT_SUPPORTED, f"The driver {self._driver.name} cannot tell diagnostics.")
        return None

    def carry_out(self, action: JournalledAction, seen: DriverServer | None, check_deadline: Callable[[], None]) -> Outcome:
        check_deadline()
        report = self._get_report(action.request.server)
        reason = None
        if report.stale:
            reason = f"The hypervisor did not answer; the last reading, {report.age:.0f} s old, is in the event server.diagnostics."
        now = self._clock.now()
        event = ServerEvent("server.diagnostics", {"action_id": action.request.id, "report": report})
        return Outcome(self.result(Code.DIAGNOSTICS_COLLECTED, reason), now, returned_at=now, events=(event,))
