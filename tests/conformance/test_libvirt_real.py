"""What only libvirt with QEMU can show: guests that panic, a libvirtd that dies or freezes, a QEMU that answers nobody."""

import threading
from collections.abc import Iterator
from datetime import UTC, datetime

import libvirt
import pytest

from compute_agent.contract.models import Flavor, PowerState
from compute_agent.drivers.base import Driver
from compute_agent.drivers.errors import BackendUnavailable, DriverError, OutcomeUnknown, ServerNotRunning
from compute_agent.drivers.models import DriverEventKind
from devstack.guests import METADATA_NAMESPACE, Guest
from devstack.services import PATIENCE, wait_until
from tests.conformance.libvirt_host import SECONDS_TO_NOTICE, LibvirtEventLog, LibvirtHost, started_libvirt_host, within


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LibvirtHost]:
    with started_libvirt_host(tmp_path_factory.mktemp("libvirt")) as host:
        yield host


@pytest.fixture(scope="module")
def survivor(host: LibvirtHost) -> Guest:
    """Takes every NMI, counts it and lives on, so that one guest serves many tests."""
    return host.boot("surviving", project="blue", user="ann", display_name="Survivor")


@pytest.fixture
def driven(host: LibvirtHost) -> Iterator[tuple[Driver, LibvirtEventLog]]:
    with host.driver() as driven:
        yield driven


def inject(driver: Driver, guest: Guest) -> None:
    assert driver.nmi is not None
    driver.nmi.inject_nmi(guest.uuid)


class InjectionInFlight:
    """An injection on its own thread, for calls that hang."""

    def __init__(self, driver: Driver, guest: Guest) -> None:
        self.error: DriverError | None = None
        self._driver, self._guest = driver, guest
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def wait(self, timeout: float) -> DriverError | None:
        self._thread.join(timeout * PATIENCE)
        assert not self._thread.is_alive(), f"the call did not return within {timeout} s"
        return self.error

    def wait_until_libvirt_waits_for_qemu(self, host: LibvirtHost) -> None:
        with host.libvirtd.connect() as connection:
            domain = connection.lookupByUUIDString(self._guest.uuid)
            wait_until(lambda: domain.controlInfo()[0] != 0, 5, "libvirt to wait for QEMU")

    def _run(self) -> None:
        try:
            inject(self._driver, self._guest)
        except DriverError as error:
            self.error = error


def expect_nmi_count(guest: Guest, count: int) -> None:
    wait_until(lambda: guest.nmi_count() >= count, 10, f"the guest to count {count} NMIs")
    assert guest.nmi_count() == count


METADATA = """<server><name>db-1</name><project>green</project><description>the shop's</description><flavor name="m1.small">
  <disk>20</disk></flavor><tags><tag>shop</tag><tag>a/b</tag></tags></server>"""


def test_what_an_operator_writes_into_the_metadata_is_read(host: LibvirtHost, driven: tuple[Driver, LibvirtEventLog]) -> None:
    """The documented way, for a domain that exists: libvirt puts all of it into the namespace that the command names."""
    guest = host.define("deaf")
    with host.libvirtd.connect() as connection:
        connection.lookupByUUIDString(guest.uuid).setMetadata(
            libvirt.VIR_DOMAIN_METADATA_ELEMENT, METADATA, "crashcart", METADATA_NAMESPACE, libvirt.VIR_DOMAIN_AFFECT_CONFIG
        )
    seen = driven[0].servers.get_server(guest.uuid)
    assert (seen.name, seen.project, seen.description, seen.tags) == ("db-1", "green", "the shop's", ("shop",))
    assert seen.flavor == Flavor(name="m1.small", vcpus=seen.vcpus or 0, ram_mib=seen.memory_mib or 0, disk_gib=20)


def test_an_nmi_makes_the_guest_panic_and_the_panic_is_reported(host: LibvirtHost, driven: tuple[Driver, LibvirtEventLog]) -> None:
    driver, events = driven
    guest = host.boot("panicking", project="blue", user="ann", display_name="Pan")
    injected_at = datetime.now(UTC)
    inject(driver, guest)
    panicked = events.expect(DriverEventKind.PANICKED, guest.uuid, timeout=5)
    assert injected_at <= panicked.occurred_at <= datetime.now(UTC)
    server = driver.servers.get_server(guest.uuid)
    assert (server.power_state, server.state_reason) == (PowerState.CRASHED, "crashed: panicked")
    assert (server.name, server.project, server.user, server.instance_name) == ("Pan", "blue", "ann", guest.name)
    with pytest.raises(ServerNotRunning, match="crashed"):
        inject(driver, guest)
    guest.destroy()
    events.expect(DriverEventKind.STOPPED, guest.uuid)


