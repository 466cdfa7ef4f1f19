"""What a domain has of watchdogs, read of its configuration and of its running machine."""

from dataclasses import dataclass
from pathlib import Path
from xml.etree.ElementTree import Element

import libvirt

from compute_agent.contract.watchdogs import Watchdog, WatchdogDevice
from compute_agent.drivers.libvirt.domain_xml import read_root
from compute_agent.drivers.libvirt.watchdog_mark import LiveWatchdog, read_live
from compute_agent.drivers.libvirt.watchdog_models import Machine, list_models_for, read_machine
from compute_agent.drivers.libvirt.watchdog_xml import FoundWatchdogs, read_watchdogs


@dataclass(frozen=True)
class WatchdogState:
    """``configured`` is None for a domain that vanishes when it stops, ``live`` for one that is off. ``live_root`` is its live XML."""

    machine: Machine
    configured: FoundWatchdogs | None
    live: LiveWatchdog | None
    live_root: Element | None

    @property
    def others(self) -> tuple[WatchdogDevice, ...]:
        """Those that are not managed, of both."""
        live = () if self.live is None else self.live.others
        configured = () if self.configured is None else self.configured.others
        return live + tuple(device for device in configured if device not in live)

    def describe(self) -> Watchdog:
        configured = None if self.configured is None else self.configured.managed
        live = None if self.live is None else self.live.device
        differs = configured != live or (self.live is not None and not self.live.is_sure)
        return Watchdog(
            configured=configured,
            live=live,
            pending_restart=self.configured is not None and self.live is not None and differs,
            others=self.others,
            models=list_models_for(self.machine, self.others),
        )


def read_state(domain: libvirt.virDomain, pid_file_directory: Path | None, *, is_persistent: bool) -> WatchdogState:
    """Of a domain that runs and is persistent libvirt has two XMLs, and both are read each time: nothing tells when either changed.

    :raises MalformedDomain: libvirt's answer is not the XML of a domain.
    :raises libvirt.libvirtError: libvirt did not answer.
    """
    root = read_root(domain.XMLDesc())
    configured = read_configured(domain, runs=is_running(root), is_persistent=is_persistent)
    return build_state(domain, root, None if configured is None else read_root(configured), pid_file_directory)


def read_configured(domain: libvirt.virDomain, *, runs: bool, is_persistent: bool) -> str | None:
    """The XML with which it will start again, where that is another one.

    :raises libvirt.libvirtError: libvirt did not answer.
    """
    text: str | None = domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE) if runs and is_persistent else None
    return text


def build_state(domain: libvirt.virDomain, root: Element, configured: Element | None, pid_file_directory: Path | None) -> WatchdogState:
    """The same of what was read.

    :param configured: the other XML of a domain that runs and is persistent
    :raises libvirt.libvirtError: libvirt did not answer.
    """
    if not is_running(root):  # there is only its configuration
        return WatchdogState(read_machine(root), read_watchdogs(root), None, None)
    written = None if configured is None else read_watchdogs(configured)
    return WatchdogState(read_machine(root), written, read_live(domain, root, pid_file_directory), root)


def is_running(root: Element) -> bool:
    """Whether this is the XML of a machine that runs: only that has a number."""
    return root.get("id") is not None
