"""Actions on their way down to an agent: which are to be cast now, by whom, and what became of each cast."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from sqlalchemy import Connection, and_, bindparam, case, func, or_, select, update

from api_gateway.store import counters
from api_gateway.store.actions import ActionRow, ActionState, read_action
from api_gateway.store.columns import Moment, columns_of
from api_gateway.store.tables import actions, agents
from compute_agent.contract.models import ActionKind

_COLUMNS = columns_of(actions, ActionRow)
_leases = actions.alias("leases")
_NOW = bindparam("now", type_=Moment)
_WITH_AGENTS = actions.join(agents, agents.c.host == actions.c.host)
_TO_BE_CAST = and_(
    # Called off, it is told to the agent that has it already, too. First what the index knows.
    actions.c.state.in_((ActionState.ACCEPTED, ActionState.RECEIVED)),
    actions.c.deadline > _NOW,
    or_(actions.c.state == ActionState.ACCEPTED, actions.c.cancel_requested_at.is_not(None)),
)
_IS_DUE = and_(
    _TO_BE_CAST,
    or_(
        actions.c.last_cast_at.is_(None),
        actions.c.last_cast_at <= bindparam("unheard_since", type_=Moment),
        actions.c.cast_incarnation.is_distinct_from(agents.c.incarnation),
    ),
    actions.c.host.not_in(select(_leases.c.host).where(_leases.c.lease_until > _NOW)),
)
"""Of actions joined with their host's agent: those to be cast now, were their host free."""

_WAITING_SINCE = func.coalesce(actions.c.last_cast_at, actions.c.accepted_at)
_PATIENCE = case((actions.c.kind == ActionKind.RESET_WATCHDOG_TIMER, 1), (actions.c.kind == ActionKind.COLLECT_DIAGNOSTICS, 2), else_=0)
"""Nobody's crash dump waits behind the watchdogs or the diagnostics of a whole fleet."""
_IS_NEW = or_(actions.c.last_cast_at.is_(None), and_(actions.c.cancel_requested_at.is_not(None), actions.c.cast_incarnation.is_(None)))
_IS_AGAIN = case((_IS_NEW, 0), else_=1)
"""What was never cast goes before what is cast again: hosts that do not answer, with hundreds of open actions, must not keep all slots.
What was just called off may begin at any moment, and does not wait behind all that is new either."""
_BEFORE_OTHERS = (_PATIENCE, _IS_AGAIN, _WAITING_SINCE)
_TURN = func.row_number().over(partition_by=actions.c.host, order_by=(*_BEFORE_OTHERS, actions.c.accepted_at, actions.c.id))
_DUE = select(actions.c.id, _TURN.label("turn")).select_from(_WITH_AGENTS).where(_IS_DUE).subquery()
_CASTABLE = (
    select(actions.c.id)
    .where(actions.c.id.in_(select(_DUE.c.id).where(_DUE.c.turn == 1)))
    .order_by(*_BEFORE_OTHERS, actions.c.id)
    .limit(bindparam("row_limit"))
)

_ANY_IS_DUE = select(actions.c.id).select_from(_WITH_AGENTS).where(_IS_DUE).correlate(None).exists()
_RETRY_AT = case((and_(actions.c.cast_incarnation.is_(None), actions.c.lease_until > _NOW), actions.c.lease_until))
_NEXT_CASTS = select(_ANY_IS_DUE, func.min(actions.c.last_cast_at), func.min(_RETRY_AT)).where(
    _TO_BE_CAST, actions.c.last_cast_at.is_not(None)
)
"""An idle dispatcher asks this every second."""
_ARE_CLAIMED = actions.c.id.in_(bindparam("claimed", expanding=True))
_LEASE = update(actions).where(_ARE_CLAIMED).values(lease_owner=bindparam("holder"), lease_until=bindparam("until", type_=Moment))
_CLAIMED = select(*_COLUMNS).where(_ARE_CLAIMED).with_for_update()


def lock_casts(c: Connection) -> None:
    """For a transaction that changes rows of actions before it claims some: everybody takes this lock first, and the rows after it."""
    counters.lock_counters(c)


