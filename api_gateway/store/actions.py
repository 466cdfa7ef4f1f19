"""Actions: what was asked for, on its way down to the agent, and the endings that the gateway may write. Agents' reports: ``reports``."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from sqlalchemy import Connection, Integer, and_, bindparam, case, func, insert, or_, select, update

from api_gateway.store import counters, outbox
from api_gateway.store.columns import Moment, columns_of, values_of
from api_gateway.store.tables import actions, agents, servers
from compute_agent.contract.errors import Code, Ending
from compute_agent.contract.models import STANDS_STILL, ActionKind, DecidedBy, Observation


class ActionState(StrEnum):
    """How far an action has come."""

    ACCEPTED = "accepted"
    RECEIVED = "received"
    STARTED = "started"
    ENDED = "ended"


@dataclass(frozen=True)
class ActionRow:
    """One action. Words that an agent may extend (code, observation, …) are text as they came.

    ``cast_count`` counts casts that were begun, ``unroutable_count`` those of them that the broker returned: while both are equal nothing
    was delivered. ``cast_incarnation`` is that of the agent at the last cast, None when that failed. ``ending_epoch`` is the journal that
    an agent's ending came from. ``recorded_at`` is when the gateway learned of (or wrote) the ending; ``updated_at`` when the row last
    changed, set from the start. ``arguments`` are what its kind's request has beyond those of all kinds.
    """

    id: str
    kind: str
    server: str
    server_generation: int
    host: str
    project: str | None
    user: str | None
    state: str
    accepted_at: datetime
    deadline: datetime
    updated_at: datetime
    force: bool = False
    arguments: Mapping[str, Any] = field(default_factory=dict)
    idempotency_key: str | None = None
    global_request_id: str | None = None
    journal_id: str | None = None
    cast_incarnation: int | None = None
    cast_count: int = 0
    unroutable_count: int = 0
    last_cast_at: datetime | None = None
    lease_owner: str | None = None
    lease_until: datetime | None = None
    received_at: datetime | None = None
    started_at: datetime | None = None
    signalled_at: datetime | None = None
    ended_at: datetime | None = None
    ending: str | None = None
    code: str | None = None
    reason: str | None = None
    decided_by: str | None = None
    ending_epoch: str | None = None
    revised_at: datetime | None = None
    observation: str | None = None
    observation_final: bool = False
    observed_at: datetime | None = None
    observation_text: str | None = None
    recorded_at: datetime | None = None

    @property
    def perhaps_delivered(self) -> bool:
        """Whether the agent may have it: a cast of it may have arrived, or it was heard of."""
        return self.cast_count > self.unroutable_count or self.state in (ActionState.RECEIVED, ActionState.STARTED)


OPEN_STATES = (ActionState.ACCEPTED, ActionState.RECEIVED, ActionState.STARTED)

_COLUMNS = columns_of(actions, ActionRow)
_BY_ID = select(*_COLUMNS).where(actions.c.id == bindparam("action_id"))
_BY_ID_LOCKED = _BY_ID.with_for_update()
_INSERT = insert(actions)
_OPEN_OF_HOST = select(func.count()).where(actions.c.host == bindparam("open_host"), actions.c.state.in_(OPEN_STATES))
_OPEN_OF_SERVER = (
    select(*_COLUMNS)
    .where(
        actions.c.server == bindparam("open_server"),
        actions.c.kind.in_(bindparam("kinds", expanding=True)),
        actions.c.state.in_(OPEN_STATES),
    )
    .order_by(actions.c.accepted_at)
    .limit(1)
)
_SIGNALLED_AT = func.coalesce(actions.c.signalled_at, actions.c.ended_at)


_WAITS = and_(
    actions.c.observation == Observation.PENDING_UNTIL_RESUME,
    or_(servers.c.power_state.in_(STANDS_STILL), servers.c.state_at > bindparam("fired_since", type_=Moment)),
)
"""The NMI was handed to a paused server, and has not fired yet or did so within the hold-off: with what the server runs since."""
_STILL_DUMPING = and_(
    actions.c.ending.in_((Ending.SUCCEEDED, Ending.UNKNOWN)),
    or_(bindparam("holdoff_since", type_=Moment) < _SIGNALLED_AT, _WAITS),
    or_(
        actions.c.observation.is_(None),
        actions.c.observation.not_in((Observation.GUEST_REBOOTED, Observation.GUEST_STOPPED)),
    ),
    or_(servers.c.reset_at.is_(None), servers.c.reset_at <= _SIGNALLED_AT),
)
_CRASH_DUMPS = (
    select(*_COLUMNS)
    .select_from(actions.outerjoin(servers, servers.c.id == actions.c.server))
    .where(actions.c.server == bindparam("blocked_server"), actions.c.kind == ActionKind.TRIGGER_CRASH_DUMP)
    .order_by(actions.c.accepted_at)
    .limit(1)
)
_OPEN_CRASH_DUMP = _CRASH_DUMPS.where(actions.c.state != ActionState.ENDED)
_BLOCKING = _CRASH_DUMPS.where(or_(actions.c.state != ActionState.ENDED, _STILL_DUMPING))


def insert_action(c: Connection, row: ActionRow) -> None:
    """:raises StoreRejected: out of the transaction's block: the id, or (server, project, user, idempotency_key), exists already."""
    c.execute(_INSERT, values_of(row))


