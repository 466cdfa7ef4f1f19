"""``GET /v1/agents``: which hosts have an agent, what it can do, and whether it is up."""

from typing import Any

import falcon

from api_gateway.answers import answer_json
from api_gateway.context import Request
from api_gateway.gateway import Gateway
from api_gateway.native.times import format_time
from api_gateway.policy import permit
from api_gateway.query import check_known, read_query
from api_gateway.store import agents
from api_gateway.store.agents import AgentRow


def list_agents(gateway: Gateway, request: Request, response: falcon.Response) -> None:
    check_known(read_query(request), ())
    permit(request.context.identity, "crashcart:agents:list")
    with gateway.store.read() as c:
        rows = agents.list_agents(c)
    answer_json(response, {"agents": [_view(row) for row in rows]})


def _view(row: AgentRow) -> dict[str, Any]:
    return {
        "host": row.host,
        "state": row.state,
        "down_since": format_time(row.down_since),
        "release": row.release,
        "rpc_version": row.rpc_version,
        "event_version": row.event_version,
        "capabilities": row.capabilities,
        "journal_id": row.journal_id,
        "incarnation": row.incarnation,
        "heartbeat_at": format_time(row.received_at),
        "heartbeat_interval": row.interval,
        "inventory_readable": row.inventory_readable,
    }
