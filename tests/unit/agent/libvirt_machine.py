"""A domain with a watchdog as libvirt and QEMU keep it, in memory: what is configured, what is live, what QEMU does, and what is noted.

Every call can be made to fail: refused by libvirt, or lost on the way before or after libvirt did it.
"""

import copy
import json
from collections.abc import Iterator
from contextlib import contextmanager
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

import libvirt

from compute_agent.drivers.libvirt.removals import Removals
from compute_agent.drivers.libvirt.watchdog_mark import NAMESPACE
from tests.unit.agent.libvirt_fakes import make_error

SERVER = "6f4c1c2e-0f6c-4f6e-9d0e-000000000001"
CONFIGURATION = """<domain type='kvm' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
  <name>inst</name><os><type arch='x86_64' machine='pc-i440fx-7.2'>hvm</type></os>
  <devices><graphics type='vnc' passwd='secret'/>{watchdog}<panic model='isa'/></devices>
  <qemu:commandline><qemu:arg value='-foo'/></qemu:commandline>
</domain>"""
LOST_BEFORE, LOST_AFTER, REFUSED = "lost before", "lost after", "refused"


class Machine:
    """virConnect, virDomain and the guest in one. ``fail[call]`` says how the next such call goes wrong; calls are noted in ``asked``."""

    def __init__(self, removals: Removals, watchdog: str = "", *, running: bool = True, persistent: bool = True) -> None:
        self.removals = removals
        self.configuration = CONFIGURATION.format(watchdog=watchdog)
        self.live = ElementTree.fromstring(self.configuration) if running else None
        self.persistent = persistent
        self.state_now = (libvirt.VIR_DOMAIN_RUNNING, 1) if running else (libvirt.VIR_DOMAIN_SHUTOFF, 1)
        self.clings = False
        self.has_room = True
        self.version = 9_000_000
        self.fail: dict[str, str] = {}
        self.asked: list[str] = []
        self.qemu_action: str | None = None
        if self.live is not None:
            self.live.set("id", "7")
            element = self.live.find("devices/watchdog")
            if element is not None:
                self._name(element)

    # Holders of the connection

    @contextmanager
    def borrow(self) -> "Iterator[Machine]":
        yield self

    def connect(self) -> "Machine":
        return self

    # virConnect

    def lookupByUUIDString(self, server: str) -> "Machine":
        if server != SERVER:
            raise make_error(libvirt.VIR_ERR_NO_DOMAIN)
        return self

    def getHostname(self) -> str:
        return "host"

    def getLibVersion(self) -> int:
        return self.version

    def defineXML(self, xml: str) -> None:
        with self._call("defineXML"):
            self.configuration = xml

    # virDomain

    def UUIDString(self) -> str:
        return SERVER

    def isPersistent(self) -> int:
        return int(self.persistent)

    def isActive(self) -> int:
        return int(self.live is not None)

    def state(self) -> list[int]:
        return list(self.state_now)

    def controlInfo(self) -> list[int]:
        return [libvirt.VIR_DOMAIN_CONTROL_OK, 0, 0]

    def XMLDesc(self, flags: int = 0) -> str:
        if flags & libvirt.VIR_DOMAIN_XML_INACTIVE or self.live is None:
            return self.configuration
        return ElementTree.tostring(self.live, encoding="unicode")

    def setMetadata(self, kind: int, text: str | None, key: str | None, namespace: str, flags: int) -> None:
        assert (kind, namespace, flags) == (libvirt.VIR_DOMAIN_METADATA_ELEMENT, NAMESPACE, libvirt.VIR_DOMAIN_AFFECT_LIVE)
        with self._call("setMetadata"):
            assert self.live is not None
            for metadata in self.live.findall("metadata"):
                self.live.remove(metadata)
            if text is not None:
                note = ElementTree.fromstring(text)
                note.tag = f"{{{namespace}}}{note.tag}"
                SubElement(self.live, "metadata").append(note)

    def attachDeviceFlags(self, xml: str, flags: int) -> None:
        assert flags == libvirt.VIR_DOMAIN_AFFECT_LIVE
        element = ElementTree.fromstring(xml)
        with self._call("attachDeviceFlags"):
            assert self.live is not None
            if self.live.find("devices/watchdog") is not None:
                raise make_error(libvirt.VIR_ERR_OPERATION_INVALID, message="domain already has a watchdog")
            if element.get("model") != "i6300esb" or not self.has_room:
                raise make_error(libvirt.VIR_ERR_INTERNAL_ERROR, message="No more available PCI slots")
            devices = self.live.find("devices")
            assert devices is not None
            devices.append(element)
            self._name(element)

    def detachDeviceFlags(self, xml: str, flags: int) -> None:
        assert flags == libvirt.VIR_DOMAIN_AFFECT_LIVE
        assert ElementTree.fromstring(xml).find("address") is not None, "libvirt finds it by its address only"
        with self._call("detachDeviceFlags"):
            if not self.clings:
                self.let_go()

    def resume(self) -> None:
        with self._call("resume"):
            self.state_now = (libvirt.VIR_DOMAIN_RUNNING, 5)

    # QEMU and the guest

    def command(self, _domain: object, text: str, _flags: int) -> str:
        """What ``qemuMonitorCommand`` does."""
        command = json.loads(text)
        assert command["execute"] == "watchdog-set-action"
        with self._call("qemuMonitorCommand"):
            self.qemu_action = command["arguments"]["action"]
        return '{"return": {}}'

    def let_go(self) -> None:
        """The guest does it now, whether or not somebody still waits."""
        assert self.live is not None
        devices = self.live.find("devices")
        assert devices is not None
        for element in devices.findall("watchdog"):
            devices.remove(element)
        self.qemu_action = None
        self.removals.note(SERVER, "watchdog0", is_gone=True)

    def find_really(self) -> tuple[str, str] | None:
        """(model, what it does), whoever thinks what."""
        element = None if self.live is None else self.live.find("devices/watchdog")
        if element is None:
            return None
        said = element.get("action", "reset")
        # libvirt tells QEMU to pause and dumps then, by its own definition.
        return element.get("model", ""), said if said == "dump" else str(self.qemu_action)

    def _name(self, element: Element) -> None:
        SubElement(element, "alias", name="watchdog0")
        SubElement(element, "address", type="pci", slot="0x03")
        self.qemu_action = element.get("action", "reset")

    @contextmanager
    def _call(self, name: str) -> Iterator[None]:
        self.asked.append(name)
        wrong = self.fail.pop(name, None) or self.fail.pop(f"{name}#{self.asked.count(name)}", None)
        if wrong == REFUSED:
            raise make_error(libvirt.VIR_ERR_OPERATION_FAILED)
        if wrong == LOST_BEFORE:
            raise make_error(libvirt.VIR_ERR_SYSTEM_ERROR, libvirt.VIR_FROM_RPC)
        yield
        if wrong == LOST_AFTER:
            raise make_error(libvirt.VIR_ERR_SYSTEM_ERROR, libvirt.VIR_FROM_RPC)

    def copy(self) -> tuple[str, str | None]:
        """All that there is, to be compared."""
        return self.configuration, None if self.live is None else ElementTree.tostring(copy.deepcopy(self.live), encoding="unicode")
