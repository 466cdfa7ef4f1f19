"""Reads the inventory: the YAML file that names an agent's machines, their BMCs, and where the passwords are kept.

One entry that is wrong disables itself and no other. What is said of it names its number, its machine and the field, and never the
field's value: somebody may have written a password where none belongs.
"""

import re
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml

_LARGEST_FILE = 16 * 2**20
_WORD = re.compile(r"[a-z][a-z0-9_-]{0,31}")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_PRIVILEGES = ("callback", "user", "operator", "administrator")
_SHAPE = "a mapping with one key, machines, whose value is a list"


class InventoryUnreadable(Exception):
    """The file as a whole cannot be used; the text says why and quotes nothing of it."""


class WrongValue(Exception):
    """A field of an entry cannot be used as it is; the text says what to write instead, and quotes nothing."""

    def __init__(self, field_name: str, what_to_do: str) -> None:
        super().__init__(f"{field_name}: {what_to_do}")


@dataclass(frozen=True)
class Entry:
    """One machine as its operator wrote it; what is None was not written. ``number`` counts from 1."""

    number: int
    server: str
    name: str
    driver: str
    address: str
    port: int | None = None
    username: str | None = None
    password_file: str | None = field(default=None, repr=False)
    password_environment: str | None = field(default=None, repr=False)
    project: str | None = None
    user: str | None = None
    privilege: str | None = None
    cipher: int | None = None
    ca_file: str | None = None
    verify_tls: bool = True
    system: str | None = None


@dataclass(frozen=True)
class Problem:
    """An entry that cannot be used. ``server`` None: not even its uuid can be read, so nothing can be listed for it."""

    number: int
    reason: str
    server: str | None = None
    name: str | None = None
    project: str | None = None
    user: str | None = None

    def describe(self) -> str:
        who = self.name or "nameless"
        if self.server is not None:
            who += f", {self.server}"
        return f"entry {self.number} ({who}) is left out: {self.reason}"


@dataclass(frozen=True)
class InventoryFile:
    """What the file says, in its order."""

    entries: tuple[Entry, ...] = ()
    problems: tuple[Problem, ...] = ()


def read_inventory(path: Path) -> InventoryFile:
    """:raises InventoryUnreadable: it cannot be read, or is no inventory at all."""
    try:
        with path.open("rb") as file:
            content = file.read(_LARGEST_FILE + 1)
    except OSError as error:
        raise InventoryUnreadable(f"the inventory {path} cannot be read: {error.strerror}") from error
    if len(content) > _LARGEST_FILE:
        raise InventoryUnreadable(f"the inventory {path} is larger than {_LARGEST_FILE >> 20} MiB")
    return parse_inventory(content, str(path))


def parse_inventory(content: bytes, source: str) -> InventoryFile:
    """:raises InventoryUnreadable: it is no inventory."""
    # What the parser raises quotes the file, so none of it is shown, nor kept as the cause.
    complaint = None
    try:
        document = yaml.safe_load(content)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = "" if mark is None else f" at line {mark.line + 1}, column {mark.column + 1}"
        complaint = f"the inventory {source} is not YAML{where}"
    except (yaml.YAMLError, ValueError, LookupError, AttributeError, RecursionError):  # a value that is not what its tag says, too
        complaint = f"the inventory {source} is not YAML"
    if complaint is not None:
        raise InventoryUnreadable(complaint)
    if not isinstance(document, dict) or set(document) != {"machines"}:
        raise InventoryUnreadable(f"the inventory {source} must be {_SHAPE}")
    machines = document["machines"]
    if not isinstance(machines, list):
        raise InventoryUnreadable(f"the inventory {source} must be {_SHAPE} (machines: [] for none)")
    return _read_entries(machines)


def _read_entries(machines: list[Any]) -> InventoryFile:
    entries: list[Entry] = []
    problems: list[Problem] = []
    numbers: dict[str, int] = {}
    for number, written in enumerate(machines, start=1):
        found = _read_entry(number, written)
        if found.server is not None and found.server in numbers:
            reason = f"uuid: entry {numbers[found.server]} has the same; each machine is named once"
            problems.append(Problem(number, reason, name=found.name))
            continue
        if found.server is not None:
            numbers[found.server] = number
        if isinstance(found, Entry):
            entries.append(found)
        else:
            problems.append(found)
    return InventoryFile(tuple(entries), tuple(problems))


