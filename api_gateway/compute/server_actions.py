"""``POST /servers/{id}/action``: the body's one key names the action.

The order of checks is that of a Compute API: body, action, URL, version, schema, server, policy, state. What came before (size,
authentication, version header) was the middleware's.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import falcon

from api_gateway.acceptance import Asked, log_accepted
from api_gateway.compute import locks
from api_gateway.compute.schemas import ACTION_BODIES, Versions, find_schema
from api_gateway.compute.urls import check_project
from api_gateway.compute.validation import check_body
from api_gateway.context import Request
from api_gateway.faults import bad_request, not_found
from api_gateway.gateway import Gateway
from api_gateway.limits import COMPUTE_MEDIA_TYPES, MALFORMED_BODY, read_json
from api_gateway.reception import Wish
from compute_agent.contract.models import ActionKind


@dataclass(frozen=True)
class ServerAction:
    """One row of the table: since when there is the action and what its body must be, and what does it."""

    bodies: Versions
    act: Callable[[Gateway, Request, str, Any], None]


def run_server_action(gateway: Gateway, request: Request, response: falcon.Response, server_id: str) -> None:
    body = read_json(request, COMPUTE_MEDIA_TYPES)
    if not isinstance(body, dict) or len(body) != 1:
        raise bad_request(MALFORMED_BODY)
    name, argument = next(iter(body.items()))
    action = SERVER_ACTIONS.get(name)
    if action is None:
        raise bad_request(f"There is no such action: {name}")
    check_project(request)
    version = request.context.version
    if find_schema(action.bodies, version) is None:
        raise not_found()
    check_body(action.bodies, version, body)
    action.act(gateway, request, server_id, argument)
    response.status = 202
    response.content_type = falcon.MEDIA_JSON


def _trigger_crash_dump(gateway: Gateway, request: Request, server_id: str, _argument: None) -> None:
    context = request.context
    asked = Asked(
        id=context.request_id,
        kind=ActionKind.TRIGGER_CRASH_DUMP,
        project=context.identity.project,
        user=context.identity.user,
        deadline=gateway.settings.crash_dump_deadline,
        passes_locks=context.identity.is_admin,
        global_request_id=context.global_request_id,
    )
    accepted = gateway.reception.accept(Wish(context.identity, server_id, "os_compute_api:servers:trigger_crash_dump", asked))
    gateway.wake()
    log_accepted(accepted.action)


SERVER_ACTIONS: Mapping[str, ServerAction] = {
    "trigger_crash_dump": ServerAction(ACTION_BODIES["trigger_crash_dump"], _trigger_crash_dump),
    "lock": ServerAction(ACTION_BODIES["lock"], locks.lock_server),
    "unlock": ServerAction(ACTION_BODIES["unlock"], locks.unlock_server),
}
