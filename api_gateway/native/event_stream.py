"""``GET /v1/events/stream``: who may see which events is decided here; the engine's own listener then tells them.

The answer is a redirect with a ticket (``stream.ticket``), which a client follows by itself. When its stream ends it comes here again.
"""

from datetime import timedelta

import falcon

from api_gateway.context import Request
from api_gateway.gateway import Gateway
from api_gateway.native.event_query import FILTERS, parse_filters, parse_position
from api_gateway.native.event_view import find_withheld
from api_gateway.policy import permit
from api_gateway.query import check_known, find_single, read_query
from api_gateway.store import events, secrets
from api_gateway.stream.ticket import PARAMETER, PATH, Ticket

_TICKET_LIFETIME = timedelta(seconds=30)
"""Within which a client must have followed the redirect; clocks of API and engine may differ by part of it."""


def open_stream(gateway: Gateway, request: Request, response: falcon.Response) -> None:
    """From behind ``Last-Event-ID``, else behind ``after``, else from now on."""
    query = read_query(request)
    check_known(query, FILTERS | {"after"})
    identity = request.context.identity
    permit(identity, "crashcart:events:stream")
    filters = parse_filters(query, request)
    after = parse_position("after", find_single(query, "after"))
    last_seen = parse_position("Last-Event-ID", request.get_header("Last-Event-ID"))
    with gateway.store.read() as c:
        key = secrets.find_secret(c, secrets.STREAM_KEY)
        begin = last_seen if last_seen is not None else after if after is not None else events.get_last_position(c)
    if key is None:
        with gateway.store.write() as c:
            key = secrets.get_or_make_secret(c, secrets.STREAM_KEY)
    ticket = Ticket(filters, find_withheld(identity, filters.project), begin, gateway.clock.now() + _TICKET_LIFETIME)
    response.status = 307
    response.set_header("Location", f"{gateway.settings.stream_url}{PATH}?{PARAMETER}={ticket.sign(key)}")
    response.set_header("Cache-Control", "no-store")