def test_saved_memory_is_a_pause_and_its_restoring_goes_on_with_the_same_run(
    host: LibvirtHost, driven: tuple[Driver, LibvirtEventLog]
) -> None:
    """A dump that the guest was writing goes on after it: as a stop and a start, they would let a second NMI in."""
    driver, events = driven
    guest = host.boot("surviving")
    with host.libvirtd.connect() as connection:
        domain = connection.lookupByUUIDString(guest.uuid)
        domain.managedSave()
        events.expect(DriverEventKind.SUSPENDED, guest.uuid, timeout=20)
        saved = driver.servers.get_server(guest.uuid)
        assert (saved.power_state, saved.state_reason, saved.started_at) == (PowerState.SUSPENDED, "shut off: saved", None)
        with pytest.raises(ServerNotRunning):
            inject(driver, guest)
        domain.create()
    events.expect(DriverEventKind.RESUMED, guest.uuid, timeout=20)
    restored = driver.servers.get_server(guest.uuid)
    assert (restored.power_state, restored.started_at) == (PowerState.RUNNING, None)
    kinds = events.list_kinds(guest.uuid)
    assert DriverEventKind.STOPPED not in kinds
    assert DriverEventKind.STARTED not in kinds[kinds.index(DriverEventKind.SUSPENDED) :]
    guest.destroy()


def test_a_crash_kernel_that_starts_is_reported(host: LibvirtHost, driven: tuple[Driver, LibvirtEventLog]) -> None:
    driver, events = driven
    guest = host.boot("kdump_post_notifiers")
    inject(driver, guest)
    events.expect(DriverEventKind.CRASH_KERNEL_STARTED, guest.uuid, timeout=5)
    events.expect(DriverEventKind.REBOOTED, guest.uuid, timeout=60)
    assert DriverEventKind.PANICKED not in events.list_kinds(guest.uuid)
    guest.destroy()


def test_each_injection_is_exactly_one_nmi(survivor: Guest, driven: tuple[Driver, LibvirtEventLog]) -> None:
    driver, _ = driven
    before = survivor.nmi_count()
    inject(driver, survivor)
    expect_nmi_count(survivor, before + 1)
    inject(driver, survivor)
    expect_nmi_count(survivor, before + 2)


def test_a_paused_guest_gets_its_nmi_when_it_resumes(survivor: Guest, driven: tuple[Driver, LibvirtEventLog]) -> None:
    driver, events = driven
    before = survivor.nmi_count()
    survivor.suspend()
    try:
        events.expect(DriverEventKind.PAUSED, survivor.uuid)
        assert driver.servers.get_server(survivor.uuid).state_reason == "paused: user"
        inject(driver, survivor)
    finally:
        survivor.resume()
    events.expect(DriverEventKind.RESUMED, survivor.uuid)
    expect_nmi_count(survivor, before + 1)


def test_a_server_that_is_off_is_refused_and_its_life_is_reported(host: LibvirtHost, driven: tuple[Driver, LibvirtEventLog]) -> None:
    driver, events = driven
    guest = host.define("deaf")
    events.expect(DriverEventKind.DEFINED, guest.uuid)
    with pytest.raises(ServerNotRunning, match="shut off"):
        inject(driver, guest)
    guest.start()
    events.expect(DriverEventKind.STARTED, guest.uuid)
    first_run = driver.servers.get_server(guest.uuid).started_at
    guest.destroy()
    events.expect(DriverEventKind.STOPPED, guest.uuid)
    stopped = driver.servers.get_server(guest.uuid)
    assert (stopped.power_state, stopped.state_reason, stopped.started_at) == (PowerState.SHUTDOWN, "shut off: destroyed", None)
    since = events.position
    guest.start()
    events.expect(DriverEventKind.STARTED, guest.uuid, since=since)
    second_run = driver.servers.get_server(guest.uuid).started_at
    assert first_run is not None
    assert second_run is not None
    assert first_run < second_run
    guest.destroy()
    guest.undefine()
    events.expect(DriverEventKind.UNDEFINED, guest.uuid)
    assert guest.uuid not in {server.id for server in driver.servers.list_servers()}


def test_a_reset_is_reported(host: LibvirtHost, survivor: Guest, driven: tuple[Driver, LibvirtEventLog]) -> None:
    _, events = driven
    boots = survivor.count_boots()
    with host.libvirtd.connect() as connection:
        connection.lookupByUUIDString(survivor.uuid).reset()
    events.expect(DriverEventKind.REBOOTED, survivor.uuid)
    survivor.wait_ready(boots=boots + 1)


