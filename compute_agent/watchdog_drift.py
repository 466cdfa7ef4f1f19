"""Watchdogs that somebody else changed after they were set through here: told of, and set again where the configuration says so."""

import logging
import uuid
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

from compute_agent.contract.clock import Clock
from compute_agent.contract.models import ActionKind, ActionRequest
from compute_agent.contract.watchdogs import Watchdog
from compute_agent.drivers.models import DriverServer
from compute_agent.journal import ActionState, Journal, JournalTransaction, WantedWatchdog
from compute_agent.watchdog_actions import describe_device, describe_watchdog, find_device

LOG = logging.getLogger(__name__)

_CHANGES = frozenset({ActionKind.SET_WATCHDOG, ActionKind.REMOVE_WATCHDOG})
_DEADLINE = timedelta(seconds=60)


class WatchdogDrift:
    """Compares what the inventory lists with what actions have left. The inventory's thread uses it.

    :param reapply: whether a watchdog that was changed is set again, by an action of the agent's own
    :param queue_action: given each such action, once it is committed
    """

    def __init__(self, journal: Journal, clock: Clock, *, reapply: bool, queue_action: Callable[[ActionRequest], None]) -> None:
        self._journal = journal
        self._clock = clock
        self._reapply = reapply
        self._queue_action = queue_action

    def compare(self, transaction: JournalTransaction, listed: Sequence[DriverServer], read_at: datetime) -> list[ActionRequest]:
        """Tell of each difference once; returns actions that were journalled for :meth:`begin`.

        :param read_at: when ``listed`` began to be read: what an action has changed since may not be in it
        """
        seen = {server.id: server.watchdog for server in listed if not server.unread}
        changing = _list_changing(transaction)
        actions = []
        for wanted in transaction.list_wanted_watchdogs():
            found = seen.get(wanted.server)
            if found is None or wanted.set_at >= read_at or wanted.server in changing:
                continue
            if find_device(found) == wanted.device:
                if wanted.told is not None:
                    transaction.tell_drift(wanted.server, None)
            elif wanted.told is None or find_device(wanted.told) != find_device(found):
                actions += self._tell(transaction, wanted, found)
        return actions

    def begin(self, actions: Sequence[ActionRequest]) -> None:
        """They are committed: let them be run."""
        for request in actions:
            self._queue_action(request)

    def _tell(self, transaction: JournalTransaction, wanted: WantedWatchdog, found: Watchdog) -> list[ActionRequest]:
        actions = [self._add_action(transaction, wanted)] if self._reapply else []
        action_id = actions[0].id if actions else None
        body = {"wanted": wanted.device, "found": found, "action_id": action_id}
        transaction.append_event("server.watchdog.drifted", server=wanted.server, occurred_at=self._clock.now(), body=body)
        transaction.tell_drift(wanted.server, found)
        LOG.warning(
            "server %s on host %s: somebody else changed its watchdog. %s It was to have %s, as of action %s; set again by action %s",
            *(
                wanted.server,
                self._journal.host,
                describe_watchdog(found),
                describe_device(wanted.device),
                wanted.action_id,
                action_id or "none",
            ),
        )
        return actions

    def _add_action(self, transaction: JournalTransaction, wanted: WantedWatchdog) -> ActionRequest:
        known = transaction.find_known_server(wanted.server)
        now = self._clock.now()
        request = ActionRequest(
            id=f"req-{uuid.uuid4()}",
            kind=ActionKind.REMOVE_WATCHDOG if wanted.device is None else ActionKind.SET_WATCHDOG,
            server=wanted.server,
            server_generation=wanted.generation,
            host=self._journal.host,
            project=None if known is None else known.server.project,
            sent_at=now,
            deadline=now + _DEADLINE,
            journal_id=self._journal.journal_id,
            watchdog=wanted.device,
        )
        transaction.add_action(request, now)
        return request


def _list_changing(transaction: JournalTransaction) -> set[str]:
    """Servers whose watchdog is being changed, or is to be."""
    actions = [*transaction.list_actions(ActionState.RECEIVED), *transaction.list_actions(ActionState.STARTED)]
    return {action.request.server for action in actions if action.request.kind in _CHANGES}
