"""``GET /servers/{id}/os-instance-actions`` and ``…/{request_id}``: our actions as today's clients read them.

The event ``compute_trigger_crash_dump`` says whether the NMI was delivered, a second one, ``guest_observation``, what the guest did.
"""

from datetime import datetime
from typing import Any

import falcon

from api_gateway.answers import answer_json
from api_gateway.compute.schemas import ACTION_LIST_QUERY
from api_gateway.compute.server_query import parse_range
from api_gateway.compute.server_view import hash_host
from api_gateway.compute.times import format_microseconds
from api_gateway.compute.validation import check_query
from api_gateway.context import Request
from api_gateway.faults import bad_request, not_found
from api_gateway.gateway import Gateway
from api_gateway.microversion import Since
from api_gateway.policy import is_permitted, permit
from api_gateway.query import find_single, link_next, parse_limit, read_query
from api_gateway.request_ids import is_request_id
from api_gateway.store import Connection, actions
from api_gateway.store.actions import ActionRow, ActionSummary
from api_gateway.store.servers import ServerRow
from api_gateway.visibility import get_visible_server
from compute_agent.contract.errors import Ending
from compute_agent.contract.models import Observation

OBSERVATION_EVENT = "guest_observation"
_NOTHING_HAPPENED = frozenset({Observation.NOTHING_SEEN, Observation.NOT_OBSERVED})
_API_KINDS = frozenset({"lock", "unlock"})
"""Done by the gateway itself; whatever else there is, a host does."""


def list_instance_actions(gateway: Gateway, request: Request, response: falcon.Response, server_id: str) -> None:
    version = request.context.version
    query = read_query(request) if version >= Since.ACTION_PAGES else {}
    check_query(ACTION_LIST_QUERY, version, query)
    limit, marker = parse_limit(query, gateway.settings.max_page), find_single(query, "marker")
    since, before = parse_range(find_single(query, "changes-since"), find_single(query, "changes-before"))
    with gateway.store.read() as c:
        server = _get_server(c, request, server_id)
        permit(request.context.identity, "os_compute_api:os-instance-actions:list", server.project)
        try:
            rows = actions.summarize_actions_of_server(c, server.id, actions.Page(limit, marker, since, before))
        except LookupError as error:
            raise bad_request(f"Marker {marker} could not be found.") from error
    body: dict[str, Any] = {"instanceActions": [_view_action(row, version) for row in rows]}
    if version >= Since.ACTION_PAGES and rows and len(rows) == limit:
        body["links"] = link_next(request, query, rows[-1].id)
    answer_json(response, body)


def show_instance_action(gateway: Gateway, request: Request, response: falcon.Response, server_id: str, request_id: str) -> None:
    version, identity = request.context.version, request.context.identity
    with gateway.store.read() as c:
        server = _get_server(c, request, server_id)
        permit(identity, "os_compute_api:os-instance-actions:show", server.project)
        row = actions.find_action(c, request_id) if is_request_id(request_id) else None
    if row is None or row.server != server.id:
        raise not_found(f"Action {request_id} not found")
    view = _view_action(row, version)
    sees_all = is_permitted(identity, "os_compute_api:os-instance-actions:events")
    if version >= Since.EVENTS_FOR_ALL or sees_all:
        details = version >= Since.EVENT_DETAILS and is_permitted(identity, "os_compute_api:os-instance-actions:events:details")
        view["events"] = [_show_event(event, row, server, version, sees_all=sees_all, details=details) for event in _list_events(row)]
    answer_json(response, {"instanceAction": view})


def _get_server(c: Connection, request: Request, server_id: str) -> ServerRow:
    deleted = request.context.version >= Since.DELETED_SERVERS_ACTIONS
    return get_visible_server(c, request.context.identity, server_id, include_deleted=deleted)


def _view_action(row: ActionRow | ActionSummary, version: int) -> dict[str, Any]:
    view: dict[str, Any] = {
        "action": row.kind,
        "instance_uuid": row.server,
        "request_id": row.id,
        "user_id": row.user or "",
        "project_id": row.project or "",
        "start_time": format_microseconds(row.accepted_at),
        "message": "Error" if "Error" in (_find_result(row), _find_result_of_observation(row)) else None,
    }
    if version >= Since.ACTION_PAGES:
        view["updated_at"] = format_microseconds(row.updated_at)
    return view


def _list_events(row: ActionRow) -> list[dict[str, Any]]:
    """Newest first, as the Compute API orders them; empty until the host has picked the action up or it has ended without."""
    events: list[dict[str, Any]] = []
    begun = _find_begun(row)
    if begun is not None:
        details = None if row.ending is None else f"{row.code}: {row.reason}"
        name = f"{'api' if row.kind in _API_KINDS else 'compute'}_{row.kind}"
        events.append(_make_event(name, begun, row.ended_at, _find_result(row), details))
    if row.observation is not None and begun is not None:
        finished = row.observed_at if row.observation_final else None
        details = f"{row.observation}: {row.observation_text}"
        events.append(_make_event(OBSERVATION_EVENT, row.signalled_at or begun, finished, _find_result_of_observation(row), details))
    return events[::-1]


def _find_begun(row: ActionRow | ActionSummary) -> datetime | None:
    return row.received_at or (row.accepted_at if row.ended_at is not None else None)


def _find_result(row: ActionRow | ActionSummary) -> str | None:
    if row.ending is None or _find_begun(row) is None:
        return None
    return "Success" if row.ending == Ending.SUCCEEDED else "Error"


def _find_result_of_observation(row: ActionRow | ActionSummary) -> str | None:
    if row.observation is None or not row.observation_final or _find_begun(row) is None:
        return None
    return "Error" if row.observation in _NOTHING_HAPPENED else "Success"


def _make_event(name: str, begun: Any, finished: Any, result: str | None, details: str | None) -> dict[str, Any]:
    return {
        "event": name,
        "start_time": format_microseconds(begun),
        "finish_time": format_microseconds(finished),
        "result": result,
        "details": details,
    }


def _show_event(event: dict[str, Any], row: ActionRow, server: ServerRow, version: int, *, sees_all: bool, details: bool) -> dict[str, Any]:
    """The fields of one event that the version has and the caller may see."""
    shown = {name: event[name] for name in ("event", "start_time", "finish_time", "result")}
    if sees_all:
        shown["traceback"] = None
    if version >= Since.EVENT_HOST:
        shown["hostId"] = hash_host(server.project, row.host)
        if sees_all:
            shown["host"] = row.host
    if details:
        shown["details"] = event["details"]
    return shown
