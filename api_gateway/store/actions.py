"""Actions: what was asked for, and how far it has come. Their way down is in ``casts``, agents' reports in ``reports``, the gateway's own
endings in ``endings``."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from functools import cache
from typing import Any

from sqlalchemy import ColumnElement, Connection, and_, bindparam, func, insert, literal_column, or_, select, update

from api_gateway.store.columns import Moment, columns_of, reader_of, values_of
from api_gateway.store.prepared import Prepared, PreparedForMany, ask, write_and_commit
from api_gateway.store.tables import actions, servers
from compute_agent.contract.errors import Ending
from compute_agent.contract.models import STANDS_STILL, ActionKind, Observation


class ActionState(StrEnum):
    """How far an action has come."""

    ACCEPTED = "accepted"
    RECEIVED = "received"
    STARTED = "started"
    ENDED = "ended"


@dataclass(frozen=True)
class ActionRow:
    """One action. Words that an agent may extend (code, observation, …) are text as they came.

    ``cast_count`` counts casts that were begun, ``unroutable_count`` those of them that the broker returned or that were not sent: while
    both are equal nothing was delivered. ``cast_incarnation`` is that of the agent at the last cast, None when that failed.
    ``ending_epoch`` is the journal that an agent's ending came from. ``recorded_at`` is when the gateway learned of (or wrote) the ending;
    ``updated_at`` when the row last changed, set from the start. ``arguments`` are what its kind's request has beyond those of all kinds.
    ``cancel_requested_by`` is who called it off first.
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
    cancel_requested_at: datetime | None = None
    cancel_requested_by: str | None = None

    @property
    def is_called_off(self) -> bool:
        """Whether its agent is to be told that it must not begin, instead of the action."""
        return self.cancel_requested_at is not None

    @property
    def is_known_by_report_only(self) -> bool:
        """Whether its agent's report made the row (``reports.apply_received``), which does not say all that was asked for."""
        return self.last_cast_at is None and self.received_at == self.accepted_at

    @property
    def perhaps_delivered(self) -> bool:
        """Whether the agent may have it: a cast of it may have arrived, or it was heard of."""
        return self.cast_count > self.unroutable_count or self.state in (ActionState.RECEIVED, ActionState.STARTED)


OPEN_STATES = (ActionState.ACCEPTED, ActionState.RECEIVED, ActionState.STARTED)


def _spell_out(words: Iterable[str]) -> list[ColumnElement[str]]:
    """A list of parameters is put together anew at each execution."""
    return [literal_column(f"'{word}'") for word in words]


IS_OPEN = actions.c.state.in_(_spell_out(OPEN_STATES))

_COLUMNS = columns_of(actions, ActionRow)
read_action = reader_of(ActionRow)
_BY_ID = select(*_COLUMNS).where(actions.c.id == bindparam("action_id"))
_FIND = Prepared(_BY_ID)
_BY_ID_LOCKED = _BY_ID.with_for_update()
_BY_IDS_LOCKED = select(*_COLUMNS).where(actions.c.id.in_(bindparam("action_ids", expanding=True))).with_for_update()
_INSERT = insert(actions)
_ASKED_FOR = ("project", "user", "arguments", "idempotency_key", "global_request_id")
_INSERT_NEW = Prepared(_INSERT, [*(column.name for column in actions.c if not column.nullable), *_ASKED_FOR])
"""With those of the columns that may be empty which a new action has."""
_OPEN_OF_HOST = select(func.count()).where(actions.c.host == bindparam("open_host"), IS_OPEN)
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
    or_(servers.c.power_state.in_(_spell_out(sorted(STANDS_STILL))), servers.c.state_at > bindparam("fired_since", type_=Moment)),
)
"""The NMI was handed to a paused server, and has not fired yet or did so within the hold-off: with what the server runs since."""
_STILL_DUMPING = and_(
    actions.c.ending.in_(_spell_out((Ending.SUCCEEDED, Ending.UNKNOWN))),
    or_(bindparam("holdoff_since", type_=Moment) < _SIGNALLED_AT, _WAITS),
    or_(
        actions.c.observation.is_(None),
        actions.c.observation.not_in(_spell_out((Observation.GUEST_REBOOTED, Observation.GUEST_STOPPED))),
    ),
    or_(servers.c.reset_at.is_(None), servers.c.reset_at <= _SIGNALLED_AT),
)
_CRASH_DUMPS = (
    select(*_COLUMNS)
    .select_from(actions.outerjoin(servers, servers.c.id == actions.c.server))
    .where(actions.c.kind == ActionKind.TRIGGER_CRASH_DUMP)
    .order_by(actions.c.accepted_at)
)
_OPEN_CRASH_DUMPS = _CRASH_DUMPS.where(actions.c.state != ActionState.ENDED)
_BLOCKING = _CRASH_DUMPS.where(or_(actions.c.state != ActionState.ENDED, _STILL_DUMPING))
_OF_ONE = actions.c.server == bindparam("blocked_server")
_OPEN_OF_ONE, _BLOCKING_ONE = (query.where(_OF_ONE).limit(1) for query in (_OPEN_CRASH_DUMPS, _BLOCKING))
_OPEN_OF_SEVERAL = PreparedForMany(lambda is_one_of: _OPEN_CRASH_DUMPS.where(is_one_of(actions.c.server)))
_BLOCKING_SEVERAL = PreparedForMany(lambda is_one_of: _BLOCKING.where(is_one_of(actions.c.server)))


