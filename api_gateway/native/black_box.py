"""``/v1/events/{id}/black-box``: what a host kept of a server that crashed, fetched from that host piece by piece.

The event says how large each part is and which digest it has; what does not fit is not handed on.
"""

import falcon
from pydantic import ValidationError

from api_gateway.answers import answer_json
from api_gateway.black_box import Part, fetch
from api_gateway.context import Request
from api_gateway.faults import Fault, not_found
from api_gateway.gateway import Gateway
from api_gateway.native.times import format_time
from api_gateway.policy import permit
from api_gateway.query import check_known, read_query
from api_gateway.store import agents, events
from api_gateway.store.agents import UP, AgentRow
from api_gateway.visibility import get_visible_server
from compute_agent.contract.events import ServerBlackBox

_RULE = "crashcart:black_box:show"
_EVENT_TYPE = "server.black_box"
_RETRY_WHEN_DOWN_SECONDS = 30


def show_black_box(gateway: Gateway, request: Request, response: falcon.Response, event_id: str) -> None:
    """What there was when it was closed; some of it may have been forgotten since."""
    check_known(read_query(request), ())
    box, _agent = _get_visible(gateway, request, event_id)
    answer_json(
        response,
        {
            "server": box.server,
            "host": box.host,
            "cause": box.cause,
            "action": box.action_id,
            "occurred_at": format_time(box.occurred_at),
            "parts": [{**part.model_dump(), "href": f"{request.prefix}/v1/events/{event_id}/black-box/{part.name}"} for part in box.parts],
        },
    )


def fetch_part(gateway: Gateway, request: Request, response: falcon.Response, event_id: str, part: str) -> None:
    """The part's bytes, all of them and as they were kept."""
    check_known(read_query(request), ())
    box, agent = _get_visible(gateway, request, event_id)
    found = next((known for known in box.parts if known.name == part), None)
    if found is None:
        raise not_found(f"The black box of event {event_id} has no part {part}.")
    if agent is None or agent.state != UP:
        raise Fault(503, f"The agent of host {box.host} is down; try again later.", retry_after=_RETRY_WHEN_DOWN_SECONDS)
    gateway.speech.refuse_unless_taken("get_black_box", agent)
    wanted = Part(box.host, box.black_box_id, found.name, found.bytes, found.sha256)
    response.stream = fetch(gateway.agent_calls, wanted)
    response.content_length = found.bytes
    response.content_type = "application/octet-stream"
    response.set_header("Cache-Control", "no-store")


def _get_visible(gateway: Gateway, request: Request, event_id: str) -> tuple[ServerBlackBox, AgentRow | None]:
    """The black box that an event told of, and the agent that has it.

    :raises Fault: 404 when there is none that the caller can see, 403 when it may not see any.
    """
    identity = request.context.identity
    with gateway.store.read() as c:
        event = events.find_event(c, event_id)
        if event is None or event.event_type != _EVENT_TYPE or event.server is None or event.host is None:
            raise _no_such_event(event_id)
        server = get_visible_server(c, identity, event.server, include_deleted=True)
        permit(identity, _RULE, server.project)
        agent = agents.find_agent(c, event.host)
    try:
        return ServerBlackBox.from_wire(event.payload), agent
    except ValidationError as error:
        raise _no_such_event(event_id) from error


def _no_such_event(event_id: str) -> Fault:
    return not_found(f"Event {event_id} not found, or it tells of no black box.")
