"""libvirt's events in crashcart's words.

The callbacks run on libvirt's event thread: they translate and hand over, nothing else. What this table does not know (an event of a
newer libvirt, a step in between) is dropped: the next inventory shows the state.
"""

import logging
import threading
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

import libvirt

from compute_agent.contract.clock import Clock
from compute_agent.drivers.base import Events
from compute_agent.drivers.libvirt.metadata import OWN_NAMESPACE
from compute_agent.drivers.libvirt.watchdog_mark import NAMESPACE as WATCHDOG_NAMESPACE
from compute_agent.drivers.models import DriverEvent, DriverEventKind

LOG = logging.getLogger(__name__)

_Translation = tuple[DriverEventKind, str]
OnRemoval = Callable[[str, str, bool], None]
"""Told (server, QEMU's name of the device, whether it is gone) when a device went, or its guest would not let it go."""

_LIFECYCLE: dict[int, dict[int, _Translation]] = {
    libvirt.VIR_DOMAIN_EVENT_DEFINED: {
        libvirt.VIR_DOMAIN_EVENT_DEFINED_ADDED: (DriverEventKind.DEFINED, "added"),
        libvirt.VIR_DOMAIN_EVENT_DEFINED_UPDATED: (DriverEventKind.DEFINED, "updated"),
        libvirt.VIR_DOMAIN_EVENT_DEFINED_RENAMED: (DriverEventKind.DEFINED, "renamed"),
        libvirt.VIR_DOMAIN_EVENT_DEFINED_FROM_SNAPSHOT: (DriverEventKind.DEFINED, "from snapshot"),
    },
    libvirt.VIR_DOMAIN_EVENT_UNDEFINED: {
        # UNDEFINED_RENAMED is absent on purpose: the server stays, under another name.
        libvirt.VIR_DOMAIN_EVENT_UNDEFINED_REMOVED: (DriverEventKind.UNDEFINED, "removed"),
    },
    libvirt.VIR_DOMAIN_EVENT_STARTED: {
        # STARTED_MIGRATED is absent on purpose: it is on its way in and not this host's yet. RESUMED_MIGRATED tells of its arrival.
        libvirt.VIR_DOMAIN_EVENT_STARTED_BOOTED: (DriverEventKind.STARTED, "booted"),
        # Woken from its own sleep, or from memory that was saved: the same run of the machine goes on, and with it a dump in it.
        libvirt.VIR_DOMAIN_EVENT_STARTED_RESTORED: (DriverEventKind.RESUMED, "restored"),
        libvirt.VIR_DOMAIN_EVENT_STARTED_FROM_SNAPSHOT: (DriverEventKind.RESUMED, "from snapshot"),
        libvirt.VIR_DOMAIN_EVENT_STARTED_WAKEUP: (DriverEventKind.RESUMED, "woken up"),
    },
    libvirt.VIR_DOMAIN_EVENT_SUSPENDED: {
        libvirt.VIR_DOMAIN_EVENT_SUSPENDED_PAUSED: (DriverEventKind.PAUSED, "user"),
        # The last step before it goes, which can still fail: it has left with STOPPED_MIGRATED.
        libvirt.VIR_DOMAIN_EVENT_SUSPENDED_MIGRATED: (DriverEventKind.PAUSED, "migration"),
        libvirt.VIR_DOMAIN_EVENT_SUSPENDED_IOERROR: (DriverEventKind.PAUSED, "I/O error"),
        libvirt.VIR_DOMAIN_EVENT_SUSPENDED_WATCHDOG: (DriverEventKind.PAUSED, "watchdog"),
        libvirt.VIR_DOMAIN_EVENT_SUSPENDED_RESTORED: (DriverEventKind.PAUSED, "restored"),
        libvirt.VIR_DOMAIN_EVENT_SUSPENDED_FROM_SNAPSHOT: (DriverEventKind.PAUSED, "from snapshot"),
        libvirt.VIR_DOMAIN_EVENT_SUSPENDED_API_ERROR: (DriverEventKind.PAUSED, "API error"),
        libvirt.VIR_DOMAIN_EVENT_SUSPENDED_POSTCOPY: (DriverEventKind.PAUSED, "post-copy"),
        libvirt.VIR_DOMAIN_EVENT_SUSPENDED_POSTCOPY_FAILED: (DriverEventKind.PAUSED, "post-copy failed"),
    },
    libvirt.VIR_DOMAIN_EVENT_RESUMED: {
        libvirt.VIR_DOMAIN_EVENT_RESUMED_UNPAUSED: (DriverEventKind.RESUMED, "unpaused"),
        libvirt.VIR_DOMAIN_EVENT_RESUMED_MIGRATED: (DriverEventKind.RESUMED, "migrated"),
        libvirt.VIR_DOMAIN_EVENT_RESUMED_FROM_SNAPSHOT: (DriverEventKind.RESUMED, "from snapshot"),
        libvirt.VIR_DOMAIN_EVENT_RESUMED_POSTCOPY: (DriverEventKind.RESUMED, "post-copy"),
        libvirt.VIR_DOMAIN_EVENT_RESUMED_POSTCOPY_FAILED: (DriverEventKind.RESUMED, "post-copy failed"),
    },
    libvirt.VIR_DOMAIN_EVENT_STOPPED: {
        libvirt.VIR_DOMAIN_EVENT_STOPPED_SHUTDOWN: (DriverEventKind.STOPPED, "shutdown"),
        libvirt.VIR_DOMAIN_EVENT_STOPPED_DESTROYED: (DriverEventKind.STOPPED, "destroyed"),
        libvirt.VIR_DOMAIN_EVENT_STOPPED_CRASHED: (DriverEventKind.STOPPED, "crashed"),
        libvirt.VIR_DOMAIN_EVENT_STOPPED_MIGRATED: (DriverEventKind.MIGRATED_AWAY, "migrated"),
        libvirt.VIR_DOMAIN_EVENT_STOPPED_SAVED: (DriverEventKind.SUSPENDED, "saved"),
        libvirt.VIR_DOMAIN_EVENT_STOPPED_FAILED: (DriverEventKind.STOPPED, "failed"),
        libvirt.VIR_DOMAIN_EVENT_STOPPED_FROM_SNAPSHOT: (DriverEventKind.STOPPED, "from snapshot"),
    },
    # VIR_DOMAIN_EVENT_SHUTDOWN is absent on purpose: STOPPED follows it.
    libvirt.VIR_DOMAIN_EVENT_PMSUSPENDED: {
        libvirt.VIR_DOMAIN_EVENT_PMSUSPENDED_MEMORY: (DriverEventKind.SUSPENDED, "to memory"),
        libvirt.VIR_DOMAIN_EVENT_PMSUSPENDED_DISK: (DriverEventKind.SUSPENDED, "to disk"),
    },
    libvirt.VIR_DOMAIN_EVENT_CRASHED: {
        libvirt.VIR_DOMAIN_EVENT_CRASHED_PANICKED: (DriverEventKind.PANICKED, "panicked"),
        libvirt.VIR_DOMAIN_EVENT_CRASHED_CRASHLOADED: (DriverEventKind.CRASH_KERNEL_STARTED, "crash kernel loaded"),
    },
}


