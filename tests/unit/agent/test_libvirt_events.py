"""libvirt's events in crashcart's words."""

import logging
from datetime import UTC, datetime

import libvirt
import pytest

from compute_agent.contract.clock import SystemClock
from compute_agent.drivers.libvirt.events import LibvirtEvents, translate_lifecycle
from compute_agent.drivers.models import DriverEvent, DriverEventKind

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
    events.subscribe(seen.append, {})
    events.register(connection)
    lifecycle = connection.callbacks[libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE]
    lifecycle(connection, FakeDomain(), libvirt.VIR_DOMAIN_EVENT_CRASHED, libvirt.VIR_DOMAIN_EVENT_CRASHED_PANICKED, None)
    lifecycle(connection, FakeDomain(), 77, 77, None)
    connection.callbacks[libvirt.VIR_DOMAIN_EVENT_ID_REBOOT](connection, FakeDomain(), None)
    assert [(event.kind, event.server) for event in seen] == [(DriverEventKind.PANICKED, SERVER), (DriverEventKind.REBOOTED, SERVER)]


class Registered:
    """A connection whose callbacks a test calls for one domain, and what came of that."""

    def __init__(self) -> None:
        self.seen: list[DriverEvent] = []
        self.removals: list[tuple[str, str, bool]] = []
        events = LibvirtEvents(SystemClock(), lambda *removal: self.removals.append(removal))
        events.subscribe(self.seen.append, {})
        self.connection = FakeConnection()
        events.register(self.connection)

    def tell(self, event_id: int, *details: object) -> list[tuple[DriverEventKind, str]]:
        self.seen.clear()
        self.connection.callbacks[event_id](self.connection, FakeDomain(), *details, None)
        assert {event.server for event in self.seen} <= {SERVER}
        return [(event.kind, event.reason) for event in self.seen]


@pytest.mark.parametrize(
    ("action", "word"),
    [(0, "none"), (1, "pause"), (2, "reset"), (3, "poweroff"), (4, "shutdown"), (5, "debug"), (6, "inject-nmi"), (7, "action 7")],
)
def test_a_watchdog_fires_with_libvirts_own_word(action: int, word: str) -> None:
    assert Registered().tell(libvirt.VIR_DOMAIN_EVENT_ID_WATCHDOG, action) == [(DriverEventKind.WATCHDOG_FIRED, word)]


@pytest.mark.parametrize("alias", ["watchdog0", "ua-mine"])
def test_a_watchdog_that_comes_or_goes_is_a_change_and_its_removal_is_told_to_who_waits(alias: str) -> None:
    registered = Registered()
    assert registered.tell(libvirt.VIR_DOMAIN_EVENT_ID_DEVICE_ADDED, alias) == [(DriverEventKind.DEFINED, "device added")]
    assert registered.tell(libvirt.VIR_DOMAIN_EVENT_ID_DEVICE_REMOVED, alias) == [(DriverEventKind.DEFINED, "device removed")]
    assert registered.tell(libvirt.VIR_DOMAIN_EVENT_ID_DEVICE_REMOVAL_FAILED, alias) == [(DriverEventKind.DEFINED, "device removal failed")]
    assert registered.removals == [(SERVER, alias, True), (SERVER, alias, False)]


def test_other_devices_and_others_metadata_are_nobodys_business() -> None:
    registered = Registered()
    for event_id in (libvirt.VIR_DOMAIN_EVENT_ID_DEVICE_ADDED, libvirt.VIR_DOMAIN_EVENT_ID_DEVICE_REMOVED):
        assert registered.tell(event_id, "virtio-disk0") == []
    assert registered.tell(libvirt.VIR_DOMAIN_EVENT_ID_METADATA_CHANGE, 2, "urn:others") == []
    assert registered.removals == []
    ours = "https://crashcart.dev/xmlns/watchdog/1.0"
    assert registered.tell(libvirt.VIR_DOMAIN_EVENT_ID_METADATA_CHANGE, 2, ours) == [(DriverEventKind.DEFINED, "metadata changed")]


def test_a_failing_listener_does_not_reach_libvirt(caplog: pytest.LogCaptureFixture) -> None:
    """libvirt's only event thread must live on for all other servers; the loss is told with its traceback."""

    def fail(event: DriverEvent) -> None:
        raise RuntimeError("full")

    events, connection = LibvirtEvents(SystemClock(), ignore_removal), FakeConnection()
    events.subscribe(fail, {})
    events.register(connection)
    with caplog.at_level(logging.ERROR):
        connection.callbacks[libvirt.VIR_DOMAIN_EVENT_ID_REBOOT](connection, FakeDomain(), None)
    assert SERVER in caplog.text
    assert "full" in caplog.text


def test_a_silenced_listener_is_never_called_again() -> None:
    seen: list[DriverEvent] = []
    events = LibvirtEvents(SystemClock(), ignore_removal)
    events.subscribe(seen.append, {})
    events.silence()
    events.report_back()
    events.report_lost("gone", datetime.now(UTC))
    assert seen == []


def test_there_is_one_listener() -> None:
    events = LibvirtEvents(SystemClock(), ignore_removal)
    events.subscribe(lambda event: None, {})
    with pytest.raises(RuntimeError):
        events.subscribe(lambda event: None, {})
