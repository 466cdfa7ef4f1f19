"""Who may ask at all: one class per ``[api] auth_strategy``, and the guard that strategy ``none`` cannot do without.

A strategy turns a request into an :class:`Identity` or raises a 401 fault; whether that identity may do what it asks for is
decided in ``policy.py``.
"""

from collections.abc import Callable
from ipaddress import ip_address
from typing import Protocol

import falcon
from oslo_config import cfg

from api_gateway.context import Request
from api_gateway.faults import bad_request, forbidden
from api_gateway.identity import Identity

OPEN_PATHS = frozenset({"/", "/v2.1", "/v2.1/", "/v2", "/v2/", "/healthcheck"})
"""Version documents and the healthcheck: answered without authentication."""

_LONGEST_NAME = 255
_OWN_PAGES = frozenset({"none", "same-origin"})
"""``Sec-Fetch-Site`` of a request that no other site's page started."""


class Strategy(Protocol):
    """One way to establish who asks."""

    loopback_only: bool
    """Whether the gateway must be reachable from this machine only."""

    def authenticate(self, request: Request) -> Identity:
        """Who asks.

        :raises Fault: 401 when that cannot be established, 400 when the headers cannot be read.
        """
        ...


class NoAuthentication:
    """Everybody on this machine is who they say they are; without a word, an admin of the default project."""

    loopback_only = True

    def __init__(self, default_user: str, default_project: str) -> None:
        self._default = Identity.of(default_user, default_project, frozenset({"admin"}))

    def authenticate(self, request: Request) -> Identity:
        user = _read_name(request, "X-User-Id")
        project = _read_name(request, "X-Project-Id")
        roles = _read_name(request, "X-Roles")
        if user is None and project is None and roles is None:
            return self._default
        return Identity.of(
            user or self._default.user,
            project or self._default.project,
            # An empty header says "no roles"; only an absent one leaves the default.
            self._default.roles if roles is None else frozenset(role.strip().lower() for role in roles.split(",") if role.strip()),
        )


STRATEGIES: dict[str, Callable[[cfg.ConfigOpts], Strategy]] = {
    "none": lambda conf: NoAuthentication(conf.api.default_user, conf.api.default_project),
}


def create_strategy(conf: cfg.ConfigOpts) -> Strategy:
    """The strategy that ``[api] auth_strategy`` names."""
    return STRATEGIES[conf.api.auth_strategy](conf)


class LoopbackGuard:
    """Keeps web pages away while nobody has to log in: a page that a browser on this machine shows must not send an NMI.

    A page of a foreign site carries ``Origin`` or says so in ``Sec-Fetch-Site``; a name that was rebound to 127.0.0.1 shows in ``Host``.
    """

    def process_request(self, request: Request, _response: falcon.Response) -> None:
        if not is_loopback_name(_strip_port(request.get_header("Host") or "")):
            raise forbidden("Without authentication only requests to a loopback address are answered; see the Host header.")
        if request.get_header("Origin") is not None or request.get_header("Sec-Fetch-Site", default="none") not in _OWN_PAGES:
            raise forbidden("Without authentication no requests of web pages are answered.")


class Authentication:
    """Establishes who asks, except where anybody may."""

    def __init__(self, strategy: Strategy) -> None:
        self._strategy = strategy

    def process_request(self, request: Request, _response: falcon.Response) -> None:
        if request.path not in OPEN_PATHS:
            request.context.identity = self._strategy.authenticate(request)


def is_loopback_name(name: str) -> bool:
    """Whether a host name or address can only mean this machine."""
    if name.lower() == "localhost":
        return True
    try:
        return ip_address(name).is_loopback
    except ValueError:
        return False


def _strip_port(netloc: str) -> str:
    if netloc.startswith("["):
        return netloc[1:].partition("]")[0]
    return netloc.partition(":")[0]


def _read_name(request: Request, header: str) -> str | None:
    value: str | None = request.get_header(header)
    if value is None:
        return None
    if len(value) > _LONGEST_NAME or not (value.isascii() and value.isprintable()):
        raise bad_request(f"Header {header} must be at most {_LONGEST_NAME} printable ASCII characters.")
    return value.strip()
