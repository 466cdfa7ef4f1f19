"""Which host has, or ever had, which server: a host has a say about those only.

What else it tells is kept in the record, where admins see it, and shown to nobody's project. To have it in its inventory is not enough: any
host can say so, and of a copy that does not run nobody is told. A server that migrates may be told of by its new host before it is that
host's: those events become the project's when it is.
"""

from datetime import datetime

from sqlalchemy import Connection, bindparam, exists, select, update

from api_gateway.store.columns import upsert
from api_gateway.store.tables import actions, events, former_owners, servers

FOREIGN_EVENTS = "foreign_events"
"""Counter of events of hosts about servers that others own. No violation in itself: an event may overtake the inventory."""

_OWNER = select(servers.c.host).where(servers.c.id == bindparam("of_server"), servers.c.deleted_at.is_(None))
_CLAIMED = select(exists().where(servers.c.id == bindparam("of_server"), servers.c.conflict_host == bindparam("of_host")))
_OWNED_ONCE = select(exists().where(former_owners.c.server == bindparam("of_server"), former_owners.c.host == bindparam("of_host")))
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


def has_had(c: Connection, host: str, server: str) -> bool:
    """Whether it owned the server once, or runs it at the same time as its owner, which both are named for (``server.claimed_twice``)."""
    names = {"of_server": server, "of_host": host}
    return any(c.execute(query, names).scalar_one() for query in (_CLAIMED, _OWNED_ONCE))


def was_asked(c: Connection, host: str, server: str, action_id: str) -> bool:
    """Whether that host was asked for this action on the server."""
    return bool(c.execute(_ACTED, {"of_action": action_id, "of_server": server, "of_host": host}).scalar_one())


def is_foreign(c: Connection, host: str, server: str) -> bool:
    """Whether another host owns the server and this one never had it."""
    owner = c.execute(_OWNER, {"of_server": server}).scalar_one_or_none()
    return owner is not None and owner != host and not has_had(c, host, server)


def note_move(c: Connection, server: str, *, left: str, owner: str, project: str, now: datetime) -> None:
    """The server went from one host to another. What came late from the one, and early from the other, is its project's."""
    upsert(c, former_owners, {"server": server, "host": left, "left_at": now})
    c.execute(_SHOW, {"of_server": server, "of_host": owner, "of_project": project})