def _read_entry(number: int, written: Any) -> Entry | Problem:
    if not isinstance(written, dict):
        return Problem(number, "it must be a mapping of fields (uuid, name, driver, address, …)")
    known = {
        name: _find_value(name, written) for name in ("uuid", "name", "project", "user")
    }  # who it is, as far as that can be told of a wrong entry, too
    try:
        unknown = [key for key in written if key not in _FIELDS]
        if unknown:
            raise _refuse_unknown(unknown[0])
        values = {name: check(name, written[name]) for name, check in _FIELDS.items() if written.get(name) is not None}
        for name in ("uuid", "name", "driver", "address"):
            if name not in values:
                raise WrongValue(name, "it is missing")
        if "password_file" in values and "password_environment" in values:
            raise WrongValue("password_file", "there is password_environment as well; write one of them")
        if "username" in values and not values.keys() & {"password_file", "password_environment"}:
            raise WrongValue("username", "it needs password_file or password_environment")
    except WrongValue as wrong:
        return Problem(number, str(wrong), known["uuid"], known["name"], known["project"], known["user"])
    return Entry(number, values.pop("uuid"), **values)


def _find_value(name: str, written: Mapping[Any, Any]) -> str | None:
    try:
        value: str = _FIELDS[name](name, written[name])
    except (WrongValue, KeyError):
        return None
    return value


def _refuse_unknown(key: Any) -> WrongValue:
    if key == "password":
        return WrongValue(key, "it is not written here: put it into a file that only the agent may read, and name that as password_file")
    if isinstance(key, str) and _WORD.fullmatch(key):
        return WrongValue(key, f"there is no such field; the fields are {', '.join(_FIELDS)}")
    return WrongValue("the entry", f"it has a key that is no field's name; the fields are {', '.join(_FIELDS)}")


def _check_text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise WrongValue(name, "write it as text (in quotes, where it looks like a number or a date)")
    if not value.strip() or len(value) > 255 or not value.isprintable():
        raise WrongValue(name, "it must be a single line of 1 to 255 characters")
    return value.strip()


def _check_uuid(name: str, value: Any) -> str:
    text = _check_text(name, value).lower()
    try:
        parsed = str(uuid.UUID(text))
    except ValueError:
        parsed = None
    if parsed != text:
        raise WrongValue(name, "it must be a UUID such as 4c4c4544-0042-3510-8056-b4c04f4e3332") from None
    return text


def _check_word(name: str, value: Any) -> str:
    text = _check_text(name, value)
    if not _WORD.fullmatch(text):
        raise WrongValue(name, "it must be a word in lower case")
    return text


def _check_privilege(name: str, value: Any) -> str:
    if value not in _PRIVILEGES:
        raise WrongValue(name, f"it must be one of {', '.join(_PRIVILEGES)}")
    return str(value)


def _check_address(name: str, value: Any) -> str:
    text = _check_text(name, value)
    if not re.fullmatch(r"[A-Za-z0-9._:%-]+", text):
        raise WrongValue(name, "it must be an IP address or a host name, without scheme, port or path")
    return text


def _check_number(lowest: int, highest: int) -> Callable[[str, Any], int]:
    def check(name: str, value: Any) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not lowest <= value <= highest:
            raise WrongValue(name, f"it must be a whole number from {lowest} to {highest}")
        return value

    return check


def _check_truth(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise WrongValue(name, "it must be true or false")
    return value


def _check_variable(name: str, value: Any) -> str:
    text = _check_text(name, value)
    if not _VARIABLE.fullmatch(text):
        raise WrongValue(name, "it must be the name of an environment variable")
    return text


_FIELDS: Mapping[str, Callable[[str, Any], Any]] = MappingProxyType(
    {
        "uuid": _check_uuid,
        "name": _check_text,
        "driver": _check_word,
        "address": _check_address,
        "port": _check_number(1, 65535),
        "username": _check_text,
        "password_file": _check_text,
        "password_environment": _check_variable,
        "project": _check_text,
        "user": _check_text,
        "privilege": _check_privilege,
        "cipher": _check_number(0, 255),
        "ca_file": _check_text,
        "verify_tls": _check_truth,
        "system": _check_text,
    }
)