def claim_castable(
    c: Connection, *, owner: str, now: datetime, lease: timedelta, limit: int, received_timeout: timedelta
) -> list[ActionRow]:
    """Lease up to ``limit`` actions to cast now, at most one per host, none of a host of which one is leased already.

    Castable: ``accepted``, or called off and not begun as far as is known, deadline not passed, of a host whose agent is known, and never
    cast, or the last cast failed, or the agent's incarnation differs from that of the last cast, or it was called off since, or
    ``received_timeout`` has passed since it. A lease that ran out is free again.
    """
    counters.lock_counters(c)  # two dispatchers must not each find the host free
    ids = c.execute(_CASTABLE, {"now": now, "unheard_since": now - received_timeout, "row_limit": limit}).scalars().all()
    if not ids:
        return []
    c.execute(_LEASE, {"claimed": ids, "holder": owner, "until": now + lease})
    # As they are now that nobody else can change them: an agent may have reported, or somebody called one off.
    rows = {row[0]: read_action(row) for row in c.execute(_CLAIMED, {"claimed": ids})}
    return [rows[action_id] for action_id in ids]


def find_next_cast_at(c: Connection, *, now: datetime, received_timeout: timedelta) -> datetime | None:
    """When the next cast falls due: ``now`` if one is, later if a recast may become due, None when nothing waits. Reads only."""
    row = c.execute(_NEXT_CASTS, {"now": now, "unheard_since": now - received_timeout}).one()
    last: datetime | None = row[1]
    retry_at: datetime | None = row[2]
    if row[0]:
        return now
    if last is None:
        return None
    return max(now, last + received_timeout if retry_at is None else min(last + received_timeout, retry_at))


def count_cast(row: ActionRow, *, owner: str, at: datetime, journal_id: str, incarnation: int) -> ActionRow | None:
    """Count a cast that is about to be tried. The first one binds the action to ``journal_id``.

    :param row: as :func:`claim_castable` gave it in this transaction
    :returns: the row to cast, for :func:`record_casts`, or None when it must not be cast any more: it was reported or ended, its deadline
        passed, or ``owner`` does not have the lease.
    """
    if not _may_be_cast(row) or row.deadline <= at:
        return None
    if row.lease_owner != owner or row.lease_until is None or row.lease_until <= at:
        return None
    return replace(
        row, journal_id=row.journal_id or journal_id, cast_incarnation=incarnation, cast_count=row.cast_count + 1, last_cast_at=at
    )


def record_casts(c: Connection, rows: Sequence[ActionRow]) -> None:
    """Write down the casts that :func:`count_cast` counted in this transaction; commit before trying them."""
    if rows:
        c.execute(_RECORD, [{"cast_action": row.id, **{name: getattr(row, name) for name in _CAST_COLUMNS}} for row in rows])


def _may_be_cast(row: ActionRow) -> bool:
    return row.state == ActionState.ACCEPTED or (row.state == ActionState.RECEIVED and row.is_called_off)


def record_undelivered(c: Connection, action_id: str) -> None:
    """A cast that :func:`count_cast` counted came back from the broker, or was not even sent: nothing of it was delivered."""
    c.execute(
        update(actions)
        .where(actions.c.id == action_id, actions.c.unroutable_count < actions.c.cast_count)
        .values(unroutable_count=actions.c.unroutable_count + 1)
    )


_CAST_COLUMNS = ("journal_id", "cast_incarnation", "cast_count", "last_cast_at")
_RECORD = update(actions).where(actions.c.id == bindparam("cast_action")).values({name: bindparam(name) for name in _CAST_COLUMNS})
_FAIL = (
    update(actions)
    .where(actions.c.id == bindparam("failed_action"), actions.c.lease_owner == bindparam("holder"))
    .values(cast_incarnation=None, lease_until=bindparam("retry_at", type_=Moment))
)
_RELEASE = (
    update(actions)
    .where(actions.c.id.in_(bindparam("held_actions", expanding=True)), actions.c.lease_owner == bindparam("holder"))
    .values(lease_owner=None, lease_until=None)
)


def record_failed_cast(c: Connection, action_id: str, owner: str, *, retry_at: datetime) -> None:
    """Whether the cast that :func:`count_cast` counted last was delivered is not known: it is due again when the lease, which keeps its
    host until ``retry_at``, is over."""
    c.execute(_FAIL, {"failed_action": action_id, "holder": owner, "retry_at": retry_at})


def release_leases(c: Connection, action_ids: Sequence[str], owner: str) -> int:
    """:returns: how many of them ``owner`` still held."""
    return c.execute(_RELEASE, {"held_actions": action_ids, "holder": owner}).rowcount if action_ids else 0
