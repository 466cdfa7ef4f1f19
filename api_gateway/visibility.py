"""What a caller can see: its own project's servers; an admin sees all. What it cannot see does not exist for it (404, never 403)."""

import re

from api_gateway.faults import Fault, not_found
from api_gateway.identity import Identity
from api_gateway.server_checks import Subject
from api_gateway.store import Connection, counters, servers
from api_gateway.store.servers import ServerRow

_SERVER_ID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def is_server_id(text: str) -> bool:
    return _SERVER_ID.fullmatch(text) is not None


def get_visible_server(c: Connection, identity: Identity, server: str, *, include_deleted: bool = False) -> ServerRow:
    """The server with that id.

    :raises Fault: 404 when there is none that ``identity`` can see.
    """
    row = servers.find_server(c, server, include_deleted=include_deleted) if is_server_id(server) else None
    if row is None:
        raise no_such_server(server)
    refuse_unless_visible(identity, row)
    return row


def refuse_unless_visible(identity: Identity, server: Subject) -> None:
    """:raises Fault: 404 when ``identity`` cannot see it."""
    if not (identity.is_admin or server.project == identity.project):
        raise no_such_server(server.id)


def get_visible_server_to_act_on(c: Connection, identity: Identity, server: str) -> ServerRow:
    """The same for a new action of the server: of two requests at a time the second one sees what the first one wrote.

    :raises Fault: 404 as above.
    """
    if is_server_id(server):
        servers.hold_server(c, server)
    return get_visible_server(c, identity, server)


def get_visible_server_to_change(c: Connection, identity: Identity, server: str) -> ServerRow:
    """The same for a change of the server itself, which until it is written nobody else changes.

    :raises Fault: 404 as above.
    """
    counters.lock_counters(c)
    return get_visible_server(c, identity, server)


def no_such_server(server: str) -> Fault:
    return not_found(f"Instance {server} could not be found.")
