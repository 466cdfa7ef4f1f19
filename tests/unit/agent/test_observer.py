"""What followed a signal, told by the real journal over the fake hypervisor under a clock that moves when told."""

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest

from compute_agent.contract.models import Departure, Observation, PowerState
from compute_agent.drivers.fake import NmiEffect
from compute_agent.drivers.models import DriverEventKind
from compute_agent.watch import PENDING_LIMIT
from tests.unit.agent.observer_bench import Bench


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path / "journal.sqlite")
    bench.drain()
    yield bench
    bench.kill()


def test_a_panic_after_the_nmi_is_the_final_observation(bench: Bench) -> None:
    server = bench.make_server()
    action = bench.signal(server)
    bench.drain()
    assert bench.observe(action) == (Observation.GUEST_PANICKED, True)
    (panicked,) = bench.events("server.panicked")
    assert (panicked.action_id, panicked.power_state, panicked.observed_late) == (action, "crashed", False)
    assert bench.find_server(server).power_state is PowerState.CRASHED


def test_a_panic_seen_before_the_call_returned_follows_the_ending(bench: Bench) -> None:
    """The event comes 9 ms after the NMI, the call may take longer: the order of the events is kept."""
    server = bench.make_server()
    action = bench.receive(server)
    bench.hypervisor.behave(server, lambda deliver: (deliver(), bench.clock.advance(0.01), bench.drain()))
    bench.actions.run(action)
    assert bench.observe(action) == (Observation.GUEST_PANICKED, True)
    assert [event.type for event in bench.events("action.")] == [
        "action.received",
        "action.started",
        "action.ended",
        "action.observed",
    ]


def test_an_event_from_before_the_signal_says_nothing_about_it(bench: Bench) -> None:
    server = bench.make_server(effect=NmiEffect.SURVIVE)
    bench.clock.advance(10)
    action = bench.signal(server)
    bench.emit(DriverEventKind.REBOOTED, server, before=5)
    assert bench.observe(action) == (None, False)
    assert bench.events("server.rebooted")[0].action_id is None
    assert bench.is_held_off(server)


def test_silence_is_said_once_with_its_advice_and_is_not_final(bench: Bench) -> None:
    action = bench.signal(bench.make_server(effect=NmiEffect.SURVIVE))
    bench.wait(59)
    assert bench.observe(action) == (None, False)
    bench.wait(1)
    bench.wait(1)
    (observed,) = bench.events("action.observed")
    assert (observed.observation, observed.final) == ("nothing_seen_yet", False)
    assert "A guest that is writing its dump looks exactly like this; do not trigger again" in observed.text
    assert "doc/guest-setup.rst" in observed.text


def test_nothing_seen_is_the_last_word_after_the_limit(bench: Bench) -> None:
    action = bench.signal(bench.make_server(effect=NmiEffect.SURVIVE))
    bench.wait(1799)
    bench.wait(1)
    assert bench.observe(action) == (Observation.NOTHING_SEEN, True)


def test_a_reboot_ends_observation_and_hold_off_after_kdumps_silence(bench: Bench) -> None:
    server = bench.make_server(effect=NmiEffect.SURVIVE)
    action = bench.signal(server)
    bench.wait(90)
    assert bench.is_held_off(server)
    bench.hypervisor.reboot(server)
    bench.drain()
    assert bench.observe(action) == (Observation.GUEST_REBOOTED, True)
    assert bench.events("server.rebooted")[0].action_id == action
    assert not bench.is_held_off(server)


def test_the_many_events_of_one_reboot_are_one(bench: Bench) -> None:
    server = bench.make_server(effect=NmiEffect.SURVIVE)
    for _ in range(5):
        bench.hypervisor.reboot(server)
        bench.clock.advance(0.03)
        bench.drain()
    assert len(bench.events("server.rebooted")) == 1
    bench.clock.advance(3)
    bench.hypervisor.reboot(server)
    bench.drain()
    assert len(bench.events("server.rebooted")) == 2


