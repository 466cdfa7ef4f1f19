"""``/v1/servers/{id}``: what is known of a server, what an admin says of it over its host's word, and servers whose host is gone."""

import logging

import falcon

from api_gateway.answers import answer_json
from api_gateway.context import Request
from api_gateway.faults import Fault
from api_gateway.gateway import Gateway
from api_gateway.limits import NATIVE_MEDIA_TYPES, read_json
from api_gateway.native.overlay_body import parse_overlay_body
from api_gateway.native.server_view import view_server
from api_gateway.policy import permit
from api_gateway.query import check_known, read_query
from api_gateway.store import servers
from api_gateway.visibility import get_visible_server, get_visible_server_to_change

LOG = logging.getLogger(__name__)


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
