"""Watchdogs of real domains past the driver under test: what they have, and how a test gives them another one."""

from xml.etree import ElementTree
from xml.etree.ElementTree import Element

import libvirt

from compute_agent.contract.watchdogs import WatchdogDevice
from devstack.guests import Guest
from devstack.services import wait_until
from tests.conformance.libvirt_host import LibvirtHost

_WHOLE = libvirt.VIR_DOMAIN_XML_INACTIVE | libvirt.VIR_DOMAIN_XML_SECURE
_LIVE = libvirt.VIR_DOMAIN_AFFECT_LIVE
_NOTE = "https://crashcart.dev/xmlns/watchdog/1.0"


def find_live(domain: libvirt.virDomain) -> Element | None:
    """The element of the running machine, with its address."""
    return ElementTree.fromstring(domain.XMLDesc()).find("devices/watchdog")


def give_configured(connection: libvirt.virConnect, domain: libvirt.virDomain, device: WatchdogDevice | None) -> None:
    """Write the configuration as another tool would: all of it."""
    root = ElementTree.fromstring(domain.XMLDesc(_WHOLE))
    devices = root.find("devices")
    assert devices is not None
    for element in devices.findall("watchdog"):
        devices.remove(element)
    if device is not None:
        devices.append(Element("watchdog", model=device.model, action=device.expiry_action))
    connection.defineXML(ElementTree.tostring(root, encoding="unicode"))


def give_live(domain: libvirt.virDomain, device: WatchdogDevice | None) -> None:
    """Let the running machine, whose guest is ready, have this one (a hot model) in place of what it has."""
    element = find_live(domain)
    if element is not None:
        domain.detachDeviceFlags(ElementTree.tostring(element, encoding="unicode"), _LIVE)
        wait_until(lambda: find_live(domain) is None, 20, "the guest to let go of its watchdog")
    if device is not None:
        domain.attachDeviceFlags(f"<watchdog model='{device.model}' action='{device.expiry_action}'/>", _LIVE)
    if _NOTE in domain.XMLDesc():
        domain.setMetadata(libvirt.VIR_DOMAIN_METADATA_ELEMENT, None, None, _NOTE, _LIVE)


def give(host: LibvirtHost, guest: Guest, device: WatchdogDevice | None) -> None:
    """Both, of a domain that runs; only the first of one that is off."""
    with host.libvirtd.connect() as connection:
        domain = connection.lookupByUUIDString(guest.uuid)
        give_configured(connection, domain, device)
        if domain.isActive():
            give_live(domain, device)


def has_cold(host: LibvirtHost, guest: Guest) -> bool:
    """Whether only a new start can give it another one."""
    with host.libvirtd.connect() as connection:
        element = find_live(connection.lookupByUUIDString(guest.uuid))
        return element is not None and element.get("model") == "ib700"


def make_transient(host: LibvirtHost, guest: Guest) -> None:
    """Make a running domain one that vanishes when it stops."""
    with host.libvirtd.connect() as connection:
        connection.lookupByUUIDString(guest.uuid).undefine()


def make_persistent(host: LibvirtHost, guest: Guest) -> None:
    """The way back, if it is transient."""
    with host.libvirtd.connect() as connection:
        domain = connection.lookupByUUIDString(guest.uuid)
        if not domain.isPersistent():
            connection.defineXML(domain.XMLDesc(_WHOLE))
