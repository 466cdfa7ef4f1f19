"""What the kinds of actions have in common, and the words for each: a kind refuses, carries out, and says what came of it.

:mod:`compute_agent.actions` brings an action of any kind to its ending; what differs is in one small object per kind. A kind calls the
driver in :meth:`Kind.carry_out` only, and ``check_deadline`` there as the last statement before the call.
"""

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, ClassVar

from compute_agent.action_queue import Turn
from compute_agent.contract.clock import Clock
from compute_agent.contract.errors import CODES, Code
from compute_agent.contract.models import ActionKind, ActionResult
from compute_agent.drivers.base import Driver
from compute_agent.drivers.errors import DriverError, NothingSent, ServerNotFound
from compute_agent.drivers.models import DriverServer
from compute_agent.journal import Journal, JournalledAction, JournalTransaction

LOG = logging.getLogger(__name__)

TURN_OF_KIND: dict[ActionKind, Turn] = {
    ActionKind.TRIGGER_CRASH_DUMP: Turn.ACT,
    ActionKind.COLLECT_DIAGNOSTICS: Turn.READ,
    ActionKind.TAKE_HOST_DUMP: Turn.SLOW,
    # A guest may take 10 s to let go of a device: whoever needs a crash dump of a server that hangs does not wait for that.
    ActionKind.SET_WATCHDOG: Turn.CHANGE,
    ActionKind.REMOVE_WATCHDOG: Turn.CHANGE,
    ActionKind.RESUME: Turn.ACT,
    # Comes for whole fleets and again and again, and a machine that does not answer is waited for: crash dumps are not to wait for that.
    ActionKind.RESET_WATCHDOG_TIMER: Turn.CHANGE,
}
"""Which actions wait for which."""

