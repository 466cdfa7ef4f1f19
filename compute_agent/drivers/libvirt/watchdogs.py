"""The watchdogs of libvirt's domains: one managed device in the configuration, and in the running machine.

The order is the same in every change: everything is checked, then the configuration is written, then the running machine is changed, and if
that cannot be, the configuration is written back. What a server has is always read from libvirt, so a call that died anywhere is simply
called again.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import libvirt

from compute_agent.contract.errors import Code
from compute_agent.contract.models import PowerState
from compute_agent.contract.watchdogs import Watchdog, WatchdogDevice, WatchdogModel
from compute_agent.drivers.base import Watchdogs
from compute_agent.drivers.errors import BackendUnavailable, DriverError, OutcomeUnknown, ServerNotFound, ServerUnsupported
from compute_agent.drivers.libvirt.calls import CallConnections
from compute_agent.drivers.libvirt.domain_xml import MalformedDomain, read_root
from compute_agent.drivers.libvirt.errors import is_lost, translate_read_error
from compute_agent.drivers.libvirt.monitor import check_monitor
from compute_agent.drivers.libvirt.removals import Removals
from compute_agent.drivers.libvirt.servers import get_domain
from compute_agent.drivers.libvirt.states import describe_state, translate_power_state
from compute_agent.drivers.libvirt.watchdog_live import LiveChanges, NotChanged, NothingLeft, Step, plan_change
from compute_agent.drivers.libvirt.watchdog_models import BY_WORD, MODELS, find_obstacle, find_refusal, say_obstacle
from compute_agent.drivers.libvirt.watchdog_state import WatchdogState, read_state
from compute_agent.drivers.libvirt.watchdog_xml import read_watchdogs, replace_watchdog

LOG = logging.getLogger(__name__)

# The whole of it, secrets too: it is given back to libvirt.
_WHOLE = libvirt.VIR_DOMAIN_XML_INACTIVE | libvirt.VIR_DOMAIN_XML_SECURE


class LibvirtWatchdogs(Watchdogs):
    """Another tool that writes the same configuration within the same milliseconds may undo a change, or have its own undone: libvirt has
    no way to write only if nothing changed. That is seen as drift.

    :param detach_timeout: seconds that a guest has to let go of a device
    :param pid_file_directory: where libvirtd writes NAME.pid when it starts QEMU; None when that is not on this host
    """

    def __init__(self, connections: CallConnections, removals: Removals, detach_timeout: float, pid_file_directory: Path | None) -> None:
        self._connections = connections
        self._removals = removals
        self._live = LiveChanges(removals, detach_timeout, pid_file_directory)
        self._pid_file_directory = pid_file_directory

    def list_models(self) -> Sequence[WatchdogModel]:
        return MODELS

    def get_watchdog(self, server: str) -> Watchdog:
        with self._connections.borrow() as connection:
            return self._read(get_domain(connection, server), server).describe()

    def set_watchdog(self, server: str, device: WatchdogDevice) -> Watchdog:
        if device.model not in BY_WORD:
            raise ServerUnsupported(server, f"libvirt's watchdogs are {', '.join(BY_WORD)}, not {device.model}")
        return self._change(server, device)

    def remove_watchdog(self, server: str) -> Watchdog:
        return self._change(server, None)

    def put_back(self, server: str) -> None:
        """Give a server back the watchdog that QEMU took away late; see :mod:`removals`.

        :raises DriverError, libvirt.libvirtError: it could not be done now.
        """
        with self._removals.turn(server), self._connections.borrow() as connection:
            try:
                domain = get_domain(connection, server)
            except ServerNotFound:
                return
            self._live.put_back(domain)

    def _change(self, server: str, wanted: WatchdogDevice | None) -> Watchdog:
        with self._removals.turn(server), self._connections.borrow() as connection:
            domain = get_domain(connection, server)
            before = self._read(domain, server)
            _check(connection, domain, server, before, wanted)
            try:
                written = None
                if before.configured is not None and before.configured.managed != wanted:
                    written = _configure(connection, domain, server, wanted)
                if before.live_root is not None:
                    self._change_live(domain, server, before, wanted, written)
            except libvirt.libvirtError as error:
                raise _translate(error, server) from error
            return self._read(domain, server).describe()

    def _read(self, domain: libvirt.virDomain, server: str) -> WatchdogState:
        """:raises DriverError: nothing was read."""
        try:
            return read_state(domain, self._pid_file_directory, is_persistent=bool(domain.isPersistent()))
        except libvirt.libvirtError as error:
            raise translate_read_error(error, server) from error
        except MalformedDomain as error:
            raise BackendUnavailable(server, str(error)) from error

    def _change_live(
        self, domain: libvirt.virDomain, server: str, before: WatchdogState, wanted: WatchdogDevice | None, written: "_Written | None"
    ) -> None:
        assert before.live is not None
        assert before.live_root is not None
        can_wait = before.configured is not None and plan_change(before.live, wanted) is Step.ATTACH
        try:
            self._live.bring(domain, before.live_root, wanted)
        except NothingLeft as error:
            self._removals.suspect(server)
            raise OutcomeUnknown(server, str(error)) from error
        except NotChanged as error:
            if not domain.isActive():
                return  # it stopped meanwhile: what is configured is all that there is
            if can_wait:
                LOG.info("Server %s gets its watchdog at its next start: %s", server, error)
                return
            if written is not None:
                _take_back(domain, server, written)
            raise BackendUnavailable(server, str(error), Code.WATCHDOG_NOT_CHANGED) from error


def _check(
    connection: libvirt.virConnect, domain: libvirt.virDomain, server: str, before: WatchdogState, wanted: WatchdogDevice | None
) -> None:
    """All that can be known before anything is touched.

    :raises DriverError: it will not be done; nothing was changed.
    """
    try:
        if wanted is not None:
            refusal = find_refusal(wanted, before.machine, before.others, connection.getLibVersion())
        else:
            obstacle = find_obstacle(before.others)
            refusal = None if obstacle is None else say_obstacle(obstacle)
        if refusal is not None:
            raise ServerUnsupported(server, refusal)
        if before.live is None:
            return
        step = plan_change(before.live, wanted)
        if step is Step.NEXT_START and before.configured is None:
            raise ServerUnsupported(
                server, "the server vanishes when it stops, so it has no next start, and this cannot be changed while it runs"
            )
        if step in (Step.NOTHING, Step.NEXT_START):
            return
        check_monitor(domain, server)
        state, reason = domain.state()
    except libvirt.libvirtError as error:
        raise translate_read_error(error, server) from error
    if step.needs_guest and translate_power_state(state, reason) is not PowerState.RUNNING:
        raise BackendUnavailable(
            server,
            f"the server is {describe_state(state, reason)}, so its guest cannot let go of the watchdog that it has; nothing was changed",
            Code.WATCHDOG_NOT_CHANGED,
        )


@dataclass(frozen=True)
class _Written:
    """The configuration before and after it was written, and its watchdog before."""

    before: str
    after: str
    former: WatchdogDevice | None


def _configure(connection: libvirt.virConnect, domain: libvirt.virDomain, server: str, wanted: WatchdogDevice | None) -> _Written:
    """Write the configuration, in one step.

    :raises BackendUnavailable: libvirt refused it; it is as it was.
    :raises libvirt.libvirtError: libvirt was lost on the way.
    """
    before = domain.XMLDesc(_WHOLE)
    try:
        former = read_watchdogs(read_root(before)).managed
        _define(connection, server, replace_watchdog(before, wanted))
    except MalformedDomain as error:
        raise BackendUnavailable(server, str(error), Code.WATCHDOG_NOT_CHANGED) from error
    return _Written(before, domain.XMLDesc(_WHOLE), former)


def _take_back(domain: libvirt.virDomain, server: str, written: _Written) -> None:
    """Write the former configuration, to the byte unless another tool has written meanwhile; raises as :func:`_configure`."""
    connection = domain.connect()
    if domain.XMLDesc(_WHOLE) == written.after:
        _define(connection, server, written.before)
    else:
        _configure(connection, domain, server, written.former)


def _define(connection: libvirt.virConnect, server: str, xml: str) -> None:
    try:
        connection.defineXML(xml)
    except libvirt.libvirtError as error:
        if is_lost(error):
            raise
        raise BackendUnavailable(server, f"libvirt refused the configuration: {error}", Code.WATCHDOG_NOT_CHANGED) from error


def _translate(error: libvirt.libvirtError, server: str) -> DriverError:
    """An error in the midst of a change: libvirt went, or the server did, or libvirt is busy with it."""
    if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
        return ServerNotFound(server, f"the server went away while its watchdog was changed: {error}")
    return OutcomeUnknown(server, f"libvirt was lost while the watchdog was changed: {error}")
