"""Hold bodies and queries against their schemas, and say what is wrong in the words that Compute API clients know."""

from collections.abc import Mapping
from typing import Any

from jsonschema import Draft4Validator, FormatChecker, ValidationError

from api_gateway.compute.schemas import Versions, find_schema
from api_gateway.compute.times import is_query_time
from api_gateway.faults import Fault, bad_request
from api_gateway.store.patterns import BadPattern, check_pattern

_LONGEST_QUOTE = 1024
"""A fault quotes what was sent; of a large body that much is enough."""

_LONGEST_REMEMBERED = 256
_MOST_REMEMBERED = 1024

_FORMATS = FormatChecker(formats=())


def _is_time(value: object) -> bool:
    return not isinstance(value, str) or is_query_time(value)


def _is_pattern(value: object) -> bool:
    if isinstance(value, str):
        check_pattern(value)
    return True


_FORMATS.checks("date-time")(_is_time)
_FORMATS.checks("regex", raises=BadPattern)(_is_pattern)


def check_body(versions: Versions, version: int, body: Any) -> None:
    """:raises Fault: 400 naming the field, its value and what it must be."""
    error = _find_error(versions, version, body)
    if error is not None:
        raise _describe(error, "field/attribute", error.path[-1] if error.path else None)


def check_query(versions: Versions, version: int, query: Mapping[str, list[str]]) -> None:
    """:raises Fault: 400 naming the parameter, its value and what it must be."""
    error = _find_error(versions, version, query)
    if error is not None:
        raise _describe(error, "query parameters", error.path[0] if error.path else None)


def _find_error(versions: Versions, version: int, instance: Any) -> ValidationError | None:
    schema = find_schema(versions, version)
    if schema is None:
        return None
    text = repr(instance)
    if (id(schema), text) in _FAULTLESS:
        return None
    validator = _VALIDATORS.get(id(schema))
    if validator is None:
        validator = _VALIDATORS[id(schema)] = Draft4Validator(schema, format_checker=_FORMATS)
    error = next(iter(validator.iter_errors(instance)), None)
    if error is None and len(text) <= _LONGEST_REMEMBERED:
        if len(_FAULTLESS) >= _MOST_REMEMBERED:
            _FAULTLESS.clear()
        _FAULTLESS.add((id(schema), text))
    return error


_VALIDATORS: dict[int, Draft4Validator] = {}
"""By the identity of their schemas, which are constants."""
_FAULTLESS: set[tuple[int, str]] = set()
"""What was found right, by schema and text: nearly all clients send the same few, and to look again would take a tenth of a request."""


def _describe(error: ValidationError, kind: str, name: object) -> Fault:
    message = _cut(error.message)
    if name is None:
        return bad_request(message)
    return bad_request(f"Invalid input for {kind} {name}. Value: {_cut(str(error.instance))}. {message}")


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST_QUOTE else f"{text[:_LONGEST_QUOTE]}…"
