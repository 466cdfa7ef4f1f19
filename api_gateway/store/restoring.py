"""After the database was restored from a backup: what has happened since the backup is unknown here, and nothing may be built on not
knowing it.

The rows of the backup say of an action that nothing was cast, of a journal that nothing came after some event, of a number that nobody
was given it. Each of that may have changed since, and others have seen it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sqlalchemy import Connection, exists, func, select, update

from api_gateway.store import counters, gaps
from api_gateway.store.actions import OPEN_STATES
from api_gateway.store.columns import upsert
from api_gateway.store.tables import actions, agents, events, outbox
from api_gateway.store.tables import counters as counters_table

LEAP = 1_000_000_000
"""By which positions and the sequences of the gateway's own events go on where the clock cannot say it: further than any record has grown
since its last backup."""
UNKNOWN_JOURNAL = "unknown-since-the-backup"
"""What an open action is bound to when no journal of its host was known: each agent answers that it has lost that one."""
_RESTORED_AT = "restored_at"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_TOLD_AGAIN_FOR = timedelta(days=1)
"""After that agents have not kept their events any longer."""


@dataclass(frozen=True)
class Restored:
    """How many open actions were perhaps cast since the backup, and of how many journals the rest is asked for."""

    open_actions: int
    journals: int


def mark_restored(c: Connection, *, now: datetime) -> Restored:
    """Make a restored database safe to go on with; API and engine must not run. May be repeated.

    Open actions count as perhaps delivered, so that none is called expired which was sent after the backup, and are bound to the journal
    that their host had, so that no later one runs them again. The gateway's own events that are not in the record are published again.
    Numbers that were given out since are not given out again: cursors of
    clients stay behind what comes, and no event has the identity of one that consumers have seen. Each agent is asked for the events
    behind the last one that is recorded here.
    """
    counters.lock_counters(c)
    upsert(c, counters_table, {"name": _RESTORED_AT, "value": (now - _EPOCH) // _MICROSECOND})
    for name in (counters.POSITION, counters.OUTBOX_SEQUENCE):
        _leap(c, name, now)
    is_open = actions.c.state.in_(OPEN_STATES)
    journal_of_host = select(agents.c.journal_id).where(agents.c.host == actions.c.host).scalar_subquery()
    c.execute(
        update(actions).where(is_open, actions.c.journal_id.is_(None)).values(journal_id=func.coalesce(journal_of_host, UNKNOWN_JOURNAL))
    )
    count = c.execute(select(func.count()).select_from(actions).where(is_open)).scalar_one()
    c.execute(
        update(actions).where(is_open, actions.c.cast_count <= actions.c.unroutable_count).values(cast_count=actions.c.unroutable_count + 1)
    )
    # Not NOT IN: PostgreSQL would read the whole record once for each row, as soon as it is larger than its memory for such a thing.
    c.execute(update(outbox).where(~exists().where(events.c.message_id == outbox.c.message_id)).values(sent_at=None))
    journals = list(c.execute(select(agents.c.host, agents.c.journal_id)))
    for host, journal_id in journals:
        gaps.ask_for_tail(c, host=host, epoch=journal_id, now=now)
    return Restored(open_actions=count, journals=len(journals))


def _leap(c: Connection, name: str, now: datetime) -> None:
    """To the microseconds since 1970, so that the same backup restored again does not come to the same numbers; they stay whole numbers in
    JSON (below 2^53) until the year 2255."""
    value = counters.advance(c, name, 0)
    to_now = (now - _EPOCH) // _MICROSECOND - value
    counters.advance(c, name, to_now if to_now > 0 else LEAP)


def ask_unknown_journals(c: Connection, journals: Mapping[str, str], *, now: datetime) -> None:
    """Have journals that the backup did not know told from their beginning: what they ended before the restoration is told by nothing else,
    as long as nothing happens on their hosts.

    :param journals: their ids, by host
    """
    if journals and is_forgotten(c, _EPOCH, now=now):
        for host, journal_id in journals.items():
            gaps.ask_for_tail(c, host=host, epoch=journal_id, now=now)


def is_forgotten(c: Connection, occurred_at: datetime, *, now: datetime) -> bool:
    """Whether what an agent tells of that time may have been known before the restoration, and be told again because of it."""
    value = c.execute(select(counters_table.c.value).where(counters_table.c.name == _RESTORED_AT)).scalar_one_or_none()
    if value is None:
        return False
    restored_at = _EPOCH + int(value) * _MICROSECOND
    return occurred_at <= restored_at and now <= restored_at + _TOLD_AGAIN_FOR
