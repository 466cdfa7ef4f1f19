"""Which host has, or lately had, which server: a host has a say about those only.

What else it tells is kept in the record, where admins see it, and shown to nobody's project. To have it in its inventory is not enough: any
host can say so, and of a copy that does not run nobody is told. A server that migrates may be told of by its new host before it is that
host's: those events become the project's when it is.
"""

from collections.abc import Collection
from datetime import datetime, timedelta

from sqlalchemy import Connection, bindparam, delete, exists, select, update

from api_gateway.store.columns import Moment, upsert
from api_gateway.store.tables import actions, events, former_owners, servers

FOREIGN_EVENTS = "foreign_events"
"""Counter of events of hosts about servers that others own. No violation in itself: an event may overtake the inventory."""
LATE = timedelta(days=1)
"""Of what happened up to so long after a server left it a host may still tell: its clock may be ahead, or it may have found out late."""
HEARD = timedelta(days=7)
"""And it has to tell within so long, by our own clock, whatever time it names."""

_OWNER = select(servers.c.host).where(servers.c.id == bindparam("of_server"), servers.c.deleted_at.is_(None))
_CLAIMED = select(exists().where(servers.c.id == bindparam("of_server"), servers.c.conflict_host == bindparam("of_host")))
_OWNED_SINCE = select(
    exists().where(
        former_owners.c.server == bindparam("of_server"),
        former_owners.c.host == bindparam("of_host"),
        former_owners.c.left_at >= bindparam("since", type_=Moment),
    )
)
_FORGET_OLD = delete(former_owners).where(
    former_owners.c.server == bindparam("of_server"), former_owners.c.left_at < bindparam("since", type_=Moment)
)
_FORGET = delete(former_owners).where(former_owners.c.server.in_(bindparam("of_servers", expanding=True)))
_ACTED = select(
    exists().where(
        actions.c.id == bindparam("of_action"),
        actions.c.server == bindparam("of_server"),
        actions.c.host == bindparam("of_host"),
    )
)
_SHOW = (
    update(events)
    .where(events.c.server == bindparam("of_server"), events.c.host == bindparam("of_host"), events.c.project.is_(None))
    .values(project=bindparam("of_project"))
)


def has_had(c: Connection, host: str, server: str, occurred_at: datetime | None, recorded_at: datetime) -> bool:
    """Whether what the host tells of the server is about a time at which it owned it (see ``LATE`` and ``HEARD``), or whether it runs it at
    the same time as its owner, which both are named for (``server.claimed_twice``).

    :param occurred_at: by the host's clock; None: it does not say
    """
    since = recorded_at - HEARD
    if occurred_at is not None and occurred_at - recorded_at > LATE - HEARD:  # no moment that a host makes up leads beyond the calendar
        since = occurred_at - LATE
    names = {"of_server": server, "of_host": host}
    return bool(c.execute(_CLAIMED, names).scalar_one() or c.execute(_OWNED_SINCE, {**names, "since": since}).scalar_one())


def was_asked(c: Connection, host: str, server: str, action_id: str) -> bool:
    """Whether that host was asked for this action on the server."""
    return bool(c.execute(_ACTED, {"of_action": action_id, "of_server": server, "of_host": host}).scalar_one())


def is_foreign(c: Connection, host: str, server: str, *, occurred_at: datetime | None, recorded_at: datetime) -> bool:
    """Whether another host owns the server and this one did not have it then; see :func:`has_had`."""
    owner = c.execute(_OWNER, {"of_server": server}).scalar_one_or_none()
    return owner is not None and owner != host and not has_had(c, host, server, occurred_at=occurred_at, recorded_at=recorded_at)


def note_move(c: Connection, server: str, *, left: str, owner: str, project: str, now: datetime) -> None:
    """The server went from one host to another. What came late from the one, and early from the other, is its project's."""
    c.execute(_FORGET_OLD, {"of_server": server, "since": now - HEARD})
    upsert(c, former_owners, {"server": server, "host": left, "left_at": now})
    c.execute(_SHOW, {"of_server": server, "of_host": owner, "of_project": project})


def forget_former_owners(c: Connection, ids: Collection[str]) -> None:
    """These servers' lives are over: who had them has no say about one that comes back under the same id."""
    c.execute(_FORGET, {"of_servers": sorted(ids)})
