"""``GET /healthcheck``: 200 while requests can be served, 503 while the store is away. Nobody needs to log in for it."""

import falcon

from api_gateway.answers import answer_json
from api_gateway.context import Request
from api_gateway.gateway import Gateway
from api_gateway.store import agents
from compute_agent.contract import versions

_NO_HOST = ""


def check_health(gateway: Gateway, _request: Request, response: falcon.Response) -> None:
    """:raises StoreBusy, StoreUnavailable: answered as 503."""
    with gateway.store.read() as c:
        agents.find_agent(c, _NO_HOST)  # a real query: an open connection proves nothing
    response.set_header("Cache-Control", "no-store")
    answer_json(response, {"status": "ok", "release": versions.RELEASE})
