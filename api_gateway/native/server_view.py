"""A server as ``/v1`` shows it: the facts in force, and for admins where they come from."""

from typing import Any

from api_gateway.identity import Identity
from api_gateway.native.times import format_time
from api_gateway.policy import is_permitted
from api_gateway.store.servers import OVERLAY_FIELDS, ServerRow
from api_gateway.vm_state import get_status, get_vm_state

_TOLD_BY_HOSTS = tuple(name for name in OVERLAY_FIELDS if name != "task_state")


def view_listed(row: ServerRow, identity: Identity) -> dict[str, Any]:
    """One of a list: what it is, how it is, and its watchdog."""
    view = {
        "id": row.id,
        "name": row.name,
        "project": row.project,
        "status": get_status(row),
        "power_state": row.power_state,
        "state_reason": row.state_reason,
        "state_at": format_time(row.state_at),
    }
    return view | _view_watchdog(row, identity) | ({"host": row.host} if _sees_host(row, identity) else {})


def view_server(row: ServerRow, identity: Identity) -> dict[str, Any]:
    """What ``identity`` may know of it."""
    view = {
        "id": row.id,
        "name": row.name,
        "project": row.project,
        "user": row.user,
        "description": row.description,
        "status": get_status(row),
        "vm_state": get_vm_state(row),
        "task_state": row.task_state,
        "power_state": row.power_state,
        "state_reason": row.state_reason,
        "state_at": format_time(row.state_at),
        "vcpus": row.vcpus,
        "memory_mib": row.memory_mib,
        "flavor": row.flavor,
        "tags": list(row.tags),
        "locked": row.locked_by is not None,
        "locked_by": row.locked_by,
        "locked_reason": row.locked_reason,
        "foreign_owner": row.foreign_owner,
        "generation": row.generation,
        "conflict": row.conflict_host is not None,
        "missing_since": format_time(row.missing_since),
        "created_at": format_time(row.created_at),
        "started_at": format_time(row.started_at),
        "updated_at": format_time(row.updated_at),
    }
    view |= _view_watchdog(row, identity)
    if _sees_host(row, identity):
        view |= {"host": row.host, "instance_name": row.instance_name, "conflict_host": row.conflict_host}
    if is_permitted(identity, "crashcart:servers:update", row.project):
        told = {name: row.overlaid.get(name, getattr(row, name)) for name in _TOLD_BY_HOSTS}
        view |= {"overlay": row.overlay, "host_says": told | {"tags": list(told["tags"])}}
    return view


def _view_watchdog(row: ServerRow, identity: Identity) -> dict[str, Any]:
    """As its host told it; None: the host does not say, which is not the same as none."""
    return {"watchdog": row.watchdog} if is_permitted(identity, "crashcart:watchdog:show", row.project) else {}


def _sees_host(row: ServerRow, identity: Identity) -> bool:
    return is_permitted(identity, "os_compute_api:os-extended-server-attributes", row.project)
