"""Turns an entry's reference to a password into the password: a file that nobody else can read, or the environment.

What is said of a reference never holds it: somebody may have written the password itself in its place.
"""

import os
import stat
from collections.abc import Mapping
from pathlib import Path

from compute_agent.drivers.bmc.inventory import Entry, WrongValue
from compute_agent.drivers.bmc.protocol import Secret

_LONGEST = 4096
_OTHERS = stat.S_IRWXG | stat.S_IRWXO


def read_secret(entry: Entry, directory: Path, environment: Mapping[bytes, bytes] | None = None) -> Secret:
    """The password of an entry; an empty one where it names none.

    :param directory: where a relative ``password_file`` is
    :param environment: the agent's own (None)
    :raises WrongValue: there is none to be had; the text says what to do.
    """
    if entry.password_environment is not None:
        value = (os.environb if environment is None else environment).get(entry.password_environment.encode())
        if value is None:
            raise WrongValue("password_environment", "the agent's environment has no variable of that name")
        return _check("password_environment", value)
    if entry.password_file is not None:
        return _check("password_file", _read_file(directory / entry.password_file))
    return Secret(b"")


def _read_file(path: Path) -> bytes:
    """What is looked at is what is read: the open file, not its name. A FIFO is not waited for, a link not followed."""
    reason = None
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        # An OSError names the path, which is not to be shown.
        reason = getattr(error, "strerror", None) or "no such name can be"
    if reason is not None:
        raise WrongValue("password_file", f"it cannot be opened ({reason}); it must be a regular file that the agent may read, and no link")
    try:
        seen = os.fstat(descriptor)
        if not stat.S_ISREG(seen.st_mode):
            raise WrongValue("password_file", "it is no regular file")
        if seen.st_uid not in (0, os.geteuid()):
            raise WrongValue("password_file", "it belongs to somebody else: chown it to the agent's user or to root")
        if seen.st_mode & _OTHERS:
            raise WrongValue("password_file", "others may use it: chmod 0600")
        return os.read(descriptor, _LONGEST + 1)
    finally:
        os.close(descriptor)


def _check(name: str, value: bytes) -> Secret:
    if value.endswith(b"\n"):
        value = value[:-1].removesuffix(b"\r")
    if not value:
        raise WrongValue(name, "it is empty")
    if len(value) > _LONGEST:
        raise WrongValue(name, f"it is longer than {_LONGEST} bytes")
    if b"\n" in value or b"\0" in value:
        raise WrongValue(name, "it must hold the password alone, on one line")
    return Secret(value)
