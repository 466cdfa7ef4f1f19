"""``/v1/servers``: which there are, also by what happened to them. ``/v1/servers/{id}``: what is known of one.

An admin sets facts over its host's word, and forgets servers whose host is gone.
"""

import logging

import falcon

from api_gateway.answers import answer_json
from api_gateway.context import Request
from api_gateway.faults import Fault, bad_request
from api_gateway.gateway import Gateway
from api_gateway.limits import NATIVE_MEDIA_TYPES, read_json
from api_gateway.native.overlay_body import parse_overlay_body
from api_gateway.native.server_query import ListQuery, parse_list_query
from api_gateway.native.server_view import view_listed, view_server
from api_gateway.policy import permit
from api_gateway.query import check_known, link_next, read_query
from api_gateway.store import Connection, servers
from api_gateway.store.patterns import BadPattern
from api_gateway.store.servers import ServerRow
from api_gateway.visibility import get_visible_server, get_visible_server_to_change

LOG = logging.getLogger(__name__)


def list_servers(gateway: Gateway, request: Request, response: falcon.Response) -> None:
    """The living ones that the caller can see, newest first."""
    query = read_query(request)
    identity = request.context.identity
    permit(identity, "crashcart:servers:list")
    asked = parse_list_query(query, identity, max_page=gateway.settings.max_page)
    with gateway.store.read() as c:
        rows = _list_page(c, asked)
    links = link_next(request, query, rows[-1].id) if rows and len(rows) == asked.limit else []
    answer_json(response, {"servers": [view_listed(row, identity) for row in rows], "links": links})


def _list_page(c: Connection, asked: ListQuery) -> list[ServerRow]:
    """:raises Fault: 400 when the caller sees no such marker, or the database cannot search by the pattern."""
    if asked.marker is not None:
        last = servers.find_server(c, asked.marker, include_deleted=True)
        if last is None or asked.filters.get("project") not in (None, last.project):
            raise bad_request(f"marker [{asked.marker}] not found")
    if asked.limit == 0:
        return []
    try:
        return servers.list_servers(c, limit=asked.limit, marker=asked.marker, **asked.filters)
    except BadPattern as error:
        raise bad_request(f"This gateway cannot search with that regular expression: {error}") from error


def show_server(gateway: Gateway, request: Request, response: falcon.Response, server_id: str) -> None:
    check_known(read_query(request), ())
    identity = request.context.identity
    with gateway.store.read() as c:
        server = get_visible_server(c, identity, server_id)
        permit(identity, "crashcart:servers:show", server.project)
    answer_json(response, view_server(server, identity))


def update_server(gateway: Gateway, request: Request, response: falcon.Response, server_id: str) -> None:
    """Set or take back what the overlay says; the server as it is then."""
    check_known(read_query(request), ())
    changes = parse_overlay_body(read_json(request, NATIVE_MEDIA_TYPES))
    identity = request.context.identity
    with gateway.store.write() as c:
        before = get_visible_server_to_change(c, identity, server_id)
        permit(identity, "crashcart:servers:update", before.project)
        server = servers.set_overlay(c, before.id, changes, now=gateway.clock.now())
    LOG.info("server %s: user %s of project %s set %s", server.id, identity.user, identity.project, ", ".join(sorted(changes)) or "nothing")
    answer_json(response, view_server(server, identity))


def forget_server(gateway: Gateway, request: Request, response: falcon.Response, server_id: str) -> None:
    """Delete a server whose host is gone. Should the host come back, so does the server."""
    check_known(read_query(request), ())
    identity = request.context.identity
    with gateway.store.write() as c:
        server = get_visible_server_to_change(c, identity, server_id)
        permit(identity, "crashcart:servers:forget", server.project)
        try:
            servers.forget_server(c, server.id, now=gateway.clock.now())
        except servers.HostIsUp as error:
            raise Fault(409, f"Cannot forget instance {server.id}: the agent of host {error.host} is up and reports it") from error
    LOG.info("server %s of host %s forgotten by user %s of project %s", server.id, server.host, identity.user, identity.project)
    response.status = 204
