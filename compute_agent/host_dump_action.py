"""The kind ``take_host_dump``: the hypervisor writes a server's memory to a file on this host, because an admin asked for it.

It is not repeatable: one that a dead agent had begun ends as unknown, and its unfinished file is removed at the next start.
"""

from collections.abc import Callable

from compute_agent.contract.clock import Clock
from compute_agent.contract.errors import Code
from compute_agent.contract.models import ActionKind, PowerState
from compute_agent.crash_dump import HoldOff
from compute_agent.drivers.base import Driver
from compute_agent.drivers.models import DriverServer
from compute_agent.host_dumps import HostDumps, has_crash_kernel
from compute_agent.journal import Journal, JournalledAction, JournalTransaction
from compute_agent.kinds import Kind, Outcome, Refused, ServerEvent


class TakeHostDump(Kind):
    """Needs no word of the guest. A server that runs stands still meanwhile, so one that may be writing its own dump is left alone.

    :param limit: seconds past the deadline after which a dump that is still being written is called unknown
    """

    kind = ActionKind.TAKE_HOST_DUMP

    def __init__(self, journal: Journal, driver: Driver, clock: Clock, dumps: HostDumps, holdoff: HoldOff, *, limit: float) -> None:
        super().__init__(journal, driver, clock)
        self._dumps = dumps
        self._holdoff = holdoff
        self._limit = limit

    @property
    def call_bound(self) -> float:
        return self._limit

    def check(self, action: JournalledAction) -> DriverServer:
        self._dumps.check_supported()
        return self.get_server(action)

    def check_at_start(self, transaction: JournalTransaction, action: JournalledAction, seen: DriverServer | None) -> None:
        is_crashed = seen is not None and seen.power_state is PowerState.CRASHED
        if not is_crashed and not action.request.force:
            advice = "writing the memory would stop the server meanwhile. Nothing was written."
            self._holdoff.check(transaction, action.request.server, advice)
            if has_crash_kernel(transaction, action.request.server):
                raise Refused(Code.CRASH_DUMP_IN_PROGRESS, f"The guest started its crash kernel and may be writing its own dump: {advice}")

    def carry_out(self, action: JournalledAction, seen: DriverServer | None, check_deadline: Callable[[], None]) -> Outcome:
        assert seen is not None  # narrows the type: check() gave it
        dump = self._dumps.take(seen, action.request.id, check_deadline)
        now = self._clock.now()
        body = {"action_id": action.request.id, "path": str(dump.path), "bytes": dump.size, "duration": dump.duration}
        # The path is in the event alone: not all who may see an action's ending may know the host's directories.
        reason = f"The server's memory is in a file on its host: {dump.size} bytes, written in {dump.duration:.1f} s."
        event = ServerEvent("server.host_dump", body)
        return Outcome(self.result(Code.HOST_DUMP_TAKEN, reason), now, returned_at=now, events=(event,))
