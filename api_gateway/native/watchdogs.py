"""``/v1/servers/{id}/watchdog``: what a server has by its host's last word, and changes of it, which are actions."""

import falcon

from api_gateway.answers import answer_json
from api_gateway.context import Request
from api_gateway.faults import Fault
from api_gateway.gateway import Gateway
from api_gateway.limits import NATIVE_MEDIA_TYPES, read_json
from api_gateway.native.asking import take_on
from api_gateway.native.schemas import parse_removal_query, parse_watchdog_body
from api_gateway.native.times import format_time
from api_gateway.policy import permit
from api_gateway.query import check_known, find_single, read_query
from api_gateway.store import agents
from api_gateway.store.agents import AgentRow
from api_gateway.store.servers import ServerRow
from api_gateway.visibility import get_visible_server
from api_gateway.watchdog_checks import find_watchdog
from compute_agent.contract.models import ActionKind


def show_watchdog(gateway: Gateway, request: Request, response: falcon.Response, server_id: str) -> None:
    """Unknown is no answer: who is told that there is no watchdog may rely on it."""
    check_known(read_query(request), ())
    with gateway.store.read() as c:
        server = get_visible_server(c, request.context.identity, server_id)
        permit(request.context.identity, "crashcart:watchdog:show", server.project)
        agent = agents.find_agent(c, server.host)
    watchdog = find_watchdog(server)
    if watchdog is None:
        raise explain_silence(gateway, server, agent)
    answer_json(
        response,
        {
            "server": server.id,
            **watchdog.to_wire(),
            "state_at": format_time(server.state_at),
            "heartbeat_at": format_time(None if agent is None else agent.received_at),
        },
    )


def set_watchdog(gateway: Gateway, request: Request, response: falcon.Response, server_id: str) -> None:
    """202 with the action that sets it."""
    check_known(read_query(request), ())
    body = parse_watchdog_body(read_json(request, NATIVE_MEDIA_TYPES), max_deadline=gateway.settings.max_deadline)
    take_on(gateway, request, response, server_id, body)


def remove_watchdog(gateway: Gateway, request: Request, response: falcon.Response, server_id: str) -> None:
    """202 with the action that removes it."""
    query = read_query(request)
    check_known(query, {"deadline_seconds", "idempotency_key"})
    body = parse_removal_query(
        find_single(query, "deadline_seconds"), find_single(query, "idempotency_key"), max_deadline=gateway.settings.max_deadline
    )
    take_on(gateway, request, response, server_id, body)


def explain_silence(gateway: Gateway, server: ServerRow, agent: AgentRow | None) -> Fault:
    """Why nothing is known of a server's watchdog, and what would help."""
    if agent is None:
        return Fault(409, f"Nothing has been heard of the agent of instance {server.id} since its host was forgotten.")
    obstacle = gateway.speech.find_obstacle(ActionKind.SET_WATCHDOG, agent)
    if obstacle is not None:
        return Fault(409, obstacle)
    if not agent.capabilities.get("watchdog", False):
        return Fault(501, f"The driver {agent.capabilities.get('driver')} of host {agent.host} has no capability watchdog.")
    return Fault(
        409, f"The agent of host {agent.host} has not told the watchdog of instance {server.id} yet; try again after its next heartbeat."
    )
