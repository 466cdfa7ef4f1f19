"""A domain's XML without what could let anybody in anywhere: fit to be kept with a crash and shown to whoever may see that.

libvirt leaves out its own secrets (VNC passwords, say) unless it is asked for them. The rest stands where operators write freely:
QEMU's own options, firmware and kernel arguments, other people's metadata, URLs.
"""

import re
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from compute_agent.drivers.libvirt.domain_xml import read_root
from compute_agent.drivers.libvirt.metadata import NOVA_NAMESPACE_PREFIX, OWN_NAMESPACE

HIDDEN = "***"
_QEMU_NAMESPACE = "http://libvirt.org/schemas/domain/qemu/1.0"
_OWN_NAMESPACES = (f"{{{OWN_NAMESPACE}}}", f"{{{NOVA_NAMESPACE_PREFIX}")
_SECRET_WORD = re.compile(r"pass|secret|token|credential|cookie|private|key", re.IGNORECASE)
# References by name, and words that only look alike.
_HARMLESS_NAMES = frozenset({"secret", "keymap", "keywrap", "passthrough"})
_USER_IN_URL = re.compile(r"(?<=://)[^/@\s]+@")
_ASSIGNMENT = re.compile(r"([^\s=&?,;]+)=([^\s&,;]+)")
# Their texts and values are somebody's free text, handed to QEMU, the firmware or the guest as they are.
_FREE_TEXTS = ("sysinfo//entry", "os/initarg", "os/initenv")

for _prefix, _namespace in (("qemu", _QEMU_NAMESPACE), ("crashcart", OWN_NAMESPACE), ("nova", f"{NOVA_NAMESPACE_PREFIX}1.1")):
    ElementTree.register_namespace(_prefix, _namespace)


def redact_domain(xml: str) -> str:
    """The same domain with ``***`` in place of secrets, and without metadata of others.

    :raises MalformedDomain: it is not well-formed, has a document type, or is not a domain.
    """
    domain = read_root(xml)
    metadata = domain.find("metadata")
    if metadata is not None:
        for element in list(metadata):
            if not element.tag.startswith(_OWN_NAMESPACES):
                metadata.remove(element)
    for path in _FREE_TEXTS:
        for element in domain.iterfind(path):
            _hide_all(element)
    for element in list(domain):
        if element.tag.startswith(f"{{{_QEMU_NAMESPACE}}}"):
            for part in element.iter():
                _hide_all(part, keep=("name", "alias"))
    for element in domain.iter():
        _hide_secrets(element)
    return ElementTree.tostring(domain, encoding="unicode")


def _hide_all(element: Element, keep: tuple[str, ...] = ("name", "file")) -> None:
    if element.text and element.text.strip():
        element.text = HIDDEN
    for name in set(element.keys()) - set(keep):
        element.set(name, HIDDEN)


def _hide_secrets(element: Element) -> None:
    is_secret = _names_secret(element.tag.rpartition("}")[2])
    if element.text and element.text.strip():
        element.text = HIDDEN if is_secret else _clean(element.text)
    for name, value in element.items():
        element.set(name, HIDDEN if _names_secret(name) else _clean(value))


def _names_secret(name: str) -> bool:
    return name.lower() not in _HARMLESS_NAMES and _SECRET_WORD.search(name) is not None


def _clean(text: str) -> str:
    """Without the user in a URL, and without the values of arguments whose names tell that they are secret."""
    without_users = _USER_IN_URL.sub(f"{HIDDEN}@", text)
    return _ASSIGNMENT.sub(lambda found: f"{found[1]}={HIDDEN}" if _names_secret(found[1]) else found[0], without_users)
