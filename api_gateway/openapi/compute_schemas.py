"""What the Compute API's answers are at its maximum version. No field may be there that is not named: clients' own schemas forbid it."""

from api_gateway.microversion import MAX_VERSION, MIN_VERSION
from api_gateway.openapi.operation import Schema, describe_list, describe_object, or_null, refer
from api_gateway.openapi.words import BOOLEAN, COUNT, INTEGER, LINKS, NEXT_LINKS, NULL, NUMBER, REQUEST_ID, SERVER_ID, STRING, URI

_SECONDS: Schema = {"type": "string", "format": "date-time", "pattern": "^[0-9-]{10}T[0-9:]{8}Z$"}
_MICROSECONDS: Schema = {"type": "string", "pattern": r"^[0-9-]{10}T[0-9:]{8}\.[0-9]{6}$"}
"""UTC, without a zone."""
_HOST_ID: Schema = {"type": "string", "pattern": "^([0-9a-f]{56})?$"}
_EMPTY_OBJECT: Schema = {"type": "object", "maxProperties": 0}
_EMPTY_LIST: Schema = {"type": "array", "maxItems": 0}
_EMPTY_TEXT: Schema = {"const": ""}

_VERSION_FIELDS: dict[str, Schema] = {
    "id": {"enum": ["v2.0", "v2.1"]},
    "status": {"enum": ["CURRENT", "DEPRECATED"]},
    "version": {"enum": ["", MAX_VERSION]},
    "min_version": {"enum": ["", MIN_VERSION]},
    "updated": _SECONDS,
    "links": describe_list(describe_object({"rel": STRING, "type": STRING, "href": URI}, optional=("type",))),
}

_FLAVOR = describe_object(
    {
        "vcpus": COUNT,
        "ram": COUNT,
        "disk": COUNT,
        "ephemeral": COUNT,
        "swap": COUNT,
        "original_name": STRING,
        "extra_specs": {"type": "object", "additionalProperties": STRING},
    }
)

_FAULT = describe_object({"code": INTEGER, "created": _SECONDS, "message": STRING, "details": STRING}, optional=("details",))

_SERVER_FOR_ADMINS: dict[str, Schema] = {
    "OS-EXT-SRV-ATTR:host": or_null(STRING),
    "OS-EXT-SRV-ATTR:hypervisor_hostname": or_null(STRING),
    "OS-EXT-SRV-ATTR:instance_name": or_null(STRING),
    "OS-EXT-SRV-ATTR:kernel_id": STRING,
    "OS-EXT-SRV-ATTR:launch_index": COUNT,
    "OS-EXT-SRV-ATTR:ramdisk_id": STRING,
    "OS-EXT-SRV-ATTR:reservation_id": STRING,
    "OS-EXT-SRV-ATTR:root_device_name": or_null(STRING),
    "OS-EXT-SRV-ATTR:user_data": or_null(STRING),
    "host_status": {"enum": ["UP", "DOWN", "UNKNOWN", "MAINTENANCE", ""]},
}

_SERVER_FOR_ALL: dict[str, Schema] = {
    "id": SERVER_ID,
    "name": STRING,
    "status": STRING,
    "tenant_id": STRING,
    "user_id": STRING,
    "created": _SECONDS,
    "updated": _SECONDS,
    "hostId": _HOST_ID,
    "metadata": _EMPTY_OBJECT,
    "addresses": _EMPTY_OBJECT,
    "links": LINKS,
    "flavor": _FLAVOR,
    "image": _EMPTY_TEXT,
    "accessIPv4": _EMPTY_TEXT,
    "accessIPv6": _EMPTY_TEXT,
    "config_drive": STRING,
    "key_name": NULL,
    "OS-DCF:diskConfig": {"enum": ["AUTO", "MANUAL"]},
    "OS-EXT-AZ:availability_zone": STRING,
    "OS-EXT-STS:task_state": or_null(STRING),
    "OS-EXT-STS:vm_state": STRING,
    "OS-EXT-STS:power_state": {"enum": [0, 1, 3, 4, 6, 7]},
    "OS-SRV-USG:launched_at": or_null(_MICROSECONDS),
    "OS-SRV-USG:terminated_at": or_null(_MICROSECONDS),
    "os-extended-volumes:volumes_attached": _EMPTY_LIST,
    "progress": COUNT,
    "fault": _FAULT,
    "locked": BOOLEAN,
    "locked_reason": or_null(STRING),
    "description": or_null(STRING),
    "tags": describe_list(STRING),
    "trusted_image_certificates": NULL,
    "OS-EXT-SRV-ATTR:hostname": STRING,
    "pinned_availability_zone": or_null(STRING),
    "scheduler_hints": _EMPTY_OBJECT,
}

