"""Reads libvirt's domains as servers."""

import logging
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path

import libvirt

from compute_agent.drivers.base import Servers
from compute_agent.drivers.errors import BackendUnavailable, ServerNotFound
from compute_agent.drivers.libvirt.connection import Connection
from compute_agent.drivers.libvirt.domain_reader import DomainReader
from compute_agent.drivers.libvirt.domain_xml import MalformedDomain
from compute_agent.drivers.libvirt.errors import translate_read_error
from compute_agent.drivers.libvirt.metadata import NOVA
from compute_agent.drivers.libvirt.runs import find_run_start
from compute_agent.drivers.libvirt.states import describe_state, is_run_of_process, translate_power_state
from compute_agent.drivers.models import DriverServer

LOG = logging.getLogger(__name__)


def get_domain(connection: libvirt.virConnect, server: str) -> libvirt.virDomain:
    """libvirt's handle of a server.

    :raises ServerNotFound: libvirt answered that there is none.
    :raises BackendUnavailable: libvirt did not answer.
    """
    try:
        uuid.UUID(server)
    except ValueError as error:
        raise ServerNotFound(server, f"{server!r} is no UUID, so libvirt has no such domain") from error
    try:
        return connection.lookupByUUIDString(server)
    except libvirt.libvirtError as error:
        raise translate_read_error(error, server) from error


class LibvirtServers(Servers):
    """All domains of the connection, running or not.

    :param pid_file_directory: where libvirtd writes NAME.pid when it starts QEMU; None when that is not on this host
    :param on_lost_watchdog: told of a server that has lost the watchdog that it was to keep; called wherever servers are read
    """

    def __init__(self, connection: Connection, pid_file_directory: Path | None, on_lost_watchdog: Callable[[str], None]) -> None:
        self._connection = connection
        self._on_lost_watchdog = on_lost_watchdog
        self._pid_file_directory = pid_file_directory
        self._reader = DomainReader(pid_file_directory)
        self._has_told_of_nova = False

    def list_servers(self) -> Sequence[DriverServer]:
        connection = self._connection.get()
        try:
            states = connection.getAllDomainStats(libvirt.VIR_DOMAIN_STATS_STATE)
            transient = {domain.UUIDString() for domain in connection.listAllDomains(libvirt.VIR_CONNECT_LIST_DOMAINS_TRANSIENT)}
        except libvirt.libvirtError as error:
            raise translate_read_error(error, None) from error
        self._reader.forget_all_but({domain.UUIDString() for domain, _ in states})
        servers = []
        for domain, stats in states:
            is_persistent = domain.UUIDString() not in transient
            try:
                servers.append(self._read(domain, stats["state.state"], stats["state.reason"], is_persistent))
            except ServerNotFound:
                LOG.debug("Server %s went away while the list was read", domain.UUIDString())
        return servers

    def get_server(self, server: str) -> DriverServer:
        domain = get_domain(self._connection.get(), server)
        try:
            state, reason = domain.state()
            is_persistent = bool(domain.isPersistent())
        except libvirt.libvirtError as error:
            raise translate_read_error(error, server) from error
        return self._read(domain, state, reason, is_persistent)

    def _read(self, domain: libvirt.virDomain, state: int, reason: int, is_persistent: bool) -> DriverServer:
        server = domain.UUIDString()
        try:
            facts = self._reader.read(domain, is_persistent=is_persistent)
            is_arriving = _is_arriving(domain, state, reason, is_persistent)
        except libvirt.libvirtError as error:
            raise translate_read_error(error, server) from error
        except MalformedDomain as error:
            # Whose server it is cannot be told; giving it to the default project would show it to strangers.
            raise BackendUnavailable(server, f"server {server}: {error}") from error
        description = facts.description
        if description.foreign_owner == NOVA:
            self._tell_of_nova()
        if facts.has_lost_watchdog:
            self._on_lost_watchdog(server)
        return DriverServer(
            id=server,
            name=description.name,
            project=description.project,
            user=description.user,
            instance_name=domain.name(),
            power_state=translate_power_state(state, reason),
            state_reason=describe_state(state, reason),
            vcpus=description.vcpus,
            memory_mib=description.memory_mib,
            started_at=find_run_start(self._pid_file_directory, domain.name()) if is_run_of_process(state, reason) else None,
            persistent=is_persistent,
            arriving=is_arriving,
            stopping=state == libvirt.VIR_DOMAIN_SHUTDOWN,
            description=description.description,
            flavor=description.flavor,
            tags=description.tags,
            foreign_owner=description.foreign_owner,
            host_dump_after_panic=description.host_dump_after_panic,
            watchdog=facts.watchdog,
        )

    def _tell_of_nova(self) -> None:
        if not self._has_told_of_nova:
            self._has_told_of_nova = True
            LOG.warning(
                "Nova manages servers of this host. Its own locks and task states are not seen here unless an admin's overlay "
                "(PATCH /v1/servers/{id}) tells them: a crash dump is not refused because Nova is busy with the server or an operator "
                "has locked it there."
            )


def _is_arriving(domain: libvirt.virDomain, state: int, reason: int, is_persistent: bool) -> bool:
    """Whether a migration is bringing the domain in.

    Its start looks like any other one, but it becomes persistent only at the end. Later both sides are paused for migration, and only
    the source has statistics about it.

    :raises libvirt.libvirtError: libvirt did not answer.
    """
    if state != libvirt.VIR_DOMAIN_PAUSED:
        return False
    if reason == libvirt.VIR_DOMAIN_PAUSED_STARTING_UP:
        return not is_persistent
    if reason != libvirt.VIR_DOMAIN_PAUSED_MIGRATION:
        return False
    try:
        domain.jobInfo()
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_OPERATION_INVALID:
            return True
        raise
    return False
