"""What heartbeats say of the servers on a host."""

from pathlib import Path

import pytest

from compute_agent import inventory
from compute_agent.contract.models import Heartbeat, InventoryReport, PowerState, hash_inventory
from compute_agent.drivers.fake import FakeHypervisor
from compute_agent.inventory import Inventory
from compute_agent.journal import Journal
from compute_agent.observer import Observer
from tests.fakes import FakeClock


class Bench:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.clock = FakeClock()
        self.hypervisor = FakeHypervisor(self.clock, call_bound=7.0)
        self.start()

    def start(self) -> None:
        self.journal = Journal.open(self.path, host="h1", clock=self.clock)
        self.observer = Observer(self.journal, self.hypervisor.driver, self.clock)
        self.hypervisor.subscribe(self.observer.enqueue)
        self.hypervisor.open()
        self.inventory = Inventory(
            self.journal, self.hypervisor.driver, self.clock, default_project="ops", interval=30, inventory_interval=600
        )
        self.drain()

    def drain(self) -> None:
        while self.observer.step(0):
            pass

    def beat(self, *, stopping: bool = False) -> Heartbeat:
        self.clock.advance(1)
        self.inventory.refresh()
        return self.inventory.heartbeat(stopping)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path / "journal.sqlite")


class Listener:
    """A gateway that applies reports as the contract says: a difference on its base only, checked by its hash."""

    def __init__(self) -> None:
        self.revision: int | None = None
        self.servers: dict[str, int] = {}

    def apply(self, report: InventoryReport) -> bool:
        if report.full:
            self.servers = {}
        elif report.base_revision != self.revision:
            return False
        self.servers.update({server.id: server.generation for server in report.servers})
        for removed in report.removed:
            self.servers.pop(removed.id, None)
        self.revision = report.revision
        return hash_inventory(self.servers) == report.hash


def test_the_first_heartbeat_carries_everything(bench: Bench) -> None:
    server = bench.hypervisor.make_server(project="p1")
    other = bench.hypervisor.make_server()
    heartbeat = bench.beat()
    assert heartbeat.inventory.full
    assert {entry.id: entry.project for entry in heartbeat.inventory.servers} == {server: "p1", other: "ops"}
    assert (heartbeat.number, heartbeat.incarnation, heartbeat.driver_bound, heartbeat.interval) == (1, 1, 7.0, 30)
    assert heartbeat.capabilities.inject_nmi


def test_later_heartbeats_carry_only_what_changed(bench: Bench) -> None:
    servers = [bench.hypervisor.make_server() for _ in range(3)]
    listener = Listener()
    assert listener.apply(bench.beat().inventory)
    nothing = bench.beat().inventory
    assert (nothing.full, nothing.servers, nothing.removed, nothing.revision) == (False, (), (), nothing.base_revision)
    assert listener.apply(nothing)
    bench.hypervisor.stop(servers[0])
    bench.hypervisor.remove(servers[1])
    bench.drain()
    report = bench.beat().inventory
    assert [(server.id, server.power_state) for server in report.servers] == [(servers[0], PowerState.SHUTDOWN)]
    assert [(removed.id, removed.departure) for removed in report.removed] == [(servers[1], "undefined")]
    assert listener.apply(report)


def test_a_listener_that_missed_one_notices_and_a_full_one_heals_it(bench: Bench) -> None:
    listener = Listener()
    assert listener.apply(bench.beat().inventory)
    bench.hypervisor.make_server()
    bench.beat()
    bench.hypervisor.make_server()
    assert not listener.apply(bench.beat().inventory)
    bench.inventory.request_full()
    assert listener.apply(bench.beat().inventory)


def test_everything_is_told_again_after_the_inventory_interval(bench: Bench) -> None:
    bench.beat()
    assert not bench.beat().inventory.full
    bench.clock.advance(600)
    assert bench.beat().inventory.full
    assert not bench.beat().inventory.full


def test_an_inventory_that_cannot_be_read_is_unavailable_and_never_empty(bench: Bench) -> None:
    server = bench.hypervisor.make_server()
    listener = Listener()
    listener.apply(bench.beat().inventory)
    bench.hypervisor.lose_backend()
    report = bench.beat().inventory
    assert (report.readable, report.full, report.servers, report.removed) == (False, False, (), ())
    bench.hypervisor.restore_backend()
    bench.drain()
    assert listener.apply(bench.beat().inventory)
    assert list(listener.servers) == [server]


def test_the_first_readable_inventory_is_full(bench: Bench) -> None:
    bench.hypervisor.lose_backend()
    assert not bench.beat().inventory.readable
    bench.hypervisor.restore_backend()
    assert bench.beat().inventory.full


def test_revisions_of_a_restarted_agent_are_no_base_for_the_old_ones(bench: Bench) -> None:
    bench.hypervisor.make_server()
    before = bench.beat()
    bench.journal.close()
    bench.start()
    after = bench.beat()
    assert after.incarnation == before.incarnation + 1
    assert after.inventory.full
    assert after.inventory.base_revision > before.inventory.revision


def test_an_arriving_server_is_not_claimed(bench: Bench) -> None:
    server = bench.hypervisor.make_server()
    bench.hypervisor.change(server, arriving=True)
    assert bench.beat().inventory.servers == ()


