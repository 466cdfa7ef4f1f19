"""``GET /servers``, ``/servers/detail`` and ``/servers/{id}``."""

from typing import Any

import falcon

from api_gateway.answers import answer_json
from api_gateway.compute.server_query import ServerQuery, no_such_marker, parse_server_query
from api_gateway.compute.server_view import Viewer, view_brief, view_server
from api_gateway.context import Request
from api_gateway.faults import bad_request
from api_gateway.gateway import Gateway
from api_gateway.identity import Identity
from api_gateway.policy import permit
from api_gateway.query import link_next, read_query
from api_gateway.store import Connection, agents, servers
from api_gateway.store.patterns import BadPattern
from api_gateway.store.servers import ServerRow
from api_gateway.visibility import get_visible_server


def list_servers(gateway: Gateway, request: Request, response: falcon.Response) -> None:
    _answer_list(gateway, request, response, detail=False)


def list_servers_in_detail(gateway: Gateway, request: Request, response: falcon.Response) -> None:
    _answer_list(gateway, request, response, detail=True)


def show_server(gateway: Gateway, request: Request, response: falcon.Response, server_id: str) -> None:
    viewer = Viewer.of(request)
    with gateway.store.read() as c:
        server = get_visible_server(c, request.context.identity, server_id)
        permit(request.context.identity, "os_compute_api:servers:show", server.project)
        by_host = agents.list_standings(c, [server.host]) if viewer.sees_host_status else {}
    answer_json(response, {"server": view_server(viewer, server, by_host.get(server.host), alone=True)})


def _answer_list(gateway: Gateway, request: Request, response: falcon.Response, *, detail: bool) -> None:
    rule = "os_compute_api:servers:detail" if detail else "os_compute_api:servers:index"
    permit(request.context.identity, rule)
    query = read_query(request)
    asked = parse_server_query(request, query, rule=f"{rule}:get_all_tenants", max_page=gateway.settings.max_page)
    viewer = Viewer.of(request)
    with gateway.store.read() as c:
        rows = _list_page(c, request.context.identity, asked)
        # Of the page's hosts alone, in one query: a fleet has thousands.
        by_host = agents.list_standings(c, {row.host for row in rows}) if detail and rows and viewer.sees_host_status else {}
    if detail:
        views = [view_server(viewer, row, by_host.get(row.host), alone=False) for row in rows]
    else:
        views = [view_brief(viewer, row) for row in rows]
    body: dict[str, Any] = {"servers": views}
    if rows and len(rows) == asked.limit:
        body["servers_links"] = link_next(request, query, rows[-1].id)
    answer_json(response, body)


def _list_page(c: Connection, identity: Identity, asked: ServerQuery) -> list[ServerRow]:
    """:raises Fault: 400 when there is no such marker for the caller, or the database cannot search by a pattern."""
    if asked.marker is not None:
        last = servers.find_server(c, asked.marker, include_deleted=True)
        if last is None or not (identity.is_admin or asked.selection.filters["project"] in (None, last.project)):
            raise no_such_marker(asked.marker)
    if asked.selection.nothing or asked.limit == 0:
        return []
    try:
        return servers.list_servers(c, sort=asked.order, limit=asked.limit, marker=asked.marker, **asked.selection.filters)
    except BadPattern as error:
        raise bad_request(f"This gateway cannot search with that regular expression: {error}") from error
