"""Which servers a list asks for: from query parameters to what the store understands.

A filter by a fact that no server of ours has (an image, a tag, …) is honoured: nothing has it, so nothing matches. One that we cannot
honour is refused; ignoring it would show servers that were not asked for.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from api_gateway.compute import server_filters
from api_gateway.compute.times import parse_query_time
from api_gateway.context import Request
from api_gateway.faults import Fault, bad_request
from api_gateway.identity import Identity
from api_gateway.microversion import Since
from api_gateway.policy import permit
from api_gateway.query import check_known, find_single, parse_boolean, parse_limit
from api_gateway.store import servers
from api_gateway.visibility import is_server_id
from api_gateway.vm_state import list_power_states

Query = dict[str, list[str]]


@dataclass
class ServerQuery:
    """A page of servers; ``filters`` are keyword arguments of the store's ``list_servers``. ``nothing``: no server can match."""

    limit: int
    nothing: bool = False
    filters: dict[str, Any] = field(default_factory=dict)


def parse_server_query(request: Request, query: Query, *, rule: str, max_page: int) -> ServerQuery:
    """Read and check all parameters.

    :param rule: the policy rule for the servers of all projects
    :raises Fault: 400 for what cannot be read, 403 for all projects without being allowed to.
    """
    version, identity = request.context.version, request.context.identity
    if version >= Since.STRICT_SERVER_QUERY:
        check_known(query, server_filters.KNOWN - ({"changes-before"} if version < Since.CHANGES_BEFORE else set()))
    _check_sorting(query)
    asked = ServerQuery(limit=parse_limit(query, max_page))
    asked.filters["marker"] = find_marker(query)
    allowed = {name: values for name, values in query.items() if _may_filter(identity, version, name)}
    for name in allowed:
        if name in server_filters.CANNOT:
            raise bad_request(f"This gateway cannot filter servers by '{name}'.")
    _add_project(asked, allowed, identity, rule)
    _add_time(asked, allowed, version)
    _add_names(asked, allowed)
    _add_states(asked, allowed)
    if "locked" in allowed and version >= Since.LOCKED_REASON and parse_boolean("locked", allowed["locked"][-1]):
        asked.nothing = True
    if any(
        value for name in allowed.keys() & (server_filters.ABSENT_FOR_ALL | server_filters.ABSENT_FOR_ADMINS) for value in allowed[name]
    ):
        asked.nothing = True
    return asked


def find_marker(query: Query) -> str | None:
    """:raises Fault: 400 when it cannot be a server's id."""
    marker = find_single(query, "marker")
    if marker is not None and not is_server_id(marker):
        raise no_such_marker(marker)
    return marker


def no_such_marker(marker: str | None) -> Fault:
    return bad_request(f"marker [{marker}] not found")


def _may_filter(identity: Identity, version: int, name: str) -> bool:
    """Filters that a caller may not use are left out, as in Nova."""
    if identity.is_admin or name in server_filters.FOR_ALL or name in server_filters.ABSENT_FOR_ALL:
        return True
    return version >= Since.MORE_FILTERS and name in server_filters.FOR_ALL_SINCE_83


def _check_sorting(query: Query) -> None:
    """The order is always newest first."""
    for name, only in (("sort_key", "created_at"), ("sort_dir", "desc")):
        for value in query.get(name, []):
            if value != only:
                raise bad_request(f"Invalid input for query parameters {name}. Value: {value}. Servers are listed by created_at desc only.")


def _add_project(asked: ServerQuery, query: Query, identity: Identity, rule: str) -> None:
    named = query.get("tenant_id") or query.get("project_id")
    wanted = named[-1] if named else None
    text = query.get("all_tenants", ["0"])[-1]
    everywhere = text == "" or parse_boolean("all_tenants", text)
    if everywhere or (wanted is not None and "tenant_id" in query and wanted != identity.project):
        permit(identity, rule)
        asked.filters["project"] = wanted
    else:
        asked.filters["project"] = identity.project


def _add_time(asked: ServerQuery, query: Query, version: int) -> None:
    since, before = find_single(query, "changes-since"), None
    if version >= Since.CHANGES_BEFORE:
        before = find_single(query, "changes-before")
    parsed_since, parsed_before = parse_range(since, before)
    asked.filters |= {"changes_since": parsed_since, "changes_before": parsed_before}
    asked.filters["deleted"] = None if since is not None or before is not None else False
    if "deleted" in query:
        asked.filters["deleted"] = parse_boolean("deleted", query["deleted"][-1])


def parse_range(since: str | None, before: str | None) -> tuple[datetime | None, datetime | None]:
    """``changes-since`` and ``changes-before``.

    :raises Fault: 400 when one cannot be read or they exclude each other.
    """
    parsed_since = None if since is None else parse_query_time("changes-since", since)
    parsed_before = None if before is None else parse_query_time("changes-before", before)
    if parsed_since is not None and parsed_before is not None and parsed_since > parsed_before:
        raise bad_request("The value of changes-since must be less than or equal to changes-before.")
    return parsed_since, parsed_before


def _add_names(asked: ServerQuery, query: Query) -> None:
    hosts = {query[name][-1] for name in ("host", "node", "hypervisor_hostname") if name in query}
    if len(hosts) > 1:
        asked.nothing = True
    elif hosts:
        asked.filters["host"] = hosts.pop()
    if "name" in query:
        pattern = query["name"][-1]
        try:
            servers.check_pattern(pattern)
        except servers.BadPattern as error:
            raise bad_request(f"Invalid input for query parameters name. Value: {pattern}. '{pattern}' is not a 'regex'") from error
        asked.filters["name_pattern"] = pattern


def _add_states(asked: ServerQuery, query: Query) -> None:
    if "status" in query:
        statuses = {status.upper() for status in query["status"]}
        if "DELETED" in statuses:
            asked.filters["deleted"] = True
        asked.filters["statuses"] = statuses
    if "vm_state" in query:
        asked.filters["vm_states"] = set(query["vm_state"])
    if "power_state" in query:
        asked.filters["power_states"] = list_power_states(_parse_numbers("power_state", query["power_state"]))


def _parse_numbers(name: str, texts: Iterable[str]) -> list[int]:
    numbers = []
    for text in texts:
        if not (text.isascii() and text.isdecimal() and len(text) <= 9):
            raise bad_request(f"Invalid input for query parameters {name}. Value: {text}. '{text}' does not match '^[0-9]+$'")
        numbers.append(int(text))
    return numbers
