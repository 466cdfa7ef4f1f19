"""A server as the Compute API shows it: each field from its version on, for those who may see it, and none of our own.

Facts that nobody tells us (metadata, addresses, image, key) have the value that a server without them has. ``security_groups`` is left out,
which clients allow for. ``host_status`` is never ``MAINTENANCE``: nothing here takes a host out of service.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

from api_gateway.compute.links import link_flavor, link_server
from api_gateway.compute.times import format_microseconds, format_seconds
from api_gateway.context import Request
from api_gateway.microversion import Since
from api_gateway.policy import is_permitted
from api_gateway.store.agents import UP, Standing
from api_gateway.store.servers import ServerRow
from api_gateway.vm_state import get_power_number, get_status, get_vm_state

_STATUSES_WITH_PROGRESS = frozenset({"ACTIVE", "BUILD", "REBUILD", "RESIZE", "VERIFY_RESIZE", "MIGRATING"})
_STATUSES_WITH_FAULT = frozenset({"ERROR", "DELETED"})


@dataclass(frozen=True)
class Viewer:
    """What one request may see of servers; worked out once for all servers of an answer. ``alike``: the fields that all of them have with
    the same value, which belong to all requests and are never changed."""

    request: Request
    version: int
    sees_attributes: bool
    sees_host_status: bool
    alike: Mapping[str, Any]

    @classmethod
    def of(cls, request: Request) -> "Viewer":
        identity, version = request.context.identity, request.context.version
        sees_attributes = is_permitted(identity, "os_compute_api:os-extended-server-attributes")
        sees_host_status = version >= Since.HOST_STATUS and is_permitted(identity, "os_compute_api:servers:show:host_status")
        return cls(request, version, sees_attributes, sees_host_status, _list_alike(version, sees_attributes))


@cache
def _list_alike(version: int, sees_attributes: bool) -> Mapping[str, Any]:
    alike: dict[str, Any] = {
        "metadata": {},
        "addresses": {},
        "image": "",
        "accessIPv4": "",
        "accessIPv6": "",
        "config_drive": "",
        "key_name": None,
        "OS-DCF:diskConfig": "MANUAL",
        "OS-EXT-AZ:availability_zone": "",
        "os-extended-volumes:volumes_attached": [],
    }
    if sees_attributes and version >= Since.EXTENDED_ATTRIBUTES:
        alike |= {
            "OS-EXT-SRV-ATTR:kernel_id": "",
            "OS-EXT-SRV-ATTR:launch_index": 0,
            "OS-EXT-SRV-ATTR:ramdisk_id": "",
            "OS-EXT-SRV-ATTR:reservation_id": "",
            "OS-EXT-SRV-ATTR:root_device_name": None,
            "OS-EXT-SRV-ATTR:user_data": None,
        }
    if version >= Since.TRUSTED_CERTIFICATES:
        alike["trusted_image_certificates"] = None
    if version >= Since.PINNED_ZONE:
        alike["pinned_availability_zone"] = None
    if version >= Since.SCHEDULER_HINTS:
        alike["scheduler_hints"] = {}
    return alike


def view_brief(viewer: Viewer, server: ServerRow) -> dict[str, Any]:
    return {"id": server.id, "name": server.name, "links": link_server(viewer.request, server.id)}


def view_server(viewer: Viewer, server: ServerRow, agent: Standing | None, *, alone: bool) -> dict[str, Any]:
    """All fields of the version in force. ``alone``: shown by itself, which some fields are only then."""
    version, status = viewer.version, get_status(server)
    host = None if server.missing_since is not None else server.host
    view: dict[str, Any] = {
        **viewer.alike,
        "id": server.id,
        "name": server.name,
        "status": status,
        "tenant_id": server.project,
        "user_id": server.user or "",
        "created": format_seconds(server.created_at),
        "updated": format_seconds(server.updated_at),
        "hostId": hash_host(server.project, host),
        "links": link_server(viewer.request, server.id),
        "flavor": _view_flavor(viewer, server),
        "OS-EXT-STS:task_state": server.task_state,
        "OS-EXT-STS:vm_state": get_vm_state(server),
        "OS-EXT-STS:power_state": get_power_number(server),
        "OS-SRV-USG:launched_at": format_microseconds(server.created_at),
        "OS-SRV-USG:terminated_at": format_microseconds(server.deleted_at),
    }
    if status in _STATUSES_WITH_PROGRESS:
        view["progress"] = 0
    if status in _STATUSES_WITH_FAULT and server.vm_state == "error":
        view["fault"] = _view_fault(server)
    if viewer.sees_attributes:
        view["OS-EXT-SRV-ATTR:host"] = view["OS-EXT-SRV-ATTR:hypervisor_hostname"] = host
        view["OS-EXT-SRV-ATTR:instance_name"] = server.instance_name
    if version >= Since.HOSTNAME_FOR_ALL or (viewer.sees_attributes and version >= Since.EXTENDED_ATTRIBUTES):
        view["OS-EXT-SRV-ATTR:hostname"] = server.name
    if viewer.sees_host_status:
        view["host_status"] = "" if host is None else _get_host_status(agent)
    _add_later_fields(view, version, server, alone=alone)
    return view


@lru_cache(maxsize=4096)
def hash_host(project: str, host: str | None) -> str:
    """Where a server is, for those who must not know the name: equal for servers of one project on one host."""
    return "" if host is None else hashlib.sha224((project + host).encode()).hexdigest()


def _get_host_status(agent: Standing | None) -> str:
    """An agent that is up and cannot read its hypervisor knows as little of its servers as one that was never heard of."""
    if agent is None or (agent.state == UP and not agent.inventory_readable):
        return "UNKNOWN"
    return "UP" if agent.state == UP else "DOWN"


def _view_fault(server: ServerRow) -> dict[str, Any]:
    """Only an admin's word puts a server into error; what its host said of its state is all the reason there is."""
    said = f" Its host says: {server.state_reason}" if server.state_reason else ""
    return {"code": 500, "created": format_seconds(server.updated_at), "message": f"An administrator set this server to error.{said}"}


