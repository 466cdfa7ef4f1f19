"""Keeps web pages away where a browser would be let in without asking its user: a page that somebody looks at must not send an NMI."""

from functools import lru_cache
from ipaddress import ip_address

import falcon

from api_gateway.context import Request
from api_gateway.faults import forbidden

_OWN_PAGES = frozenset({"none", "same-origin"})
"""``Sec-Fetch-Site`` of a request that no other site's page started."""


class LoopbackGuard:
    """Answers only who asked for this machine: a foreign name that was rebound to 127.0.0.1 shows in ``Host``."""

    def process_request(self, request: Request, _response: falcon.Response) -> None:
        if not is_loopback_name(_strip_port(request.get_header("Host") or "")):
            raise forbidden("Without authentication only requests to a loopback address are answered; see the Host header.")


class WebPageGuard:
    """Refuses requests of web pages: a page of a foreign site carries ``Origin`` or says so in ``Sec-Fetch-Site``.

    Needed where a browser logs in by itself: without authentication, and with passwords that it remembers. Tokens it never sends unasked.
    """

    def process_request(self, request: Request, _response: falcon.Response) -> None:
        if request.get_header("Origin") is not None or request.get_header("Sec-Fetch-Site", default="none") not in _OWN_PAGES:
            raise forbidden("Under this auth_strategy no requests of web pages are answered.")


@lru_cache(maxsize=16)  # every request's Host is the same
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