def test_a_started_crash_kernel_is_not_final_and_silence_does_not_hide_it(bench: Bench) -> None:
    server = bench.make_server(effect=NmiEffect.CRASH_KERNEL)
    action = bench.signal(server)
    bench.drain()
    assert bench.observe(action) == (Observation.CRASH_KERNEL_STARTED, False)
    bench.wait(120)
    assert bench.observe(action) == (Observation.CRASH_KERNEL_STARTED, False)
    assert bench.find_server(server).power_state is PowerState.RUNNING
    bench.hypervisor.reboot(server)
    bench.drain()
    assert bench.observe(action) == (Observation.GUEST_REBOOTED, True)


def test_a_crash_kernel_that_never_reboots_keeps_its_word_at_the_limit(bench: Bench) -> None:
    action = bench.signal(bench.make_server(effect=NmiEffect.CRASH_KERNEL))
    bench.wait(1)
    bench.wait(1800)
    assert bench.observe(action) == (Observation.CRASH_KERNEL_STARTED, True)


def test_a_panic_stays_a_panic_when_the_guest_reboots_after_it(bench: Bench) -> None:
    server = bench.make_server()
    action = bench.signal(server)
    bench.hypervisor.reboot(server)
    bench.drain()
    assert bench.observe(action) == (Observation.GUEST_PANICKED, True)
    assert bench.find_server(server).power_state is PowerState.RUNNING
    assert len(bench.events("action.observed")) == 1


def test_a_stop_is_observed_and_ends_the_hold_off(bench: Bench) -> None:
    server = bench.make_server(effect=NmiEffect.SURVIVE)
    action = bench.signal(server)
    bench.clock.advance(5)
    bench.hypervisor.stop(server)
    bench.drain()
    assert bench.observe(action) == (Observation.GUEST_STOPPED, True)
    assert not bench.is_held_off(server)


def test_a_paused_servers_nmi_waits_and_its_timers_run_from_the_resume(bench: Bench) -> None:
    server = bench.make_server(effect=NmiEffect.SURVIVE)
    bench.hypervisor.pause(server)
    bench.drain()
    action = bench.signal(server)
    bench.wait(7200)
    assert bench.observe(action) == (Observation.PENDING_UNTIL_RESUME, False)
    bench.hypervisor.resume(server)
    bench.drain()
    bench.wait(59)
    assert bench.observe(action) == (Observation.PENDING_UNTIL_RESUME, False)
    bench.wait(1)
    assert bench.observe(action) == (Observation.NOTHING_SEEN_YET, False)


def test_a_paused_server_that_panics_on_resume_is_a_panic(bench: Bench) -> None:
    server = bench.make_server()
    bench.hypervisor.pause(server)
    bench.drain()
    action = bench.signal(server)
    bench.clock.advance(100)
    bench.hypervisor.resume(server)
    bench.drain()
    assert bench.observe(action) == (Observation.GUEST_PANICKED, True)
    assert bench.events("server.panicked")[0].action_id == action


def test_a_server_that_stays_paused_for_good_gets_a_last_word_too(bench: Bench) -> None:
    server = bench.make_server()
    bench.hypervisor.pause(server)
    bench.drain()
    action = bench.signal(server)
    bench.wait(PENDING_LIMIT)
    assert bench.observe(action) == (Observation.NOT_OBSERVED, True)


