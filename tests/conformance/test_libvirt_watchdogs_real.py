"""What only real guests can show of watchdogs: each expiry action to its end, daemons that die, cards that come, go, and are clung to."""

import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import libvirt
import pytest

from compute_agent.contract.errors import Code
from compute_agent.contract.models import PowerState
from compute_agent.contract.watchdogs import WatchdogDevice
from compute_agent.drivers.base import Driver, Watchdogs
from compute_agent.drivers.errors import BackendUnavailable, DriverError, OutcomeUnknown
from compute_agent.drivers.models import DriverEventKind
from devstack.guests import Guest
from devstack.services import wait_until
from tests.conformance.libvirt_host import LibvirtEventLog, LibvirtHost, started_libvirt_host
from tests.firing_ledger import FiringLedger

FIRINGS = 20
MOST_MISSED = 5
"""Of these, on a machine that stands still: what comes later than the guest waits for it does not come at all."""
PATIENCE = 30.0
"""Seconds that an emulated guest on a busy machine may take."""
ENDS = {
    "reset": (DriverEventKind.REBOOTED, PowerState.RUNNING),
    "poweroff": (DriverEventKind.STOPPED, PowerState.SHUTDOWN),
    "shutdown": (DriverEventKind.STOPPED, PowerState.SHUTDOWN),
    "inject-nmi": (DriverEventKind.PANICKED, PowerState.CRASHED),
}
"""What each expiry action comes to, where the suite for all drivers does not show it."""
SHORT_DETACH_TIMEOUT, LONG_DETACH_TIMEOUT = 6.0, 30.0
"""libvirt's own wait takes 5 s of it. The short one is for a guest that hangs."""


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LibvirtHost]:
    with started_libvirt_host(tmp_path_factory.mktemp("libvirt")) as host:
        yield host


@pytest.fixture(scope="module")
def driven(host: LibvirtHost) -> Iterator[tuple[Driver, LibvirtEventLog]]:
    with host.driver(detach_timeout=LONG_DETACH_TIMEOUT) as driven:
        yield driven


@pytest.fixture
def hasty(host: LibvirtHost) -> Iterator[tuple[Driver, LibvirtEventLog]]:
    with host.driver(detach_timeout=SHORT_DETACH_TIMEOUT) as driven:
        yield driven


@pytest.fixture(scope="module")
def starving(host: LibvirtHost) -> Guest:
    """Not started yet."""
    return host.define("deaf", watchdog="i6300esb:none", second_monitor=True)


@pytest.fixture(scope="module")
def ledger(starving: Guest) -> Iterator[FiringLedger]:
    with FiringLedger([starving]) as ledger:
        yield ledger


@pytest.fixture(scope="module")
def guests(host: LibvirtHost, driven: tuple[Driver, LibvirtEventLog], starving: Guest, ledger: FiringLedger) -> dict[str, Guest]:
    """All of them, booted side by side; the watchdog of ``starving`` fires all the time that the other tests take."""
    wanted: dict[str, dict[str, Any]] = {
        **{action: {"kind": "panicking", "watchdog": f"i6300esb:{action}"} for action in ENDS},
        "dump": {"name": "a-name-of-more-than-twenty-characters", "watchdog": "i6300esb:dump"},
        "q35": {"machine": "q35"},
        "isa": {"machine": "q35", "pci_room": False, "watchdog": "ib700:reset"},
        "hanging": {"panic_device": False, "watchdog": "i6300esb:none"},
    }

    def starve() -> None:
        starving.start()
        starving.wait_ready()
        starving.commands.starve_watchdog(timeout=1, times=FIRINGS)

    with ThreadPoolExecutor(2) as pool:
        starved = pool.submit(starve)
        guests = dict(zip(wanted, pool.map(lambda name: host.boot(**({"kind": "deaf"} | wanted[name])), wanted), strict=True))
        starved.result()
    return guests


