"""``/v1/subscriptions``: who is told of events by webhook or e-mail, and what came of telling them."""

import logging

import falcon

from api_gateway.answers import answer_json
from api_gateway.context import Request
from api_gateway.deliveries.signature import create_secret
from api_gateway.deliveries.targets import EMAIL, WEBHOOK, TargetRefused
from api_gateway.faults import Fault, bad_request, forbidden, not_found
from api_gateway.gateway import Gateway
from api_gateway.identity import Identity
from api_gateway.limits import NATIVE_MEDIA_TYPES, read_json
from api_gateway.native.event_query import parse_position
from api_gateway.native.event_view import find_shown, find_withheld
from api_gateway.native.subscription_body import SubscriptionBody, parse_subscription_body
from api_gateway.native.subscription_view import view_delivery, view_subscription
from api_gateway.policy import permit
from api_gateway.query import check_known, find_single, link_next, parse_limit, read_query
from api_gateway.store import Connection, deliveries, subscriptions
from api_gateway.store.matching import DeliveryState
from api_gateway.store.subscriptions import SubscriptionRow, TooManySubscriptions
from api_gateway.visibility import get_visible_server

LOG = logging.getLogger(__name__)


def create_subscription(gateway: Gateway, request: Request, response: falcon.Response) -> None:
    """201 with the subscription and, this once, the secret that its webhook's calls are signed with."""
    body, identity = parse_subscription_body(read_json(request, NATIVE_MEDIA_TYPES)), request.context.identity
    with gateway.store.read() as c:
        project = _find_project(c, identity, body)
    permit(identity, "crashcart:subscriptions:create", project)
    _check_target(gateway, body)
    row = SubscriptionRow(
        id=gateway.new_id(),
        project=project,
        user=identity.user,
        types=body.types,
        severity=body.severity,
        server=body.server,
        target_kind=body.target_kind,
        target=body.target,
        created_at=gateway.clock.now(),
        secret=create_secret() if body.target_kind == WEBHOOK else None,
        shown=tuple(sorted(find_shown(find_withheld(identity, project)))),
    )
    most = gateway.settings.max_subscriptions
    try:
        with gateway.store.write() as c:
            row = subscriptions.insert_subscription(c, row, most=most)
    except TooManySubscriptions as error:
        of = "all projects" if project is None else f"project {project}"
        raise Fault(409, f"There are {most} subscriptions of {of}, and no more are allowed: delete one first.") from error
    LOG.info("subscription %s by %s: made by user %s of project %s", row.id, row.target_kind, identity.user, identity.project)
    response.set_header("Location", f"{request.prefix}/v1/subscriptions/{row.id}")
    answer_json(response, view_subscription(row) | ({} if row.secret is None else {"secret": row.secret}), 201)


def list_subscriptions(gateway: Gateway, request: Request, response: falcon.Response) -> None:
    """Those of the caller's project; an admin sees all of them."""
    query, identity = read_query(request), request.context.identity
    check_known(query, {"limit", "marker"})
    permit(identity, "crashcart:subscriptions:list")
    limit, marker = parse_limit(query, gateway.settings.max_page), find_single(query, "marker")
    with gateway.store.read() as c:
        if marker is not None:
            _get_visible(c, identity, marker, missing=bad_request(f"marker [{marker}] not found"))
        rows = subscriptions.list_subscriptions(c, project=None if identity.is_admin else identity.project, limit=limit, marker=marker)
    links = link_next(request, query, rows[-1].id) if rows and len(rows) == limit else []
    answer_json(response, {"subscriptions": [view_subscription(row) for row in rows], "links": links})


def show_subscription(gateway: Gateway, request: Request, response: falcon.Response, subscription_id: str) -> None:
    check_known(read_query(request), ())
    with gateway.store.read() as c:
        row = _get_visible(c, request.context.identity, subscription_id)
    permit(request.context.identity, "crashcart:subscriptions:show", row.project)
    answer_json(response, view_subscription(row))


def delete_subscription(gateway: Gateway, request: Request, response: falcon.Response, subscription_id: str) -> None:
    """With all that was still to be delivered."""
    check_known(read_query(request), ())
    identity = request.context.identity
    with gateway.store.write() as c:
        row = _get_visible(c, identity, subscription_id)
        permit(identity, "crashcart:subscriptions:delete", row.project)
        subscriptions.delete_subscription(c, row.id)
    LOG.info("subscription %s: deleted by user %s of project %s", row.id, identity.user, identity.project)
    response.status = 204


def list_deliveries(gateway: Gateway, request: Request, response: falcon.Response, subscription_id: str) -> None:
    """Newest first."""
    query, identity = read_query(request), request.context.identity
    check_known(query, {"limit", "marker", "state"})
    limit, marker = parse_limit(query, gateway.settings.max_page), parse_position("marker", find_single(query, "marker"))
    state = find_single(query, "state")
    if state is not None and state not in tuple(DeliveryState):
        raise bad_request(f"state must be one of: {', '.join(DeliveryState)}.")
    with gateway.store.read() as c:
        row = _get_visible(c, identity, subscription_id)
        permit(identity, "crashcart:subscriptions:deliveries", row.project)
        wanted = None if state is None else DeliveryState(state)
        found = deliveries.list_deliveries(c, row.id, limit=limit, before=marker, state=wanted)
    links = link_next(request, query, str(found[-1].delivery.position)) if found and len(found) == limit else []
    answer_json(response, {"deliveries": [view_delivery(listed) for listed in found], "links": links})


def _find_project(c: Connection, identity: Identity, body: SubscriptionBody) -> str | None:
    """Whose events the caller wants to be told of; None: everybody's.

    :raises Fault: 403 when it may not see them, 404 when it cannot see the server.
    """
    if body.server is not None:
        return get_visible_server(c, identity, body.server).project
    if not body.names_project:
        return identity.project
    if body.project != identity.project and not identity.is_admin:
        raise forbidden("Only an admin can subscribe to the events of other projects.")
    return body.project


def _check_target(gateway: Gateway, body: SubscriptionBody) -> None:
    """:raises Fault: 400 when it is none, or not allowed, 409 when this gateway is not set up to deliver there."""
    rules = gateway.settings.target_rules
    if body.target_kind == EMAIL and not rules.mail:
        raise Fault(409, "This gateway sends no e-mail: its configuration names no server for that ([smtp] host).")
    try:
        if body.target_kind == WEBHOOK:
            rules.check_webhook(body.target)
        else:
            rules.check_address(body.target)
    except TargetRefused as error:
        raise bad_request(str(error)) from error


def _get_visible(c: Connection, identity: Identity, subscription: str, *, missing: Fault | None = None) -> SubscriptionRow:
    """:raises Fault: 404, or ``missing``, when there is none that ``identity`` can see."""
    row = subscriptions.find_subscription(c, subscription)
    if row is None or not (identity.is_admin or row.project == identity.project):
        raise missing or not_found(f"Subscription {subscription} not found.")
    return row