class TestHoldOffOfAPausedServer:
    """Only the time in which the guest runs counts: a dump makes no progress while it does not, and an NMI that waits has not fired."""

    def refuses(self, bench: Bench, server: str) -> bool:
        action = bench.get(bench.signal(server))
        bench.drain()
        assert action.result is not None
        return action.result.code == "crash_dump_in_progress"

    def pause(self, bench: Bench, server: str, seconds: float) -> None:
        bench.hypervisor.pause(server)
        bench.drain()
        bench.wait(seconds)

    def resume(self, bench: Bench, server: str) -> None:
        bench.hypervisor.resume(server)
        bench.drain()

    def make_signalled_in_pause(self, bench: Bench, effect: NmiEffect = NmiEffect.SURVIVE) -> str:
        server = bench.make_server(effect=effect)
        self.pause(bench, server, 5)
        bench.signal(server)
        return server

    @pytest.mark.parametrize("effect", [NmiEffect.SURVIVE, NmiEffect.CRASH_KERNEL])
    def test_it_begins_when_the_nmi_that_waited_fires(self, bench: Bench, effect: NmiEffect) -> None:
        server = self.make_signalled_in_pause(bench, effect)
        bench.wait(7200)
        self.resume(bench, server)
        bench.wait(598)
        assert self.refuses(bench, server)
        bench.wait(3)
        assert not self.refuses(bench, server)

    def test_it_lasts_for_as_long_as_the_nmi_waits_and_then_begins_though_nobody_watches_any_more(self, bench: Bench) -> None:
        server = self.make_signalled_in_pause(bench)
        bench.wait(2 * PENDING_LIMIT)
        assert self.refuses(bench, server)
        self.resume(bench, server)
        bench.wait(598)
        assert self.refuses(bench, server)

    def test_a_dump_that_a_pause_interrupted_is_not_ruined_after_it(self, bench: Bench) -> None:
        server = bench.make_server(effect=NmiEffect.SURVIVE)
        bench.signal(server)
        bench.wait(100)
        self.pause(bench, server, 7200)
        assert self.refuses(bench, server)
        self.resume(bench, server)
        bench.wait(498)
        assert self.refuses(bench, server)
        bench.wait(3)
        assert not self.refuses(bench, server)

    def test_a_pause_after_it_is_over_does_not_bring_it_back(self, bench: Bench) -> None:
        server = bench.make_server(effect=NmiEffect.SURVIVE)
        bench.signal(server)
        bench.wait(601)
        self.pause(bench, server, 10)
        assert not self.refuses(bench, server)

    def test_a_reset_in_the_pause_ends_it(self, bench: Bench) -> None:
        server = self.make_signalled_in_pause(bench)
        bench.emit(DriverEventKind.REBOOTED, server)
        bench.wait(10)
        self.resume(bench, server)
        assert not self.refuses(bench, server)

    def test_a_resume_that_nobody_saw_is_taken_for_as_late_as_it_can_have_been(self, bench: Bench) -> None:
        server = self.make_signalled_in_pause(bench)
        bench.kill()
        bench.hypervisor.resume(server)
        bench.clock.advance(7200)
        bench.start()
        bench.drain()
        bench.wait(598)
        assert self.refuses(bench, server)
        bench.wait(3)
        assert not self.refuses(bench, server)


def test_nothing_follows_a_signal_that_was_never_sent(bench: Bench) -> None:
    server = bench.make_server(power_state=PowerState.SHUTDOWN)
    action = bench.signal(server)
    bench.hypervisor.start(server)
    bench.wait(3600)
    assert bench.observe(action) == (None, False)
    assert bench.events("action.observed") == []


# Restarts and gaps


def test_an_observation_goes_on_after_a_restart(bench: Bench) -> None:
    action = bench.signal(bench.make_server(effect=NmiEffect.SURVIVE))
    bench.clock.advance(40)
    bench.restart()
    bench.wait(19)
    assert bench.observe(action) == (None, False)
    bench.wait(1)
    assert bench.observe(action) == (Observation.NOTHING_SEEN_YET, False)


def test_after_a_gap_the_last_word_is_not_observed_instead_of_nothing_seen(bench: Bench) -> None:
    """A reboot within the gap cannot be told from silence."""
    action = bench.signal(bench.make_server(effect=NmiEffect.SURVIVE))
    bench.restart(away=5)
    bench.wait(1800)
    assert bench.observe(action) == (Observation.NOT_OBSERVED, True)


def test_a_panic_while_the_agent_was_dead_is_found(bench: Bench) -> None:
    server = bench.make_server(effect=NmiEffect.SURVIVE)
    action = bench.signal(server)
    bench.kill()
    bench.clock.advance(5)
    bench.hypervisor.panic(server)
    bench.start()
    bench.drain()
    assert bench.observe(action) == (Observation.GUEST_PANICKED, True)
    (panicked,) = bench.events("server.panicked")
    assert (panicked.observed_late, panicked.action_id) == (True, action)


def test_a_stop_and_start_while_the_backend_was_away_is_found(bench: Bench) -> None:
    server = bench.make_server(effect=NmiEffect.SURVIVE)
    action = bench.signal(server)
    bench.clock.advance(5)
    bench.hypervisor.lose_backend()
    bench.hypervisor.stop(server)
    bench.clock.advance(1)
    bench.hypervisor.start(server)
    bench.clock.advance(1)
    bench.hypervisor.restore_backend()
    bench.drain()
    assert bench.observe(action) == (Observation.GUEST_STOPPED, True)
    assert [event.observed_late for event in bench.events("server.started")] == [True]
    assert not bench.is_held_off(server)