def esb(expiry_action: str) -> WatchdogDevice:
    return WatchdogDevice(model="i6300esb", expiry_action=expiry_action)


def get_watchdogs(driver: Driver) -> Watchdogs:
    assert driver.watchdog is not None
    return driver.watchdog


def test_each_expiry_action_is_told_by_its_word_and_done(guests: dict[str, Guest], driven: tuple[Driver, LibvirtEventLog]) -> None:
    driver, events = driven
    since = events.position
    for action in ENDS:
        guests[action].commands.starve_watchdog()
    for action, (kind, power_state) in ENDS.items():
        server = guests[action].uuid
        fired = events.expect(DriverEventKind.WATCHDOG_FIRED, server, since=since, timeout=PATIENCE)
        assert fired.reason == action
        assert events.expect(kind, server, since=since, timeout=PATIENCE).occurred_at >= fired.occurred_at
        seen = driver.servers.get_server(server)
        assert seen.power_state is power_state
        assert seen.watchdog is not None
        assert seen.watchdog.configured == esb(action)


def test_the_dump_is_found_by_its_name_and_the_time_of_the_firing(guests: dict[str, Guest], driven: tuple[Driver, LibvirtEventLog]) -> None:
    driver, events = driven
    assert driver.expiry_dumps is not None
    guest, began, since = guests["dump"], datetime.now(UTC), events.position
    guest.commands.starve_watchdog()
    fired = events.expect(DriverEventKind.WATCHDOG_FIRED, guest.uuid, since=since, timeout=PATIENCE)
    assert fired.reason == "pause", "libvirt's own word"
    events.expect(DriverEventKind.RESUMED, guest.uuid, since=since, timeout=PATIENCE)
    found = driver.expiry_dumps.find_expiry_dump(guest.uuid, began)
    assert found is not None
    assert os.path.getsize(found.path) == found.size > 64 << 20


def test_a_daemon_that_feeds_it_keeps_it_quiet_until_it_is_killed(guests: dict[str, Guest], driven: tuple[Driver, LibvirtEventLog]) -> None:
    """On q35, whose card comes and goes live where there is a bridge; the guest's own eyes see it."""
    driver, events = driven
    guest = guests["q35"]
    assert not guest.commands.has_i6300esb()
    get_watchdogs(driver).set_watchdog(guest.uuid, esb("none"))
    wait_until(guest.commands.has_i6300esb, PATIENCE, "the guest to see the card")
    guest.commands.run("while ! [ -e /dev/watchdog ]; do sleep 0.1; done")
    guest.commands.feed_watchdog(timeout=6)  # five times a second, which a guest under TCG may not come to for seconds
    guest.commands.run("sleep 7")
    assert events.list_firings(guest.uuid) == []
    guest.commands.kill_watchdog_daemon()
    assert events.expect(DriverEventKind.WATCHDOG_FIRED, guest.uuid, timeout=PATIENCE).reason == "none"
    get_watchdogs(driver).remove_watchdog(guest.uuid)
    assert not guest.commands.has_i6300esb()


def test_an_isa_card_fires_on_q35_with_an_expiry_action_changed_live(
    guests: dict[str, Guest], driven: tuple[Driver, LibvirtEventLog]
) -> None:
    driver, events = driven
    guest, device = guests["isa"], WatchdogDevice(model="ib700", expiry_action="pause")
    changed = get_watchdogs(driver).set_watchdog(guest.uuid, device)
    assert (changed.configured, changed.live, changed.pending_restart) == (device, device, False)
    guest.commands.starve_watchdog(timeout=2)
    assert events.expect(DriverEventKind.WATCHDOG_FIRED, guest.uuid, timeout=PATIENCE).reason == "pause"
    assert driver.servers.get_server(guest.uuid).state_reason == "paused: watchdog"
    dumping = get_watchdogs(driver).set_watchdog(guest.uuid, WatchdogDevice(model="ib700", expiry_action="dump"))
    assert (dumping.live, dumping.pending_restart) == (device, True), "libvirt dumps by its own definition only"


