"""``GET /servers/{id}/diagnostics`` in the format of the version in force: one for all drivers, or the older free one."""

import falcon

from api_gateway.answers import answer_json
from api_gateway.context import Request
from api_gateway.diagnostics import check_runs, get_diagnostics
from api_gateway.gateway import Gateway
from api_gateway.microversion import Since
from api_gateway.policy import permit
from api_gateway.store import agents
from api_gateway.visibility import get_visible_server


def show_diagnostics(gateway: Gateway, request: Request, response: falcon.Response, server_id: str) -> None:
    with gateway.store.read() as c:
        server = get_visible_server(c, request.context.identity, server_id)
        permit(request.context.identity, "os_compute_api:os-server-diagnostics", server.project)
        agent = agents.find_agent(c, server.host)
    if server.missing_since is None:
        check_runs(server, server.power_state)
    report = get_diagnostics(gateway, server, agent).report
    check_runs(server, report.diagnostics.state)
    if request.context.version >= Since.DIAGNOSTICS:
        answer_json(response, report.diagnostics.to_wire())
    else:
        answer_json(response, report.free_form)
