"""What a subscription's target may be, judged by its text alone: no name is looked up while a request waits."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address

from api_gateway.deliveries.addresses import Network, is_allowed

WEBHOOK = "webhook"
EMAIL = "email"
LONGEST_URL = 2048
LONGEST_ADDRESS = 254

_NAME = r"[A-Za-z0-9](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9])?"
_HOST = rf"{_NAME}(?:\.{_NAME})*\.?"
_PATH = r"[!-\"$-;=?-~]*"
"""Any printable ASCII but #, < and >."""
URL_PATTERN = rf"^(https?)://({_HOST}|\[[0-9A-Fa-f:.]{{2,45}}\])(?::([0-9]{{1,5}}))?(/{_PATH}|\?{_PATH})?$"
_ATOM = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
ADDRESS_PATTERN = rf"^{_ATOM}(\.{_ATOM})*@{_NAME}(\.{_NAME})*$"
_URL = re.compile(URL_PATTERN)
_ADDRESS = re.compile(ADDRESS_PATTERN)
_DEFAULT_PORTS = {"http": 80, "https": 443}


class TargetRefused(ValueError):
    """One cannot or must not deliver there; the text is a sentence that says why."""


@dataclass(frozen=True)
class WebhookUrl:
    """A URL in its parts. ``host`` is a name in lower case or an address without brackets, ``path`` has the query."""

    is_https: bool
    host: str
    port: int
    path: str
    authority: str


@dataclass(frozen=True)
class TargetRules:
    """What the operator allows.

    :param allowed_networks: besides public addresses
    :param mail: whether there is a server to send mail with
    :param mail_domains: of addresses; none: any
    """

    allowed_networks: Sequence[Network] = ()
    allow_plain_http: bool = False
    mail: bool = False
    mail_domains: Sequence[str] = ()

    def check_webhook(self, text: str) -> WebhookUrl:
        """:raises TargetRefused: also for an address that is not allowed, but not for a name that leads to one: that shows at each try."""
        url = parse_url(text)
        if not url.is_https and not self.allow_plain_http:
            raise TargetRefused("The URL must begin with https://: [deliveries] allow_plain_http is off.")
        is_local_name = url.host == "localhost" or url.host.endswith(".localhost")
        if is_local_name and not is_allowed("127.0.0.1", self.allowed_networks):
            raise not_allowed(url.host)
        if _is_address(url.host) and not is_allowed(url.host, self.allowed_networks):
            raise not_allowed(url.host)
        return url

    def check_address(self, text: str) -> None:
        """:raises TargetRefused: it is no address, or of a domain that is not allowed."""
        check_address_form(text)
        domain = text.rpartition("@")[2].lower()
        if self.mail_domains and domain not in {allowed.lower() for allowed in self.mail_domains}:
            raise TargetRefused(f"[smtp] allowed_domains has no {domain}.")


def parse_url(text: str) -> WebhookUrl:
    """The only reading of a URL that there is: what is resolved, connected to and asked for comes out of it.

    :raises TargetRefused: it is none that can be called.
    """
    found = _URL.match(text) if len(text) <= LONGEST_URL and not text.endswith("\n") else None
    if found is None:
        raise TargetRefused(
            f"The URL must be http(s)://host[:port][/path][?query] in printable ASCII, at most {LONGEST_URL} characters, without user, "
            "password and fragment; names in other letters in their xn-- form."
        )
    scheme, host, port, path = found.groups()
    number = int(port) if port is not None else _DEFAULT_PORTS[scheme]
    if not 1 <= number <= 65535:
        raise TargetRefused("The URL's port must be from 1 to 65535.")
    bare = host.strip("[]").lower().removesuffix(".")
    is_number = bare.rpartition(".")[2].isdecimal() or bare.rpartition(".")[2].startswith("0x")
    if (is_number or host.startswith("[")) and not _is_address(bare):
        raise TargetRefused("The URL's host is neither a name nor an address in its usual form.")
    if len(bare) > 253:
        raise TargetRefused("The URL's host is too long for a name.")
    authority = f"[{bare}]" if host.startswith("[") else bare
    if number != _DEFAULT_PORTS[scheme]:
        authority += f":{number}"
    path = path or "/"
    return WebhookUrl(scheme == "https", bare, number, path if path.startswith("/") else f"/{path}", authority)


def check_address_form(text: str) -> None:
    """:raises TargetRefused: it is not exactly one address."""
    if len(text) > LONGEST_ADDRESS or not _fits(_ADDRESS, text):
        raise TargetRefused(f"The address must be a single one, like ops@example.com, in ASCII, at most {LONGEST_ADDRESS} characters.")


def not_allowed(host: str) -> TargetRefused:
    return TargetRefused(
        f"{host} is, or leads to, no public address (but a private, loopback, link-local or other special one), and "
        "[deliveries] allowed_networks does not allow it."
    )


def _is_address(text: str) -> bool:
    try:
        address = ip_address(text)
    except ValueError:
        return False
    return not (isinstance(address, IPv6Address) and address.scope_id)


def _fits(pattern: re.Pattern[str], text: str) -> bool:
    """``$`` alone would let a line break pass at the end."""
    return not text.endswith("\n") and pattern.match(text) is not None
