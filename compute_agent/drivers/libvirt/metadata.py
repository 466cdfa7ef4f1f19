"""What a domain's XML says of its server: sizes, whose it is, what it was ordered as.

The XML comes from libvirt, but its metadata was written by whoever defined the domain. Its texts become single lines of bounded
length, fit for a log line and a table.
"""

from dataclasses import dataclass
from xml.etree.ElementTree import Element

from compute_agent.contract.models import Flavor
from compute_agent.contract.text import clean_line, clean_tags
from compute_agent.drivers.libvirt.domain_xml import read_count, read_memory_kib, read_vcpus

OWN_NAMESPACE = "https://crashcart.dev/xmlns/server/1.0"
# Nova changed the version at its end once (1.0, 1.1) and kept the elements.
NOVA_NAMESPACE_PREFIX = "http://openstack.org/xmlns/libvirt/nova/"
NOVA = "nova"
_YES_OR_NO = {"yes": True, "no": False}
_MOST = 2**31 - 1


@dataclass(frozen=True)
class DomainDescription:
    """What the XML says; None where it says nothing. ``foreign_owner`` names another control plane that manages the server."""

    name: str | None = None
    project: str | None = None
    user: str | None = None
    vcpus: int | None = None
    memory_mib: int | None = None
    description: str | None = None
    flavor: Flavor | None = None
    tags: tuple[str, ...] = ()
    foreign_owner: str | None = None
    host_dump_after_panic: bool | None = None


def describe_domain(domain: Element) -> DomainDescription:
    """Nova's metadata goes before crashcart's own element; what Nova never says (description, tags) is read there."""
    nova = _find_nova_instance(domain)
    own = domain.find(f"metadata/{{{OWN_NAMESPACE}}}server")
    name, project, user = _read_own_owner(own) if nova is None else _read_nova_owner(nova)
    vcpus, memory_kib = read_vcpus(domain), read_memory_kib(domain)
    memory_mib = None if memory_kib is None else memory_kib >> 10
    return DomainDescription(
        name=name,
        project=project,
        user=user,
        vcpus=vcpus,
        memory_mib=memory_mib,
        description=_find_text(own, "description") or _clean(domain.findtext("description")),
        flavor=_find_flavor(own if nova is None else nova, vcpus, memory_mib),
        tags=_read_tags(own),
        foreign_owner=None if nova is None else NOVA,
        host_dump_after_panic=_YES_OR_NO.get(_find_text(own, "host_dump_after_panic") or ""),
    )


def _find_nova_instance(domain: Element) -> Element | None:
    for element in domain.iterfind("metadata/*"):
        if element.tag.startswith(f"{{{NOVA_NAMESPACE_PREFIX}") and element.tag.endswith("}instance"):
            return element
    return None


def _get_namespace(element: Element) -> str:
    """The prefix ``{...}`` of the tags inside an element of somebody's metadata."""
    return element.tag[: element.tag.index("}") + 1]


def _find_text(element: Element | None, tag: str) -> str | None:
    return None if element is None else _clean(element.findtext(f"{_get_namespace(element)}{tag}"))


def _read_nova_owner(instance: Element) -> tuple[str | None, str | None, str | None]:
    """(name, project, user): Nova keeps the ids in attributes and the names as text."""
    namespace = _get_namespace(instance)
    project = instance.find(f"{namespace}owner/{namespace}project")
    user = instance.find(f"{namespace}owner/{namespace}user")
    return (
        _find_text(instance, "name"),
        None if project is None else _clean(project.get("uuid")),
        None if user is None else _clean(user.get("uuid")),
    )


def _read_own_owner(own: Element | None) -> tuple[str | None, str | None, str | None]:
    return _find_text(own, "name"), _find_text(own, "project"), _find_text(own, "user")


def _find_flavor(owner: Element | None, vcpus: int | None, memory_mib: int | None) -> Flavor | None:
    """Nova's element and our own have the same form; sizes that it does not say are those of the domain.

    None without a name, or when neither says how many CPUs and how much memory there are.
    """
    flavor = None if owner is None else owner.find(f"{_get_namespace(owner)}flavor")
    name = None if flavor is None else _clean(flavor.get("name"))
    if flavor is None or name is None:
        return None
    said = {word: read_count(_find_text(flavor, word)) for word in ("vcpus", "memory", "disk", "ephemeral", "swap")}
    vcpus, memory_mib = said["vcpus"] or vcpus, said["memory"] or memory_mib
    if vcpus is None or memory_mib is None or max(vcpus, memory_mib, *(count or 0 for count in said.values())) > _MOST:
        return None
    return Flavor(
        name=name,
        vcpus=vcpus,
        ram_mib=memory_mib,
        disk_gib=said["disk"] or 0,
        ephemeral_gib=said["ephemeral"] or 0,
        swap_mib=said["swap"] or 0,
    )


def _read_tags(own: Element | None) -> tuple[str, ...]:
    if own is None:
        return ()
    namespace = _get_namespace(own)
    return clean_tags(tag.text or "" for tag in own.iterfind(f"{namespace}tags/{namespace}tag"))


def _clean(text: str | None) -> str | None:
    """One line without control characters, of bounded length; None when nothing is left."""
    return clean_line(text or "") or None