_COLLECT_SENTENCES = {
    Code.NOT_SUPPORTED: "This driver cannot tell diagnostics.",
    Code.DRIVER_FAULT: "The driver failed in a way it does not declare; there are no diagnostics.",
    Code.CALL_OVERDUE: "The diagnostics were not collected within the driver's bound.",
    Code.JOURNAL_LOST: "The agent's journal was lost since the request was sent; the diagnostics were perhaps collected before.",
}
_DUMP_SENTENCES = {
    Code.NOT_SUPPORTED: "This driver or server cannot have its memory written by the hypervisor; nothing was written.",
    Code.DRIVER_FAULT: "The driver failed in a way it does not declare; what it had written of the memory was removed.",
    Code.AGENT_RESTARTED: "The agent stopped while the memory was being written; the unfinished file is removed.",
    Code.ANSWER_LOST: "The hypervisor gave no answer; nobody knows whether the file was complete, and it was removed.",
    Code.CALL_OVERDUE: "The hypervisor has not finished the file within its bound; should it do so later, server.host_dump tells.",
    Code.JOURNAL_LOST: "The agent's journal was lost since the request was sent; the memory was perhaps written before.",
}
_WATCHDOG_SENTENCES = {
    Code.NOT_SUPPORTED: "This driver or server cannot have that watchdog; nothing was changed.",
    Code.SERVER_NOT_FOUND: "The host has no such server; its watchdog was not changed.",
    Code.SERVER_MOVED: "The server left this host or was made anew since the request; its watchdog was not changed.",
    Code.CLOCK_SKEW: "The clocks of gateway and host disagree too much to trust the deadline; nothing was changed.",
    Code.BACKEND_UNAVAILABLE: "The hypervisor could not be reached; nothing was changed.",
    Code.DEADLINE_PASSED: "The deadline passed before anything was changed.",
    Code.ANSWER_LOST: "The watchdog was perhaps changed; what the server has now is in its inventory.",
    Code.CALL_OVERDUE: "The hypervisor has not finished the change within its bound; what the server has now is in its inventory.",
    Code.JOURNAL_LOST: "The agent's journal was lost since the request was sent; the watchdog was perhaps changed before.",
}
_RESUME_SENTENCES = {
    Code.NOT_SUPPORTED: "This driver or server cannot be resumed; nothing was done.",
    Code.NOTHING_TO_CHANGE: "The server runs already; nothing was done.",
    Code.SERVER_NOT_FOUND: "The host has no such server; nothing was done.",
    Code.SERVER_MOVED: "The server left this host or was made anew since the request; nothing was done.",
    Code.CLOCK_SKEW: "The clocks of gateway and host disagree too much to trust the deadline; nothing was done.",
    Code.BACKEND_UNAVAILABLE: "The hypervisor could not be reached; nothing was done.",
    Code.DEADLINE_PASSED: "The deadline passed and the server was not resumed.",
    Code.DRIVER_FAULT: "The driver failed in a way it does not declare; the server was perhaps resumed.",
    Code.AGENT_RESTARTED: "The agent stopped after it began and before it knew the answer; the server was perhaps resumed.",
    Code.ANSWER_LOST: "The hypervisor gave no answer; the server was perhaps resumed.",
    Code.CALL_OVERDUE: "The hypervisor has not answered within its bound; the server was perhaps resumed.",
    Code.JOURNAL_LOST: "The agent's journal was lost since the request was sent; the server was perhaps resumed before.",
}
_TIMER_SENTENCES = {
    Code.NOT_SUPPORTED: "This driver or server has no watchdog that is fed from outside; nothing was done.",
    Code.SERVER_NOT_RUNNING: "The server is not running; its watchdog was not fed.",
    Code.SERVER_NOT_FOUND: "The host has no such server; nothing was done.",
    Code.SERVER_MOVED: "The server left this host or was made anew since the request; its watchdog was not fed.",
    Code.CLOCK_SKEW: "The clocks of gateway and host disagree too much to trust the deadline; nothing was done.",
    Code.BACKEND_UNAVAILABLE: "The hypervisor or BMC could not be reached; the watchdog was not fed.",
    Code.DEADLINE_PASSED: "The deadline passed and the watchdog was not fed.",
    Code.DRIVER_FAULT: "The driver failed in a way it does not declare; the watchdog was perhaps fed.",
    Code.AGENT_RESTARTED: "The agent stopped after it began and before it knew the answer; the watchdog was perhaps fed then.",
    Code.ANSWER_LOST: "No answer came; the watchdog was perhaps fed. To ask again does no harm.",
    Code.CALL_OVERDUE: "The driver's call has not returned within its bound; the watchdog was perhaps fed. To ask again does no harm.",
    Code.JOURNAL_LOST: "The agent's journal was lost since the request was sent; the watchdog was perhaps fed before.",
}
_SENTENCES: dict[ActionKind, dict[Code, str]] = {
    ActionKind.COLLECT_DIAGNOSTICS: _COLLECT_SENTENCES,
    ActionKind.TAKE_HOST_DUMP: _DUMP_SENTENCES,
    ActionKind.SET_WATCHDOG: _WATCHDOG_SENTENCES,
    ActionKind.REMOVE_WATCHDOG: _WATCHDOG_SENTENCES,
    ActionKind.RESUME: _RESUME_SENTENCES,
    ActionKind.RESET_WATCHDOG_TIMER: _TIMER_SENTENCES,
}
"""Where the codes' own sentences, which speak of an NMI, would be wrong."""


def make_result(code: Code, reason: str | None = None, kind: ActionKind = ActionKind.TRIGGER_CRASH_DUMP) -> ActionResult:
    """The ending that ``code`` belongs to, with the table's own sentence unless a better one is known."""
    sentence = _SENTENCES.get(kind, {}).get(code, CODES[code].sentence)
    return ActionResult(ending=CODES[code].ending, code=code, reason=reason or sentence)


@dataclass(frozen=True)
class ServerEvent:
    """A ``server.*`` event to be committed together with an ending."""

    event_type: str
    body: dict[str, Any]


@dataclass(frozen=True)
class Outcome:
    """What came of an action, to be committed.

    ``returned_at`` is when a call that may have done something came back or was given up; ``pending`` says that the signal waits in a
    paused server; ``events`` tell what there is now, also when the ending was written without it (given up as overdue).
    """

    result: ActionResult
    at: datetime
    returned_at: datetime | None = None
    pending: bool = False
    events: tuple[ServerEvent, ...] = ()


