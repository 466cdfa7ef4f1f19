"""What request bodies and queries must be, for each version, as data: JSON Schemas that requests are checked with and documentation is made
of.

A table's row holds from its version on until the next row's. ``None`` there means that the query is not looked at.
"""

from collections.abc import Mapping
from typing import Any

from api_gateway.compute.server_filters import FILTERS, SINGLE
from api_gateway.compute.server_sorting import list_sort_keys
from api_gateway.microversion import Since

Schema = dict[str, Any]
Versions = tuple[tuple[Since, Schema | None], ...]

MAX_REASON_LENGTH = 255
_MOST_VALUES = 1000
"""Of one query parameter; a database takes so many in one question, not any number."""


def _action(name: str, argument: Schema) -> Schema:
    return {"type": "object", "properties": {name: argument}, "required": [name], "additionalProperties": False}


_LOCK_WITH_REASON: Schema = {
    "type": ["object", "null"],
    "properties": {"locked_reason": {"type": "string", "minLength": 1, "maxLength": MAX_REASON_LENGTH}},
    "additionalProperties": False,
}

ACTION_BODIES: Mapping[str, Versions] = {
    "trigger_crash_dump": ((Since.TRIGGER_CRASH_DUMP, _action("trigger_crash_dump", {"type": "null"})),),
    "lock": (
        (Since.FIRST, _action("lock", {})),  # anything: clients of then sent null, "" or {}
        (Since.LOCKED_REASON, _action("lock", _LOCK_WITH_REASON)),
    ),
    "unlock": ((Since.FIRST, _action("unlock", {})),),
}
"""The body of ``POST /servers/{id}/action`` by its one key."""


def _parameter(item: Schema, *, single: bool) -> Schema:
    """A query parameter is a list: it may come more than once."""
    return {"type": "array", "items": item, "maxItems": 1 if single else _MOST_VALUES}


_TEXT: Schema = {"type": "string"}
_LIMIT: Schema = {"type": "string", "pattern": "^[0-9]*$", "minLength": 1}
_TIME: Schema = {"type": "string", "format": "date-time"}


def _server_query(since: Since) -> Schema:
    properties = {
        "limit": _parameter(_LIMIT, single=True),
        "marker": _parameter(_TEXT, single=True),
        "sort_key": _parameter({"type": "string", "enum": list_sort_keys(since)}, single=False),
        "sort_dir": _parameter({"type": "string", "enum": ["asc", "desc"]}, single=False),
    }
    for name, row in FILTERS.items():
        if row.since <= since:
            properties[name] = _parameter(row.value, single=name in SINGLE)
    return {"type": "object", "properties": properties, "additionalProperties": since < Since.STRICT_SERVER_QUERY}


SERVER_LIST_QUERY: Versions = tuple(
    (since, _server_query(since))
    for since in (Since.FIRST, Since.TAGS, Since.CHANGES_BEFORE, Since.LOCKED_REASON, Since.STRICT_SERVER_QUERY)
)
"""Until it became strict an unknown parameter is ignored; so is a filter before its version."""


def _action_query(*times: str) -> Schema:
    properties = {"limit": _LIMIT, "marker": _TEXT, **dict.fromkeys(times, _TIME)}
    return {
        "type": "object",
        "properties": {name: _parameter(item, single=True) for name, item in properties.items()},
        "additionalProperties": False,
    }


ACTION_LIST_QUERY: Versions = (
    (Since.FIRST, None),
    (Since.ACTION_PAGES, _action_query("changes-since")),
    (Since.CHANGES_BEFORE, _action_query("changes-since", "changes-before")),
)


def find_schema(versions: Versions, version: int) -> Schema | None:
    """The schema in force at 2.``version``; None: there is none yet, or nothing is looked at."""
    found = None
    for since, schema in versions:
        if version >= since:
            found = schema
    return found