def insert_action(c: Connection, row: ActionRow) -> None:
    """:raises StoreRejected: out of the transaction's block: the id, or (server, project, user, idempotency_key), exists already."""
    # More than half of a new action is not known yet; what is left out is NULL, and need not be converted and sent.
    c.execute(_INSERT, {name: value for name, value in values_of(row).items() if value is not None})


def insert_new_and_commit(c: Connection, rows: Sequence[ActionRow]) -> None:
    """Actions of which nothing is known but what was asked for, as the last thing of their transaction.

    :raises StoreRejected: as above.
    """
    if rows:
        write_and_commit(c, _INSERT_NEW, [values_of(row) for row in rows])


def find_action(c: Connection, action_id: str) -> ActionRow | None:
    found = ask(c, _FIND, {"action_id": action_id})
    return read_action(found[0]) if found else None


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
    return None if row is None else read_action(row)


@dataclass(frozen=True)
class ActionSummary:
    """Of one action what a list of them shows: a third of its row, and of the time to read it."""

    id: str
    kind: str
    server: str
    project: str | None
    user: str | None
    accepted_at: datetime
    updated_at: datetime
    received_at: datetime | None
    ended_at: datetime | None
    ending: str | None
    observation: str | None
    observation_final: bool


_read_summary = reader_of(ActionSummary)


@dataclass(frozen=True)
class Page:
    """Which part of a server's history, newest first. ``marker`` is the id of the last action of the page before; bounds are inclusive, on
    ``updated_at``."""

    limit: int = 2**31 - 1
    marker: str | None = None
    changes_since: datetime | None = None
    changes_before: datetime | None = None


_WHOLE_HISTORY = Page()


def list_actions_of_server(c: Connection, server: str, page: Page = _WHOLE_HISTORY) -> list[ActionRow]:
    """:raises LookupError: the marker is no action of this server."""
    return [read_action(row) for row in _read_page(c, ActionRow, server, page)]


def summarize_actions_of_server(c: Connection, server: str, page: Page) -> list[ActionSummary]:
    """:raises LookupError: as above."""
    return [_read_summary(row) for row in _read_page(c, ActionSummary, server, page)]


def _read_page(c: Connection, row_class: type, server: str, page: Page) -> list[Sequence[Any]]:
    values = {"of_server": server, "page_limit": page.limit, "since": page.changes_since, "before": page.changes_before}
    if page.marker is not None:
        last = find_action(c, page.marker)
        if last is None or last.server != server:
            raise LookupError(f"there is no action {page.marker} of server {server}")
        values |= {"last_at": last.accepted_at, "last_id": last.id}
    question = _prepare_page(
        row_class,
        follows=page.marker is not None,
        is_since=page.changes_since is not None,
        is_before=page.changes_before is not None,
    )
    return ask(c, question, values)


