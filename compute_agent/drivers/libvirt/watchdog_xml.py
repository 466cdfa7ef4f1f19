"""The watchdogs in a domain's XML: read, and replaced with every other byte of the XML left as it is. Pure."""

import re
from dataclasses import dataclass
from xml.etree import ElementTree
from xml.etree.ElementTree import Element
from xml.parsers import expat

from compute_agent.contract.watchdogs import WatchdogDevice
from compute_agent.drivers.libvirt.domain_xml import MalformedDomain, read_root
from compute_agent.drivers.libvirt.watchdog_models import BY_WORD, ITCO, OMITTED_ACTION

_PLACE = ["domain", "devices", "watchdog"]
_WORD = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}")
_UNREADABLE = "unknown"


@dataclass(frozen=True)
class FoundWatchdogs:
    """``managed`` is the first one that crashcart manages, ``others`` are all the rest, in the XML's order."""

    managed: WatchdogDevice | None = None
    others: tuple[WatchdogDevice, ...] = ()


def read_watchdogs(domain: Element) -> FoundWatchdogs:
    """What the domain has. A word that no driver could have is shown as ``unknown``."""
    devices = [_read_device(element) for element in domain.iterfind("devices/watchdog")]
    managed = next((device for device in devices if _is_managed(device)), None)
    if managed is not None:
        devices.remove(managed)
    return FoundWatchdogs(managed, tuple(devices))


def find_element(domain: Element) -> Element | None:
    """That of the managed one."""
    return next((element for element in domain.iterfind("devices/watchdog") if _is_managed(_read_device(element))), None)


def find_alias(element: Element) -> str | None:
    """QEMU's name of the live device (``watchdog0``)."""
    alias = element.find("alias")
    return None if alias is None else alias.get("name")


def is_fixed(domain: Element, element: Element) -> bool:
    """Whether this live device cannot be taken away while the machine runs: nothing on its PCI bus can."""
    address = element.find("address[@type='pci']")
    if address is None:
        return False
    try:
        bus = int(address.get("bus", "0"), 16)
    except ValueError:  # no bus that libvirt would write
        return False
    controller = domain.find(f"devices/controller[@type='pci'][@index='{bus}']")
    if controller is None:
        return False
    return controller.get("model") == "pcie-root" or controller.find("target[@hotplug='off']") is not None


def write_device(device: WatchdogDevice) -> str:
    """A new one, without an address: libvirt finds one."""
    return ElementTree.tostring(Element("watchdog", model=device.model, action=device.expiry_action), encoding="unicode")


def replace_watchdog(xml: str, device: WatchdogDevice | None) -> str:
    """The same XML with this managed watchdog, or none; every byte but those of its element stays.

    A device of the same model keeps its address. The one in the chipset gets the same expiry action: libvirt demands that of all.

    :raises MalformedDomain: it is not the XML of a domain with devices.
    """
    domain = read_root(xml)
    found, spans = find_element(domain), _find_spans(xml)
    raw = xml.encode()
    elements = domain.findall("devices/watchdog")
    edits: list[tuple[int, int, str]] = []
    for element, (start, end) in zip(elements, spans.watchdogs, strict=True):
        if element is found:
            edits.append((start, end, "" if device is None else _change(element, device)))
        elif device is not None and element.get("model") == ITCO:
            edits.append((start, end, _write(element, device.expiry_action)))
    if found is None and device is not None:
        edits.append((spans.devices_end, spans.devices_end, write_device(device)))
    for start, end, text in sorted(edits, reverse=True):
        raw = raw[:start] + text.encode() + raw[end:]
    return raw.decode()


def _change(element: Element, device: WatchdogDevice) -> str:
    return _write(element, device.expiry_action) if element.get("model") == device.model else write_device(device)


def _write(element: Element, expiry_action: str) -> str:
    element.set("action", expiry_action)
    element.tail = None
    return ElementTree.tostring(element, encoding="unicode")


def _read_device(element: Element) -> WatchdogDevice:
    return WatchdogDevice(model=_read_word(element.get("model", "")), expiry_action=_read_word(element.get("action", OMITTED_ACTION)))


def _read_word(text: str) -> str:
    return text if _WORD.fullmatch(text) else _UNREADABLE


def _is_managed(device: WatchdogDevice) -> bool:
    model = BY_WORD.get(device.model)
    return model is not None and model.managed


@dataclass
class _Spans:
    """In bytes: from where to where each watchdog stands, and where the devices end."""

    watchdogs: list[tuple[int, int]]
    devices_end: int = -1


def _find_spans(xml: str) -> _Spans:
    """Where they are: libvirt must get everything else back as it gave it, prefixes and secrets too."""
    parser = expat.ParserCreate("UTF-8")
    path: list[str] = []
    spans = _Spans([])
    raw = xml.encode()

    def begin(tag: str, _attributes: dict[str, str]) -> None:
        path.append(tag)
        if path == _PLACE:
            spans.watchdogs.append((parser.CurrentByteIndex, -1))

    def end(_tag: str) -> None:
        position = parser.CurrentByteIndex
        if path == _PLACE:
            # Of an empty element expat says where it ends, of another one where its end tag begins.
            ends = raw.index(b">", position) + 1 if raw.startswith(b"</watchdog", position) else position
            spans.watchdogs[-1] = (spans.watchdogs[-1][0], ends)
        elif path == _PLACE[:2] and raw.startswith(b"</devices", position):
            spans.devices_end = position
        path.pop()

    parser.StartElementHandler, parser.EndElementHandler = begin, end
    parser.Parse(raw, True)
    if spans.devices_end < 0:
        raise MalformedDomain("a domain without devices")
    return spans
