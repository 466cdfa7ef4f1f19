"""The kinds ``set_watchdog`` and ``remove_watchdog``: what a server has is journalled, then it is given what was asked for.

A change may take several steps, and an agent, or its hypervisor, may die between any two of them. So both kinds are repeatable, and what
the server had before is committed together with ``started``: from then on the action is *begun*, and is brought to an end from what the
server has. Until the deadline it is gone on with; after it the server either has what was asked for, or is given back what it had.
"""

import logging
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import replace

from compute_agent.contract.errors import Code, Ending
from compute_agent.contract.models import ActionKind, ActionResult
from compute_agent.contract.watchdogs import Watchdog, WatchdogDevice
from compute_agent.drivers.base import Watchdogs
from compute_agent.drivers.errors import BackendUnavailable, DriverError, NothingSent, OutcomeUnknown, ServerNotFound
from compute_agent.drivers.models import DriverServer
from compute_agent.journal import JournalledAction, JournalTransaction
from compute_agent.kinds import Kind, NotYet, Outcome, Refused, ServerEvent

LOG = logging.getLogger(__name__)


def find_device(watchdog: Watchdog) -> WatchdogDevice | None:
    """The managed watchdog that a server has for good: the configured one; the live one of a server that has no next start."""
    if watchdog.configured is not None or watchdog.pending_restart:
        return watchdog.configured
    return watchdog.live


def describe_device(device: WatchdogDevice | None) -> str:
    return "no watchdog" if device is None else f"{device.model} with the expiry action {device.expiry_action}"


def describe_watchdog(watchdog: Watchdog) -> str:
    """What a server has, as a sentence that says from when on."""
    device = describe_device(find_device(watchdog))
    if watchdog.pending_restart:
        return f"The server has {device} from its next start on; until then it has {describe_device(watchdog.live)}."
    return f"The server has {device}."