# What libvirt says that a watchdog does, by its number.
_WATCHDOG_WORDS = {
    libvirt.VIR_DOMAIN_EVENT_WATCHDOG_NONE: "none",
    libvirt.VIR_DOMAIN_EVENT_WATCHDOG_PAUSE: "pause",
    libvirt.VIR_DOMAIN_EVENT_WATCHDOG_RESET: "reset",
    libvirt.VIR_DOMAIN_EVENT_WATCHDOG_POWEROFF: "poweroff",
    libvirt.VIR_DOMAIN_EVENT_WATCHDOG_SHUTDOWN: "shutdown",
    libvirt.VIR_DOMAIN_EVENT_WATCHDOG_DEBUG: "debug",
    libvirt.VIR_DOMAIN_EVENT_WATCHDOG_INJECTNMI: "inject-nmi",
}
# libvirt's own names of watchdogs, and those that somebody chose: they say nothing of what the device is.
_PERHAPS_WATCHDOG = ("watchdog", "ua-")
_READ_METADATA = (OWN_NAMESPACE, WATCHDOG_NAMESPACE)


def translate_lifecycle(event: int, detail: int) -> _Translation | None:
    """(kind, reason) of a lifecycle event; None for one that says nothing by itself or that is not known."""
    return _LIFECYCLE.get(event, {}).get(detail)


