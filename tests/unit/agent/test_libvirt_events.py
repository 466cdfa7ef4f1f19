"""libvirt's events in crashcart's words."""

import logging
from datetime import UTC, datetime

import libvirt
import pytest

from compute_agent.contract.clock import SystemClock
from compute_agent.drivers.base import DriverEvent, DriverEventKind
from compute_agent.drivers.libvirt.events import LibvirtEvents, translate_lifecycle

SERVER = "6f4c1c2e-0f6c-4f6e-9d0e-000000000001"


def ignore_removal(server: str, alias: str, is_gone: bool) -> None:
    pass


class FakeDomain:
    def UUIDString(self) -> str:
        return SERVER


class FakeConnection:
    """Keeps the callbacks as libvirt does and lets a test call them."""

    def __init__(self) -> None:
        self.callbacks: dict[int, object] = {}

    def domainEventRegisterAny(self, domain: object, event_id: int, callback: object, opaque: object) -> int:
        assert domain is None, "events of all domains, also of those defined later"
        self.callbacks[event_id] = callback
        return len(self.callbacks)


@pytest.mark.parametrize(
    ("event", "detail", "kind", "reason"),
    [
        ("DEFINED", "DEFINED_ADDED", DriverEventKind.DEFINED, "added"),
        ("UNDEFINED", "UNDEFINED_REMOVED", DriverEventKind.UNDEFINED, "removed"),
        ("STARTED", "STARTED_BOOTED", DriverEventKind.STARTED, "booted"),
        ("STARTED", "STARTED_WAKEUP", DriverEventKind.RESUMED, "woken up"),
        ("SUSPENDED", "SUSPENDED_PAUSED", DriverEventKind.PAUSED, "user"),
        ("SUSPENDED", "SUSPENDED_WATCHDOG", DriverEventKind.PAUSED, "watchdog"),
        ("SUSPENDED", "SUSPENDED_IOERROR", DriverEventKind.PAUSED, "I/O error"),
        ("RESUMED", "RESUMED_UNPAUSED", DriverEventKind.RESUMED, "unpaused"),
        ("RESUMED", "RESUMED_MIGRATED", DriverEventKind.RESUMED, "migrated"),
        ("STOPPED", "STOPPED_SHUTDOWN", DriverEventKind.STOPPED, "shutdown"),
        ("STOPPED", "STOPPED_DESTROYED", DriverEventKind.STOPPED, "destroyed"),
        ("STOPPED", "STOPPED_CRASHED", DriverEventKind.STOPPED, "crashed"),
        ("STOPPED", "STOPPED_FAILED", DriverEventKind.STOPPED, "failed"),
        ("STOPPED", "STOPPED_MIGRATED", DriverEventKind.MIGRATED_AWAY, "migrated"),
        ("PMSUSPENDED", "PMSUSPENDED_MEMORY", DriverEventKind.SUSPENDED, "to memory"),
        ("CRASHED", "CRASHED_PANICKED", DriverEventKind.PANICKED, "panicked"),
        ("CRASHED", "CRASHED_CRASHLOADED", DriverEventKind.CRASH_KERNEL_STARTED, "crash kernel loaded"),
    ],
)
def test_lifecycle_events_keep_their_meaning(event: str, detail: str, kind: DriverEventKind, reason: str) -> None:
    numbers = (getattr(libvirt, f"VIR_DOMAIN_EVENT_{event}"), getattr(libvirt, f"VIR_DOMAIN_EVENT_{detail}"))
    assert translate_lifecycle(*numbers) == (kind, reason)


def test_a_migration_that_can_still_fail_does_not_release_the_server() -> None:
    translation = translate_lifecycle(libvirt.VIR_DOMAIN_EVENT_SUSPENDED, libvirt.VIR_DOMAIN_EVENT_SUSPENDED_MIGRATED)
    assert translation == (DriverEventKind.PAUSED, "migration")


@pytest.mark.parametrize(
    ("event", "detail"),
    [
        (libvirt.VIR_DOMAIN_EVENT_STARTED, libvirt.VIR_DOMAIN_EVENT_STARTED_MIGRATED),
        (libvirt.VIR_DOMAIN_EVENT_UNDEFINED, libvirt.VIR_DOMAIN_EVENT_UNDEFINED_RENAMED),
        (libvirt.VIR_DOMAIN_EVENT_SHUTDOWN, libvirt.VIR_DOMAIN_EVENT_SHUTDOWN_GUEST),
        (libvirt.VIR_DOMAIN_EVENT_CRASHED, 77),
        (77, 0),
    ],
)
def test_what_says_nothing_by_itself_or_is_not_known_is_dropped(event: int, detail: int) -> None:
    assert translate_lifecycle(event, detail) is None


def test_the_listener_gets_events_of_lifecycle_and_reboot() -> None:
    seen: list[DriverEvent] = []
    events, connection = LibvirtEvents(SystemClock(), ignore_removal), FakeConnection()
    events.subscribe(seen.append)
    events.register(connection)
    lifecycle = connection.callbacks[libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE]
    lifecycle(connection, FakeDomain(), libvirt.VIR_DOMAIN_EVENT_CRASHED, libvirt.VIR_DOMAIN_EVENT_CRASHED_PANICKED, None)
    lifecycle(connection, FakeDomain(), 77, 77, None)
    connection.callbacks[libvirt.VIR_DOMAIN_EVENT_ID_REBOOT](connection, FakeDomain(), None)
    assert [(event.kind, event.server) for event in seen] == [(DriverEventKind.PANICKED, SERVER), (DriverEventKind.REBOOTED, SERVER)]


def test_a_failing_listener_does_not_reach_libvirt(caplog: pytest.LogCaptureFixture) -> None:
    """libvirt's only event thread must live on for all other servers; the loss is told with its traceback."""

    def fail(event: DriverEvent) -> None:
        raise RuntimeError("full")

    events, connection = LibvirtEvents(SystemClock(), ignore_removal), FakeConnection()
    events.subscribe(fail)
    events.register(connection)
    with caplog.at_level(logging.ERROR):
        connection.callbacks[libvirt.VIR_DOMAIN_EVENT_ID_REBOOT](connection, FakeDomain(), None)
    assert SERVER in caplog.text
    assert "full" in caplog.text


def test_a_silenced_listener_is_never_called_again() -> None:
    seen: list[DriverEvent] = []
    events = LibvirtEvents(SystemClock(), ignore_removal)
    events.subscribe(seen.append)
    events.silence()
    events.report_back()
    events.report_lost("gone", datetime.now(UTC))
    assert seen == []


def test_there_is_one_listener() -> None:
    events = LibvirtEvents(SystemClock(), ignore_removal)
    events.subscribe(lambda event: None)
    with pytest.raises(RuntimeError):
        events.subscribe(lambda event: None)
