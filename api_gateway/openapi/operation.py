"""What there is to say about one route: the form in which the operations of both APIs are written down."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Schema = dict[str, Any]
"""A JSON Schema (2020-12, as OpenAPI 3.1 has it), or another object of an OpenAPI document."""


JSON = "application/json"


@dataclass(frozen=True)
class Answer:
    """A success. ``schema`` None: the body is empty, or any bytes where ``media_type`` is not JSON. ``headers``: further ones, by name,
    each a schema of its value."""

    description: str
    schema: Schema | None = None
    headers: Mapping[str, Schema] = field(default_factory=dict)
    media_type: str = JSON


@dataclass(frozen=True)
class Operation:
    """One route.

    :param answers: the successes by status
    :param faults: the refusals that it has beyond those that every operation of its kind has
    :param parameters: beyond those of the path
    :param body: what the request's body must be; None: it has none
    :param is_open: answered without authentication
    :param needs_store: whether it is refused while the store is away
    """

    id: str
    tag: str
    summary: str
    answers: Mapping[int, Answer]
    faults: tuple[int, ...] = ()
    parameters: tuple[Schema, ...] = ()
    body: Schema | None = None
    is_open: bool = False
    needs_store: bool = True


Operations = Mapping[tuple[str, str], Operation]
"""By method and path."""


def describe_object(properties: Mapping[str, Schema], *, optional: tuple[str, ...] = ()) -> Schema:
    """An object with these fields and no others; all of them are there but the ``optional`` ones."""
    return {
        "type": "object",
        "properties": dict(properties),
        "required": [name for name in properties if name not in optional],
        "additionalProperties": False,
    }


def describe_list(items: Schema) -> Schema:
    return {"type": "array", "items": items}


def refer(name: str) -> Schema:
    """To a schema that the document has under this name."""
    return {"$ref": f"#/components/schemas/{name}"}


def or_null(schema: Schema) -> Schema:
    """The schema, or null."""
    return {"anyOf": [schema, {"type": "null"}]}
