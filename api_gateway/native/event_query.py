"""Which events a request asks for: the same parameters for the list and for the stream."""

import re
from collections.abc import Mapping

from api_gateway.context import Request
from api_gateway.faults import bad_request, forbidden
from api_gateway.native.event_view import RULE_OF_HOSTS
from api_gateway.native.overlay_body import is_line
from api_gateway.native.time_parameters import parse_time
from api_gateway.policy import permit
from api_gateway.query import find_single
from api_gateway.request_ids import is_request_id
from api_gateway.store.event_listing import EventFilters
from api_gateway.visibility import is_server_id
from compute_agent.contract.text import LONGEST_LINE
from compute_agent.contract.topics import Severity

Query = Mapping[str, list[str]]

FILTERS = frozenset({"server", "host", "type", "severity", "since", "until", "action_id", "project"})
MOST_TYPES = 32
TYPE_PATTERN = r"^([A-Za-z0-9_.-]{1,255}|[A-Za-z0-9_.-]{0,254}\*)$"
POSITION_PATTERN = "^[0-9]{1,18}$"


def parse_filters(query: Query, request: Request) -> EventFilters:
    """Only what the caller may see: an admin everything, everybody else the events of their own project's servers.

    :raises Fault: 400 naming the parameter that does not fit, 403 when the caller may not ask so.
    """
    identity = request.context.identity
    host, project = _find_line(query, "host"), _find_line(query, "project")
    if host is not None:
        permit(identity, RULE_OF_HOSTS)
    if not identity.is_admin:
        if project not in (None, identity.project):
            raise forbidden("Only an admin can see the events of other projects.")
        project = identity.project
    return EventFilters(
        server=_find_server(query),
        host=host,
        action_id=_find_action(query),
        project=project,
        types=_find_types(query),
        severity=_find_severity(query),
        since=parse_time("since", find_single(query, "since")),
        until=parse_time("until", find_single(query, "until")),
    )


def parse_position(name: str, text: str | None) -> int | None:
    """:raises Fault: 400 unless it is a position, which is a whole number."""
    if text is None:
        return None
    if re.fullmatch(POSITION_PATTERN, text, re.ASCII) is None:
        raise bad_request(f"{name} must be the position of an event: a whole number, not negative.")
    return int(text)


def _find_line(query: Query, name: str) -> str | None:
    text = find_single(query, name)
    if text is not None and not is_line(text):
        raise bad_request(f"{name} must be one line of 1 to {LONGEST_LINE} characters.")
    return text


def _find_server(query: Query) -> str | None:
    text = find_single(query, "server")
    if text is not None and not is_server_id(text):
        raise bad_request("server must be the id of a server.")
    return text


def _find_action(query: Query) -> str | None:
    text = find_single(query, "action_id")
    if text is not None and not is_request_id(text):
        raise bad_request("action_id must be the id of an action.")
    return text


def _find_severity(query: Query) -> str | None:
    text = find_single(query, "severity")
    if text is not None and text not in tuple(Severity):
        raise bad_request(f"severity must be one of: {', '.join(Severity)}.")
    return text


def _find_types(query: Query) -> tuple[str, ...] | None:
    texts = query.get("type")
    if texts is None:
        return None
    if len(texts) > MOST_TYPES or not all(re.fullmatch(TYPE_PATTERN, text) for text in texts):
        raise bad_request(f"type may come up to {MOST_TYPES} times: a type of event, or its beginning and a * (server.watchdog.*).")
    return tuple(texts)
