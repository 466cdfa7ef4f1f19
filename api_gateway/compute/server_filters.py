"""The filters of server lists, one row each: since when, who may use it, what its value must be, and what it means in the store.

A filter by a fact that all our servers share (no image, no address, …) is honoured too: every server matches, or none. One that cannot be
honoured is refused; ignoring it would show servers that were not asked for.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from api_gateway.faults import bad_request
from api_gateway.microversion import Since
from api_gateway.query import parse_boolean
from api_gateway.store.patterns import search
from api_gateway.store.server_listing import ServerFilters
from api_gateway.vm_state import list_power_states
from compute_agent.contract.text import MOST_TAGS

_TEXT = {"type": "string"}
_PATTERN = {"type": "string", "format": "regex"}
_TIME = {"type": "string", "format": "date-time"}
_NUMBER = {"type": "string", "pattern": "^[0-9]{1,9}$"}


@dataclass
class Selection:
    """Which servers a request asks for, as far as it was read. ``nothing``: no server can match."""

    filters: ServerFilters = field(default_factory=lambda: ServerFilters())
    nothing: bool = False

    def narrow(self, name: str, value: Any) -> None:
        """:raises Fault: 400 when two parameters ask for different things of one field, which the store cannot combine."""
        filters: dict[str, Any] = self.filters  # type: ignore[assignment]
        if filters.setdefault(name, value) != value:
            raise bad_request("This gateway cannot combine two different filters by the same field.")


Apply = Callable[[Selection, Sequence[str]], None]
"""Narrows the selection to what the parameter's values, in their order, ask for."""


@dataclass(frozen=True)
class Filter:
    """One row. ``apply`` None: read elsewhere (``server_query``). ``open_since`` None: for admins only, of others it is left out."""

    apply: Apply | None
    value: dict[str, Any] = field(default_factory=lambda: _TEXT)
    since: Since = Since.FIRST
    open_since: Since | None = None


def _by(name: str) -> Apply:
    return lambda selection, values: selection.narrow(name, values[-1])


def _by_any(name: str) -> Apply:
    return lambda selection, values: selection.narrow(name, frozenset(values))


def _by_tags(name: str) -> Apply:
    def apply(selection: Selection, values: Sequence[str]) -> None:
        tags = frozenset(values[-1].split(","))
        if len(tags) > MOST_TAGS:  # no server has more, and a database's expressions have their limits
            raise bad_request(f"Servers can be filtered by {MOST_TAGS} tags at a time.")
        selection.narrow(name, tags)

    return apply


def _by_lock(selection: Selection, values: Sequence[str]) -> None:
    selection.narrow("locked", parse_boolean(values[-1]))


def _by_power_state(selection: Selection, values: Sequence[str]) -> None:
    selection.narrow("power_states", frozenset(list_power_states(int(value) for value in values)))


def _by_constant(constant: str | None) -> Apply:
    """All our servers have this value; None: none has any."""

    def apply(selection: Selection, values: Sequence[str]) -> None:
        if not search(values[-1], constant):
            selection.nothing = True

    return apply


def _by_equal_constant(selection: Selection, values: Sequence[str]) -> None:
    if values[-1]:
        selection.nothing = True


def _cannot(name: str) -> Apply:
    def refuse(_selection: Selection, _values: Sequence[str]) -> None:
        raise bad_request(f"This gateway cannot filter servers by '{name}'.")

    return refuse


def _invalid(name: str) -> Apply:
    def refuse(_selection: Selection, _values: Sequence[str]) -> None:
        raise bad_request(f"Invalid filter field: {name}.")

    return refuse


_ALL, _83 = Since.FIRST, Since.MORE_FILTERS

_UNSEARCHABLE: dict[str, Since | None] = {"created_at": _83, "flavor": _ALL, "launched_at": _83, "locked_by": None, "terminated_at": _83}
"""What the store cannot search, and since when everybody may try."""
_NEVER = frozenset({"block_device_mapping", "info_cache", "metadata", "pci_devices", "security_groups", "services", "system_metadata"})
"""What no Compute API searches, and says so."""

