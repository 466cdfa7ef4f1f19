"""Puts the libvirt driver together."""

import os
import platform
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from oslo_config import cfg

from compute_agent.contract.clock import Clock
from compute_agent.drivers.base import Driver, Lifecycle
from compute_agent.drivers.libvirt.options import GROUP, register_options

try:
    import libvirt  # noqa: F401 — only to say what is missing before anything else fails on it
except ImportError as error:
    raise ImportError(
        f"the libvirt driver needs libvirt-python, which cannot be imported ({error}): install it with pip install 'crashcart[libvirt]'"
    ) from error

from compute_agent.drivers.libvirt.calls import CallConnections
from compute_agent.drivers.libvirt.connection import Connection
from compute_agent.drivers.libvirt.diagnostics import Host, LibvirtDiagnostics
from compute_agent.drivers.libvirt.events import LibvirtEvents
from compute_agent.drivers.libvirt.expiry_dumps import LibvirtExpiryDumps
from compute_agent.drivers.libvirt.host_dump import LibvirtHostDump
from compute_agent.drivers.libvirt.inspection import LibvirtInspection
from compute_agent.drivers.libvirt.link import Address, KeepAlive
from compute_agent.drivers.libvirt.nmi import LibvirtNmi
from compute_agent.drivers.libvirt.reconnects import list_occupied
from compute_agent.drivers.libvirt.removals import Removals
from compute_agent.drivers.libvirt.resume import LibvirtResume
from compute_agent.drivers.libvirt.servers import LibvirtServers
from compute_agent.drivers.libvirt.watchdogs import LibvirtWatchdogs

NAME = "libvirt"


def create_driver(conf: cfg.ConfigOpts, clock: Clock) -> Driver:
    """The driver as ``conf`` wants it, not connected yet.

    :raises ValueError: a frozen libvirtd, or a guest that clings to a device, would be noticed too late to end a call within its bound.
    """
    register_options(conf)
    group = conf[GROUP]
    keepalive = KeepAlive(group.keepalive_interval, group.keepalive_count)
    if keepalive.bound >= group.call_bound:
        raise ValueError(
            f"[{GROUP}] a frozen libvirtd is noticed after keepalive_interval * (keepalive_count + 1) = {keepalive.bound:.0f} s, "
            f"which must be less than call_bound = {group.call_bound:.0f} s"
        )
    if group.detach_timeout >= group.call_bound:
        raise ValueError(f"[{GROUP}] detach_timeout = {group.detach_timeout:.0f} s must be less than call_bound = {group.call_bound:.0f} s")
    directory = find_pid_file_directory(group.uri)
    is_here = directory is not None
    removals = Removals()
    events = LibvirtEvents(clock, lambda server, alias, is_gone: removals.note(server, alias, is_gone=is_gone))
    address = Address(group.uri, keepalive)
    main = Connection(
        address, clock, register=events.register, on_lost=events.report_lost, on_back=events.report_back, list_unread=list_occupied
    )
    calls = CallConnections(address, main)
    watchdogs = LibvirtWatchdogs(calls, removals, group.detach_timeout, directory)
    return Driver(
        name=NAME,
        servers=LibvirtServers(main, directory, on_lost_watchdog=removals.suspect),
        call_bound=group.call_bound,
        nmi=LibvirtNmi(calls),
        diagnostics=LibvirtDiagnostics(
            calls, clock, Host(directory, find_os_name() if is_here else None), counts_disk_errors=group.count_disk_errors
        ),
        # Elsewhere libvirt would write the file there, where nobody of ours can look at it.
        host_dump=LibvirtHostDump(calls) if is_here else None,
        inspection=LibvirtInspection(calls, is_here=is_here),
        watchdog=watchdogs,
        expiry_dumps=LibvirtExpiryDumps(calls, Path(group.auto_dump_path)) if is_here else None,
        resume=LibvirtResume(calls),
        events=events,
        lifecycle=_LibvirtLifecycle(main, calls, events, removals, watchdogs),
    )


class _LibvirtLifecycle(Lifecycle):
    """All connections together, and what looks after late removals over them."""

    def __init__(
        self, main: Connection, calls: CallConnections, events: LibvirtEvents, removals: Removals, watchdogs: LibvirtWatchdogs
    ) -> None:
        self._main = main
        self._calls = calls
        self._events = events
        self._removals = removals
        self._watchdogs = watchdogs

    def open(self) -> None:
        self._main.open()  # first: it starts libvirt's event loop, without which no connection keeps itself alive
        self._calls.open()
        self._removals.open(self._watchdogs.put_back)

    def close(self) -> None:
        self._events.silence()
        self._removals.close()
        # In this order a frozen libvirtd costs its time once: when the main connection has given up, the others have too.
        self._main.close()
        self._calls.close()


def find_os_name() -> str | None:
    """The operating system that the agent runs on, as it calls itself (``Debian GNU/Linux 12 (bookworm)``)."""
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME")
    except OSError:
        return None


def find_pid_file_directory(uri: str) -> Path | None:
    """Where the libvirtd behind ``uri`` keeps the pid files of its QEMU processes; None if it is none of this host's."""
    parts = urlsplit(uri)
    scheme, _, transport = parts.scheme.partition("+")
    if scheme != "qemu" or parts.netloc or transport not in ("", "unix"):
        return None
    socket = parse_qs(parts.query).get("socket")
    if parts.path == "/system":
        return (Path(socket[0]).parent if socket else Path("/run/libvirt")) / "qemu"
    if parts.path != "/session":
        return None
    runtime = os.environ.get("XDG_RUNTIME_DIR", f"/run/user/{os.geteuid()}")
    return (Path(socket[0]).parent if socket else Path(runtime) / "libvirt") / "qemu" / "run"
