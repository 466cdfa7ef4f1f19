"""What libvirt's errors mean: only what certainly came before QEMU may be called a refusal."""

import libvirt
import pytest

from compute_agent.contract.errors import Code
from compute_agent.drivers.errors import (
    BackendUnavailable,
    CapabilityUnsupported,
    NothingSent,
    OutcomeUnknown,
    ServerNotFound,
    ServerNotRunning,
    ServerUnsupported,
)
from compute_agent.drivers.libvirt.errors import translate_injection_error, translate_read_error
from tests.unit.agent.libvirt_fakes import make_error

SERVER = "6f4c1c2e-0f6c-4f6e-9d0e-000000000001"


@pytest.mark.parametrize(
    ("code", "kind", "ends_as"),
    [
        (libvirt.VIR_ERR_OPERATION_INVALID, ServerNotRunning, Code.SERVER_NOT_RUNNING),
        (libvirt.VIR_ERR_NO_DOMAIN, ServerNotFound, Code.SERVER_NOT_FOUND),
        (libvirt.VIR_ERR_OPERATION_DENIED, BackendUnavailable, Code.FORBIDDEN),
        (libvirt.VIR_ERR_ACCESS_DENIED, BackendUnavailable, Code.FORBIDDEN),
        (libvirt.VIR_ERR_NO_SUPPORT, CapabilityUnsupported, Code.NOT_SUPPORTED),
        (libvirt.VIR_ERR_CONFIG_UNSUPPORTED, ServerUnsupported, Code.NOT_SUPPORTED),
        (libvirt.VIR_ERR_OPERATION_UNSUPPORTED, ServerUnsupported, Code.NOT_SUPPORTED),
        (libvirt.VIR_ERR_OPERATION_TIMEOUT, BackendUnavailable, Code.BACKEND_UNAVAILABLE),
    ],
)
def test_refusals_before_qemu_are_certain(code: int, kind: type, ends_as: Code) -> None:
    translated = translate_injection_error(make_error(code), SERVER)
    assert type(translated) is kind
    assert isinstance(translated, NothingSent)
    assert translated.code is ends_as
    assert translated.server == SERVER
    assert "said libvirt" in translated.reason


@pytest.mark.parametrize(
    ("code", "domain", "message"),
    [
        (libvirt.VIR_ERR_SYSTEM_ERROR, libvirt.VIR_FROM_RPC, "End of file while reading data: Input/output error"),
        (libvirt.VIR_ERR_INTERNAL_ERROR, libvirt.VIR_FROM_RPC, "internal error: connection closed due to keepalive timeout"),
        (libvirt.VIR_ERR_INTERNAL_ERROR, libvirt.VIR_FROM_RPC, "internal error: client socket is closed"),
        (libvirt.VIR_ERR_RPC, libvirt.VIR_FROM_RPC, "odd reply"),
        (libvirt.VIR_ERR_INTERNAL_ERROR, libvirt.VIR_FROM_QEMU, "internal error: End of file from qemu monitor"),
        (libvirt.VIR_ERR_INTERNAL_ERROR, libvirt.VIR_FROM_QEMU, "internal error: unable to execute QEMU command 'inject-nmi': later"),
        (libvirt.VIR_ERR_OPERATION_FAILED, libvirt.VIR_FROM_QEMU, "domain is no longer running"),
        (libvirt.VIR_ERR_AGENT_UNRESPONSIVE, libvirt.VIR_FROM_QEMU, "no answer"),
        (libvirt.VIR_ERR_NO_MEMORY, libvirt.VIR_FROM_NONE, "out of memory"),
        (99999, libvirt.VIR_FROM_NONE, "a code of the future"),
    ],
)
def test_anything_else_was_perhaps_sent(code: int, domain: int, message: str) -> None:
    assert isinstance(translate_injection_error(make_error(code, domain, message), SERVER), OutcomeUnknown)


@pytest.mark.parametrize("code", [libvirt.VIR_ERR_OPERATION_TIMEOUT, libvirt.VIR_ERR_OPERATION_INVALID, libvirt.VIR_ERR_NO_SUPPORT])
@pytest.mark.parametrize("domain", [libvirt.VIR_FROM_RPC, libvirt.VIR_FROM_REMOTE])
def test_an_error_on_the_way_says_nothing_of_what_libvirtd_did(code: int, domain: int) -> None:
    assert isinstance(translate_injection_error(make_error(code, domain), SERVER), OutcomeUnknown)


@pytest.mark.parametrize("sentence", ["machine does not provide NMIs", "this feature or command is not currently supported"])
def test_a_machine_type_without_nmi_is_a_no(sentence: str) -> None:
    """QEMU for Arm, say: libvirt reports it as an internal error with QEMU's sentence."""
    message = f"internal error: unable to execute QEMU command 'inject-nmi': {sentence}"
    assert isinstance(translate_injection_error(make_error(libvirt.VIR_ERR_INTERNAL_ERROR, message=message), SERVER), ServerUnsupported)


@pytest.mark.parametrize(
    ("code", "kind", "ends_as"),
    [
        (libvirt.VIR_ERR_NO_DOMAIN, ServerNotFound, Code.SERVER_NOT_FOUND),
        (libvirt.VIR_ERR_ACCESS_DENIED, BackendUnavailable, Code.FORBIDDEN),
        (libvirt.VIR_ERR_INTERNAL_ERROR, BackendUnavailable, Code.BACKEND_UNAVAILABLE),
        (libvirt.VIR_ERR_NO_SUPPORT, BackendUnavailable, Code.BACKEND_UNAVAILABLE),
    ],
)
def test_reading_sends_nothing_so_its_errors_are_never_a_perhaps(code: int, kind: type, ends_as: Code) -> None:
    translated = translate_read_error(make_error(code, libvirt.VIR_FROM_RPC), SERVER)
    assert type(translated) is kind
    assert translated.code is ends_as
