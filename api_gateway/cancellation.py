"""Call an action off, or say why it is too late for that.

What no agent can have ends here at once. Everything else is its agent's to end: only that one knows whether the action has begun.
"""

import logging
from datetime import datetime

from api_gateway.rpc_versions import Speech
from api_gateway.store import Connection, actions, agents, cancelling, endings
from api_gateway.store.actions import ActionRow, ActionState
from compute_agent.contract.errors import CODES, Code

LOG = logging.getLogger(__name__)


class NotCancellable(Exception):
    """The action goes on to its own ending, or has had it; the text says why."""


def cancel_action(c: Connection, action_id: str, *, user: str, now: datetime, speech: Speech) -> ActionRow:
    """The action as it is now: ended, or called off and waiting for its agent's word. Once more changes nothing.

    The caller commits before it answers, and then wakes the dispatcher.

    :raises NotCancellable: it has begun, or ended otherwise.
    :raises AgentTooOld: its agent cannot be told.
    """
    row = cancelling.find_action_to_cancel(c, action_id)
    if row is None:
        raise LookupError(f"there is no action {action_id}")
    if row.code == Code.CANCELLED:
        return row
    _check_not_begun(row)
    if row.is_called_off:
        return row
    if not row.perhaps_delivered:
        code = Code.CANCELLED
        ended = endings.end_by_gateway(c, row.id, ending=CODES[code].ending, code=code, reason=CODES[code].sentence, at=now)
        assert ended  # the row is held, and nothing of it was delivered
    else:
        if row.is_known_by_report_only:  # what would be told is not what its agent was asked
            raise NotCancellable(
                f"Action {row.id} was asked of its agent, not of this gateway, which does not know all of it: call it off there, with the "
                "RPC method cancel_action."
            )
        agent = agents.find_agent(c, row.host)
        if agent is not None:  # else its host was forgotten: it is told when it comes back before the deadline
            speech.refuse_unless_taken("cancel_action", agent, c)
    cancelling.request_cancel(c, row.id, user=user, at=now)
    return actions.get_action(c, row.id)


def log_cancelled(action: ActionRow) -> None:
    """One line per request; call it after the commit."""
    LOG.info(
        "action %s server %s host %s called off by user %s, is %s",
        action.id,
        action.server,
        action.host,
        action.cancel_requested_by,
        action.code or action.state,
    )


def _check_not_begun(row: ActionRow) -> None:
    if row.state == ActionState.ENDED:
        raise NotCancellable(f"Action {row.id} has ended already: {row.ending} ({row.code}).")
    if row.state == ActionState.STARTED:
        raise NotCancellable(f"Action {row.id} has begun already and goes on to its own ending.")
