"""What crashcart notes of a live watchdog in the domain itself, because libvirt does not know it. Pure but for two calls.

The note is an element of the running machine's metadata: it is read together with the XML, outlives agent and libvirtd, and is gone when
the domain stops. Two facts are in it. The expiry action that QEMU was told past libvirt, whose live XML keeps the former word. And the
device whose removal was asked for and not confirmed: QEMU may still take it away when the guest resumes or reboots; then it is put back.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

import libvirt

from compute_agent.contract.watchdogs import WatchdogDevice
from compute_agent.drivers.libvirt.runs import find_run
from compute_agent.drivers.libvirt.watchdog_xml import FoundWatchdogs, find_element, is_fixed, read_watchdogs

NAMESPACE = "https://crashcart.dev/xmlns/watchdog/1.0"
_PREFIX = "crashcart-watchdog"


@dataclass(frozen=True)
class Mark:
    """``run`` is the process that it was noted of: memory that is restored or migrated into another one brings a note that is void.

    ``said`` is the action in libvirt's live XML when QEMU was told ``expiry_action``; ``changing_to`` is what QEMU is being told, perhaps
    was, and perhaps not. ``leaving`` is the device whose removal has not been confirmed.
    """

    run: str
    said: str = ""
    expiry_action: str = ""
    changing_to: str = ""
    leaving: WatchdogDevice | None = None

    @property
    def says_nothing(self) -> bool:
        return not (self.expiry_action or self.changing_to or self.leaving)


@dataclass(frozen=True)
class LiveWatchdog:
    """What the running machine has. ``device`` is the managed one as it really is, ``said`` libvirt's word of its action.

    ``is_sure`` is false while nobody knows which of two actions it has. ``is_fixed``: it stays until the machine stops.
    """

    device: WatchdogDevice | None
    others: tuple[WatchdogDevice, ...]
    said: str = ""
    is_sure: bool = True
    is_fixed: bool = False
    mark: Mark | None = None

    @property
    def was_lost(self) -> bool:
        """Whether QEMU took a device away long after it was asked to, when everybody had been told that it stays."""
        return self.device is None and self.mark is not None and self.mark.leaving is not None


def read_live(domain: libvirt.virDomain, root: Element, pid_file_directory: Path | None) -> LiveWatchdog:
    """What the running machine has, of its live XML.

    :raises libvirt.libvirtError: libvirt did not answer.
    """
    found, mark = read_watchdogs(root), find_mark(root)
    if mark is not None and mark.run != find_run(domain, root, pid_file_directory):
        mark = None
    element = find_element(root)
    return replace(join_live(found, mark), is_fixed=element is not None and is_fixed(root, element))


def join_live(found: FoundWatchdogs, mark: Mark | None) -> LiveWatchdog:
    """libvirt's words, corrected by the note where it is about this device."""
    device = found.managed
    if device is None or mark is None:
        return LiveWatchdog(device, found.others, "" if device is None else device.expiry_action, mark=mark)
    said = device.expiry_action
    is_about_it = mark.said == said
    if is_about_it and mark.expiry_action:
        device = WatchdogDevice(model=device.model, expiry_action=mark.expiry_action)
    return LiveWatchdog(device, found.others, said, is_sure=not (is_about_it and mark.changing_to), mark=mark)


def find_mark(root: Element) -> Mark | None:
    """The note in the live XML, None when there is none that can be read."""
    element = root.find(f"metadata/{{{NAMESPACE}}}live")
    if element is None:
        return None
    try:
        return Mark(
            run=element.get("run", ""),
            said=element.get("said", ""),
            expiry_action=_read_word(element.get("expiry_action", "")),
            changing_to=element.get("changing_to", ""),
            leaving=_read_device(element.get("leaving", "")),
        )
    except ValueError:  # somebody else wrote it
        return None


def write_mark(domain: libvirt.virDomain, mark: Mark) -> None:
    """Note it, or take the note away where it says nothing.

    :raises libvirt.libvirtError: it could not be noted.
    """
    text = None if mark.says_nothing else _write(mark)
    domain.setMetadata(libvirt.VIR_DOMAIN_METADATA_ELEMENT, text, _PREFIX, NAMESPACE, libvirt.VIR_DOMAIN_AFFECT_LIVE)


def _write(mark: Mark) -> str:
    leaving = "" if mark.leaving is None else f"{mark.leaving.model}:{mark.leaving.expiry_action}"
    said = {"run": mark.run, "said": mark.said, "expiry_action": mark.expiry_action, "changing_to": mark.changing_to, "leaving": leaving}
    return ElementTree.tostring(Element("live", {name: value for name, value in said.items() if value}), encoding="unicode")


def _read_word(word: str) -> str:
    """:raises ValueError: it is none"""
    return word and WatchdogDevice(model="any", expiry_action=word).expiry_action


def _read_device(text: str) -> WatchdogDevice | None:
    """:raises ValueError: it is none"""
    model, _, expiry_action = text.partition(":")
    return WatchdogDevice(model=model, expiry_action=expiry_action) if text else None
