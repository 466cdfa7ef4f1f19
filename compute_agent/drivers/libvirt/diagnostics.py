"""Collects diagnostics of QEMU's servers from libvirt: one at once and completely, or all of them as cheaply as it goes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import libvirt
import libvirt_qemu

from compute_agent.contract.clock import Clock
from compute_agent.drivers.base import DiagnosticsSource
from compute_agent.drivers.errors import ServerNotFound
from compute_agent.drivers.libvirt.calls import CallConnections
from compute_agent.drivers.libvirt.domain_devices import DomainDevices, parse_devices
from compute_agent.drivers.libvirt.domain_stats import parse_counters, parse_failed_requests
from compute_agent.drivers.libvirt.domain_xml import MalformedDomain
from compute_agent.drivers.libvirt.errors import translate_read_error
from compute_agent.drivers.libvirt.monitor import check_monitor
from compute_agent.drivers.libvirt.reading import Occasion, join_reading
from compute_agent.drivers.libvirt.runs import find_run_start
from compute_agent.drivers.libvirt.sampling import BoundedReads
from compute_agent.drivers.libvirt.servers import get_domain
from compute_agent.drivers.models import CollectedDiagnostics

# Only what is shown: each further group costs QEMU another question.
_WANTED = (
    libvirt.VIR_DOMAIN_STATS_STATE
    | libvirt.VIR_DOMAIN_STATS_BALLOON
    | libvirt.VIR_DOMAIN_STATS_VCPU
    | libvirt.VIR_DOMAIN_STATS_INTERFACE
    | libvirt.VIR_DOMAIN_STATS_BLOCK
)
_ALL_THAT_ARE_NOT_BUSY = libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_ACTIVE | libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT
_QUERY_BLOCK_STATS = '{"execute": "query-blockstats"}'


@dataclass(frozen=True)
class Host:
    """What is the same for all servers: libvirt's directory of pid files (None: elsewhere) and the operating system (None: not known)."""

    pid_file_directory: Path | None = None
    operating_system: str | None = None


class LibvirtDiagnostics(DiagnosticsSource):
    """``virDomainListGetStats`` joined with the domain's XML.

    :param counts_disk_errors: ask QEMU itself for failed requests: libvirt counts none, and marks a domain that was asked so as tainted
    """

    def __init__(self, connections: CallConnections, clock: Clock, host: Host, *, counts_disk_errors: bool) -> None:
        self._connections = connections
        self._clock = clock
        self._host = host
        self._counts_disk_errors = counts_disk_errors
        self._all = BoundedReads(self._read_all)
        # By server: the devices, and the signs by which a change of them is seen. Written by sampling threads only, as a whole.
        self._devices: Mapping[str, tuple[object, DomainDevices | None]] = {}

    def collect_diagnostics(self, server: str) -> CollectedDiagnostics:
        """Waits behind a job of libvirt up to libvirt's own 30 s, and behind a QEMU that freezes in the midst of it without bound."""
        with self._connections.borrow() as connection:
            domain = get_domain(connection, server)
            try:
                check_monitor(domain, server)
                began = self._clock.monotonic()
                records = connection.domainListGetStats([domain], _WANTED, 0)
                if records:
                    return self._join(domain, records[0][1], self._get_middle(began))
            except libvirt.libvirtError as error:
                raise translate_read_error(error, server) from error
        raise ServerNotFound(server, "libvirt forgot the domain while it was read")

    def sample_servers(self) -> Sequence[CollectedDiagnostics]:
        return self._all.read()

    def _join(self, domain: libvirt.virDomain, record: Mapping[str, object], monotonic: float) -> CollectedDiagnostics:
        counters = parse_counters(record)
        errors: dict[str, str] = {}
        try:
            devices = parse_devices(domain.XMLDesc())
        except MalformedDomain as error:
            devices = None
            errors["devices"] = str(error)
        failed_requests: Mapping[str, int] = {}
        if self._counts_disk_errors and devices is not None and any(disk.read_requests is not None for disk in counters.disks.values()):
            try:
                failed_requests = _read_failed_requests(domain, devices)
            except (libvirt.libvirtError, ValueError) as error:
                errors["disk_errors"] = f"QEMU did not say how many requests failed: {error}"
        return join_reading(self._describe_occasion(domain, monotonic), counters, devices, failed_requests, errors)

    def _read_all(self) -> Sequence[CollectedDiagnostics]:
        """All that are on, without those that are busy."""
        with self._connections.borrow() as connection:
            try:
                began = self._clock.monotonic()
                records = connection.getAllDomainStats(_WANTED, _ALL_THAT_ARE_NOT_BUSY)
                return self._join_all(records, self._get_middle(began))
            except libvirt.libvirtError as error:
                raise translate_read_error(error, None) from error

    def _join_all(self, records: list[tuple[libvirt.virDomain, dict[str, object]]], monotonic: float) -> list[CollectedDiagnostics]:
        read: dict[str, tuple[object, DomainDevices | None]] = {}
        samples = []
        for domain, record in records:
            counters = parse_counters(record)
            if counters.is_partial:
                continue
            server = domain.UUIDString()
            signs = (domain.ID(), tuple(counters.cpu_times), tuple(counters.nics), tuple(counters.disks), record.get("net.count"))
            known_signs, devices = self._devices.get(server, (None, None))
            errors = {}
            if signs != known_signs or devices is None:
                try:
                    devices = parse_devices(domain.XMLDesc())
                except MalformedDomain as error:
                    devices, errors["devices"] = None, str(error)
                except libvirt.libvirtError as error:
                    if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
                        continue
                    raise
            read[server] = (signs, devices)
            samples.append(join_reading(self._describe_occasion(domain, monotonic), counters, devices, {}, errors))
        self._devices = read
        return samples

    def _get_middle(self, began: float) -> float:
        """Of a call that ends now: a busy QEMU lets libvirt wait for some of the counters, before and after the others were read."""
        return (began + self._clock.monotonic()) / 2

    def _describe_occasion(self, domain: libvirt.virDomain, monotonic: float) -> Occasion:
        return Occasion(
            server=domain.UUIDString(),
            collected_at=self._clock.now(),
            monotonic=monotonic,
            started_at=find_run_start(self._host.pid_file_directory, domain.name()),
            hypervisor_os=self._host.operating_system,
        )


def _read_failed_requests(domain: libvirt.virDomain, devices: DomainDevices) -> dict[str, int]:
    """By alias of the disk.

    :raises libvirt.libvirtError: libvirt or QEMU did not answer.
    :raises ValueError: QEMU's answer cannot be read.
    """
    reply = libvirt_qemu.qemuMonitorCommand(domain, _QUERY_BLOCK_STATS, libvirt_qemu.VIR_DOMAIN_QEMU_MONITOR_COMMAND_DEFAULT)
    return parse_failed_requests(reply, [disk.alias for disk in devices.disks if disk.alias is not None])