def _add_later_fields(view: dict[str, Any], version: int, server: ServerRow, *, alone: bool) -> None:
    """What later versions added for everybody, and differs between servers."""
    if version >= Since.LOCKED:
        view["locked"] = server.locked_by is not None
    if version >= Since.DESCRIPTION:
        view["description"] = server.description
    if version >= Since.TAGS:
        view["tags"] = list(server.tags)
    if version >= Since.SERVER_GROUPS and alone:
        view["server_groups"] = []
    if version >= Since.LOCKED_REASON:
        view["locked_reason"] = server.locked_reason


def _view_flavor(viewer: Viewer, server: ServerRow) -> dict[str, Any]:
    flavor = _find_flavor(server)
    name = flavor["name"]
    if viewer.version < Since.EMBEDDED_FLAVOR:
        return {"id": name, "links": link_flavor(viewer.request, name)}
    return {
        "vcpus": flavor.get("vcpus", 0),
        "ram": flavor.get("ram", 0),
        "disk": flavor.get("disk", 0),
        "ephemeral": flavor.get("ephemeral", 0),
        "swap": flavor.get("swap", 0),
        "original_name": name,
        "extra_specs": flavor.get("extra_specs", {}),
    }


def _find_flavor(server: ServerRow) -> dict[str, Any]:
    """What the server was ordered as; where nobody says so, a flavor made of what its host gives it."""
    if server.flavor is not None:
        return server.flavor
    vcpus, memory = server.vcpus or 0, server.memory_mib or 0
    return {"name": f"vcpus-{vcpus}-ram-{memory}", "vcpus": vcpus, "ram": memory}
