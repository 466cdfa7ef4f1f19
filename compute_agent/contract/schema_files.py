"""The published schemas of notifications: for each event version a folder, in it a file for each type and one for the envelope.

They are files and not made of the models when somebody asks, because those of earlier versions, which hosts may still speak, have no
models any more. A test holds those of today's version equal to what the models say.
"""

import json
from functools import cache
from pathlib import Path
from typing import Any

SCHEMAS = Path(__file__).parent / "event-schemas"

ENVELOPE = "envelope"
"""The name of the schema of what all types travel in; no type of event is called so, for each of those has a dot."""


def build_schema_id(name: str, version: str) -> str:
    """``$id`` of a schema: it stays for good."""
    return f"urn:crashcart:notification:{version}:{name}"


@cache
def list_schema_versions() -> tuple[str, ...]:
    """The event versions that have schemas, oldest first."""
    return tuple(sorted((path.name for path in SCHEMAS.iterdir() if path.is_dir()), key=_split_version))


@cache
def read_schemas(version: str) -> dict[str, dict[str, Any]]:
    """All schemas of an event version by the name of the type, and ``ENVELOPE``; whoever changes one changes it for all.

    :raises KeyError: when there are none of that version.
    """
    if version not in list_schema_versions():
        raise KeyError(version)
    return {path.name.removesuffix(".json"): json.loads(path.read_text()) for path in sorted((SCHEMAS / version).glob("*.json"))}


def _split_version(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))
