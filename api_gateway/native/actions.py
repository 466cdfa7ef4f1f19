"""``/v1/actions/{id}`` and ``/v1/servers/{id}/actions``: actions with all that is known of them, readable by the server's owner."""

import falcon

from api_gateway.answers import answer_json
from api_gateway.cancellation import cancel_action as cancel
from api_gateway.cancellation import log_cancelled
from api_gateway.context import Request
from api_gateway.faults import Fault, bad_request, not_found
from api_gateway.gateway import Gateway
from api_gateway.limits import NATIVE_MEDIA_TYPES, read_json
from api_gateway.native.action_view import is_settled, view_action, view_results
from api_gateway.native.asking import RULE_OF_KIND, take_on
from api_gateway.native.event_view import RULE_OF_RESULT
from api_gateway.native.schemas import parse_action_body, parse_wait
from api_gateway.policy import is_permitted, permit
from api_gateway.query import check_known, find_single, link_next, parse_limit, read_query
from api_gateway.request_ids import is_request_id
from api_gateway.store import Connection, actions, events, servers
from api_gateway.store.actions import ActionRow, ActionState
from api_gateway.visibility import get_visible_server
from compute_agent.contract.models import ActionKind


def show_action(gateway: Gateway, request: Request, response: falcon.Response, action_id: str) -> None:
    """``?wait=S`` answers as soon as the action is settled, at the latest after S seconds with what is known then."""
    query = read_query(request)
    check_known(query, {"wait"})
    wait = parse_wait(find_single(query, "wait"), gateway.settings.max_wait)

    def read() -> tuple[ActionRow, str | None]:
        with gateway.store.read() as c:
            return _get_visible_action(c, request, action_id)

    row, owner = gateway.long_polls.wait_until(lambda found: is_settled(found[0]), read, wait)
    identity = request.context.identity
    seen = [event_type for event_type, rule in RULE_OF_RESULT.items() if is_permitted(identity, rule, owner)]
    with gateway.store.read() as c:
        results = events.list_latest_of_action(c, row.id, row.host, seen)
    answer_json(response, {**view_action(row, identity, owner), **view_results(results, request.prefix)})


def list_actions(gateway: Gateway, request: Request, response: falcon.Response, server_id: str) -> None:
    query = read_query(request)
    check_known(query, {"limit", "marker"})
    limit, marker = parse_limit(query, gateway.settings.max_page), find_single(query, "marker")
    with gateway.store.read() as c:
        server = get_visible_server(c, request.context.identity, server_id, include_deleted=True)
        permit(request.context.identity, "crashcart:actions:list", server.project)
        try:
            rows = actions.list_actions_of_server(c, server.id, actions.Page(limit, marker))
        except LookupError as error:
            raise bad_request(f"marker [{marker}] not found") from error
    links = link_next(request, query, rows[-1].id) if rows and len(rows) == limit else []
    answer_json(response, {"actions": [view_action(row, request.context.identity, server.project) for row in rows], "links": links})


def create_action(gateway: Gateway, request: Request, response: falcon.Response, server_id: str) -> None:
    """202 with the new action; 200 when an earlier one with the same idempotency key has ended already."""
    body = parse_action_body(read_json(request, NATIVE_MEDIA_TYPES), max_deadline=gateway.settings.max_deadline)
    take_on(gateway, request, response, server_id, body)


def cancel_action(gateway: Gateway, request: Request, response: falcon.Response, action_id: str) -> None:
    """202 while its agent has to say whether it had begun; 200 when it has ended as cancelled. Who may ask for it may call it off."""
    check_known(read_query(request), set())
    identity = request.context.identity
    with gateway.store.write() as c:
        row, owner = _get_action_of_visible_server(c, request, action_id)
        permit(identity, "crashcart:actions:cancel", owner)
        if row.kind in RULE_OF_KIND:
            permit(identity, RULE_OF_KIND[ActionKind(row.kind)], owner)
        row = cancel(c, row.id, user=identity.user, now=gateway.clock.now(), speech=gateway.speech)
    if row.state != ActionState.ENDED:
        gateway.wake()
    log_cancelled(row)
    answer_json(response, view_action(row, identity, owner), 200 if row.state == ActionState.ENDED else 202)


def _get_visible_action(c: Connection, request: Request, action_id: str) -> tuple[ActionRow, str | None]:
    """The action and the project of its server.

    :raises Fault: 404 when there is none that the caller can see, 403 when it may not see actions at all.
    """
    row, owner = _get_action_of_visible_server(c, request, action_id)
    permit(request.context.identity, "crashcart:actions:show", owner)
    return row, owner


def _get_action_of_visible_server(c: Connection, request: Request, action_id: str) -> tuple[ActionRow, str | None]:
    """The action and the project of its server, whose owner sees what anybody did to it; who asked is not who owns.

    :raises Fault: 404 when there is none that the caller can see.
    """
    row = actions.find_action(c, action_id) if is_request_id(action_id) else None
    if row is None:
        raise _no_such_action(action_id)
    identity = request.context.identity
    server = servers.find_server(c, row.server, include_deleted=True)
    owner = row.project if server is None else server.project
    if not identity.is_admin and owner != identity.project:
        raise _no_such_action(action_id)
    return row, owner


def _no_such_action(action_id: str) -> Fault:
    return not_found(f"Action {action_id} not found")