def test_a_restart_before_the_signal_that_is_found_after_it_ends_no_holdoff(bench: Bench) -> None:
    """The agent was away while the server was stopped and started, and signals the new run before it has compared the states: the dump
    of that run may still be running. Found by the simulation."""
    server = bench.make_server(effect=NmiEffect.SURVIVE)
    bench.kill()
    bench.clock.advance(5)
    bench.hypervisor.stop(server)
    bench.clock.advance(1)
    bench.hypervisor.start(server)
    started_at = bench.clock.now()
    bench.clock.advance(1)
    bench.start()
    action = bench.signal(server)
    bench.drain()
    assert bench.observe(action) == (None, False)
    assert bench.is_held_off(server)
    (started,) = bench.events("server.started")
    assert (started.observed_late, datetime.fromisoformat(started.occurred_at), started.action_id) == (True, started_at, None)


def test_a_reboot_during_the_call_of_an_agent_that_died_ends_no_holdoff(bench: Bench) -> None:
    """The call may have gone out after the reboot, until the agent was gone. Found by the simulation."""
    server = bench.make_server(effect=NmiEffect.SURVIVE)
    action = bench.receive(server)
    with bench.journal.transaction("test") as transaction:
        assert transaction.start_action(action, bench.clock.now())
    bench.clock.advance(5)
    bench.hypervisor.reboot(server)
    bench.drain()
    bench.restart(away=5)
    assert bench.is_held_off(server)


def test_a_call_that_was_given_up_holds_off_from_there(bench: Bench) -> None:
    """It may go out as long as it is not back, and the agent may die before that. Found by the simulation."""
    server = bench.make_server(effect=NmiEffect.SURVIVE)
    action = bench.receive(server)
    with bench.journal.transaction("test") as transaction:
        assert transaction.start_action(action, bench.clock.now())
    bench.clock.advance(10_000)
    bench.actions.end_overdue()
    given_up_at = bench.clock.now()
    bench.restart(away=5)
    with bench.journal.transaction("test") as transaction:
        signal = transaction.find_signal(server)
    assert signal is not None
    assert signal.at == given_up_at


def test_nothing_is_said_of_silence_while_the_backend_is_away(bench: Bench) -> None:
    action = bench.signal(bench.make_server(effect=NmiEffect.SURVIVE))
    bench.hypervisor.lose_backend()
    bench.wait(120)
    assert bench.observe(action) == (None, False)
    bench.wait(1680)
    assert bench.observe(action) == (Observation.NOT_OBSERVED, True)


def test_an_unknown_ending_after_a_restart_is_observed_like_any_other(bench: Bench) -> None:
    server = bench.make_server(effect=NmiEffect.SURVIVE)
    action = bench.receive(server)
    with bench.journal.transaction("test") as transaction:
        transaction.start_action(action, bench.clock.now())
    bench.restart(away=2)
    bench.clock.advance(3)
    bench.hypervisor.panic(server)
    bench.drain()
    assert bench.observe(action) == (Observation.GUEST_PANICKED, True)


def test_a_comparison_that_cannot_be_made_is_tried_again(bench: Bench) -> None:
    server = bench.make_server(effect=NmiEffect.SURVIVE)
    bench.hypervisor.lose_backend()
    bench.drain()
    assert bench.observer.reconcile() is False
    bench.hypervisor.restore_backend()
    bench.hypervisor.subscribe(lambda event: None)
    bench.hypervisor.stop(server)
    bench.wait(5)
    assert bench.find_server(server).power_state is PowerState.SHUTDOWN


def test_a_driver_that_never_says_that_it_is_there_is_asked(bench: Bench) -> None:
    server = bench.make_server(effect=NmiEffect.SURVIVE)
    bench.kill()
    bench.hypervisor.stop(server)
    bench.start()
    bench.lose_events()
    bench.wait(1)
    assert bench.find_server(server).power_state is PowerState.SHUTDOWN


