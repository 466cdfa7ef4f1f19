"""Reads a domain's XML safely: without document types and entities, and without believing its numbers."""

from xml.etree.ElementTree import Element, ParseError

import defusedxml
import defusedxml.ElementTree

from compute_agent.contract.text import clean_line

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


def read_root(xml: str) -> Element:
    """The element ``domain``.

    :raises MalformedDomain: it is not well-formed, has a document type, or is not a domain.
    """
    try:
        domain: Element = defusedxml.ElementTree.fromstring(xml, forbid_dtd=True)
    except (ParseError, defusedxml.DefusedXmlException, ValueError) as error:
        raise MalformedDomain(f"unreadable domain XML: {error}") from error
    if domain.tag != "domain":
        raise MalformedDomain(f"not a domain but {clean_line(domain.tag)!r}")
    return domain


def read_vcpus(domain: Element) -> int | None:
    """What is plugged in now, where it differs from the most that could be."""
    vcpu = domain.find("vcpu")
    if vcpu is None:
        return None
    return read_count(vcpu.get("current")) or read_count(vcpu.text)


def read_memory_kib(domain: Element) -> int | None:
    """The most memory that the guest may have, in KiB."""
    memory = domain.find("memory")
    if memory is None:
        return None
    amount, unit = read_count(memory.text), _BYTES_OF_UNIT.get(memory.get("unit", "KiB"))
    return None if amount is None or unit is None else amount * unit >> 10


def read_count(text: str | None) -> int | None:
    """A positive whole number, or None for anything else."""
    digits = (text or "").strip()
    # isdecimal alone would let other scripts' digits pass; more digits than 18 are no count of anything.
    if not (digits.isascii() and digits.isdecimal() and len(digits) <= 18):
        return None
    return int(digits) or None