def find_action(c: Connection, action_id: str) -> ActionRow | None:
    row = c.execute(_BY_ID, {"action_id": action_id}).one_or_none()
    return None if row is None else ActionRow(*row)


def get_action(c: Connection, action_id: str) -> ActionRow:
    """:raises LookupError: there is none."""
    row = find_action(c, action_id)
    if row is None:
        raise LookupError(f"there is no action {action_id}")
    return row


def find_by_idempotency_key(c: Connection, server: str, project: str | None, user: str | None, key: str) -> ActionRow | None:
    row = c.execute(
        select(*_COLUMNS).where(
            actions.c.server == server,
            actions.c.idempotency_key == key,
            actions.c.project.is_not_distinct_from(project),
            actions.c.user.is_not_distinct_from(user),
        )
    ).first()
    return None if row is None else ActionRow(*row)


def list_actions_of_server(
    c: Connection,
    server: str,
    *,
    limit: int | None = None,
    marker: str | None = None,
    changes_since: datetime | None = None,
    changes_before: datetime | None = None,
) -> list[ActionRow]:
    """Newest first. ``marker`` is the id of the last action of the page before; bounds are inclusive, on ``updated_at``.

    :raises LookupError: the marker is no action of this server.
    """
    query = select(*_COLUMNS).where(actions.c.server == server)
    if marker is not None:
        last = find_action(c, marker)
        if last is None or last.server != server:
            raise LookupError(f"there is no action {marker} of server {server}")
        earlier = and_(actions.c.accepted_at == last.accepted_at, actions.c.id < last.id)
        query = query.where(or_(actions.c.accepted_at < last.accepted_at, earlier))
    if changes_since is not None:
        query = query.where(actions.c.updated_at >= changes_since)
    if changes_before is not None:
        query = query.where(actions.c.updated_at <= changes_before)
    query = query.order_by(actions.c.accepted_at.desc(), actions.c.id.desc()).limit(limit)
    return [ActionRow(*row) for row in c.execute(query)]


def find_blocking_crash_dump(
    c: Connection, server: str, *, now: datetime, holdoff: timedelta, stands_still_since: datetime | None = None
) -> ActionRow | None:
    """The earliest crash dump that forbids another one now: one that has not ended, or one that was (perhaps) sent within ``holdoff`` and
    after which the server was not seen to reboot or stop.

    :param holdoff: 0 = off
    :param stands_still_since: since when the server is paused or suspended; a dump that it was writing stands still with it
    """
    if not holdoff:
        row = c.execute(_OPEN_CRASH_DUMP, {"blocked_server": server}).first()
    else:
        counted_to = now if stands_still_since is None else min(now, stands_still_since)
        times = {"holdoff_since": counted_to - holdoff, "fired_since": now - holdoff}
        row = c.execute(_BLOCKING, {"blocked_server": server, **times}).first()
    return None if row is None else ActionRow(*row)


