"""``/v1/events``: the record of what happened, in the order in which it was recorded."""

import falcon

from api_gateway.answers import answer_json
from api_gateway.context import Request
from api_gateway.faults import bad_request, not_found
from api_gateway.gateway import Gateway
from api_gateway.native.event_query import FILTERS, parse_filters, parse_position
from api_gateway.native.event_view import find_withheld, is_visible, view_event
from api_gateway.policy import permit
from api_gateway.query import check_known, find_single, link_next, parse_limit, read_query
from api_gateway.store import events
from api_gateway.store.event_listing import list_page

ORDERS = ("asc", "desc")


def list_events(gateway: Gateway, request: Request, response: falcon.Response) -> None:
    """One page. It may hold less than was asked for, even nothing, and link a next one all the same: see ``event_listing``."""
    query = read_query(request)
    check_known(query, FILTERS | {"limit", "after", "order"})
    identity = request.context.identity
    permit(identity, "crashcart:events:list")
    filters, limit = parse_filters(query, request), parse_limit(query, gateway.settings.max_page)
    after = parse_position("after", find_single(query, "after"))
    order = find_single(query, "order") or ORDERS[0]
    if order not in ORDERS:
        raise bad_request(f"order must be one of: {', '.join(ORDERS)}.")
    with gateway.store.read() as c:
        page = list_page(c, filters, after=after, limit=limit, newest_first=order == "desc")
    withheld = {project: find_withheld(identity, project) for project in {row.project for row in page.events}}
    links = [] if page.reached is None else link_next(request, query, str(page.reached), name="after")
    answer_json(response, {"events": [view_event(row, withheld[row.project]) for row in page.events], "links": links})


def show_event(gateway: Gateway, request: Request, response: falcon.Response, event_id: str) -> None:
    """By its id or its position."""
    check_known(read_query(request), ())
    identity = request.context.identity
    with gateway.store.read() as c:
        row = events.find_event(c, event_id)
    if row is None or not is_visible(row, identity):
        raise not_found(f"Event {event_id} not found.")
    permit(identity, "crashcart:events:show", row.project)
    answer_json(response, view_event(row, find_withheld(identity, row.project)))