def test_a_server_whose_events_began_late_is_compared_once_more_and_no_other(bench: Bench) -> None:
    late, other = bench.make_server(effect=NmiEffect.SURVIVE), bench.make_server(effect=NmiEffect.SURVIVE)
    bench.hypervisor.subscribe(lambda event: None)
    bench.hypervisor.stop(late)
    bench.hypervisor.stop(other)
    bench.emit(DriverEventKind.BACKEND_BACK, late)
    assert bench.find_server(late).power_state is PowerState.SHUTDOWN
    assert bench.find_server(other).power_state is PowerState.RUNNING, "that is its own events' to tell"
    assert [event.observed_late for event in bench.events("server.stopped")] == [True]


def test_a_change_that_a_comparison_has_told_is_not_told_again_by_its_late_event(bench: Bench) -> None:
    server = bench.make_server(effect=NmiEffect.SURVIVE)
    bench.hypervisor.subscribe(lambda event: None)
    bench.clock.advance(1)
    bench.hypervisor.stop(server)
    bench.clock.advance(1)
    assert bench.observer.reconcile()
    bench.emit(DriverEventKind.STOPPED, server, before=1)
    assert len(bench.events("server.stopped")) == 1


# Which servers there are


def test_a_server_defined_again_is_another_generation(bench: Bench) -> None:
    server = bench.make_server(power_state=PowerState.SHUTDOWN)
    first = bench.find_server(server)
    with bench.hypervisor._lock:
        fake = bench.hypervisor._servers[server]
    bench.hypervisor.remove(server)
    bench.hypervisor._servers[server] = fake
    bench.emit(DriverEventKind.DEFINED, server)
    assert (first.generation, bench.find_server(server).generation) == (1, 2)


def test_a_removed_server_leaves_with_its_reason(bench: Bench) -> None:
    gone, moved = bench.make_server(), bench.make_server(effect=NmiEffect.SURVIVE)
    action = bench.signal(moved)
    bench.clock.advance(1)
    bench.hypervisor.remove(gone)
    bench.hypervisor.remove(moved, migrated=True)
    bench.drain()
    assert bench.find_server(gone) is None
    with bench.journal.transaction("test") as transaction:
        assert transaction.find_known_server(gone).departure is Departure.UNDEFINED  # type: ignore[union-attr]
        assert transaction.find_known_server(moved).departure is Departure.MIGRATED  # type: ignore[union-attr]
    assert bench.observe(action) == (Observation.NOT_OBSERVED, True)


def test_a_running_server_that_loses_its_definition_stays(bench: Bench) -> None:
    server = bench.make_server()
    bench.hypervisor.change(server, persistent=False)
    bench.emit(DriverEventKind.UNDEFINED, server)
    assert bench.find_server(server) is not None


def test_a_domain_that_is_migrated_in_is_not_claimed(bench: Bench) -> None:
    server = bench.hypervisor.make_server()
    bench.hypervisor.change(server, arriving=True)
    bench.drain()
    assert bench.find_server(server) is None
    bench.hypervisor.change(server, arriving=False)
    bench.emit(DriverEventKind.RESUMED, server)
    assert bench.find_server(server) is not None


def test_every_change_asks_for_a_heartbeat(bench: Bench) -> None:
    server = bench.make_server(effect=NmiEffect.SURVIVE)
    before = bench.changes
    bench.hypervisor.pause(server)
    bench.drain()
    assert bench.changes > before


def test_an_event_of_a_server_that_is_not_here_changes_nothing(bench: Bench) -> None:
    bench.emit(DriverEventKind.STOPPED, "00000000-0000-0000-0000-00000000dead")
    assert bench.events() == []


def test_what_cannot_be_taken_because_the_driver_failed_oddly_keeps_nobody_waiting(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tried again and again, it would be the last that anybody hears of this host."""
    server = bench.make_server()
    bench.drain()

    def fail() -> None:
        raise RuntimeError("no driver declares this")

    monkeypatch.setattr(bench.hypervisor, "list_servers", fail)
    bench.observer.enqueue_comparison(frozenset({server}))
    bench.hypervisor.reboot(server)
    with pytest.raises(RuntimeError):
        bench.observer.step(0)
    bench.drain()
    assert [event.server for event in bench.events("server.rebooted")] == [server]
