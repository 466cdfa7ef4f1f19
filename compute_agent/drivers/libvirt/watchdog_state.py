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


def read_state(
    domain: libvirt.virDomain, pid_file_directory: Path | None, *, is_persistent: bool, root: Element | None = None
) -> WatchdogState:
    """Of a domain that runs and is persistent libvirt has two XMLs, and both are read each time: nothing tells when either changed.

    :param root: what ``XMLDesc()`` has just said, where the caller has read it
    :raises MalformedDomain: libvirt's answer is not the XML of a domain.
    :raises libvirt.libvirtError: libvirt did not answer.
    """
    root = read_root(domain.XMLDesc()) if root is None else root
    if root.get("id") is None:  # it is off: there is only its configuration
        return WatchdogState(read_machine(root), read_watchdogs(root), None, None)
    configured = read_watchdogs(read_root(domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE))) if is_persistent else None
    return WatchdogState(read_machine(root), configured, read_live(domain, root, pid_file_directory), root)