def test_what_a_migration_left_behind_is_not_claimed_until_it_runs_here(bench: Bench) -> None:
    server = bench.hypervisor.make_server()
    bench.beat()
    left_behind = bench.hypervisor._servers[server]
    bench.hypervisor.remove(server, migrated=True)
    bench.drain()
    bench.hypervisor._servers[server] = left_behind
    bench.hypervisor.change(server, power_state=PowerState.SHUTDOWN)
    report = bench.beat().inventory
    assert [(removed.id, removed.departure) for removed in report.removed] == [(server, "migrated")]
    assert report.servers == ()
    bench.hypervisor.start(server)
    bench.drain()
    (back,) = bench.beat().inventory.servers
    assert (back.id, back.generation) == (server, 2)


def test_a_full_report_repeats_why_servers_left(bench: Bench) -> None:
    """The heartbeat that said it first may be lost; a migrated server's next host is to have it at once."""
    server = bench.hypervisor.make_server()
    bench.beat()
    bench.hypervisor.remove(server, migrated=True)
    bench.drain()
    bench.beat()
    bench.inventory.request_full()
    assert [(removed.id, removed.departure) for removed in bench.beat().inventory.removed] == [(server, "migrated")]


def test_why_servers_left_is_told_by_a_restarted_agent_as_well(bench: Bench) -> None:
    server = bench.hypervisor.make_server()
    bench.beat()
    bench.hypervisor.remove(server, migrated=True)
    bench.drain()
    bench.journal.close()
    bench.start()
    assert [(removed.id, removed.departure) for removed in bench.beat().inventory.removed] == [(server, "migrated")]


def test_departures_are_told_for_a_week_and_then_forgotten(bench: Bench) -> None:
    server = bench.hypervisor.make_server()
    bench.beat()
    bench.hypervisor.remove(server)
    bench.drain()
    bench.clock.advance(inventory.DEPARTURE_KEEP.total_seconds() - 5)
    assert [removed.id for removed in bench.beat().inventory.removed] == [server]
    bench.clock.advance(600)
    assert bench.beat().inventory.removed == ()
    with bench.journal.transaction("test") as transaction:
        assert transaction.find_known_server(server) is None


def test_what_a_migration_left_behind_is_not_claimed_after_a_week_either(bench: Bench) -> None:
    server = bench.hypervisor.make_server()
    bench.beat()
    left_behind = bench.hypervisor._servers[server]
    bench.hypervisor.remove(server, migrated=True)
    bench.drain()
    bench.hypervisor._servers[server] = left_behind
    bench.hypervisor.change(server, power_state=PowerState.SHUTDOWN)
    bench.clock.advance(2 * inventory.DEPARTURE_KEEP.total_seconds())
    bench.beat()
    assert bench.beat().inventory.servers == ()


def test_of_many_departures_the_last_ones_are_told_and_kept(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inventory, "MOST_DEPARTURES_TOLD", 2)
    monkeypatch.setattr(inventory, "MOST_DEPARTED_KEPT", 3)
    servers = [bench.hypervisor.make_server() for _ in range(5)]
    bench.beat()
    for server in servers:
        bench.clock.advance(1)
        bench.hypervisor.remove(server)
        bench.drain()
    bench.beat()
    bench.inventory.request_full()
    assert {removed.id for removed in bench.beat().inventory.removed} == set(servers[-2:])
    with bench.journal.transaction("test") as transaction:
        assert [server for server in servers if transaction.find_known_server(server) is not None] == servers[-3:]


def test_a_new_name_is_taken_over_without_an_event(bench: Bench) -> None:
    server = bench.hypervisor.make_server()
    bench.beat()
    bench.hypervisor.change(server, name="renamed")
    (told,) = bench.beat().inventory.servers
    assert (told.id, told.name, told.generation) == (server, "renamed", 1)


def test_a_state_is_left_to_its_event_and_only_a_lasting_difference_was_missed(bench: Bench) -> None:
    """Between the list and its event a state may differ for a moment; an event that never comes is found out."""
    server = bench.hypervisor.make_server()
    bench.beat()
    bench.hypervisor.subscribe(lambda event: None)
    bench.clock.advance(1)
    bench.hypervisor.stop(server)
    bench.clock.advance(1)
    assert bench.inventory.refresh() == frozenset()
    assert bench.inventory.refresh() == {server}
    bench.observer.enqueue_comparison(frozenset({server}))
    bench.drain()
    (told,) = bench.beat().inventory.servers
    assert told.power_state is PowerState.SHUTDOWN
    assert bench.inventory.refresh() == frozenset()


def test_a_stop_that_takes_its_time_is_not_found_before_its_event(bench: Bench) -> None:
    """A QEMU with much memory is there for seconds after its guest has ended."""
    server = bench.hypervisor.make_server()
    bench.beat()
    bench.hypervisor.change(server, power_state=PowerState.SHUTDOWN, stopping=True)
    for _ in range(3):
        bench.clock.advance(1)
        assert bench.inventory.refresh() == frozenset()
    bench.hypervisor.change(server, stopping=False)
    bench.inventory.refresh()
    assert bench.inventory.refresh() == {server}, "its event was lost"


def test_a_server_that_vanished_without_an_event_is_found_out(bench: Bench) -> None:
    server = bench.hypervisor.make_server()
    bench.beat()
    del bench.hypervisor._servers[server]
    bench.clock.advance(1)
    bench.inventory.refresh()
    missed = bench.inventory.refresh()
    bench.observer.enqueue_comparison(missed)
    bench.drain()
    assert [(removed.id, removed.departure) for removed in bench.beat().inventory.removed] == [(server, "gone")]


def test_the_last_heartbeat_says_so(bench: Bench) -> None:
    assert bench.beat(stopping=True).stopping
