"""libvirt's errors as its binding raises them."""

import libvirt


def make_error(code: int, domain: int = libvirt.VIR_FROM_QEMU, message: str = "said libvirt") -> libvirt.libvirtError:
    """An error as if libvirt itself had reported it: the binding keeps (code, domain, message, level, ...) in ``err``."""
    error = libvirt.libvirtError(message)
    error.err = (code, domain, message, 2, None, None, None, -1, -1)
    return error