def find_open_of_server(c: Connection, server: str, kinds: Collection[ActionKind]) -> ActionRow | None:
    """The earliest action of these kinds that has not ended."""
    row = c.execute(_OPEN_OF_SERVER, {"open_server": server, "kinds": list(kinds)}).first()
    return None if row is None else ActionRow(*row)


def count_open(c: Connection) -> int:
    """Actions that have not ended."""
    return c.execute(select(func.count()).where(actions.c.state.in_(OPEN_STATES))).scalar_one()


def count_open_of_host(c: Connection, host: str) -> int:
    """Actions of servers of this host that have not ended."""
    return c.execute(_OPEN_OF_HOST, {"open_host": host}).scalar_one()


# --- the way down -----------------------------------------------------------------------------------------------------


_leases = actions.alias("leases")
_NOW = bindparam("now", type_=Moment)
_WITH_AGENTS = actions.join(agents, agents.c.host == actions.c.host)
_IS_DUE = and_(
    actions.c.state == ActionState.ACCEPTED,
    actions.c.deadline > _NOW,
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
_IS_AGAIN = case((actions.c.last_cast_at.is_(None), 0), else_=1)
"""What was never cast goes before what is cast again: hosts that do not answer, with hundreds of open actions, must not keep all slots."""
_BEFORE_OTHERS = (_PATIENCE, _IS_AGAIN, _WAITING_SINCE)
_TURN = func.row_number().over(partition_by=actions.c.host, order_by=(*_BEFORE_OTHERS, actions.c.accepted_at, actions.c.id))
_DUE = select(actions.c.id, _TURN.label("turn")).select_from(_WITH_AGENTS).where(_IS_DUE).subquery()
_CASTABLE = (
    select(*_COLUMNS)
    .where(actions.c.id.in_(select(_DUE.c.id).where(_DUE.c.turn == 1)))
    .order_by(*_BEFORE_OTHERS, actions.c.id)
    .limit(bindparam("row_limit"))
)

# An idle dispatcher asks these two every second: built once.
_ANY_DUE = select(actions.c.id).select_from(_WITH_AGENTS).where(_IS_DUE).limit(1)
_RETRY_AT = case((and_(actions.c.cast_incarnation.is_(None), actions.c.lease_until > _NOW), actions.c.lease_until))
_NEXT_CASTS = select(func.min(actions.c.last_cast_at), func.min(_RETRY_AT)).where(
    actions.c.state == ActionState.ACCEPTED, actions.c.deadline > _NOW, actions.c.last_cast_at.is_not(None)
)
_LEASE = (
    update(actions)
    .where(actions.c.id.in_(bindparam("claimed", expanding=True)))
    .values(lease_owner=bindparam("holder"), lease_until=bindparam("until", type_=Moment))
)


def claim_castable(
    c: Connection, *, owner: str, now: datetime, lease: timedelta, limit: int, received_timeout: timedelta
) -> list[ActionRow]:
    """Lease up to ``limit`` actions to cast now, at most one per host, none of a host of which one is leased already.

    Castable: ``accepted``, deadline not passed, of a host whose agent is known, and never cast, or the last cast failed, or the agent's
    incarnation differs from that of the last cast, or ``received_timeout`` has passed since it. A lease that ran out is free again.
    """
    counters.lock_counters(c)  # two dispatchers must not each find the host free
    found = c.execute(_CASTABLE, {"now": now, "unheard_since": now - received_timeout, "row_limit": limit})
    rows = [ActionRow(*row) for row in found]
    if rows:
        until = now + lease
        c.execute(_LEASE, {"claimed": [row.id for row in rows], "holder": owner, "until": until})
        rows = [replace(row, lease_owner=owner, lease_until=until) for row in rows]
    return rows


def find_next_cast_at(c: Connection, *, now: datetime, received_timeout: timedelta) -> datetime | None:
    """When the next cast falls due: ``now`` if one is, later if a recast may become due, None when nothing waits. Reads only."""
    if c.execute(_ANY_DUE, {"now": now, "unheard_since": now - received_timeout}).first() is not None:
        return now
    row = c.execute(_NEXT_CASTS, {"now": now}).one()
    last: datetime | None = row[0]
    retry_at: datetime | None = row[1]
    if last is None:
        return None
    return max(now, last + received_timeout if retry_at is None else min(last + received_timeout, retry_at))


def record_cast(c: Connection, action_id: str, *, owner: str, at: datetime, journal_id: str, incarnation: int) -> ActionRow | None:
    """Count a cast that is about to be tried; commit before trying it. The first one binds the action to ``journal_id``.

    :returns: the row to cast as it is now (with the journal that it is bound to), or None when it must not be cast any more: it was
        reported or ended, its deadline passed, or ``owner`` lost the lease.
    """
    row = find_action_locked(c, action_id)
    if row is None or row.state != ActionState.ACCEPTED or row.deadline <= at:
        return None
    if row.lease_owner != owner or row.lease_until is None or row.lease_until <= at:
        return None
    changes: dict[str, Any] = {
        "journal_id": row.journal_id or journal_id,
        "cast_incarnation": incarnation,
        "cast_count": row.cast_count + 1,
        "last_cast_at": at,
    }
    change_action(c, action_id, changes)
    return replace(row, **changes)


def record_unroutable(c: Connection, action_id: str) -> None:
    """The broker returned the cast that :func:`record_cast` counted last: nothing was delivered."""
    c.execute(
        update(actions)
        .where(actions.c.id == action_id, actions.c.unroutable_count < actions.c.cast_count)
        .values(unroutable_count=actions.c.unroutable_count + 1)
    )


_FAIL = (
    update(actions)
    .where(actions.c.id == bindparam("failed_action"), actions.c.lease_owner == bindparam("holder"))
    .values(cast_incarnation=None, lease_until=bindparam("retry_at", type_=Moment))
)
_RELEASE = (
    update(actions)
    .where(actions.c.id == bindparam("held_action"), actions.c.lease_owner == bindparam("holder"))
    .values(lease_owner=None, lease_until=None)
)


def record_failed_cast(c: Connection, action_id: str, owner: str, *, retry_at: datetime) -> None:
    """Whether the cast that :func:`record_cast` counted last was delivered is not known: it is due again when the lease, which keeps its
    host until ``retry_at``, is over."""
    c.execute(_FAIL, {"failed_action": action_id, "holder": owner, "retry_at": retry_at})


def release_lease(c: Connection, action_id: str, owner: str) -> bool:
    """:returns: False when ``owner`` did not hold it any more."""
    return c.execute(_RELEASE, {"held_action": action_id, "holder": owner}).rowcount == 1


# --- endings by the gateway -------------------------------------------------------------------------------------------


_PAST_DEADLINE = (
    select(*_COLUMNS)
    .where(
        actions.c.state.in_(OPEN_STATES),
        actions.c.deadline < _NOW,
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
    return [ActionRow(*row) for row in c.execute(_PAST_DEADLINE, parameters)]


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


def find_action_locked(c: Connection, action_id: str) -> ActionRow | None:
    """The row, kept from other transactions until this one ends."""
    row = c.execute(_BY_ID_LOCKED, {"action_id": action_id}).one_or_none()
    return None if row is None else ActionRow(*row)


_CHANGE = update(actions).where(actions.c.id == bindparam("changed_action"))


def change_action(c: Connection, action_id: str, changes: dict[str, Any]) -> None:
    c.execute(_CHANGE, {"changed_action": action_id, **changes})