class Refused(Exception):
    """The action ends here, with nothing done; without a reason the kind's own sentence is said."""

    def __init__(self, code: Code, reason: str | None = None) -> None:
        self.code = code
        self.reason = reason
        super().__init__(reason or CODES[code].sentence)


class NotYet(Exception):
    """The action can neither be carried out nor ended now. It stays in the journal as it is and is tried again soon.

    :param away: the hypervisor or BMC cannot even be asked: as long as that lasts no patience is lost with the action
    """

    def __init__(self, reason: str, *, away: bool = False) -> None:
        self.reason = reason
        self.away = away
        super().__init__(reason)


class Kind(ABC):
    """One kind of action. Every method may be called from any worker's thread, never for two actions of one server at a time."""

    kind: ClassVar[ActionKind]
    is_repeatable: ClassVar[bool] = False
    """Whether an action that a dead agent had ``started`` is given out again; otherwise it ends as unknown."""

    def __init__(self, journal: Journal, driver: Driver, clock: Clock) -> None:
        self._journal = journal
        self._driver = driver
        self._clock = clock

    @property
    def call_bound(self) -> float:
        """Seconds past the deadline after which a begun call is given up as overdue."""
        return self._driver.call_bound

    @abstractmethod
    def check(self, action: JournalledAction) -> DriverServer | None:
        """Refuse what can be refused before ``started``; what was read of the server is given to the steps after.

        :raises Refused: with nothing done.
        :raises NotYet: it has to wait for something, until its deadline at most.
        """

    def check_at_start(self, transaction: JournalTransaction, action: JournalledAction, seen: DriverServer | None) -> None:  # noqa: B027
        """The last refusals, in the transaction that commits ``started``; most kinds have none.

        :raises Refused: with nothing done.
        """

    @abstractmethod
    def carry_out(self, action: JournalledAction, seen: DriverServer | None, check_deadline: Callable[[], None]) -> Outcome:
        """Do it, or go on with it (:meth:`is_begun`; nothing was read of the server then).

        Only ever called by the one whose ``started`` was committed, and again only for what is begun.

        :param check_deadline: raises :class:`Refused` when it is over; to be called last before the driver is
        :raises Refused, DriverError: it ends with that.
        :raises NotYet: only of what is begun.
        """

    def is_begun(self, transaction: JournalTransaction, action: JournalledAction) -> bool:
        """Whether an action that is ``started`` is gone on with, from what is there now, until it can be ended truthfully.

        Neither its deadline nor a restart ends it then; only when it is overdue is it unknown. For repeatable kinds alone: what may be
        done once only is never gone on with.
        """
        return False

    def keep(self, transaction: JournalTransaction, action: JournalledAction, result: ActionResult) -> None:  # noqa: B027
        """In the transaction that commits its ending: note what holds from now on."""

    def result(self, code: Code, reason: str | None = None) -> ActionResult:
        return make_result(code, reason, self.kind)

    def get_server(self, action: JournalledAction) -> DriverServer:
        """The server of an action, read now, if it is this host's.

        :raises Refused: it is not here, or could not be read.
        """
        try:
            seen = self._driver.servers.get_server(action.request.server)
        except ServerNotFound as error:
            with self._journal.transaction("read") as transaction:
                known = transaction.find_known_server(action.request.server)
            # A server that this host once had has left; one that it never had was never here.
            raise Refused(Code.SERVER_NOT_FOUND if known is None else Code.SERVER_MOVED) from error
        except DriverError as error:
            # Only read from so far: whatever the driver says of the reading, nothing was sent.
            raise Refused(error.code if isinstance(error, NothingSent) else Code.BACKEND_UNAVAILABLE, error.reason) from error
        except Exception as error:
            LOG.exception("action %s: reading server %s failed in a way no driver declares", action.request.id, action.request.server)
            raise Refused(Code.BACKEND_UNAVAILABLE, f"The server could not be read: {error!r}. Nothing was sent.") from error
        if seen.arriving:
            raise Refused(Code.SERVER_MOVED, "The server is being migrated to this host and is not its own yet; nothing was sent.")
        return seen
