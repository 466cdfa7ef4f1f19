"""By what servers can be sorted: a Compute API's sort keys and what they are in the store."""

from collections.abc import Sequence

from api_gateway.faults import bad_request, forbidden
from api_gateway.identity import Identity
from api_gateway.microversion import Since
from api_gateway.store.server_listing import Direction

_STORE_KEYS: dict[str, str | None] = {
    "created_at": "created_at",
    "display_description": "description",
    "display_name": "name",
    "host": "host",
    "hostname": "name",
    "launched_at": "created_at",
    "locked_by": "locked_by",
    "node": "host",
    "power_state": "power_state",
    "project_id": "project",
    "task_state": "task_state",
    "terminated_at": "deleted_at",
    "updated_at": "updated_at",
    "user_id": "user",
    "uuid": "id",
    "vm_state": "vm_state",
    **dict.fromkeys(
        (
            "access_ip_v4", "access_ip_v6", "auto_disk_config", "availability_zone", "config_drive", "image_ref", "kernel_id", "key_name",
            "launch_index", "progress", "ramdisk_id", "root_device_name",
        )
    ),
}  # fmt: skip
"""None: all our servers have the same value, so that this key orders nothing."""
_LOCKED = "locked"
_FOR_ADMINS = frozenset({"host", "node"})
_IGNORED = (
    "architecture", "cell_name", "cleaned", "default_ephemeral_device", "default_swap_device", "deleted", "deleted_at",
    "disable_terminate", "ephemeral_gb", "ephemeral_key_uuid", "id", "key_data", "launched_on", "memory_mb", "os_type", "reservation_id",
    "root_gb", "shutdown_terminate", "user_data", "vcpus", "vm_mode",
)  # fmt: skip
"""Keys that were never meant for clients: taken and ignored until queries became strict."""
_DEFAULT_KEY, _DEFAULT_DIRECTION = "created_at", "desc"

Order = list[tuple[str, Direction]]


def list_sort_keys(version: int) -> list[str]:
    """The sort keys that the version takes. Nova's ``instance_type_id`` is missing: our flavors have no number."""
    keys = [*_STORE_KEYS, _LOCKED]
    return sorted(keys if version >= Since.STRICT_SERVER_QUERY else [*keys, *_IGNORED])


def read_order(identity: Identity, version: int, keys: Sequence[str], directions: Sequence[str]) -> Order:
    """The order in the store's words; newest first unless asked otherwise. A key without a direction has that of the first one.

    :param keys: checked against :func:`list_sort_keys`
    :raises Fault: 400 for more directions than keys, 403 for a key that only admins may sort by.
    """
    keys, directions = list(keys or [_DEFAULT_KEY]), list(directions or [_DEFAULT_DIRECTION])
    if len(directions) > len(keys):
        raise bad_request("Invalid input received: Sort direction size exceeds sort key size")
    directions += [directions[0]] * (len(keys) - len(directions))
    order: Order = []
    for key, direction in zip(keys, directions, strict=True):
        if key in _FOR_ADMINS and not identity.is_admin:
            raise forbidden(f"Only administrators can sort servers by {key}")
        found = _find_store_key(key, version)
        if found is not None:
            order.append((found, "asc" if direction == "asc" else "desc"))
    return order or [(_DEFAULT_KEY, "asc" if directions[0] == "asc" else "desc")]


def _find_store_key(key: str, version: int) -> str | None:
    if key == _LOCKED:
        return _LOCKED if version >= Since.LOCKED_REASON else None
    return _STORE_KEYS.get(key)