class WatchdogChange(Kind):
    """What both kinds have in common."""

    is_repeatable = True

    @property
    def call_bound(self) -> float:
        """A call that began right before the deadline, and the one that puts the former device back."""
        return 2 * self._driver.call_bound

    @abstractmethod
    def get_wanted(self, action: JournalledAction) -> WatchdogDevice | None:
        """What the server is to have."""

    @abstractmethod
    def get_done_code(self) -> Code:
        """How a change ends that was made."""

    def check_former(self, action: JournalledAction, former: Watchdog) -> None:
        """:raises Refused: what the server has must not be changed."""

    def check(self, action: JournalledAction) -> DriverServer:
        watchdogs = self._find_watchdogs()
        if watchdogs is None:
            raise Refused(Code.NOT_SUPPORTED, f"The driver {self._driver.name} cannot manage watchdogs; nothing was changed.")
        seen = self.get_server(action)
        with self._journal.transaction("read") as transaction:
            earlier = transaction.find_begun_change(seen.id, except_for=action.request.id)
        if earlier is not None:
            raise NotYet(f"the change of action {earlier} is not over")
        former = self._read(watchdogs, action)
        self.check_former(action, former)
        return replace(seen, watchdog=former)

    def check_at_start(self, transaction: JournalTransaction, action: JournalledAction, seen: DriverServer | None) -> None:
        assert seen is not None  # narrows the types: check() gave both
        former = seen.watchdog
        assert former is not None
        # Only here: of a former life of the server even nothing is not to be done.
        if find_device(former) == self.get_wanted(action) and not former.pending_restart:
            raise Refused(Code.NOTHING_TO_CHANGE, f"{describe_watchdog(former)} Nothing was changed.")
        transaction.begin_watchdog_change(action.request.id, former, self._clock.now())

    def is_begun(self, transaction: JournalTransaction, action: JournalledAction) -> bool:
        return transaction.find_former_watchdog(action.request.id) is not None

    def carry_out(self, action: JournalledAction, seen: DriverServer | None, check_deadline: Callable[[], None]) -> Outcome:
        with self._journal.transaction("read") as transaction:
            former = transaction.find_former_watchdog(action.request.id)
        assert former is not None  # narrows the type: it was committed with ``started``
        try:
            check_deadline()
        except Refused:
            return self._bring_to_an_end(action, former, None, is_over=True)
        try:
            return self._succeed(action, former, self._give(action, self.get_wanted(action)))
        except DriverError as error:
            return self._bring_to_an_end(action, former, error, is_over=_is_over(check_deadline))

    def keep(self, transaction: JournalTransaction, action: JournalledAction, result: ActionResult) -> None:
        """What it is to have from now on; nothing while nobody knows what it has, nor of a life of the server that is over."""
        request = action.request
        known = transaction.find_known_server(request.server)
        if known is None or known.removed_at is not None or known.server.generation != request.server_generation:
            return
        if result.ending is Ending.SUCCEEDED:
            transaction.want_watchdog(request.server, request.server_generation, self.get_wanted(action), request.id, self._clock.now())
        elif result.ending is Ending.UNKNOWN:
            transaction.forget_wanted_watchdog(request.server)

    def _bring_to_an_end(self, action: JournalledAction, former: Watchdog, error: DriverError | None, *, is_over: bool) -> Outcome:
        """From what the server has now, after an attempt that failed (``error``) or when it is too late for one.

        :raises NotYet: it can be gone on with later, or cannot be ended truthfully now.
        :raises Refused: the server is gone.
        """
        now = self._look(action)
        device = self.get_wanted(action)
        if find_device(now) == device and (not now.pending_restart or self._needs_restart(device, now.live)):
            return self._succeed(action, former, now)
        if isinstance(error, NothingSent):
            if (now.configured, now.live) == (former.configured, former.live):
                return self._fail(error.code, error.reason, now)
            is_over = is_over or error.code is not Code.BACKEND_UNAVAILABLE
        if not is_over:
            raise NotYet("it is not known how far the change came" if error is None else error.reason)
        return self._put_back(action, former, error)

    def _needs_restart(self, *devices: WatchdogDevice | None) -> bool:
        """Whether one of these comes or goes at a start only; otherwise a machine that still waits for its next one is half changed."""
        watchdogs = self._find_watchdogs()
        hot_plugged = {model.model for model in (() if watchdogs is None else watchdogs.list_models()) if model.hot_plug}
        return any(device is not None and device.model not in hot_plugged for device in devices)

    def _put_back(self, action: JournalledAction, former: Watchdog, error: DriverError | None) -> Outcome:
        """Also where it seems to be there: a dead agent's request may still be on its way, and this one comes after it."""
        try:
            now = self._give(action, find_device(former))
        except ServerNotFound as gone:
            raise Refused(Code.SERVER_NOT_FOUND, gone.reason) from gone
        except DriverError as refusal:
            raise NotYet(f"the former watchdog could not be put back: {refusal.reason}") from refusal
        why = "The deadline passed" if error is None else error.reason
        return self._fail(Code.WATCHDOG_NOT_CHANGED, why, now)

    def _succeed(self, action: JournalledAction, former: Watchdog, now: Watchdog) -> Outcome:
        at = self._clock.now()
        if (now.configured, now.live) == (former.configured, former.live):
            return Outcome(self.result(Code.NOTHING_TO_CHANGE, f"{describe_watchdog(now)} Nothing was changed."), at, returned_at=at)
        changed = ServerEvent("server.watchdog.changed", {"watchdog": now, "action_id": action.request.id})
        return Outcome(self.result(self.get_done_code(), describe_watchdog(now)), at, returned_at=at, events=(changed,))

    def _fail(self, code: Code, why: str, now: Watchdog) -> Outcome:
        at = self._clock.now()
        return Outcome(self.result(code, f"{why.rstrip('.')}. {describe_watchdog(now)}"), at, returned_at=at)

    def _give(self, action: JournalledAction, device: WatchdogDevice | None) -> Watchdog:
        """:raises DriverError: as the driver does; what it does not declare tells nothing of how far it came."""
        watchdogs, server = self._find_watchdogs(), action.request.server
        assert watchdogs is not None  # narrows the type: a driver that has them has them for good
        try:
            return watchdogs.remove_watchdog(server) if device is None else watchdogs.set_watchdog(server, device)
        except DriverError:
            raise
        except Exception as error:
            LOG.exception("action %s: the driver failed in a way that it does not declare", action.request.id)
            raise OutcomeUnknown(server, f"The driver failed in a way it does not declare: {error!r}") from error

    def _look(self, action: JournalledAction) -> Watchdog:
        """:raises NotYet: nobody can say what the server has.
        :raises Refused: there is no such server any more.
        """
        watchdogs = self._find_watchdogs()
        assert watchdogs is not None  # narrows the type
        try:
            return self._read(watchdogs, action)
        except Refused as refusal:
            if refusal.code is Code.SERVER_NOT_FOUND:
                raise
            raise NotYet(str(refusal.reason), away=True) from refusal

    def _read(self, watchdogs: Watchdogs, action: JournalledAction) -> Watchdog:
        """:raises Refused: it cannot be read, or there is no such server."""
        try:
            return watchdogs.get_watchdog(action.request.server)
        except (ServerNotFound, BackendUnavailable) as error:
            raise Refused(error.code, error.reason) from error
        except Exception as error:
            LOG.exception("action %s: reading a watchdog failed in a way no driver declares", action.request.id)
            raise Refused(Code.BACKEND_UNAVAILABLE, f"The watchdog could not be read: {error!r}.") from error

    def _find_watchdogs(self) -> Watchdogs | None:
        return self._driver.watchdog


class SetWatchdog(WatchdogChange):
    """Gives a server the watchdog that was asked for, in place of the one that it has."""

    kind = ActionKind.SET_WATCHDOG

    def get_wanted(self, action: JournalledAction) -> WatchdogDevice:
        assert action.request.watchdog is not None  # narrows the type: the endpoint refuses a request without
        return action.request.watchdog

    def get_done_code(self) -> Code:
        return Code.WATCHDOG_SET

    def check_former(self, action: JournalledAction, former: Watchdog) -> None:
        has_one = former.configured is not None or former.live is not None
        if has_one and not action.request.replace:
            raise Refused(Code.WATCHDOG_EXISTS, f"{describe_watchdog(former)} Nothing was changed.")


class RemoveWatchdog(WatchdogChange):
    """Takes a server's watchdog away."""

    kind = ActionKind.REMOVE_WATCHDOG

    def get_wanted(self, action: JournalledAction) -> None:
        return None

    def get_done_code(self) -> Code:
        return Code.WATCHDOG_REMOVED


def _is_over(check_deadline: Callable[[], None]) -> bool:
    try:
        check_deadline()
    except Refused:
        return True
    return False
