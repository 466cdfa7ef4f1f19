"""Injects an NMI into a domain: exactly one, or it is said that none was, or that nobody knows."""

import libvirt

from compute_agent.contract.models import PowerState
from compute_agent.drivers.base import Nmi
from compute_agent.drivers.errors import ServerNotRunning
from compute_agent.drivers.libvirt.calls import CallConnections
from compute_agent.drivers.libvirt.errors import translate_injection_error, translate_read_error
from compute_agent.drivers.libvirt.monitor import check_monitor
from compute_agent.drivers.libvirt.servers import get_domain
from compute_agent.drivers.libvirt.states import describe_state, translate_power_state

# A guest that is asleep would lose the NMI: waking up resets its processors.
_NOBODY_THERE = (PowerState.SHUTDOWN, PowerState.CRASHED, PowerState.SUSPENDED)


class LibvirtNmi(Nmi):
    """``virDomainInjectNMI``; returns within milliseconds unless libvirtd or QEMU is stuck.

    A frozen libvirtd ends the call with the keepalive; behind a frozen QEMU libvirt waits without bound, which the agent's own
    ``call_bound`` is for.
    """

    def __init__(self, connections: CallConnections) -> None:
        self._connections = connections

    def inject_nmi(self, server: str) -> None:
        with self._connections.borrow() as connection:
            domain = get_domain(connection, server)
            try:
                _check_state(domain, server)
                check_monitor(domain, server)
            except libvirt.libvirtError as error:
                raise translate_read_error(error, server) from error
            # From here on the NMI is perhaps sent. Nothing may come between this line and the call.
            try:
                domain.injectNMI()
            except libvirt.libvirtError as error:
                raise translate_injection_error(error, server) from error


def _check_state(domain: libvirt.virDomain, server: str) -> None:
    """libvirt would say yes to a crashed guest, and a second NMI is not harmless.

    :raises ServerNotRunning: there is nobody to take the NMI.
    """
    state, reason = domain.state()
    if translate_power_state(state, reason) in _NOBODY_THERE:
        raise ServerNotRunning(server, f"the server is {describe_state(state, reason)}")
