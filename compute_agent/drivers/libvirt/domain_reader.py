"""What the XML of a domain says, remembered while its text stays the same: each heartbeat reads all of them, and hardly any has changed."""

import hashlib
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from xml.etree.ElementTree import Element

import libvirt

from compute_agent.contract.watchdogs import Watchdog
from compute_agent.drivers.libvirt.domain_xml import read_root
from compute_agent.drivers.libvirt.metadata import DomainDescription, describe_domain
from compute_agent.drivers.libvirt.watchdog_mark import find_mark
from compute_agent.drivers.libvirt.watchdog_state import build_state, is_running, read_configured


@dataclass(frozen=True)
class DomainFacts:
    """``has_lost_watchdog``: as ``LiveWatchdog.was_lost``."""

    description: DomainDescription
    watchdog: Watchdog
    has_lost_watchdog: bool = False


@dataclass(frozen=True)
class _Kept:
    """Digests of the texts, and what they say."""

    live: bytes
    configured: bytes
    runs: bool
    facts: DomainFacts


class DomainReader:
    """Asks libvirt for the texts each time, for nothing tells when they change; reads those that it did not read last time. For any thread.

    :param pid_file_directory: see ``LibvirtServers``
    """

    def __init__(self, pid_file_directory: Path | None) -> None:
        self._pid_file_directory = pid_file_directory
        self._kept: dict[str, _Kept] = {}

    def read(self, domain: libvirt.virDomain, *, is_persistent: bool) -> DomainFacts:
        """What it says now.

        :raises MalformedDomain: libvirt's answer is not the XML of a domain.
        :raises libvirt.libvirtError: libvirt did not answer.
        """
        text = domain.XMLDesc()
        kept = self._kept.get(domain.UUIDString())
        if kept is None or kept.live != _digest(text):
            root = read_root(text)
            return self._read(domain, text, root, read_configured(domain, runs=is_running(root), is_persistent=is_persistent))
        configured = read_configured(domain, runs=kept.runs, is_persistent=is_persistent)
        if kept.configured == _digest(configured):
            return kept.facts
        return self._read(domain, text, read_root(text), configured)

    def forget_all_but(self, servers: Collection[str]) -> None:
        """What is not there any more need not be remembered."""
        for server in set(self._kept).difference(servers):
            self._kept.pop(server, None)

    def _read(self, domain: libvirt.virDomain, text: str, root: Element, configured: str | None) -> DomainFacts:
        watchdogs = build_state(domain, root, None if configured is None else read_root(configured), self._pid_file_directory)
        facts = DomainFacts(describe_domain(root), watchdogs.describe(), watchdogs.live is not None and watchdogs.live.was_lost)
        if find_mark(root) is None:
            self._kept[domain.UUIDString()] = _Kept(_digest(text), _digest(configured), is_running(root), facts)
        else:  # whether that still holds is said by the process too, not by the text alone
            self._kept.pop(domain.UUIDString(), None)
        return facts


def _digest(text: str | None) -> bytes:
    return b"" if text is None else hashlib.blake2b(text.encode(), digest_size=16).digest()
