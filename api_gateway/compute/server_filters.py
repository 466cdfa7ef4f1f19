"""The query parameters of server lists, by what becomes of them."""

PAGING = frozenset({"limit", "marker", "sort_key", "sort_dir"})
"""How many, from where, in which order."""
FOR_ALL = frozenset({"name", "status", "changes-since", "changes-before", "all_tenants", "locked"})
"""Filters that everybody may use."""
FOR_ADMINS = frozenset({"host", "node", "hypervisor_hostname", "project_id", "tenant_id", "deleted", "vm_state", "power_state"})
"""Filters that only an admin may use; of others they are left out."""
ABSENT_FOR_ALL = frozenset({"image", "flavor", "ip", "ip6", "reservation_id", "tags", "tags-any"})
"""Filters by a fact that no server of ours has: nothing matches."""
ABSENT_FOR_ADMINS = frozenset(
    {
        "access_ip_v4",
        "access_ip_v6",
        "availability_zone",
        "cell_name",
        "config_drive",
        "image_ref",
        "instance_type_id",
        "kernel_id",
        "key_name",
        "metadata",
        "progress",
        "ramdisk_id",
        "root_device_name",
        "soft_deleted",
        "system_metadata",
        "task_state",
        "terminated_at",
        "user_data",
    }
)
"""The same, for admins."""
EVERY_SERVER = frozenset({"not-tags", "not-tags-any"})
"""Filters that all servers pass, as none has tags."""
CANNOT = frozenset(
    {
        "auto_disk_config",
        "created_at",
        "description",
        "display_description",
        "display_name",
        "hostname",
        "launch_index",
        "launched_at",
        "updated_at",
        "user_id",
        "uuid",
    }
)
FOR_ALL_SINCE_83 = frozenset(
    {
        "availability_zone",
        "config_drive",
        "created_at",
        "key_name",
        "launched_at",
        "power_state",
        "progress",
        "task_state",
        "terminated_at",
        "user_id",
        "vm_state",
    }
)
"""Filters that we know and cannot honour; ignoring them would show servers that were not asked for."""
KNOWN = PAGING | FOR_ALL | FOR_ADMINS | ABSENT_FOR_ALL | ABSENT_FOR_ADMINS | EVERY_SERVER | CANNOT