_SOMETIMES = ("progress", "fault", *_SERVER_FOR_ADMINS)
"""``progress`` and ``fault`` are there in some states only, the others for admins only."""

_EVENT = describe_object(
    {
        "event": STRING,
        "start_time": _MICROSECONDS,
        "finish_time": or_null(_MICROSECONDS),
        "result": {"enum": [None, "Success", "Error"]},
        "traceback": NULL,
        "hostId": _HOST_ID,
        "host": STRING,
        "details": or_null(STRING),
    },
    optional=("traceback", "host", "details"),
)

_INSTANCE_ACTION: dict[str, Schema] = {
    "action": STRING,
    "instance_uuid": SERVER_ID,
    "request_id": REQUEST_ID,
    "user_id": STRING,
    "project_id": STRING,
    "start_time": _MICROSECONDS,
    "message": {"enum": [None, "Error"]},
    "updated_at": _MICROSECONDS,
}

_KNOWN_NUMBER = or_null(NUMBER)

DIAGNOSTICS = describe_object(
    {
        "state": {"enum": ["pending", "running", "paused", "shutdown", "crashed", "suspended"]},
        "driver": {"enum": ["libvirt", "vmwareapi", "ironic", "xenapi"]},
        "hypervisor": or_null(STRING),
        "hypervisor_os": or_null(STRING),
        "uptime": or_null(COUNT),
        "config_drive": BOOLEAN,
        "num_cpus": COUNT,
        "num_nics": COUNT,
        "num_disks": COUNT,
        "memory_details": describe_object({"maximum": or_null(COUNT), "used": or_null(COUNT)}),
        "cpu_details": describe_list(describe_object({"id": or_null(COUNT), "time": or_null(COUNT), "utilisation": _KNOWN_NUMBER})),
        "nic_details": describe_list(
            describe_object(
                {
                    "mac_address": or_null(STRING),
                    **{f"{way}_{what}": or_null(COUNT) for way in ("rx", "tx") for what in ("octets", "errors", "drop", "packets", "rate")},
                }
            )
        ),
        "disk_details": describe_list(
            describe_object(
                {name: or_null(INTEGER) for name in ("read_bytes", "read_requests", "write_bytes", "write_requests", "errors_count")}
            )
        ),
    }
)

COMPUTE_SCHEMAS: dict[str, Schema] = {
    "Versions": describe_object({"versions": describe_list(describe_object(_VERSION_FIELDS))}),
    "Version": describe_object(
        {"version": describe_object({**_VERSION_FIELDS, "media-types": describe_list(describe_object({"base": STRING, "type": STRING}))})}
    ),
    "BriefServer": describe_object({"id": SERVER_ID, "name": STRING, "links": LINKS}),
    "BriefServers": describe_object(
        {"servers": describe_list(refer("BriefServer")), "servers_links": NEXT_LINKS}, optional=("servers_links",)
    ),
    "ListedServer": describe_object({**_SERVER_FOR_ALL, **_SERVER_FOR_ADMINS}, optional=_SOMETIMES),
    "Servers": describe_object({"servers": describe_list(refer("ListedServer")), "servers_links": NEXT_LINKS}, optional=("servers_links",)),
    "ShownServer": describe_object(
        {"server": describe_object({**_SERVER_FOR_ALL, "server_groups": _EMPTY_LIST, **_SERVER_FOR_ADMINS}, optional=_SOMETIMES)}
    ),
    "InstanceActions": describe_object(
        {"instanceActions": describe_list(describe_object(_INSTANCE_ACTION)), "links": NEXT_LINKS}, optional=("links",)
    ),
    "InstanceAction": describe_object({"instanceAction": describe_object({**_INSTANCE_ACTION, "events": describe_list(_EVENT)})}),
    "Diagnostics": DIAGNOSTICS,
}
"""By the name that the document gives them."""
