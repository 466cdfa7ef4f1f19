"""Endings that the gateway itself writes: of what was not sent, and of what nobody reported."""

from datetime import datetime, timedelta

from sqlalchemy import Connection, Integer, bindparam, or_, select

from api_gateway.store import counters, outbox
from api_gateway.store.actions import OPEN_STATES, ActionRow, ActionState, change_action, find_action_locked, read_action
from api_gateway.store.columns import Moment, columns_of
from api_gateway.store.tables import actions
from compute_agent.contract.errors import Code, Ending
from compute_agent.contract.models import ActionKind, DecidedBy

_COLUMNS = columns_of(actions, ActionRow)
_PAST_DEADLINE = (
    select(*_COLUMNS)
    .where(
        actions.c.state.in_(OPEN_STATES),
        actions.c.deadline < bindparam("now", type_=Moment),
        or_(
            actions.c.kind != ActionKind.TAKE_HOST_DUMP,
            actions.c.state != ActionState.STARTED,
            actions.c.deadline <= bindparam("dumps_due", type_=Moment),
        ),
    )
    .order_by(actions.c.deadline)
    .limit(bindparam("at_most", type_=Integer))
)


def list_past_deadline(c: Connection, *, now: datetime, begun_dumps_take: timedelta, limit: int) -> list[ActionRow]:
    """Open actions whose deadline lies before ``now``, earliest first; a memory dump that its agent has begun only ``begun_dumps_take``
    later: an hour's worth of them must not be looked at each second, nor have others wait behind them."""
    parameters = {"now": now, "dumps_due": now - begun_dumps_take, "at_most": limit}
    return [read_action(row) for row in c.execute(_PAST_DEADLINE, parameters)]


def end_by_gateway(c: Connection, action_id: str, *, ending: Ending, code: Code, reason: str, at: datetime) -> bool:
    """End an open action and append its ``action.ended`` (decided_by gateway) to the outbox, both in this transaction.

    Anything but ``unknown`` is refused once a cast was perhaps delivered or the agent reported: then only the agent may say so.

    :returns: False when it has ended already or the rule above forbids it.
    """
    counters.lock_counters(c)  # before the action's row, as the recorder does: the other way round the two would wait for each other
    row = find_action_locked(c, action_id)
    if row is None or row.state == ActionState.ENDED:
        return False
    if ending != Ending.UNKNOWN and row.perhaps_delivered:
        return False
    change_action(
        c,
        action_id,
        {
            "state": ActionState.ENDED,
            "ending": ending,
            "code": code,
            "reason": reason,
            "decided_by": DecidedBy.GATEWAY,
            "ended_at": at,
            "recorded_at": at,
            "updated_at": at,
        },
    )
    outbox.append_event(
        c,
        "action.ended",
        server=row.server,
        host=row.host,
        occurred_at=at,
        body={
            "action_id": row.id,
            "kind": row.kind,
            "project": row.project,
            "global_request_id": row.global_request_id,
            "user": row.user,
            "ending": ending,
            "code": code,
            "reason": reason,
            "decided_by": DecidedBy.GATEWAY,
            "started_at": row.started_at,
            "signalled_at": row.signalled_at,
        },
    )
    return True
