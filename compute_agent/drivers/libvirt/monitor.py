"""Whether libvirt can talk to a server's QEMU, asked without talking to it."""

import libvirt

from compute_agent.drivers.errors import BackendUnavailable

_LONGEST_SILENCE_MS = 5000


def check_monitor(domain: libvirt.virDomain, server: str) -> None:
    """Do not queue behind a QEMU that answers nobody: each such call occupies one of the few workers of libvirtd.

    :raises BackendUnavailable: QEMU is stuck.
    :raises libvirt.libvirtError: libvirt did not answer.
    """
    try:
        control, details, since_ms = domain.controlInfo()
    except libvirt.libvirtError as error:
        if error.get_error_code() in (libvirt.VIR_ERR_NO_SUPPORT, libvirt.VIR_ERR_OPERATION_INVALID):
            return  # no QEMU, or off: the call that follows says so itself
        raise
    # The other reason (internal) is what libvirt says while it waits for a guest to let go of a device.
    if control == libvirt.VIR_DOMAIN_CONTROL_ERROR and details != libvirt.VIR_DOMAIN_CONTROL_ERROR_REASON_INTERNAL:
        raise BackendUnavailable(server, "libvirt has lost QEMU's monitor")
    if control == libvirt.VIR_DOMAIN_CONTROL_OCCUPIED and since_ms > _LONGEST_SILENCE_MS:
        raise BackendUnavailable(server, f"QEMU has not answered libvirt for {since_ms / 1000:.0f} s")