@pytest.mark.usefixtures("guests")
def test_twenty_firings_are_as_many_events(starving: Guest, ledger: FiringLedger, driven: tuple[Driver, LibvirtEventLog]) -> None:
    """More than 1.2 s apart: QEMU itself tells of no more than one in a second. Of how many there were it tells the ledger as well."""
    _, events = driven
    starving.commands.run("true", timeout=3 * FIRINGS)  # it has got through all of them
    wait_until(lambda: len(events.list_firings(starving.uuid)) == len(ledger.list_firings()), PATIENCE, "as many events as firings")
    firings = events.list_firings(starving.uuid)
    assert len(firings) == len(ledger.list_firings())
    assert FIRINGS - MOST_MISSED <= len(firings) <= FIRINGS
    assert {event.reason for event in firings} == {"none"}


def test_a_hanging_guest_keeps_its_card_and_has_it_again_when_qemu_takes_it_away_late(
    host: LibvirtHost, guests: dict[str, Guest], hasty: tuple[Driver, LibvirtEventLog]
) -> None:
    """It panicked without telling anybody, so only the detach shows it; libvirtd is killed in the first one."""
    driver, events = hasty
    guest = guests["hanging"]
    guest.commands.panic()
    wait_until(lambda: "Kernel panic" in guest.console_log.read_text(errors="replace"), PATIENCE, "the panic")
    with host.libvirtd.connect() as connection:
        domain = connection.lookupByUUIDString(guest.uuid)
        since = events.position
        change = ChangeInFlight(driver, guest, esb("dump"))
        # It is noted right before the guest is asked to let go, which takes 5 s.
        wait_until(lambda: "leaving=" in domain.XMLDesc(), 5, "the detach to be noted")
        wait_until(lambda: domain.controlInfo()[0] != libvirt.VIR_DOMAIN_CONTROL_OK, 5, "the detach to begin")
    host.libvirtd.kill()
    assert isinstance(change.wait(PATIENCE), OutcomeUnknown)
    host.libvirtd.start()
    events.expect(DriverEventKind.BACKEND_BACK, since=since)
    half_done = get_watchdogs(driver).get_watchdog(guest.uuid)
    assert (half_done.configured, half_done.live, half_done.pending_restart) == (esb("dump"), esb("none"), True)
    with pytest.raises(BackendUnavailable, match="not let go") as refusal:
        get_watchdogs(driver).remove_watchdog(guest.uuid)
    assert refusal.value.code is Code.WATCHDOG_NOT_CHANGED
    kept = get_watchdogs(driver).get_watchdog(guest.uuid)
    assert (kept.configured, kept.live) == (esb("dump"), esb("none"))
    assert get_watchdogs(driver).set_watchdog(guest.uuid, esb("none")).pending_restart is False
    boots = guest.count_boots()
    with host.libvirtd.connect() as connection:
        connection.lookupByUUIDString(guest.uuid).reset()
    guest.wait_ready(boots=boots + 1)
    wait_until(lambda: get_watchdogs(driver).get_watchdog(guest.uuid).live == esb("none"), PATIENCE, "the watchdog to be there again")
    wait_until(guest.commands.has_i6300esb, PATIENCE, "the guest to see the card")


class ChangeInFlight:
    """A change on its own thread, for one that hangs."""

    def __init__(self, driver: Driver, guest: Guest, device: WatchdogDevice) -> None:
        self.error: DriverError | None = None
        self._watchdogs, self._server, self._device = get_watchdogs(driver), guest.uuid, device
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def wait(self, timeout: float) -> DriverError | None:
        self._thread.join(timeout * PATIENCE)
        assert not self._thread.is_alive(), f"the call did not return within {timeout} s"
        return self.error

    def _run(self) -> None:
        try:
            self._watchdogs.set_watchdog(self._server, self._device)
        except DriverError as error:
            self.error = error
