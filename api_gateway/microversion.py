"""Compute API microversions: every one that changes something here, with its reason, and how a request asks for one.

A version that is not in the table changed parts of the Compute API that crashcart does not have (``microversion_others`` says which). The
last row is what we advertise: it promises every change up to it.
"""

import re
from enum import IntEnum

import falcon

from api_gateway.context import Request
from api_gateway.faults import Fault, bad_request


class Since(IntEnum):
    """The minor number N of 2.N that brought a change; a request is at least that when ``version >= Since.X``."""

    reason: str

    def __new__(cls, minor: int, reason: str) -> "Since":
        member = int.__new__(cls, minor)
        member._value_ = minor
        member.reason = reason
        return member

    FIRST = 1, "the first version: servers and instance actions"
    EXTENDED_ATTRIBUTES = 3, "admins see hostname, kernel, ramdisk, reservation, root device and user data"
    IP6_FILTER = 5, "everybody may filter servers by ip6 (ours have no addresses)"
    LOCKED = 9, "servers say whether they are locked"
    HOST_STATUS = 16, "admins see whether the agent of a server's host is up"
    TRIGGER_CRASH_DUMP = 17, "the action trigger_crash_dump"
    DESCRIPTION = 19, "servers have a description"
    DELETED_SERVERS_ACTIONS = 21, "actions of deleted servers can be read"
    TAGS = 26, "servers have tags and can be filtered by them"
    TWO_HEADERS = 27, "OpenStack-API-Version is sent beside the older header (we send both always)"
    STATUS_CHECKED = 38, "an unknown status in a server list's filter is refused"
    EMBEDDED_FLAVOR = 47, "the flavor is shown in full instead of linked"
    DIAGNOSTICS = 48, "diagnostics have one format for all drivers"
    EVENTS_FOR_ALL = 51, "everybody sees an action's events, without traceback"
    ACTION_PAGES = 58, "actions have updated_at, and come in pages with limit, marker and changes-since"
    EVENT_HOST = 62, "an action's events say where: hostId, for admins host"
    TRUSTED_CERTIFICATES = 63, "servers have trusted image certificates"
    CHANGES_BEFORE = 66, "servers and actions can be filtered by changes-before"
    PARTIAL_SERVERS = 69, "servers whose home cannot be asked are shown with status UNKNOWN"
    SERVER_GROUPS = 71, "a server, shown alone, has its server groups"
    LOCKED_REASON = 73, "a lock may have a reason, servers show it, and can be filtered and sorted by locked"
    STRICT_SERVER_QUERY = 75, "unknown query parameters of server lists are refused"
    MORE_FILTERS = 83, "everybody may filter servers by what everybody can see"
    EVENT_DETAILS = 84, "admins see why an event failed"
    HOSTNAME_FOR_ALL = 90, "everybody sees a server's hostname"
    PINNED_ZONE = 96, "servers say to which availability zone they are pinned"
    IMAGE_PROPERTIES = 98, "a server's image is shown with its properties (our servers have none)"
    SCHEDULER_HINTS = 100, "servers show their scheduler hints"


MIN_VERSION = "2.1"
_MAX_MINOR = max(Since).value
MAX_VERSION = f"2.{_MAX_MINOR}"

HEADER = "OpenStack-API-Version"
LEGACY_HEADER = "X-OpenStack-Nova-API-Version"
_SERVICE = "compute"
_VERSION = re.compile(r"([1-9]\d{0,8})\.(0|[1-9]\d{0,8})", re.ASCII)


def find_requested(header: str | None, legacy_header: str | None) -> str | None:
    """The version text that a request asks for, None for none. The new header wins; entries for other services are not ours."""
    found = None
    for entry in (header or "").split(","):
        service, _, version = entry.strip().partition(" ")
        if service.lower() == _SERVICE:
            found = version.strip()
    return found if found is not None else (legacy_header.strip() if legacy_header is not None else None)


class Microversions:
    """Puts the version in force into the context; requests outside ``/v2.1/`` have none.

    A version that cannot be read is refused without version headers, one that we do not have with headers that echo it.
    """

    def process_request(self, request: Request, _response: falcon.Response) -> None:
        path, context = request.path, request.context
        if path.startswith("/v2/"):
            context.legacy = True
        if not path.startswith("/v2.1/") or path == "/v2.1/":
            return
        wanted = find_requested(request.get_header(HEADER), request.get_header(LEGACY_HEADER))
        if wanted is None:
            wanted = MIN_VERSION
        elif wanted == "latest":
            wanted = MAX_VERSION
        match = _VERSION.fullmatch(wanted)
        if match is None:
            raise bad_request(f"API Version String {wanted} is of invalid format. Must be of format MajorNum.MinorNum.")
        context.version_headers = wanted
        major, minor = int(match[1]), int(match[2])
        if major != 2 or not Since.FIRST <= minor <= _MAX_MINOR:
            raise Fault(406, f"Version {wanted} is not supported by the API. Minimum is {MIN_VERSION} and maximum is {MAX_VERSION}.")
        context.version = minor

    def process_response(self, request: Request, response: falcon.Response, _resource: object, _succeeded: bool) -> None:
        version = request.context.version_headers
        if version is not None:
            response.set_header(HEADER, f"{_SERVICE} {version}")
            response.set_header(LEGACY_HEADER, version)
            response.set_header("Vary", f"{HEADER}, {LEGACY_HEADER}")
