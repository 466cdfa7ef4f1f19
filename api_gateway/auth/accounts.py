"""The two files of strategy ``http_basic``: who has which password, and which project and roles that gives."""

import os
import re
import secrets
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import bcrypt
import yaml

from api_gateway.identity import Caller
from api_gateway.reloading import Unreadable

_HASH = re.compile(r"\$2[aby]\$(\d\d)\$[./A-Za-z0-9]{53}")
_MOST_COST = 15
"""2**15 rounds take seconds already; more would let one user's login hold a thread for minutes."""
_DEFAULT_COST = 12
_LONGEST_NAME = 255
_HASH_ALPHABET = "./ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
_HASH_CHARACTERS = 31


@dataclass(frozen=True)
class Accounts:
    """Users with their password hashes; those that may do something with their project and roles."""

    hashes: Mapping[str, bytes]
    callers: Mapping[str, Caller]
    decoy: bytes
    """A hash as expensive as the users' own, which no password has: checked for users that do not exist."""


def read_accounts(user_file: str, roles_file: str) -> Accounts:
    """Both files, as they are now.

    :raises Unreadable: a file is missing, may be read or written by too many, or has a line that cannot be used.
    """
    hashes = _read_hashes(user_file)
    cost = max((_get_cost(digest) for digest in hashes.values()), default=_DEFAULT_COST)
    return Accounts(hashes, _read_callers(roles_file), _make_decoy(cost))


def _read_hashes(path: str) -> dict[str, bytes]:
    hashes: dict[str, bytes] = {}
    text = _read_text(path, stat.S_IRWXO, "chmod o= it: whoever reads it can try passwords at leisure")
    for number, line in enumerate(text.splitlines(), start=1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        user, _, digest = line.partition(":")
        if not _is_name(user):
            raise Unreadable(f"{path} line {number}: no user name of 1 to {_LONGEST_NAME} printable characters before the colon")
        if user in hashes:
            raise Unreadable(f"{path} line {number}: the user {user} has a line already")
        matched = _HASH.fullmatch(digest)
        if matched is None:
            raise Unreadable(
                f"{path} line {number}: the password of {user} is no bcrypt hash ($2y$, $2b$, $2a$); make one with htpasswd -B"
            )
        if not 4 <= int(matched[1]) <= _MOST_COST:
            raise Unreadable(f"{path} line {number}: the bcrypt cost of {user} is {matched[1]}; 04 to {_MOST_COST} can be checked")
        hashes[user] = digest.encode("ascii")
    return hashes


def _read_callers(path: str) -> dict[str, Caller]:
    text = _read_text(path, stat.S_IWOTH, "chmod o-w it: whoever writes it can make themselves an admin")
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise Unreadable(f"{path} is not YAML: {error}") from error
    if not isinstance(content, dict | None):
        raise Unreadable(f"{path} is not a mapping of users")
    return {user: _read_caller(path, user, entry) for user, entry in (content or {}).items()}


def _read_caller(path: str, user: Any, entry: Any) -> Caller:
    if not _is_name(user):
        raise Unreadable(f"{path}: {user!r} is not a user name; quote what YAML would take for a number or a truth value")
    if not isinstance(entry, dict) or set(entry) != {"project", "roles"}:
        raise Unreadable(f"{path}: the entry of {user} must be {{project: NAME, roles: [ROLE, …]}}")
    project, roles = entry["project"], entry["roles"]
    if not _is_name(project):
        raise Unreadable(f"{path}: the project of {user} is {project!r}, not a name")
    if not isinstance(roles, list) or not all(_is_name(role) for role in roles):
        raise Unreadable(f"{path}: the roles of {user} are {roles!r}, not a list of names")
    return Caller.of(user, project, frozenset(role.lower() for role in roles))


def _read_text(path: str, forbidden_mode: int, advice: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            mode = os.fstat(file.fileno()).st_mode
            if mode & forbidden_mode:
                raise Unreadable(f"{path} has mode {stat.S_IMODE(mode):04o}: {advice}")
            return file.read()
    except (OSError, UnicodeDecodeError) as error:
        raise Unreadable(f"cannot read {path}: {error}") from error


def _is_name(value: Any) -> bool:
    if not isinstance(value, str) or ":" in value or value != value.strip():
        return False
    return 0 < len(value) <= _LONGEST_NAME and value.isprintable()


def _get_cost(digest: bytes) -> int:
    return int(digest.split(b"$")[2])


def _make_decoy(cost: int) -> bytes:
    """Chance is no password's hash, and need not be computed."""
    return bcrypt.gensalt(cost) + "".join(secrets.choice(_HASH_ALPHABET) for _ in range(_HASH_CHARACTERS)).encode("ascii")