@cache
def _prepare_page(row_class: type, *, follows: bool, is_since: bool, is_before: bool) -> Prepared:
    query = select(*columns_of(actions, row_class)).where(actions.c.server == bindparam("of_server"))
    if follows:
        last_at = bindparam("last_at", type_=Moment)
        earlier = and_(actions.c.accepted_at == last_at, actions.c.id < bindparam("last_id"))
        query = query.where(or_(actions.c.accepted_at < last_at, earlier))
    if is_since:
        query = query.where(actions.c.updated_at >= bindparam("since", type_=Moment))
    if is_before:
        query = query.where(actions.c.updated_at <= bindparam("before", type_=Moment))
    return Prepared(query.order_by(actions.c.accepted_at.desc(), actions.c.id.desc()).limit(bindparam("page_limit")))


def find_blocking_crash_dump(
    c: Connection, server: str, *, now: datetime, holdoff: timedelta, stands_still_since: datetime | None = None
) -> ActionRow | None:
    """The earliest crash dump that forbids another one now: one that has not ended, or one that was (perhaps) sent within ``holdoff`` and
    after which the server was not seen to reboot or stop.

    :param holdoff: 0 = off
    :param stands_still_since: since when the server is paused or suspended; a dump that it was writing stands still with it
    """
    if not holdoff:
        row = c.execute(_OPEN_OF_ONE, {"blocked_server": server}).first()
    else:
        counted_to = now if stands_still_since is None else min(now, stands_still_since)
        times = {"holdoff_since": counted_to - holdoff, "fired_since": now - holdoff}
        row = c.execute(_BLOCKING_ONE, {"blocked_server": server, **times}).first()
    return None if row is None else read_action(row)


def ask_for_blocking_crash_dumps(blocked: Sequence[str], *, now: datetime, holdoff: timedelta) -> tuple[Prepared, dict[str, Any]]:
    """The question for the same of several servers, none of which stands still; for :func:`read_blocking_crash_dumps`.

    :param blocked: ids of servers
    """
    question, values = (_BLOCKING_SEVERAL if holdoff else _OPEN_OF_SEVERAL).fit(blocked)
    return question, {**values, "holdoff_since": now - holdoff, "fired_since": now - holdoff}


def read_blocking_crash_dumps(found: Sequence[Sequence[Any]]) -> dict[str, ActionRow]:
    """By server, for those that have one."""
    return {row.server: row for row in reversed([read_action(values) for values in found])}


def find_open_of_server(c: Connection, server: str, kinds: Collection[ActionKind]) -> ActionRow | None:
    """The earliest action of these kinds that has not ended."""
    row = c.execute(_OPEN_OF_SERVER, {"open_server": server, "kinds": list(kinds)}).first()
    return None if row is None else read_action(row)


def count_open(c: Connection) -> int:
    """Actions that have not ended."""
    return c.execute(select(func.count()).where(actions.c.state.in_(OPEN_STATES))).scalar_one()


def count_open_of_host(c: Connection, host: str) -> int:
    """Actions of servers of this host that have not ended."""
    return c.execute(_OPEN_OF_HOST, {"open_host": host}).scalar_one()


def find_action_locked(c: Connection, action_id: str) -> ActionRow | None:
    """The row, kept from other transactions until this one ends."""
    row = c.execute(_BY_ID_LOCKED, {"action_id": action_id}).one_or_none()
    return None if row is None else read_action(row)


def list_actions_locked(c: Connection, action_ids: Collection[str]) -> list[ActionRow]:
    """The same of several, in any order."""
    return [read_action(row) for row in c.execute(_BY_IDS_LOCKED, {"action_ids": sorted(action_ids)})] if action_ids else []


_CHANGE = update(actions).where(actions.c.id == bindparam("changed_action"))


def change_action(c: Connection, action_id: str, changes: dict[str, Any]) -> None:
    c.execute(_CHANGE, {"changed_action": action_id, **changes})
