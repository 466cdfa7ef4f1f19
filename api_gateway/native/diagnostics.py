"""``/v1/servers/{id}/diagnostics``: diagnostics with what their reader must know; ``/v1/diagnostics``: those of many servers, later.

What is collected for many comes back as events, ``server.diagnostics``, and is shown by each action.
"""

import falcon

from api_gateway.acceptance import Accepted, Asked, accept_action, log_accepted
from api_gateway.answers import answer_json
from api_gateway.context import Request
from api_gateway.diagnostics import get_diagnostics
from api_gateway.fault_names import FAULT_NAMES
from api_gateway.faults import STATUS_OF_ERROR, Fault
from api_gateway.gateway import Gateway
from api_gateway.limits import NATIVE_MEDIA_TYPES, read_json
from api_gateway.native.diagnostics_view import view_told
from api_gateway.native.schemas import MOST_COLLECTED, CollectBody, parse_collect_body, parse_history
from api_gateway.policy import permit
from api_gateway.query import check_known, find_single, read_query
from api_gateway.store import Connection, agents, servers
from api_gateway.store.servers import ServerRow
from api_gateway.visibility import get_visible_server
from compute_agent.contract.models import ActionKind

_RULE = "crashcart:diagnostics:collect"
_REFUSALS: tuple[type[Exception], ...] = (Fault, *(error for error, status in STATUS_OF_ERROR.items() if status < 500))
"""What one server's action may be refused with, while the others are taken on."""


def show_diagnostics(gateway: Gateway, request: Request, response: falcon.Response, server_id: str) -> None:
    """``?history=N``: with the last N samples that the agent has kept."""
    query = read_query(request)
    check_known(query, {"history"})
    history = parse_history(find_single(query, "history"))
    with gateway.store.read() as c:
        server = get_visible_server(c, request.context.identity, server_id)
        permit(request.context.identity, "crashcart:diagnostics:show", server.project)
        agent = agents.find_agent(c, server.host)
    told = get_diagnostics(gateway, server, agent, history=history > 0)
    answer_json(response, view_told(told, history))


def collect_diagnostics(gateway: Gateway, request: Request, response: falcon.Response) -> None:
    """202 with an action for each server that can have one, and why the others cannot."""
    check_known(read_query(request), ())
    body = parse_collect_body(read_json(request, NATIVE_MEDIA_TYPES), max_deadline=gateway.settings.max_deadline)
    permit(request.context.identity, _RULE)
    accepted: list[Accepted] = []
    refused: list[dict[str, object]] = []
    with gateway.store.write() as c:
        chosen, next_marker = _choose(c, request, body)
        for server_id in chosen:
            try:
                accepted.append(_accept(c, gateway, request, server_id, body))
            except _REFUSALS as error:
                refused.append(_view_refusal(server_id, error))
    if accepted:
        gateway.wake()
    for one in accepted:
        log_accepted(one.action)
    answer_json(
        response,
        {
            "actions": [{"id": one.action.id, "server": one.action.server} for one in accepted],
            "refused": refused,
            "next_marker": next_marker,
        },
        202,
    )


def _choose(c: Connection, request: Request, body: CollectBody) -> tuple[list[str], str | None]:
    """The servers that are meant, and where to go on when there are more of them than one request takes."""
    if body.servers is not None:
        return list(body.servers), None
    identity = request.context.identity
    project = body.project if identity.is_admin or body.project is not None else identity.project
    if not identity.is_admin and project != identity.project:
        return [], None  # what a caller cannot see does not exist for it
    rows = _list_page(c, body, project)
    return [row.id for row in rows], rows[-1].id if len(rows) == MOST_COLLECTED else None


def _list_page(c: Connection, body: CollectBody, project: str | None) -> list[ServerRow]:
    try:
        return servers.list_servers(c, host=body.host, project=project, marker=body.marker, limit=MOST_COLLECTED)
    except LookupError as error:
        raise Fault(400, f"marker [{body.marker}] not found") from error


def _accept(c: Connection, gateway: Gateway, request: Request, server_id: str, body: CollectBody) -> Accepted:
    """One of many actions of one request: its id is its own, and the request's id leads from one to the others."""
    context = request.context
    server = get_visible_server(c, context.identity, server_id)
    permit(context.identity, _RULE, server.project)
    asked = Asked(
        id=f"req-{gateway.new_id()}",
        kind=ActionKind.COLLECT_DIAGNOSTICS,
        project=context.identity.project,
        user=context.identity.user,
        deadline=body.deadline or gateway.settings.crash_dump_deadline,
        global_request_id=context.global_request_id or context.request_id,
    )
    return accept_action(c, server, asked, now=gateway.clock.now(), terms=gateway.terms)


def _view_refusal(server_id: str, error: Exception) -> dict[str, object]:
    status = error.status if isinstance(error, Fault) else STATUS_OF_ERROR[type(error)]
    return {"server": server_id, "code": status, "fault": FAULT_NAMES[status], "message": str(error)}
