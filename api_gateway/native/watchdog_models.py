"""``GET /v1/watchdog-models``: which watchdogs there are, what each can do, and which of them a server can be given."""

from collections.abc import Iterable
from typing import Any

import falcon

from api_gateway.answers import answer_json
from api_gateway.context import Request
from api_gateway.faults import bad_request
from api_gateway.gateway import Gateway
from api_gateway.native.watchdogs import explain_silence
from api_gateway.policy import permit
from api_gateway.query import check_known, find_single, read_query
from api_gateway.store import agents
from api_gateway.store.agents import UP
from api_gateway.visibility import get_visible_server, is_server_id
from api_gateway.watchdog_checks import find_watchdog, list_platform_models
from compute_agent.contract.watchdogs import WatchdogModel

_RULE = "crashcart:watchdog_models:list"


def list_models(gateway: Gateway, request: Request, response: falcon.Response) -> None:
    """Without ``server_id`` those of all platforms whose agents are up."""
    query = read_query(request)
    check_known(query, {"server_id"})
    server_id = find_single(query, "server_id")
    if server_id is not None:
        answer_json(response, {"models": _list_for_server(gateway, request, server_id)})
        return
    permit(request.context.identity, _RULE)
    with gateway.store.read() as c:
        known = [model for agent in agents.list_agents(c) if agent.state == UP for model in list_platform_models(agent)]
    answer_json(response, {"models": [model.to_wire() for model in merge_models(known)]})


def merge_models(known: Iterable[WatchdogModel]) -> list[WatchdogModel]:
    """One of each name, in alphabetical order: what any platform can do with it, and all that is said of it."""
    merged: dict[str, WatchdogModel] = {}
    for model in known:
        former = merged.get(model.model, model)
        merged[model.model] = WatchdogModel(
            model=model.model,
            expiry_actions=tuple(dict.fromkeys((*former.expiry_actions, *model.expiry_actions))),
            managed=former.managed or model.managed,
            hot_plug=former.hot_plug or model.hot_plug,
            note=former.note if model.note in former.note else f"{former.note} {model.note}",
        )
    return [merged[name] for name in sorted(merged)]


def _list_for_server(gateway: Gateway, request: Request, server_id: str) -> list[dict[str, Any]]:
    """Those that its platform knows. ``possible``: whether this server can be given it now; None: its host does not say."""
    if not is_server_id(server_id):
        raise bad_request("server_id must be the id of a server.")
    with gateway.store.read() as c:
        server = get_visible_server(c, request.context.identity, server_id)
        permit(request.context.identity, _RULE, server.project)
        agent = agents.find_agent(c, server.host)
    watchdog = find_watchdog(server)
    if agent is None or not (models := list_platform_models(agent)):
        raise explain_silence(gateway, server, agent)
    possible = None if watchdog is None else {model.model for model in models if model.managed} & set(watchdog.models)
    return [{**model.to_wire(), "possible": None if possible is None else model.model in possible} for model in models]
