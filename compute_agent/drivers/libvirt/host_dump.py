"""Writes a domain's memory to a file on this host: ``virDomainCoreDumpWithFormat``, kdump-zlib, the memory only."""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import libvirt

from compute_agent.contract.errors import Code
from compute_agent.contract.models import PowerState
from compute_agent.drivers.base import HostDump
from compute_agent.drivers.errors import BackendUnavailable, OutcomeUnknown, ServerNotRunning
from compute_agent.drivers.libvirt.calls import CallConnections
from compute_agent.drivers.libvirt.errors import translate_dump_error, translate_read_error
from compute_agent.drivers.libvirt.monitor import check_monitor
from compute_agent.drivers.libvirt.servers import get_domain
from compute_agent.drivers.libvirt.states import describe_state, translate_power_state

_PROGRESS_INTERVAL = 0.5

OnProgress = Callable[[int, int], None]


class LibvirtHostDump(HostDump):
    """Takes seconds per GiB. libvirt pauses a running domain for the while, and resumes it also when the dump failed.

    libvirtd finishes a dump whose client went away, so a connection lost in the call leaves the outcome unknown.
    """

    def __init__(self, connections: CallConnections) -> None:
        self._connections = connections

    def take_host_dump(self, server: str, path: str, on_progress: OnProgress) -> None:
        with self._connections.borrow() as connection:
            domain = get_domain(connection, server)
            try:
                _check_state(domain, server)
                check_monitor(domain, server)
            except libvirt.libvirtError as error:
                raise translate_read_error(error, server) from error
            with _made_file(server, path), self._progress_told(server, on_progress):
                try:
                    domain.coreDumpWithFormat(path, libvirt.VIR_DOMAIN_CORE_DUMP_FORMAT_KDUMP_ZLIB, libvirt.VIR_DUMP_MEMORY_ONLY)
                except libvirt.libvirtError as error:
                    raise translate_dump_error(error, server) from error

    @contextmanager
    def _progress_told(self, server: str, on_progress: OnProgress) -> Iterator[None]:
        """The call says nothing until its end, so another connection asks how far it is."""
        ended = threading.Event()
        teller = threading.Thread(target=self._tell_progress, args=(server, on_progress, ended), name="libvirt-dump-progress", daemon=True)
        teller.start()
        try:
            yield
        finally:
            ended.set()
            teller.join(_PROGRESS_INTERVAL)

    def _tell_progress(self, server: str, on_progress: OnProgress, ended: threading.Event) -> None:
        # Without progress the dump is as good: whatever is lost here is told by the dump's own call.
        with suppress(libvirt.libvirtError, BackendUnavailable), self._connections.borrow() as connection:
            domain = get_domain(connection, server)
            while not ended.wait(_PROGRESS_INTERVAL):
                job = domain.jobStats()
                done, total = job.get("memory_processed"), job.get("memory_total")
                if job.get("operation") == libvirt.VIR_DOMAIN_JOB_OPERATION_DUMP and isinstance(done, int) and isinstance(total, int):
                    on_progress(done, total)


@contextmanager
def _made_file(server: str, path: str) -> Iterator[None]:
    """The empty file, readable for its owner only before anything is in it; removed again when there will be no dump in it.

    :raises BackendUnavailable: it cannot be made.
    """
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    except OSError as error:
        raise BackendUnavailable(server, f"cannot make {path}: {error.strerror}", Code.HOST_DUMP_FAILED) from error
    try:
        yield
    except OutcomeUnknown:
        raise  # libvirtd may still be writing
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(path)
        raise


def _check_state(domain: libvirt.virDomain, server: str) -> None:
    """:raises ServerNotRunning: it has no memory."""
    state, reason = domain.state()
    if translate_power_state(state, reason) is PowerState.SHUTDOWN:
        raise ServerNotRunning(server, f"the server is {describe_state(state, reason)}")