class LibvirtEvents(Events):
    """Registers for libvirt's events on every new connection and hands them to the one listener."""

    def __init__(self, clock: Clock, on_removal: OnRemoval) -> None:
        self._clock = clock
        self._on_removal = on_removal
        self._listener: Callable[[DriverEvent], None] | None = None
        self._delivering = threading.Lock()
        self._is_silenced = False

    def subscribe(self, listener: Callable[[DriverEvent], None], cursors: Mapping[str, str]) -> None:
        if self._listener is not None:
            raise RuntimeError("the libvirt driver has one listener and it is registered already")
        self._listener = listener

    def register(self, connection: libvirt.virConnect) -> None:
        """Ask for all events of ``connection``.

        :raises libvirt.libvirtError: the connection broke meanwhile, or the hypervisor has no such events.
        """
        callbacks: dict[int, Callable[..., None]] = {
            libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE: self._on_lifecycle,
            libvirt.VIR_DOMAIN_EVENT_ID_REBOOT: self._on_reboot,
            libvirt.VIR_DOMAIN_EVENT_ID_WATCHDOG: self._on_watchdog,
            libvirt.VIR_DOMAIN_EVENT_ID_DEVICE_ADDED: self._on_device_added,
            libvirt.VIR_DOMAIN_EVENT_ID_DEVICE_REMOVED: self._on_device_removed,
            libvirt.VIR_DOMAIN_EVENT_ID_DEVICE_REMOVAL_FAILED: self._on_device_removal_failed,
            libvirt.VIR_DOMAIN_EVENT_ID_METADATA_CHANGE: self._on_metadata_change,
        }
        for event_id, callback in callbacks.items():
            connection.domainEventRegisterAny(None, event_id, callback, None)

    def report_lost(self, reason: str, at: datetime) -> None:
        """The connection is gone; what happens to servers from ``at`` on is not seen."""
        self._deliver(DriverEvent(DriverEventKind.BACKEND_LOST, None, at, reason))

    def report_back(self, server: str | None = None) -> None:
        """A connection is there and all registrations are in force; with a ``server``, libvirtd has now found that one again."""
        reason = "connected" if server is None else "found again by libvirtd"
        self._deliver(DriverEvent(DriverEventKind.BACKEND_BACK, server, self._clock.now(), reason))

    def silence(self) -> None:
        """When this returns, the listener is not being called and never will be again."""
        with self._delivering:
            self._is_silenced = True

    def _on_lifecycle(self, _connection: Any, domain: libvirt.virDomain, event: int, detail: int, _opaque: Any) -> None:
        translation = translate_lifecycle(event, detail)
        if translation is None:
            LOG.debug("libvirt lifecycle event %d/%d of server %s is not reported", event, detail, domain.UUIDString())
            return
        kind, reason = translation
        self._deliver(DriverEvent(kind, domain.UUIDString(), self._clock.now(), reason))

    def _on_reboot(self, _connection: Any, domain: libvirt.virDomain, _opaque: Any) -> None:
        self._deliver(DriverEvent(DriverEventKind.REBOOTED, domain.UUIDString(), self._clock.now(), "reset"))

    def _on_watchdog(self, _connection: Any, domain: libvirt.virDomain, action: int, _opaque: Any) -> None:
        word = _WATCHDOG_WORDS.get(action, f"action {action}")
        self._deliver(DriverEvent(DriverEventKind.WATCHDOG_FIRED, domain.UUIDString(), self._clock.now(), word))

    def _on_device_added(self, _connection: Any, domain: libvirt.virDomain, alias: str, _opaque: Any) -> None:
        self._deliver_device(domain, alias, "device added")

    def _on_device_removed(self, _connection: Any, domain: libvirt.virDomain, alias: str, _opaque: Any) -> None:
        self._deliver_device(domain, alias, "device removed")
        if alias.startswith(_PERHAPS_WATCHDOG):
            self._on_removal(domain.UUIDString(), alias, True)

    def _on_device_removal_failed(self, _connection: Any, domain: libvirt.virDomain, alias: str, _opaque: Any) -> None:
        self._deliver_device(domain, alias, "device removal failed")
        if alias.startswith(_PERHAPS_WATCHDOG):
            self._on_removal(domain.UUIDString(), alias, False)

    def _on_metadata_change(self, _connection: Any, domain: libvirt.virDomain, _kind: int, namespace: str | None, _opaque: Any) -> None:
        if namespace in _READ_METADATA:
            self._deliver(DriverEvent(DriverEventKind.DEFINED, domain.UUIDString(), self._clock.now(), "metadata changed"))

    def _deliver_device(self, domain: libvirt.virDomain, alias: str, reason: str) -> None:
        if alias.startswith(_PERHAPS_WATCHDOG):
            self._deliver(DriverEvent(DriverEventKind.DEFINED, domain.UUIDString(), self._clock.now(), reason))

    def _deliver(self, event: DriverEvent) -> None:
        # Several threads deliver: libvirt's own and the connection's.
        with self._delivering:
            if self._is_silenced or self._listener is None:
                return
            try:
                self._listener(event)
            except Exception:
                # libvirt would print and forget it; the event thread has to live on for all other servers.
                LOG.exception("The listener failed on event %s of server %s; the event is lost", event.kind, event.server)
