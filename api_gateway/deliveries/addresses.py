"""Where a webhook may lead to: the public internet, and what ``[deliveries] allowed_networks`` adds.

A subscriber chooses the target, the gateway calls it: without this, anybody with a project could have it call what only the gateway's own
network reaches.
"""

import socket
from collections.abc import Callable, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network
Resolver = Callable[[str, int], Sequence[str]]
"""From a host's name and a port to its addresses, best first. Raises OSError when it has none."""

_TRANSLATED = IPv6Network("64:ff9b::/96")
"""Its last 32 bits are the IPv4 address that a translator (NAT64) on the way calls."""
_NEVER = tuple(ip_network(text) for text in ("2002::/16", "64:ff9b:1::/48", "192.88.99.0/24", "192.0.0.0/24", "3fff::/20"))
"""Global by their number, or for some Pythons, but tunnels and translators lead from the first three to who knows where, and the others
are for nobody's servers; clouds put their metadata there (192.0.0.192)."""


def resolve(host: str, port: int) -> list[str]:
    """With the system's resolver, which takes as long as ``resolv.conf`` says."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
    return list(dict.fromkeys(str(sockaddr[0]) for *_, sockaddr in found))


def is_allowed(text: str, allowed_networks: Sequence[Network]) -> bool:
    """Whether the address is a public one, or of an allowed network. One that stands for another is as good as that one."""
    try:
        address = _unwrap(ip_address(text))
    except ValueError:
        return False
    return _is_public(address) or _is_within(address, allowed_networks)


def parse_network(text: str) -> Network:
    """:raises ValueError: it is no network in CIDR notation."""
    return ip_network(text.strip())


def _unwrap(address: Address) -> Address:
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:
            return address.ipv4_mapped
        if address in _TRANSLATED:
            return IPv4Address(int(address) & 0xFFFFFFFF)
    return address


def _is_public(address: Address) -> bool:
    special = address.is_multicast or address.is_reserved or address.is_unspecified or address.is_loopback or address.is_link_local
    if isinstance(address, IPv6Address):
        special = special or address.is_site_local
    return address.is_global and not special and not _is_within(address, _NEVER)


def _is_within(address: Address, networks: Sequence[Network]) -> bool:
    return any(address.version == network.version and address in network for network in networks)
