"""A server as the Compute API shows it: each field from its version on, for those who may see it, and none of our own.

Facts that nobody tells us (metadata, addresses, image, key) have the value that a server without them has. ``security_groups`` is left out,
which clients allow for. ``host_status`` is never ``MAINTENANCE``: nothing here takes a host out of service.
"""

import hashlib
from dataclasses import dataclass
from functools import lru_cache
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
    """What one request may see of servers; worked out once for all servers of an answer."""

    request: Request
    version: int
    sees_attributes: bool
    sees_host_status: bool

    @classmethod
    def of(cls, request: Request) -> "Viewer":
        identity = request.context.identity
        return cls(
            request,
            request.context.version,
            is_permitted(identity, "os_compute_api:os-extended-server-attributes"),
            request.context.version >= Since.HOST_STATUS and is_permitted(identity, "os_compute_api:servers:show:host_status"),
        )


def view_brief(viewer: Viewer, server: ServerRow) -> dict[str, Any]:
    return {"id": server.id, "name": server.name, "links": link_server(viewer.request, server.id)}


def view_server(viewer: Viewer, server: ServerRow, agent: Standing | None, *, alone: bool) -> dict[str, Any]:
    """All fields of the version in force. ``alone``: shown by itself, which some fields are only then."""
    version, status = viewer.version, get_status(server)
    host = None if server.missing_since is not None else server.host
    view: dict[str, Any] = {
        "id": server.id,
        "name": server.name,
        "status": status,
        "tenant_id": server.project,
        "user_id": server.user or "",
        "created": format_seconds(server.created_at),
        "updated": format_seconds(server.updated_at),
        "hostId": hash_host(server.project, host),
        "metadata": {},
        "addresses": {},
        "links": link_server(viewer.request, server.id),
        "flavor": _view_flavor(viewer, server),
        "image": "",
        "accessIPv4": "",
        "accessIPv6": "",
        "config_drive": "",
        "key_name": None,
        "OS-DCF:diskConfig": "MANUAL",
        "OS-EXT-AZ:availability_zone": "",
        "OS-EXT-STS:task_state": server.task_state,
        "OS-EXT-STS:vm_state": get_vm_state(server),
        "OS-EXT-STS:power_state": get_power_number(server),
        "OS-SRV-USG:launched_at": format_microseconds(server.created_at),
        "OS-SRV-USG:terminated_at": format_microseconds(server.deleted_at),
        "os-extended-volumes:volumes_attached": [],
    }
    if status in _STATUSES_WITH_PROGRESS:
        view["progress"] = 0
    if status in _STATUSES_WITH_FAULT and server.vm_state == "error":
        view["fault"] = _view_fault(server)
    if viewer.sees_attributes:
        view |= _view_attributes(version, server, host)
    if viewer.sees_host_status:
        view["host_status"] = "" if host is None else _get_host_status(agent)
    return view | _view_additions(version, server, alone=alone)


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


def _view_attributes(version: int, server: ServerRow, host: str | None) -> dict[str, Any]:
    view: dict[str, Any] = {
        "OS-EXT-SRV-ATTR:host": host,
        "OS-EXT-SRV-ATTR:hypervisor_hostname": host,
        "OS-EXT-SRV-ATTR:instance_name": server.instance_name,
    }
    if version >= Since.EXTENDED_ATTRIBUTES:
        view |= {
            "OS-EXT-SRV-ATTR:hostname": server.name,
            "OS-EXT-SRV-ATTR:kernel_id": "",
            "OS-EXT-SRV-ATTR:launch_index": 0,
            "OS-EXT-SRV-ATTR:ramdisk_id": "",
            "OS-EXT-SRV-ATTR:reservation_id": "",
            "OS-EXT-SRV-ATTR:root_device_name": None,
            "OS-EXT-SRV-ATTR:user_data": None,
        }
    return view


def _view_additions(version: int, server: ServerRow, *, alone: bool) -> dict[str, Any]:
    """What later versions added for everybody."""
    added: dict[str, Any] = {}
    if version >= Since.LOCKED:
        added["locked"] = server.locked_by is not None
    if version >= Since.DESCRIPTION:
        added["description"] = server.description
    if version >= Since.TAGS:
        added["tags"] = list(server.tags)
    if version >= Since.TRUSTED_CERTIFICATES:
        added["trusted_image_certificates"] = None
    if version >= Since.SERVER_GROUPS and alone:
        added["server_groups"] = []
    if version >= Since.LOCKED_REASON:
        added["locked_reason"] = server.locked_reason
    if version >= Since.HOSTNAME_FOR_ALL:
        added["OS-EXT-SRV-ATTR:hostname"] = server.name
    if version >= Since.PINNED_ZONE:
        added["pinned_availability_zone"] = None
    if version >= Since.SCHEDULER_HINTS:
        added["scheduler_hints"] = {}
    return added


def _view_flavor(viewer: Viewer, server: ServerRow) -> dict[str, Any]:
    flavor = _find_flavor(server)
    name = flavor["name"]
    if viewer.version < Since.EMBEDDED_FLAVOR:
        return {"id": name, "links": link_flavor(viewer.request, name)}
    amounts = {amount: flavor.get(amount, 0) for amount in ("vcpus", "ram", "disk", "ephemeral", "swap")}
    return {**amounts, "original_name": name, "extra_specs": flavor.get("extra_specs", {})}


def _find_flavor(server: ServerRow) -> dict[str, Any]:
    """What the server was ordered as; where nobody says so, a flavor made of what its host gives it."""
    if server.flavor is not None:
        return server.flavor
    vcpus, memory = server.vcpus or 0, server.memory_mib or 0
    return {"name": f"vcpus-{vcpus}-ram-{memory}", "vcpus": vcpus, "ram": memory}
