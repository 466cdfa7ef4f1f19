"""Reads of a domain what a black box keeps: states, its processors, its XML without secrets, the end of its console's log."""

import os
import stat
from collections.abc import Sequence
from pathlib import Path

import libvirt

from compute_agent.drivers.base import Inspection
from compute_agent.drivers.errors import BackendUnavailable
from compute_agent.drivers.libvirt.calls import CallConnections
from compute_agent.drivers.libvirt.domain_xml import MalformedDomain, read_root
from compute_agent.drivers.libvirt.errors import translate_read_error
from compute_agent.drivers.libvirt.redaction import redact_domain
from compute_agent.drivers.libvirt.servers import get_domain
from compute_agent.drivers.libvirt.states import describe_state, translate_power_state
from compute_agent.drivers.models import InspectedServer, VcpuState

_VCPU_WORDS = {libvirt.VIR_VCPU_OFFLINE: "offline", libvirt.VIR_VCPU_RUNNING: "running", libvirt.VIR_VCPU_BLOCKED: "blocked"}
# A log of its own beside any kind of console, or a console that is a file.
_LOG_PLACES = (("devices/serial/log", "file"), ("devices/console/log", "file"), ("devices/serial[@type='file']/source", "path"))


class LibvirtInspection(Inspection):
    """None of these calls waits for QEMU or for a job.

    :param is_here: whether libvirt's files are this host's
    """

    def __init__(self, connections: CallConnections, *, is_here: bool) -> None:
        self._connections = connections
        self._is_here = is_here

    def inspect_server(self, server: str) -> InspectedServer:
        with self._connections.borrow() as connection:
            domain = get_domain(connection, server)
            try:
                state, reason = domain.state()
                return InspectedServer(
                    power_state=translate_power_state(state, reason),
                    state_reason=describe_state(state, reason),
                    vcpus=_list_vcpus(domain),
                    configuration=_find_configuration(domain),
                )
            except libvirt.libvirtError as error:
                raise translate_read_error(error, server) from error

    def read_console_tail(self, server: str, limit: int) -> bytes | None:
        if not self._is_here:
            return None
        with self._connections.borrow() as connection:
            domain = get_domain(connection, server)
            try:
                log = find_console_log(domain.XMLDesc())
            except libvirt.libvirtError as error:
                raise translate_read_error(error, server) from error
            except MalformedDomain as error:
                raise BackendUnavailable(server, str(error)) from error
        return None if log is None else read_tail(log, limit)


def find_console_log(xml: str) -> Path | None:
    """Where the domain's console is logged; None when it is not, or when the path is not absolute.

    :raises MalformedDomain: it is not the XML of a domain.
    """
    domain = read_root(xml)
    for place, attribute in _LOG_PLACES:
        for element in domain.iterfind(place):
            path = Path(element.get(attribute, ""))
            if path.is_absolute() and "\0" not in str(path):
                return path
    return None


def read_tail(log: Path, limit: int) -> bytes | None:
    """The last bytes of a plain file; None when it is something else or cannot be read."""
    try:
        descriptor = os.open(log, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:  # gone, or not for the agent's eyes
        return None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            return None
        return os.pread(descriptor, limit, max(0, status.st_size - limit))
    finally:
        os.close(descriptor)


def _list_vcpus(domain: libvirt.virDomain) -> Sequence[VcpuState]:
    try:
        vcpus, _affinities = domain.vcpus()
    except libvirt.libvirtError as error:
        if error.get_error_code() in (libvirt.VIR_ERR_OPERATION_INVALID, libvirt.VIR_ERR_NO_SUPPORT):
            return ()  # it is off
        raise
    return tuple(
        VcpuState(number, _VCPU_WORDS.get(state, f"state {state}"), cpu_time, host_cpu if host_cpu >= 0 else None)
        for number, state, cpu_time, host_cpu in vcpus
    )


def _find_configuration(domain: libvirt.virDomain) -> str | None:
    try:
        return redact_domain(domain.XMLDesc())
    except MalformedDomain:
        return None  # better none than one with secrets in it
