"""Which servers ``GET /v1/servers`` asks for: from query parameters to what the store understands."""

import re
from dataclasses import dataclass

from api_gateway.faults import bad_request
from api_gateway.identity import Identity
from api_gateway.native.time_parameters import parse_time
from api_gateway.policy import permit
from api_gateway.query import check_known, find_single, parse_limit
from api_gateway.store.servers import ServerFilters
from api_gateway.visibility import is_server_id
from api_gateway.vm_state import LIVING_STATUSES
from compute_agent.contract.events import EVENT_TYPES

EVENT_TYPE_PATTERN = "^[a-z][a-z0-9_.]{0,254}$"
SERVER_EVENT_TYPES = frozenset(name for name in EVENT_TYPES if name.startswith("server."))
"""What happens to servers, as far as this release knows: types of a newer agent are found when they are named."""

_PARAMETERS = frozenset({"limit", "marker", "name", "status", "host", "project", "last_event_since", "last_event_type"})


@dataclass(frozen=True)
class ListQuery:
    """A page of servers."""

    limit: int
    marker: str | None
    filters: ServerFilters


def parse_list_query(query: dict[str, list[str]], identity: Identity, *, max_page: int) -> ListQuery:
    """:raises Fault: 400 for what cannot be read, 403 for a host without the right to see where servers are."""
    check_known(query, _PARAMETERS)
    marker, status, host = (find_single(query, name) for name in ("marker", "status", "host"))
    if marker is not None and not is_server_id(marker):
        raise bad_request(f"marker [{marker}] not found")
    if status is not None and status not in LIVING_STATUSES:
        raise bad_request(f"status must be one of: {', '.join(sorted(LIVING_STATUSES))}.")
    if host is not None:
        permit(identity, "os_compute_api:os-extended-server-attributes")
    filters: ServerFilters = {
        "name_pattern": find_single(query, "name"),
        "statuses": None if status is None else {status},
        "host": host,
        **_parse_events(query),
    }
    project = find_single(query, "project")
    if identity.is_admin:
        filters["project"] = project
    else:
        filters["project"] = identity.project
        if project not in (None, identity.project):
            filters["ids"] = ()  # what a caller cannot see does not exist for it
    return ListQuery(parse_limit(query, max_page), marker, filters)


def _parse_events(query: dict[str, list[str]]) -> ServerFilters:
    since = parse_time("last_event_since", find_single(query, "last_event_since"))
    event_type = find_single(query, "last_event_type")
    if event_type is not None and re.fullmatch(EVENT_TYPE_PATTERN, event_type) is None:
        raise bad_request(f"last_event_type must be the type of an event: {', '.join(sorted(SERVER_EVENT_TYPES))}.")
    if event_type is None and since is None:
        return {}
    return {"event_types": SERVER_EVENT_TYPES if event_type is None else {event_type}, "event_since": since}
