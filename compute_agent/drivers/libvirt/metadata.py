"""What a domain's XML says of its server: sizes, and whose it is.

The XML comes from libvirt, but its metadata was written by whoever defined the domain. It is read without document types and
entities, and its texts become single lines of bounded length, fit for a log line and a table.
"""

from dataclasses import dataclass
from xml.etree.ElementTree import Element, ParseError

import defusedxml
import defusedxml.ElementTree

OWN_NAMESPACE = "https://crashcart.dev/xmlns/server/1.0"
# Nova changed the version at its end once (1.0, 1.1) and kept the elements.
NOVA_NAMESPACE_PREFIX = "http://openstack.org/xmlns/libvirt/nova/"
NOVA = "nova"
_LONGEST_TEXT = 255
_BYTES_OF_UNIT = {
    "b": 1,
    "bytes": 1,
    "KB": 1000,
    "k": 1 << 10,
    "KiB": 1 << 10,
    "MB": 1000**2,
    "M": 1 << 20,
    "MiB": 1 << 20,
    "GB": 1000**3,
    "G": 1 << 30,
    "GiB": 1 << 30,
    "TB": 1000**4,
    "T": 1 << 40,
    "TiB": 1 << 40,
}


class MalformedDomain(ValueError):
    """The text is not the XML of a domain."""


@dataclass(frozen=True)
class DomainDescription:
    """What the XML says; None where it says nothing. ``foreign_owner`` names another control plane that manages the server."""

    name: str | None = None
    project: str | None = None
    user: str | None = None
    vcpus: int | None = None
    memory_mib: int | None = None
    foreign_owner: str | None = None


def parse_domain(xml: str) -> DomainDescription:
    """Read a domain's XML. Nova's metadata goes before crashcart's own element; what neither says stays None.

    :raises MalformedDomain: when it is not well-formed, has a document type, or is not a domain.
    """
    try:
        domain = defusedxml.ElementTree.fromstring(xml, forbid_dtd=True)
    except (ParseError, defusedxml.DefusedXmlException, ValueError) as error:
        raise MalformedDomain(f"unreadable domain XML: {error}") from error
    if domain.tag != "domain":
        raise MalformedDomain(f"not a domain but {_clean(domain.tag)!r}")
    nova = _find_nova_instance(domain)
    name, project, user = _read_own_owner(domain) if nova is None else _read_nova_owner(nova)
    return DomainDescription(
        name=name,
        project=project,
        user=user,
        vcpus=_read_vcpus(domain),
        memory_mib=_read_memory_mib(domain),
        foreign_owner=None if nova is None else NOVA,
    )


def _find_nova_instance(domain: Element) -> Element | None:
    for element in domain.iterfind("metadata/*"):
        if element.tag.startswith(f"{{{NOVA_NAMESPACE_PREFIX}") and element.tag.endswith("}instance"):
            return element
    return None


def _read_nova_owner(instance: Element) -> tuple[str | None, str | None, str | None]:
    """(name, project, user): Nova keeps the ids in attributes and the names as text."""
    namespace = instance.tag[1:].rpartition("}")[0]
    project = instance.find(f"{{{namespace}}}owner/{{{namespace}}}project")
    user = instance.find(f"{{{namespace}}}owner/{{{namespace}}}user")
    return (
        _clean(instance.findtext(f"{{{namespace}}}name")),
        None if project is None else _clean(project.get("uuid")),
        None if user is None else _clean(user.get("uuid")),
    )


def _read_own_owner(domain: Element) -> tuple[str | None, str | None, str | None]:
    own = domain.find(f"metadata/{{{OWN_NAMESPACE}}}server")
    if own is None:
        return None, None, None
    name, project, user = (_clean(own.findtext(f"{{{OWN_NAMESPACE}}}{word}")) for word in ("name", "project", "user"))
    return name, project, user


def _read_vcpus(domain: Element) -> int | None:
    """What is plugged in now, where it differs from the most that could be."""
    vcpu = domain.find("vcpu")
    if vcpu is None:
        return None
    return _read_count(vcpu.get("current")) or _read_count(vcpu.text)


def _read_memory_mib(domain: Element) -> int | None:
    memory = domain.find("memory")
    if memory is None:
        return None
    amount, unit = _read_count(memory.text), _BYTES_OF_UNIT.get(memory.get("unit", "KiB"))
    return None if amount is None or unit is None else amount * unit >> 20


def _read_count(text: str | None) -> int | None:
    digits = (text or "").strip()
    # isdecimal alone would let other scripts' digits pass; more digits than 18 are no count of anything.
    if not (digits.isascii() and digits.isdecimal() and len(digits) <= 18):
        return None
    return int(digits) or None


def _clean(text: str | None) -> str | None:
    """One line without control characters, at most 255 long; None when nothing is left."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text or "").split())
    return line[:_LONGEST_TEXT].rstrip() or None
