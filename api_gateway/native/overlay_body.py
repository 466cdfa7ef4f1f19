"""The body of ``PATCH /v1/servers/{id}``: any of the fields that an overlay may cover, null to take one back."""

import re
from collections.abc import Callable
from typing import Any

from api_gateway.faults import bad_request
from api_gateway.vm_state import VM_STATES
from compute_agent.contract.text import LONGEST_LINE, LONGEST_TAG, MOST_TAGS

# Control characters, line breaks of every kind, and those that turn the direction of the text around them.
_NEVER = r"\u0000-\u001f\u007f-\u009f\u200e\u200f\u2028-\u202e\u2066-\u2069"
LINE_PATTERN = rf"^[^\u0020\u00a0{_NEVER}]([^{_NEVER}]*[^\u0020\u00a0{_NEVER}])?$"
TAG_PATTERN = LINE_PATTERN.replace(_NEVER, f"/,{_NEVER}")
TASK_STATE_PATTERN = "^[a-z][a-z0-9_-]{0,63}$"
LARGEST_AMOUNT = 2**31 - 1
MOST_EXTRA_SPECS = 128
_FLAVOR_AMOUNTS = {"vcpus": None, "ram": None, "disk": 0, "ephemeral": 0, "swap": 0}
"""With what each is where it is not given; None: it must be."""
_FLAVOR_FIELDS = ("name", *_FLAVOR_AMOUNTS, "extra_specs")
_SURROGATE = re.compile("[\ud800-\udfff]")
"""Half a character: JSON can spell it, no text in UTF-8 can hold it."""
_LINE = f"one line of 1 to {LONGEST_LINE} characters, none of them a control character, no space at either end"


def parse_overlay_body(body: Any) -> dict[str, Any]:
    """Changes as the store's ``set_overlay`` takes them.

    :raises Fault: 400 naming the field that does not fit and what it may be.
    """
    if not isinstance(body, dict):
        raise bad_request("The body must be a JSON object.")
    _check_names(body, _PARSERS, "")
    return {name: None if value is None else _PARSERS[name](value) for name, value in body.items()}


def _check_names(found: dict[str, Any], known: Any, prefix: str) -> None:
    for name in found:
        if name not in known:
            raise bad_request(f"Unknown field '{prefix}{name}'; known are {', '.join(sorted(known))}.")


def is_line(value: Any, pattern: str = LINE_PATTERN, longest: int = LONGEST_LINE) -> bool:
    """Whether it is a text of one line, and perhaps of a narrower form."""
    return isinstance(value, str) and len(value) <= longest and not _SURROGATE.search(value) and _fits(pattern, value)


def _fits(pattern: str, text: str) -> bool:
    """``$`` alone would let a line break pass at the end."""
    return not text.endswith("\n") and re.search(pattern, text) is not None


def _parse_line(name: str) -> Callable[[Any], str]:
    def parse(value: Any) -> str:
        if not is_line(value):
            raise bad_request(f"{name} must be {_LINE}, or null.")
        return str(value)

    return parse


def _parse_description(value: Any) -> str:
    if value != "" and not is_line(value):
        raise bad_request(f"description must be empty, {_LINE}, or null.")
    return str(value)


def _parse_vm_state(value: Any) -> str:
    if not isinstance(value, str) or value not in VM_STATES:
        raise bad_request(f"vm_state must be null or one of: {', '.join(sorted(VM_STATES))}.")
    return value


def _parse_task_state(value: Any) -> str:
    if not is_line(value, TASK_STATE_PATTERN):
        raise bad_request("task_state must be null or a word like rebooting: a letter, then at most 63 of a-z, 0-9, _ and -.")
    return str(value)


def _parse_flavor(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise bad_request(f"flavor must be null or an object with name, vcpus and ram, perhaps more of: {', '.join(_FLAVOR_FIELDS)}.")
    _check_names(value, _FLAVOR_FIELDS, "flavor.")
    if not is_line(value.get("name")):
        raise bad_request(f"flavor.name must be {_LINE}.")
    amounts = {name: _parse_amount(f"flavor.{name}", value.get(name, default)) for name, default in _FLAVOR_AMOUNTS.items()}
    return {"name": value["name"], **amounts, "extra_specs": _parse_extra_specs(value.get("extra_specs", {}))}


def _parse_amount(name: str, value: Any) -> int:
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # 512.0 is the same number in JSON, and some writers have only those
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= LARGEST_AMOUNT:
        raise bad_request(f"{name} must be a whole number from 0 to {LARGEST_AMOUNT}.")
    return value


def _parse_extra_specs(value: Any) -> dict[str, str]:
    fits = isinstance(value, dict) and len(value) <= MOST_EXTRA_SPECS
    if not fits or not all(is_line(name) and is_line(word) for name, word in value.items()):
        raise bad_request(f"flavor.extra_specs must be an object of at most {MOST_EXTRA_SPECS} texts by name, each of them {_LINE}.")
    return dict(value)


def _parse_tags(value: Any) -> list[str]:
    fits = isinstance(value, list) and len(value) <= MOST_TAGS and all(is_line(tag, TAG_PATTERN, LONGEST_TAG) for tag in value)
    if not fits or len(set(value)) < len(value):
        raise bad_request(
            f"tags must be null or a list of at most {MOST_TAGS} different texts, each one line of 1 to {LONGEST_TAG} characters "
            "without slash, comma and control characters."
        )
    return list(value)


_PARSERS: dict[str, Callable[[Any], Any]] = {
    "name": _parse_line("name"),
    "project": _parse_line("project"),
    "user": _parse_line("user"),
    "description": _parse_description,
    "vm_state": _parse_vm_state,
    "task_state": _parse_task_state,
    "flavor": _parse_flavor,
    "tags": _parse_tags,
}