FILTERS: dict[str, Filter] = {
    # What identifies a server.
    "name": Filter(_by("name_pattern"), _PATTERN, open_since=_ALL),
    "display_name": Filter(_by("name_pattern"), _PATTERN),
    "hostname": Filter(_by("name_pattern"), _PATTERN),
    "description": Filter(_by("description_pattern"), _PATTERN),
    "display_description": Filter(_by("description_pattern"), _PATTERN),
    "uuid": Filter(_by_any("ids")),
    # Whose it is.
    "all_tenants": Filter(None, open_since=_ALL),
    "project_id": Filter(None),
    "tenant_id": Filter(None),
    "user_id": Filter(_by_any("users"), open_since=_83),
    # Where it is.
    "host": Filter(_by("host")),
    "node": Filter(_by("host"), _PATTERN),
    # How it is.
    "status": Filter(None, open_since=_ALL),
    "vm_state": Filter(_by_any("vm_states"), open_since=_83),
    "task_state": Filter(_by_any("task_states"), open_since=_83),
    "power_state": Filter(_by_power_state, _NUMBER, open_since=_83),
    "locked": Filter(_by_lock, since=Since.LOCKED_REASON, open_since=Since.LOCKED_REASON),
    "deleted": Filter(None),
    "soft_deleted": Filter(lambda _selection, _values: None),  # widens deleted=True by servers that we do not have
    # When it changed.
    "changes-since": Filter(None, _TIME, open_since=_ALL),
    "changes-before": Filter(None, _TIME, since=Since.CHANGES_BEFORE, open_since=Since.CHANGES_BEFORE),
    # How it is tagged.
    "tags": Filter(_by_tags("tags"), _TEXT, Since.TAGS, Since.TAGS),
    "tags-any": Filter(_by_tags("tags_any"), _TEXT, Since.TAGS, Since.TAGS),
    "not-tags": Filter(_by_tags("not_tags"), _TEXT, Since.TAGS, Since.TAGS),
    "not-tags-any": Filter(_by_tags("not_tags_any"), _TEXT, Since.TAGS, Since.TAGS),
    # What all our servers share.
    "image": Filter(_by_equal_constant, open_since=_ALL),
    "image_ref": Filter(_by_equal_constant),
    "ip": Filter(_by_constant(None), _PATTERN, open_since=_ALL),
    "ip6": Filter(_by_constant(None), _PATTERN, open_since=Since.IP6_FILTER),
    "reservation_id": Filter(_by_constant(""), _PATTERN, open_since=_ALL),
    "availability_zone": Filter(_by_constant(""), _PATTERN, open_since=_83),
    "config_drive": Filter(_by_constant(""), _PATTERN, open_since=_83),
    "key_name": Filter(_by_constant(None), _PATTERN, open_since=_83),
    "progress": Filter(_by_constant("0"), _PATTERN, open_since=_83),
    "access_ip_v4": Filter(_by_constant(None), _PATTERN),
    "access_ip_v6": Filter(_by_constant(None), _PATTERN),
    "auto_disk_config": Filter(_by_constant("0"), _PATTERN),
    "kernel_id": Filter(_by_constant(""), _PATTERN),
    "launch_index": Filter(_by_constant("0"), _PATTERN),
    "ramdisk_id": Filter(_by_constant(""), _PATTERN),
    "root_device_name": Filter(_by_constant(None), _PATTERN),
    **{name: Filter(_cannot(name), _PATTERN, open_since=open_since) for name, open_since in _UNSEARCHABLE.items()},
    **{name: Filter(_invalid(name)) for name in _NEVER},
}
SINGLE = frozenset({"changes-since", "changes-before"})
"""Filters that may come once only."""

KNOWN = frozenset({"limit", "marker", "sort_key", "sort_dir"}) | FILTERS.keys()
CANNOT = _UNSEARCHABLE.keys() | _NEVER
"""Parameters that are known and refused: not worth documenting."""