def test_events_flow_again_after_libvirtd_was_killed(host: LibvirtHost, survivor: Guest, driven: tuple[Driver, LibvirtEventLog]) -> None:
    driver, events = driven
    before = driver.servers.get_server(survivor.uuid)
    host.libvirtd.kill()
    events.expect(DriverEventKind.BACKEND_LOST)
    with pytest.raises(BackendUnavailable):
        driver.servers.list_servers()
    with pytest.raises(BackendUnavailable):
        inject(driver, survivor)
    since = events.position
    host.libvirtd.start()
    events.expect(DriverEventKind.BACKEND_BACK, since=since)
    after = driver.servers.get_server(survivor.uuid)
    assert (after.power_state, after.started_at) == (PowerState.RUNNING, before.started_at)
    assert after.started_at is not None
    guest = host.boot("panicking")
    inject(driver, guest)
    events.expect(DriverEventKind.PANICKED, guest.uuid, timeout=5)
    guest.destroy()


def test_a_frozen_libvirtd_ends_calls_by_keepalive_and_is_found_again(
    host: LibvirtHost, survivor: Guest, driven: tuple[Driver, LibvirtEventLog]
) -> None:
    driver, events = driven
    host.libvirtd.freeze()
    try:
        with within(SECONDS_TO_NOTICE + 2), pytest.raises(BackendUnavailable):
            driver.servers.get_server(survivor.uuid)
        events.expect(DriverEventKind.BACKEND_LOST)
        with within(0.5), pytest.raises(BackendUnavailable, match="does not answer"):
            inject(driver, survivor)
    finally:
        since = events.position
        host.libvirtd.thaw()
    events.expect(DriverEventKind.BACKEND_BACK, since=since)
    assert driver.servers.get_server(survivor.uuid).power_state is PowerState.RUNNING


@pytest.mark.parametrize("what_happens", ["killed", "frozen"])
def test_a_libvirtd_lost_during_the_call_leaves_the_outcome_unknown(
    host: LibvirtHost, survivor: Guest, driven: tuple[Driver, LibvirtEventLog], what_happens: str
) -> None:
    driver, events = driven
    before = survivor.nmi_count()
    with host.frozen_guest(survivor):
        call = InjectionInFlight(driver, survivor)
        call.wait_until_libvirt_waits_for_qemu(host)
        if what_happens == "killed":
            host.libvirtd.kill()
        else:
            host.libvirtd.freeze()
        assert isinstance(call.wait(SECONDS_TO_NOTICE + 2), OutcomeUnknown)
    since = events.position
    if what_happens == "killed":
        host.libvirtd.start()
    else:
        host.libvirtd.thaw()
    events.expect(DriverEventKind.BACKEND_BACK, since=since)
    # The guest serves its serial line again: it has had none or one of it, and never a second one.
    inject(driver, survivor)
    # What the guest counts by now is final, whenever it says so by itself.
    counted = int(survivor.commands.run("awk '$1 == \"NMI:\" { print $2 }' /proc/interrupts"))
    assert before < counted <= before + 2
    expect_nmi_count(survivor, counted)


def test_a_qemu_that_answers_nobody_stops_neither_the_list_nor_other_servers(
    host: LibvirtHost, survivor: Guest, driven: tuple[Driver, LibvirtEventLog]
) -> None:
    driver, _ = driven
    before = survivor.nmi_count()
    other = host.boot("deaf")
    with host.frozen_guest(survivor):
        stuck = InjectionInFlight(driver, survivor)
        stuck.wait_until_libvirt_waits_for_qemu(host)
        with within(8):
            assert {survivor.uuid, other.uuid} <= {server.id for server in driver.servers.list_servers()}
            inject(driver, other)
        with host.libvirtd.connect() as connection:
            domain = connection.lookupByUUIDString(survivor.uuid)
            wait_until(lambda: domain.controlInfo()[2] > 5000, 10, "QEMU to be silent for 5 s")
        with within(8), pytest.raises(BackendUnavailable, match="QEMU has not answered"):
            inject(driver, survivor)
    assert stuck.wait(10) is None, "it was only late"
    expect_nmi_count(survivor, before + 1)
    other.destroy()


def test_closing_while_libvirtd_is_frozen_is_bounded(host: LibvirtHost) -> None:
    with host.driver() as (driver, events):
        assert driver.lifecycle is not None
        host.libvirtd.freeze()
        try:
            with within(SECONDS_TO_NOTICE + 2):
                driver.lifecycle.close()
        finally:
            host.libvirtd.thaw()
        assert DriverEventKind.BACKEND_LOST not in events.list_kinds(None), "after closing no listener is called"
