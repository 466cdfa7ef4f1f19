"""libvirt's errors in the words of the driver contract.

The one question that matters is whether something was perhaps done. While the driver only reads, nothing was. Once ``injectNMI`` has
begun, an error is a "no" only if libvirt raises it before it talks to QEMU; every other one is a "perhaps".
"""

import libvirt

from compute_agent.contract.errors import Code
from compute_agent.drivers.errors import (
    BackendUnavailable,
    CapabilityUnsupported,
    DriverError,
    NothingSent,
    OutcomeUnknown,
    ServerNotFound,
    ServerNotRunning,
    ServerUnsupported,
)

FORBIDDEN = frozenset(
    {
        libvirt.VIR_ERR_OPERATION_DENIED,  # a read-only connection
        libvirt.VIR_ERR_ACCESS_DENIED,
        libvirt.VIR_ERR_AUTH_FAILED,
        libvirt.VIR_ERR_AUTH_CANCELLED,
        libvirt.VIR_ERR_AUTH_UNAVAILABLE,
    }
)
_SERVER_CANNOT = frozenset({libvirt.VIR_ERR_CONFIG_UNSUPPORTED, libvirt.VIR_ERR_OPERATION_UNSUPPORTED})
# Where an error arises on the way to libvirtd and back, its code says nothing of what libvirtd did.
_ON_THE_WAY = frozenset({libvirt.VIR_FROM_RPC, libvirt.VIR_FROM_REMOTE})
# QEMU's own sentences for a machine type without any NMI (the second until QEMU 8.1). libvirt has no code for them.
_INJECT_COMMAND = "'inject-nmi'"
_NO_SUCH_MACHINE_FEATURE = ("machine does not provide NMIs", "this feature or command is not currently supported")
_NO_SPACE = "No space left on device"


def is_lost(error: libvirt.libvirtError) -> bool:
    """Whether it arose on the way to libvirtd and back: nobody knows what libvirtd did."""
    return error.get_error_domain() in _ON_THE_WAY


def translate_read_error(error: libvirt.libvirtError, server: str | None) -> NothingSent:
    """What an error of a call that changes nothing means."""
    code = error.get_error_code()
    if code == libvirt.VIR_ERR_NO_DOMAIN:
        return ServerNotFound(server, f"libvirt has no such domain: {error}")
    if code in FORBIDDEN:
        return BackendUnavailable(server, f"libvirt refuses the agent: {error}", Code.FORBIDDEN)
    return BackendUnavailable(server, f"libvirt did not answer: {error}")


def translate_injection_error(error: libvirt.libvirtError, server: str) -> DriverError:
    """What an error of ``injectNMI`` means: a refusal only where libvirt certainly has not spoken to QEMU."""
    if not is_lost(error):
        refusal = _find_refusal(error, server)
        if refusal is not None:
            return refusal
        if error.get_error_code() == libvirt.VIR_ERR_OPERATION_TIMEOUT:
            # libvirt itself bounds only the wait for its turn; it waits for QEMU's answer for ever.
            return BackendUnavailable(server, f"the server is busy with another job of libvirt: {error}")
        if _says_machine_has_no_nmi(error):
            return ServerUnsupported(server, f"this machine type has no NMI: {error}")
    return OutcomeUnknown(server, f"libvirt failed after the NMI was handed to it: {error}")


def translate_dump_error(error: libvirt.libvirtError, server: str) -> DriverError:
    """What an error of a host dump means: unless it was lost on the way, libvirt has ended the dump and there is no whole file."""
    if is_lost(error):
        return OutcomeUnknown(server, f"libvirt was lost during the dump: {error}")
    if error.get_error_code() == libvirt.VIR_ERR_INVALID_ARG:
        return CapabilityUnsupported(server, f"this QEMU cannot write such a dump: {error}")
    if error.get_error_code() == libvirt.VIR_ERR_OPERATION_TIMEOUT:
        return BackendUnavailable(server, f"the server is busy with another job of libvirt: {error}")
    refusal = _find_refusal(error, server)
    if refusal is not None:
        return refusal
    code = Code.NO_SPACE if _NO_SPACE in str(error) else Code.HOST_DUMP_FAILED
    return BackendUnavailable(server, f"libvirt could not write the dump: {error}", code)


def _find_refusal(error: libvirt.libvirtError, server: str) -> NothingSent | None:
    """The kind of "no" that the error's code stands for, or None when it is no plain refusal."""
    code = error.get_error_code()
    if code == libvirt.VIR_ERR_OPERATION_INVALID:
        return ServerNotRunning(server, f"the server is not running: {error}")
    if code == libvirt.VIR_ERR_NO_SUPPORT:
        return CapabilityUnsupported(server, f"this hypervisor cannot: {error}")
    if code in _SERVER_CANNOT:
        return ServerUnsupported(server, f"this server cannot: {error}")
    if code == libvirt.VIR_ERR_NO_DOMAIN or code in FORBIDDEN:
        return translate_read_error(error, server)
    return None


def _says_machine_has_no_nmi(error: libvirt.libvirtError) -> bool:
    message = str(error)
    return _INJECT_COMMAND in message and any(sentence in message for sentence in _NO_SUCH_MACHINE_FEATURE)
