"""What a domain's XML says of its devices: which there are, in what order, and under which names libvirt counts for them."""

import re
from dataclasses import dataclass
from xml.etree.ElementTree import Element

from compute_agent.contract.text import clean_line
from compute_agent.drivers.libvirt.domain_xml import read_memory_kib, read_root, read_vcpus

_MAC = re.compile(r"(?:[0-9a-f]{2}:){5}[0-9a-f]{2}")
_MOST_CPUS = 8192
# Nova's own name of the disk with a server's metadata, as a file, a volume or an object (UUID_disk.config).
_CONFIG_DRIVE = "disk.config"


@dataclass(frozen=True)
class DomainNic:
    """A network card: the host's name of its other end (None where it has none) and its MAC in lower case."""

    device: str | None = None
    mac: str | None = None


@dataclass(frozen=True)
class DomainDisk:
    """A disk, CD-ROM or floppy drive, empty or not: the guest's name of it (``vda``) and QEMU's."""

    device: str | None = None
    alias: str | None = None


@dataclass(frozen=True)
class DomainDevices:
    """What the XML names. ``hypervisor`` is the domain's type: ``kvm``, ``qemu``. ``cpus`` are the numbers of those that are plugged in."""

    hypervisor: str | None = None
    cpus: tuple[int, ...] = ()
    memory_kib: int | None = None
    nics: tuple[DomainNic, ...] = ()
    disks: tuple[DomainDisk, ...] = ()
    has_config_drive: bool = False


def parse_devices(xml: str) -> DomainDevices:
    """Read a domain's XML; what is odd in it is left out, device by device.

    :raises MalformedDomain: when it is not well-formed, has a document type, or is not a domain.
    """
    domain = read_root(xml)
    disks = domain.findall("devices/disk")
    return DomainDevices(
        hypervisor=_clean(domain.get("type")),
        cpus=_read_cpus(domain),
        memory_kib=read_memory_kib(domain),
        nics=tuple(DomainNic(_find(nic, "target", "dev"), _find_mac(nic)) for nic in domain.iterfind("devices/interface")),
        disks=tuple(DomainDisk(_find(disk, "target", "dev"), _find(disk, "alias", "name")) for disk in disks),
        has_config_drive=any(_is_config_drive(disk) for disk in disks),
    )


def _read_cpus(domain: Element) -> tuple[int, ...]:
    """Unplugging may leave gaps; then each processor is named."""
    named = [cpu.get("id", "") for cpu in domain.iterfind("vcpus/vcpu") if cpu.get("enabled") == "yes"]
    numbers = {int(number) for number in named if number.isascii() and number.isdecimal() and len(number) <= 4}
    if numbers:
        return tuple(sorted(numbers))
    count = read_vcpus(domain) or 0
    return tuple(range(count)) if count <= _MOST_CPUS else ()


def _find_mac(nic: Element) -> str | None:
    mac = (_find(nic, "mac", "address") or "").lower()
    return mac if _MAC.fullmatch(mac) else None


def _is_config_drive(disk: Element) -> bool:
    source = disk.find("source")
    return source is not None and any(source.get(place, "").endswith(_CONFIG_DRIVE) for place in ("file", "dev", "name", "volume"))


def _find(device: Element, tag: str, attribute: str) -> str | None:
    element = device.find(tag)
    return None if element is None else _clean(element.get(attribute))


def _clean(text: str | None) -> str | None:
    return clean_line(text or "") or None
