"""Which servers a list asks for: from query parameters to what the store understands."""

from dataclasses import dataclass, field
from datetime import datetime

from api_gateway.compute.schemas import SERVER_LIST_QUERY
from api_gateway.compute.server_filters import FILTERS, Filter, Selection
from api_gateway.compute.server_sorting import Order, read_order
from api_gateway.compute.times import read_query_time
from api_gateway.compute.validation import check_query
from api_gateway.context import Request
from api_gateway.faults import Fault, bad_request, forbidden
from api_gateway.identity import Identity
from api_gateway.microversion import Since
from api_gateway.policy import permit
from api_gateway.query import find_single, parse_boolean, parse_lenient_boolean, parse_limit
from api_gateway.visibility import is_server_id
from api_gateway.vm_state import LIVING_STATUSES

Query = dict[str, list[str]]

_DELETED = "DELETED"
_KNOWN_STATUSES = LIVING_STATUSES | {_DELETED}


@dataclass
class ServerQuery:
    """A page of servers."""

    limit: int
    marker: str | None
    order: Order
    selection: Selection = field(default_factory=Selection)


def parse_server_query(request: Request, query: Query, *, rule: str, max_page: int) -> ServerQuery:
    """Read and check all parameters. Filters before their version and those that the caller may not use are left out, as in Nova.

    :param rule: the policy rule for the servers of all projects
    :raises Fault: 400 for what cannot be read, 403 for all projects without being allowed to.
    """
    version, identity = request.context.version, request.context.identity
    check_query(SERVER_LIST_QUERY, version, query)
    asked = ServerQuery(
        limit=parse_limit(query, max_page),
        marker=_find_marker(query),
        order=read_order(identity, version, query.get("sort_key", []), query.get("sort_dir", [])),
    )
    allowed = {name: values for name, values in query.items() if name in FILTERS and _may_use(identity, version, FILTERS[name])}
    for name in query:
        if name.startswith("_") and identity.is_admin:
            raise bad_request(f"Invalid filter field: {name}.")
    selection = asked.selection
    _select_project(selection, allowed, identity, rule)
    _select_time(selection, allowed)
    _select_status(selection, allowed, identity, version)
    for name, values in allowed.items():
        apply = FILTERS[name].apply
        if apply is not None:
            apply(selection, values)
    return asked


def no_such_marker(marker: str | None) -> Fault:
    return bad_request(f"marker [{marker}] not found")


def parse_range(since: str | None, before: str | None) -> tuple[datetime | None, datetime | None]:
    """``changes-since`` and ``changes-before``, which were held against their schema.

    :raises Fault: 400 when they exclude each other.
    """
    parsed_since = None if since is None else read_query_time(since)
    parsed_before = None if before is None else read_query_time(before)
    if parsed_since is not None and parsed_before is not None and parsed_since > parsed_before:
        raise bad_request("The value of changes-since must be less than or equal to changes-before.")
    return parsed_since, parsed_before


def _find_marker(query: Query) -> str | None:
    """:raises Fault: 400 when it cannot be a server's id."""
    marker = find_single(query, "marker")
    if marker is not None and not is_server_id(marker):
        raise no_such_marker(marker)
    return marker


def _may_use(identity: Identity, version: int, row: Filter) -> bool:
    if version < row.since:
        return False
    return identity.is_admin or (row.open_since is not None and version >= row.open_since)


def _select_project(selection: Selection, query: Query, identity: Identity, rule: str) -> None:
    """``tenant_id`` alone asks for another project's servers, ``project_id`` only together with ``all_tenants``."""
    named = query.get("tenant_id") or query.get("project_id")
    wanted = named[-1] if named else None
    if "all_tenants" in query:
        text = query["all_tenants"][-1]
        everywhere = text == "" or parse_boolean(text)
    else:
        everywhere = "tenant_id" in query and wanted != identity.project
    if everywhere:
        permit(identity, rule)
    selection.filters["project"] = wanted if everywhere else identity.project


def _select_time(selection: Selection, query: Query) -> None:
    since, before = find_single(query, "changes-since"), find_single(query, "changes-before")
    parsed_since, parsed_before = parse_range(since, before)
    selection.filters["changes_since"] = parsed_since
    selection.filters["changes_before"] = parsed_before
    if "deleted" in query:
        selection.filters["deleted"] = parse_lenient_boolean(query["deleted"][-1])
    else:
        selection.filters["deleted"] = None if since is not None or before is not None else False


def _select_status(selection: Selection, query: Query, identity: Identity, version: int) -> None:
    if "status" not in query:
        return
    statuses = {status.upper() for status in query["status"]}
    if not statuses & _KNOWN_STATUSES:
        if version >= Since.STATUS_CHECKED:
            raise bad_request("Invalid status value")
        selection.nothing = True
    if statuses == {_DELETED}:
        if not identity.is_admin:
            raise forbidden("Only administrators may list deleted instances")
        selection.filters["deleted"] = True
    selection.filters["statuses"] = statuses & _KNOWN_STATUSES
