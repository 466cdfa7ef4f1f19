"""What of a target IPMI needs, checked before anything is sent."""

import ipaddress
import socket
from dataclasses import dataclass

from compute_agent.drivers.bmc.protocol import Secret, Target
from compute_agent.drivers.errors import BackendUnavailable

PRIVILEGES = {"callback": 1, "user": 2, "operator": 3, "administrator": 4}
"""Privilege levels by name."""
CIPHERS = {3: "SHA-1, AES-128", 17: "SHA-256, AES-128"}
"""The cipher suites that a session can have, by number."""
_USERNAME_BYTES, _PASSWORD_BYTES = 16, 20


@dataclass(frozen=True)
class Access:
    """Credentials as IPMI takes them. ``level``: the privilege level to ask for; ``may_degrade``: operator will do, too.

    ``cipher`` None: suite 17 where the BMC takes it, else 3.
    """

    username: bytes
    password: Secret
    level: int
    may_degrade: bool
    cipher: int | None


def check_target(target: Target) -> Access:
    """How to log in there.

    :raises ValueError: IPMI cannot do what the target asks for; the text says what is possible.
    """
    if target.privilege is not None and target.privilege not in PRIVILEGES:
        raise ValueError(f"privilege {target.privilege!r} is none of IPMI's: give one of {', '.join(PRIVILEGES)}")
    if target.cipher is not None and target.cipher not in CIPHERS:
        suites = ", ".join(f"{number} ({name})" for number, name in CIPHERS.items())
        raise ValueError(f"cipher suite {target.cipher} cannot be used: give one of {suites}, or none to let the BMC choose")
    if target.system is not None:
        raise ValueError("system is of no use with IPMI: behind each of its addresses is one machine")
    username = target.username.encode()
    if len(username) > _USERNAME_BYTES:
        raise ValueError(f"the username is longer than the {_USERNAME_BYTES} bytes that IPMI has for it")
    if len(target.password.reveal()) > _PASSWORD_BYTES:
        raise ValueError(f"the password is longer than the {_PASSWORD_BYTES} bytes that IPMI has for it")
    level = PRIVILEGES[target.privilege or "administrator"]
    return Access(username, target.password, level, may_degrade=target.privilege is None, cipher=target.cipher)


@dataclass(frozen=True)
class Endpoint:
    """Where packets go: a socket's family and its address."""

    family: socket.AddressFamily
    address: tuple[str | int | bytes, ...]


def resolve(target: Target) -> Endpoint:
    """The target's address; a name is looked up in the calling thread, for as long as the resolver takes.

    :raises BackendUnavailable: there is no such name, or nobody to ask.
    """
    try:
        version = ipaddress.ip_address(target.address).version
    except ValueError:
        return _look_up(target)
    return Endpoint(socket.AF_INET if version == 4 else socket.AF_INET6, (target.address, target.port))


def _look_up(target: Target) -> Endpoint:
    try:
        family, _, _, _, address = socket.getaddrinfo(target.address, target.port, type=socket.SOCK_DGRAM)[0]
    except (OSError, UnicodeError) as error:
        raise BackendUnavailable(target.server, f"the BMC's address {target.address} cannot be resolved: {error}") from error
    return Endpoint(family, address)
