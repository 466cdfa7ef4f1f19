"""Lets a paused domain run again: ``virDomainResume``."""

import libvirt

from compute_agent.contract.models import PowerState
from compute_agent.drivers.base import Resume
from compute_agent.drivers.errors import BackendUnavailable, OutcomeUnknown, ServerNotRunning
from compute_agent.drivers.libvirt.calls import CallConnections
from compute_agent.drivers.libvirt.errors import is_lost, translate_read_error
from compute_agent.drivers.libvirt.monitor import check_monitor
from compute_agent.drivers.libvirt.servers import get_domain
from compute_agent.drivers.libvirt.states import describe_state, translate_power_state

# libvirt itself holds it still for the while and lets it go on; a guest that ran meanwhile would spoil what is being done.
_PASSING = frozenset(
    {
        libvirt.VIR_DOMAIN_PAUSED_MIGRATION,
        libvirt.VIR_DOMAIN_PAUSED_POSTCOPY,
        libvirt.VIR_DOMAIN_PAUSED_POSTCOPY_FAILED,
        libvirt.VIR_DOMAIN_PAUSED_SAVE,
        libvirt.VIR_DOMAIN_PAUSED_DUMP,
        libvirt.VIR_DOMAIN_PAUSED_SNAPSHOT,
        libvirt.VIR_DOMAIN_PAUSED_SHUTTING_DOWN,
    }
)


class LibvirtResume(Resume):
    """Returns within milliseconds unless libvirtd or QEMU is stuck."""

    def __init__(self, connections: CallConnections) -> None:
        self._connections = connections

    def resume_server(self, server: str) -> None:
        with self._connections.borrow() as connection:
            domain = get_domain(connection, server)
            try:
                state, reason = domain.state()
                power_state = translate_power_state(state, reason)
                if power_state is PowerState.RUNNING:
                    return
                if power_state is not PowerState.PAUSED:
                    raise ServerNotRunning(server, f"the server is {describe_state(state, reason)}")
                if reason in _PASSING:
                    raise BackendUnavailable(server, f"the server is {describe_state(state, reason)}, which ends by itself")
                check_monitor(domain, server)
            except libvirt.libvirtError as error:
                raise translate_read_error(error, server) from error
            try:
                domain.resume()
            except libvirt.libvirtError as error:
                if is_lost(error):
                    raise OutcomeUnknown(server, f"libvirt was lost while the server was resumed: {error}") from error
                if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
                    raise translate_read_error(error, server) from error
                raise BackendUnavailable(server, f"libvirt refused: {error}") from error
