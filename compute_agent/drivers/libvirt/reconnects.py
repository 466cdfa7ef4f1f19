"""Which guests a libvirtd that has just been started has not found again.

It answers before it has opened every QEMU's monitor anew. Until then it shows such a guest in the state that it remembers, and tells
nothing of it: neither what happened since it was killed nor (measured with libvirt 9.0) the state that it finds in the end.
"""

import logging

import libvirt

LOG = logging.getLogger(__name__)

_OCCUPIED = (libvirt.VIR_DOMAIN_CONTROL_JOB, libvirt.VIR_DOMAIN_CONTROL_OCCUPIED)


def list_occupied(connection: libvirt.virConnect) -> frozenset[str]:
    """Servers that libvirt has something to do with now: finding them again, or (which cannot be told apart) anything else.

    Empty when libvirt does not answer: whoever looks after the connection is told that by libvirt itself.
    """
    try:
        domains = connection.listAllDomains(libvirt.VIR_CONNECT_LIST_DOMAINS_ACTIVE)
    except libvirt.libvirtError as error:
        LOG.debug("libvirt does not say which guests it is occupied with: %s", error)
        return frozenset()
    return frozenset(domain.UUIDString() for domain in domains if _is_occupied(domain))


def _is_occupied(domain: libvirt.virDomain) -> bool:
    try:
        return domain.controlInfo()[0] in _OCCUPIED
    except libvirt.libvirtError as error:
        LOG.debug("domain %s has no control interface, or is gone: %s", domain.name(), error)
        return False
