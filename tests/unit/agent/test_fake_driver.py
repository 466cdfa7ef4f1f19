"""What the fake driver promises on top of the conformance suite: the same ids again, failures on demand, no sleeping."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from oslo_config import cfg

from compute_agent.contract.errors import Code
from compute_agent.contract.models import PowerState
from compute_agent.contract.watchdogs import WatchdogDevice
from compute_agent.drivers.base import Driver
from compute_agent.drivers.errors import BackendUnavailable, OutcomeUnknown, ServerNotFound, ServerNotRunning
from compute_agent.drivers.fake import GROUP, FakeHypervisor, NmiEffect, create_driver, list_opts, register_options
from compute_agent.drivers.fake_backend import COUNTDOWN
from compute_agent.drivers.fake_behaviours import Hang, answer_late, break_down, lose_answer, lose_request, refuse
from compute_agent.drivers.fake_diagnostics import OCTETS_PER_SECOND, UTILISATION
from compute_agent.drivers.fake_server import DUMP, Call
from compute_agent.drivers.models import DriverEvent, DriverEventKind
from tests.fakes import FakeClock


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def hypervisor(clock: FakeClock) -> FakeHypervisor:
    return FakeHypervisor(clock)


@pytest.fixture
def events(hypervisor: FakeHypervisor) -> Iterator[list[DriverEvent]]:
    events: list[DriverEvent] = []
    hypervisor.subscribe(events.append)
    hypervisor.open()
    yield events
    hypervisor.close()


def make_driver(clock: FakeClock, **options: object) -> Driver:
    conf = cfg.ConfigOpts()
    conf([])
    register_options(conf)
    for name, value in options.items():
        conf.set_override(name, value, GROUP)
    return create_driver(conf, clock)


def inject(driver: Driver, server: str) -> None:
    assert driver.nmi is not None
    driver.nmi.inject_nmi(server)


class TestConfiguration:
    def test_the_same_seed_gives_the_same_servers(self, clock: FakeClock) -> None:
        first, again = (make_driver(clock, servers=3, seed="a").servers.list_servers() for _ in range(2))
        other = make_driver(clock, servers=3, seed="b").servers.list_servers()
        assert [server.id for server in first] == [server.id for server in again]
        assert not {server.id for server in first} & {server.id for server in other}
        assert len({server.id for server in first}) == 3
        assert all(server.power_state is PowerState.RUNNING for server in first)

    def test_as_many_survive_as_configured(self, clock: FakeClock) -> None:
        driver = make_driver(clock, servers=3, surviving=2)
        for server in driver.servers.list_servers():
            inject(driver, server.id)
        states = [server.power_state for server in driver.servers.list_servers()]
        assert states == [PowerState.CRASHED, PowerState.RUNNING, PowerState.RUNNING]

    def test_its_options_are_listed_for_the_reference(self) -> None:
        [(group, options)] = list_opts()
        assert group == GROUP
        assert all(option.help for option in options)


class TestEffects:
    def test_an_nmi_panics_by_default(self, hypervisor: FakeHypervisor, events: list[DriverEvent], clock: FakeClock) -> None:
        server = hypervisor.make_server()
        inject(hypervisor.driver, server)
        assert events[-1] == DriverEvent(DriverEventKind.PANICKED, server, clock.now(), "panicked")

    def test_a_crash_kernel_starts_and_the_server_goes_on_running(self, hypervisor: FakeHypervisor, events: list[DriverEvent]) -> None:
        server = hypervisor.make_server(effect=NmiEffect.CRASH_KERNEL)
        inject(hypervisor.driver, server)
        assert events[-1].kind is DriverEventKind.CRASH_KERNEL_STARTED
        assert hypervisor.get_server(server).power_state is PowerState.RUNNING

    def test_a_paused_server_panics_when_it_resumes(self, hypervisor: FakeHypervisor, events: list[DriverEvent]) -> None:
        server = hypervisor.make_server(power_state=PowerState.PAUSED)
        inject(hypervisor.driver, server)
        assert hypervisor.count_signals(server) == 1
        assert hypervisor.get_server(server).power_state is PowerState.PAUSED
        hypervisor.resume(server)
        assert [event.kind for event in events[-2:]] == [DriverEventKind.RESUMED, DriverEventKind.PANICKED]

    def test_stopping_a_paused_server_forgets_its_pending_nmi(self, hypervisor: FakeHypervisor) -> None:
        server = hypervisor.make_server(power_state=PowerState.PAUSED)
        inject(hypervisor.driver, server)
        hypervisor.stop(server)
        hypervisor.start(server)
        hypervisor.resume(server)
        assert hypervisor.get_server(server).power_state is PowerState.RUNNING

    def test_leaving_by_migration_is_told_apart_from_being_undefined(self, hypervisor: FakeHypervisor, events: list[DriverEvent]) -> None:
        hypervisor.remove(hypervisor.make_server(), migrated=True)
        assert events[-1].kind is DriverEventKind.MIGRATED_AWAY
        with pytest.raises(ServerNotFound):
            hypervisor.remove("none")


class TestBehaviours:
    def test_each_holds_for_one_injection(self, hypervisor: FakeHypervisor) -> None:
        server = hypervisor.make_server(effect=NmiEffect.SURVIVE)
        hypervisor.behave(server, refuse(BackendUnavailable(server, "away")), lose_request(), lose_answer())
        with pytest.raises(BackendUnavailable):
            inject(hypervisor.driver, server)
        with pytest.raises(OutcomeUnknown):
            inject(hypervisor.driver, server)
        assert hypervisor.count_signals(server) == 0
        with pytest.raises(OutcomeUnknown):
            inject(hypervisor.driver, server)
        assert hypervisor.count_signals(server) == 1
        inject(hypervisor.driver, server)
        assert hypervisor.count_signals(server) == 2

    def test_an_undeclared_failure_may_come_before_or_after_the_delivery(self, hypervisor: FakeHypervisor) -> None:
        server = hypervisor.make_server(effect=NmiEffect.SURVIVE)
        hypervisor.behave(server, break_down(ZeroDivisionError()), break_down(ZeroDivisionError(), delivered=True))
        for count in (0, 1):
            with pytest.raises(ZeroDivisionError):
                inject(hypervisor.driver, server)
            assert hypervisor.count_signals(server) == count

    def test_a_late_answer_takes_as_long_as_the_test_wants(self, hypervisor: FakeHypervisor, clock: FakeClock) -> None:
        server = hypervisor.make_server()
        before = clock.monotonic()
        hypervisor.behave(server, answer_late(lambda: clock.advance(30)))
        inject(hypervisor.driver, server)
        assert clock.monotonic() - before == 30

    def test_a_hanging_injection_holds_up_nobody_else(self, hypervisor: FakeHypervisor) -> None:
        stuck, other, hang = hypervisor.make_server(), hypervisor.make_server(), Hang()
        hypervisor.behave(stuck, hang)
        worker = threading.Thread(target=inject, args=(hypervisor.driver, stuck))
        worker.start()
        try:
            assert hang.entered.wait(10)
            inject(hypervisor.driver, other)
            assert hypervisor.count_signals(stuck) == 0
        finally:
            hang.release()
            worker.join(10)
        assert hypervisor.count_signals(stuck) == 1

    def test_a_hanging_injection_may_end_in_an_error(self, hypervisor: FakeHypervisor) -> None:
        server, hang = hypervisor.make_server(), Hang(OutcomeUnknown(None, "broken"))
        hypervisor.behave(server, hang)
        hang.release()
        with pytest.raises(OutcomeUnknown):
            inject(hypervisor.driver, server)
        assert hypervisor.count_signals(server) == 0


class TestReporting:
    def test_nothing_is_reported_before_it_is_opened_or_after_it_is_closed(self, hypervisor: FakeHypervisor) -> None:
        events: list[DriverEvent] = []
        hypervisor.subscribe(events.append)
        server = hypervisor.make_server()
        assert events == []
        hypervisor.open()
        hypervisor.stop(server)
        hypervisor.close()
        hypervisor.start(server)
        assert [event.kind for event in events] == [DriverEventKind.BACKEND_BACK, DriverEventKind.STOPPED]

    def test_what_happens_while_the_backend_is_away_is_not_replayed(self, hypervisor: FakeHypervisor, events: list[DriverEvent]) -> None:
        server = hypervisor.make_server()
        hypervisor.lose_backend()
        hypervisor.panic(server)
        hypervisor.restore_backend()
        assert [event.kind for event in events[-2:]] == [DriverEventKind.BACKEND_LOST, DriverEventKind.BACKEND_BACK]
        assert hypervisor.get_server(server).power_state is PowerState.CRASHED


class TestDiagnostics:
    def test_work_goes_on_at_a_known_pace(self, clock: FakeClock, hypervisor: FakeHypervisor) -> None:
        server = hypervisor.make_server()
        earlier = hypervisor.collect_diagnostics(server)
        clock.advance(10)
        later = hypervisor.collect_diagnostics(server)
        assert earlier.cpu_times == {0: 0}
        assert later.cpu_times == {0: 10 * 10**9 * UTILISATION // 100}
        assert later.nics[0].rx_octets == 10 * OCTETS_PER_SECOND
        assert later.monotonic - earlier.monotonic == 10

    def test_a_new_run_counts_from_zero(self, clock: FakeClock, hypervisor: FakeHypervisor) -> None:
        server = hypervisor.make_server()
        clock.advance(10)
        hypervisor.stop(server)
        assert hypervisor.collect_diagnostics(server).cpu_times == {0: None}
        hypervisor.start(server)
        assert hypervisor.collect_diagnostics(server).cpu_times == {0: 0}

    def test_counters_are_what_a_test_says(self, hypervisor: FakeHypervisor) -> None:
        server = hypervisor.make_server()
        hypervisor.count(server, memory_used_kib=None, errors={"memory": "no driver"})
        reading = hypervisor.collect_diagnostics(server)
        assert (reading.memory_used_kib, reading.errors) == (None, {"memory": "no driver"})

    def test_a_busy_server_is_left_out_of_samples(self, hypervisor: FakeHypervisor) -> None:
        server, other = hypervisor.make_server(), hypervisor.make_server()
        hypervisor.set_busy(server, True)
        assert [sample.server for sample in hypervisor.sample_servers()] == [other]
        hypervisor.set_busy(server, False)
        assert len(hypervisor.sample_servers()) == 2

    def test_a_collection_hangs_until_released_and_stops_nobody_else(self, hypervisor: FakeHypervisor) -> None:
        server, hang = hypervisor.make_server(), Hang()
        hypervisor.behave(server, hang, call=Call.COLLECT_DIAGNOSTICS)
        thread = threading.Thread(target=hypervisor.collect_diagnostics, args=(server,))
        thread.start()
        assert hang.entered.wait(5)
        assert len(hypervisor.sample_servers()) == 1
        hang.release()
        thread.join(5)
        assert not thread.is_alive()


class TestHostDump:
    def test_a_refused_dump_leaves_no_file(self, hypervisor: FakeHypervisor, tmp_path: Path) -> None:
        server = hypervisor.make_server()
        hypervisor.behave(server, refuse(BackendUnavailable(server, "full", Code.NO_SPACE)), call=Call.TAKE_HOST_DUMP)
        with pytest.raises(BackendUnavailable) as failure:
            hypervisor.take_host_dump(server, str(tmp_path / "dump"), lambda done, total: None)
        assert failure.value.code is Code.NO_SPACE
        assert list(tmp_path.iterdir()) == []

    def test_a_dump_whose_answer_is_lost_is_there(self, hypervisor: FakeHypervisor, tmp_path: Path) -> None:
        server = hypervisor.make_server()
        hypervisor.behave(server, lose_answer(), call=Call.TAKE_HOST_DUMP)
        with pytest.raises(OutcomeUnknown):
            hypervisor.take_host_dump(server, str(tmp_path / "dump"), lambda done, total: None)
        assert (tmp_path / "dump").read_bytes() == DUMP


class TestBareMetal:
    def test_what_its_log_tells_goes_on_from_a_cursor(self, hypervisor: FakeHypervisor, events: list[DriverEvent]) -> None:
        server = hypervisor.make_server(bare_metal=True)
        inject(hypervisor.driver, server)
        assert (events[-1].kind, events[-1].power_state, events[-1].cursor) == (DriverEventKind.PANICKED, PowerState.RUNNING, "1")
        hypervisor.close()
        hypervisor.write_log(server, DriverEventKind.REBOOTED, "reset")
        again: list[DriverEvent] = []
        hypervisor.subscribe(again.append, {server: "1"})
        hypervisor.open()
        assert [(event.kind, event.cursor) for event in again if event.server == server] == [(DriverEventKind.REBOOTED, "2")]

    def test_one_that_is_lost_is_refused_and_says_why_and_nothing_is_told_of_it(
        self, hypervisor: FakeHypervisor, events: list[DriverEvent]
    ) -> None:
        server = hypervisor.make_server(bare_metal=True)
        hypervisor.lose_server(server, "no route")
        told = len(events)
        hypervisor.stop(server)
        hypervisor.panic(server)
        assert len(events) == told
        with pytest.raises(BackendUnavailable, match="no route"):
            inject(hypervisor.driver, server)
        (listed,) = [listed for listed in hypervisor.list_servers() if listed.id == server]
        assert (listed.power_state, listed.unread) == (PowerState.RUNNING, "no route")
        hypervisor.restore_server(server)
        assert [event.kind for event in events[told:]] == [DriverEventKind.PANICKED, DriverEventKind.BACKEND_BACK]
        assert hypervisor.get_server(server).power_state is PowerState.SHUTDOWN

    def test_feeding_its_watchdog_can_go_wrong_in_every_way(self, hypervisor: FakeHypervisor, clock: FakeClock) -> None:
        server = hypervisor.make_server(bare_metal=True, watchdog=WatchdogDevice(model="i6300esb", expiry_action="power_cycle"))
        timer = hypervisor.driver.watchdog_timer
        assert timer is not None
        hypervisor.behave(server, lose_request(), call=Call.RESET_TIMER)
        with pytest.raises(OutcomeUnknown):
            timer.reset_timer(server)
        clock.advance(COUNTDOWN)
        hypervisor.run_timers()
        assert hypervisor.get_server(server).state_reason == "made", "it never began to count"
        timer.reset_timer(server)
        clock.advance(COUNTDOWN)
        hypervisor.run_timers()
        assert hypervisor.get_server(server).state_reason == "booted"
        hypervisor.stop(server)
        with pytest.raises(ServerNotRunning):
            timer.reset_timer(server)
