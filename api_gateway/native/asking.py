"""What all requests for an action have in common once their body is read: permit, accept, wake the dispatcher, answer."""

import falcon

from api_gateway.acceptance import Asked, log_accepted
from api_gateway.answers import answer_json
from api_gateway.context import Request
from api_gateway.gateway import Gateway
from api_gateway.native.action_view import view_action
from api_gateway.native.schemas import ActionBody
from api_gateway.reception import Wish
from api_gateway.store import StoreRejected
from api_gateway.store.actions import ActionState
from compute_agent.contract.models import ActionKind

RULE_OF_KIND: dict[ActionKind, str] = {
    ActionKind.TRIGGER_CRASH_DUMP: "os_compute_api:servers:trigger_crash_dump",
    ActionKind.COLLECT_DIAGNOSTICS: "crashcart:diagnostics:collect",
    ActionKind.TAKE_HOST_DUMP: "crashcart:actions:take_host_dump",
    ActionKind.SET_WATCHDOG: "crashcart:watchdog:set",
    ActionKind.REMOVE_WATCHDOG: "crashcart:watchdog:remove",
    ActionKind.RESUME: "crashcart:actions:resume",
    ActionKind.RESET_WATCHDOG_TIMER: "crashcart:watchdog:reset_timer",
}
"""What lets one ask for an action of each kind."""


def take_on(gateway: Gateway, request: Request, response: falcon.Response, server_id: str, body: ActionBody) -> None:
    """202 with the new action; 200 when an earlier one with the same idempotency key has ended already.

    :raises Fault: the caller does not see the server, or may not ask for this.
    :raises Exception: as :func:`accept_action` does.
    """
    context = request.context
    asked = Asked(
        id=context.request_id,
        kind=body.kind,
        project=context.identity.project,
        user=context.identity.user,
        deadline=body.deadline or gateway.settings.crash_dump_deadline,
        force=body.force,
        arguments=body.arguments,
        passes_locks=context.identity.is_admin,
        idempotency_key=body.idempotency_key,
        global_request_id=context.global_request_id,
    )
    wish = Wish(context.identity, server_id, RULE_OF_KIND[asked.kind], asked)
    try:
        received = gateway.reception.accept(wish)
    except StoreRejected:
        if asked.idempotency_key is None:
            raise
        received = gateway.reception.accept(wish)  # its twin was committed in between; this time it is found
    row = received.action
    if received.new:
        gateway.wake()
        log_accepted(row)
    response.set_header("Location", f"{request.prefix}/v1/actions/{row.id}")
    answer_json(response, view_action(row, context.identity, received.owner), 200 if row.state == ActionState.ENDED else 202)
