"""Servers whose platform knows their power alone and keeps a log of them: told once, whatever dies, and never as if somebody watched."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from compute_agent.contract.models import Observation, PowerState
from compute_agent.contract.watchdogs import WatchdogDevice
from compute_agent.drivers.fake import NmiEffect
from compute_agent.drivers.models import DriverEvent, DriverEventKind, DriverServer
from compute_agent.journal_servers import LONGEST_CURSOR
from compute_agent.survey import StateChange
from tests.unit.agent.action_parts import Crash
from tests.unit.agent.observer_bench import Bench


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path / "journal.sqlite")
    bench.drain()
    yield bench
    bench.kill()


def make_server(bench: Bench, effect: NmiEffect = NmiEffect.SURVIVE, action: str | None = None) -> str:
    watchdog = None if action is None else WatchdogDevice(model="i6300esb", expiry_action=action)
    return bench.make_server(effect=effect, bare_metal=True, watchdog=watchdog)


def list_cursors(bench: Bench) -> dict[str, str]:
    with bench.journal.transaction("test") as transaction:
        return transaction.list_cursors()


# A panic of a server that is on still


def test_a_panic_that_a_log_tells_is_one_although_the_server_is_on(bench: Bench) -> None:
    """The hold-off goes on: it is probably writing its dump right now."""
    server = make_server(bench, NmiEffect.PANIC)
    action = bench.signal(server)
    bench.drain()
    assert bench.observe(action) == (Observation.GUEST_PANICKED, True)
    (panicked,) = bench.events("server.panicked")
    assert (panicked.action_id, panicked.power_state, panicked.reason, panicked.observed_late) == (
        *(action, "running", "os_critical_stop"),
        False,
    )
    assert bench.find_server(server).power_state is PowerState.RUNNING
    assert "switched on still" in bench.events("action.observed")[-1].text
    assert bench.is_held_off(server)
    bench.clock.advance(90)
    bench.hypervisor.reboot(server)
    bench.drain()
    assert not bench.is_held_off(server)


# The cursor


def test_what_a_log_told_is_not_told_again_after_a_restart(bench: Bench) -> None:
    server = make_server(bench)
    bench.hypervisor.panic(server)
    bench.drain()
    bench.restart()
    assert len(bench.events("server.panicked")) == 1
    assert list_cursors(bench) == {server: "1"}


def test_what_happened_while_the_agent_was_away_is_told_once_and_late_with_its_own_time(bench: Bench) -> None:
    server = make_server(bench)
    action = bench.signal(server)
    bench.kill()
    bench.clock.advance(5)
    bench.hypervisor.panic(server)
    happened_at = bench.clock.now()
    bench.clock.advance(3600)
    bench.start()
    bench.observer.check_timers()  # its time is over, and yet the log may be about to tell
    assert bench.observe(action) == (None, False)
    bench.drain()
    (panicked,) = bench.events("server.panicked")
    assert panicked.occurred_at == happened_at.isoformat().replace("+00:00", "Z")
    assert (panicked.observed_late, panicked.action_id) == (True, action)
    assert bench.observe(action) == (Observation.GUEST_PANICKED, True)


@pytest.mark.parametrize("after_commit", [False, True])
@pytest.mark.parametrize("crash_at", range(9))
def test_a_kill_beside_any_commit_loses_nothing_of_a_log_and_repeats_nothing(bench: Bench, crash_at: int, after_commit: bool) -> None:
    server = make_server(bench, action="reset")
    bench.hypervisor.panic(server)
    bench.hypervisor.write_log(server, DriverEventKind.WATCHDOG_FIRED, "reset")
    bench.hypervisor.write_log(server, DriverEventKind.REBOOTED, "watchdog")
    bench.hypervisor.write_log(server, DriverEventKind.REBOOTED, "echo")
    bench.journal.crash_at, bench.journal.crash_after_commit, bench.journal.commits = crash_at, after_commit, 0
    try:
        bench.drain()
        bench.journal.crash_at = None
    except Crash:
        bench.restart()
    told = [event.type for event in bench.events("server.")]
    assert (told.count("server.panicked"), told.count("server.watchdog.fired")) == (1, 1)
    assert 1 <= told.count("server.rebooted") <= 2, "after a restart nobody knows that the second is the first one's echo"
    assert list_cursors(bench) == {server: "4"}


def test_a_cursor_that_only_moves_is_kept_and_one_that_stands_still_is_not_written(bench: Bench) -> None:
    server = make_server(bench)
    assert list_cursors(bench) == {server: "0"}
    before = bench.journal._connection.total_changes
    for cursor, changes in (("0", 0), ("7", 1), ("7", 1)):
        bench.observer.enqueue(DriverEvent(DriverEventKind.LOG_READ, server, bench.clock.now(), cursor=cursor))
        bench.drain()
        assert bench.journal._connection.total_changes - before == changes
    assert list_cursors(bench) == {server: "7"}


def test_a_cursor_goes_with_its_server(bench: Bench) -> None:
    """Also one of a server that was never known here, or that came after its server had left."""
    server = make_server(bench)
    bench.hypervisor.stop(server)
    bench.hypervisor.remove(server)
    bench.drain()
    assert list_cursors(bench) == {}
    bench.observer.enqueue(DriverEvent(DriverEventKind.LOG_READ, server, bench.clock.now(), cursor="9"))
    bench.drain()
    bench.observer.reconcile()
    assert list_cursors(bench) == {}


def test_no_cursor_is_longer_than_a_cursor_can_be(bench: Bench) -> None:
    with bench.journal.transaction("test") as transaction, pytest.raises(ValueError, match="cursor"):
        transaction.keep_cursor("s", "c" * (LONGEST_CURSOR + 1))


def test_a_record_of_a_server_that_is_not_known_yet_is_not_lost(bench: Bench) -> None:
    """It went out of reach before its DEFINED was taken: the list knows it all the same."""
    server = bench.hypervisor.make_server(bare_metal=True)
    bench.lose_events()
    bench.hypervisor.panic(server)
    bench.hypervisor.lose_server(server)
    bench.drain()
    assert len(bench.events("server.panicked")) == 1
    assert bench.find_server(server) is not None


# Nobody can read one of them


def test_nothing_is_said_of_the_silence_of_a_server_that_is_out_of_reach(bench: Bench) -> None:
    server, other = make_server(bench), make_server(bench)
    action, others = bench.signal(server), bench.signal(other)
    bench.hypervisor.lose_server(server)
    bench.wait(61)
    assert bench.observe(action) == (None, False)
    assert bench.observe(others) == (Observation.NOTHING_SEEN_YET, False)
    bench.wait(1800)
    assert bench.observe(action) == (Observation.NOT_OBSERVED, True)
    assert bench.observe(others) == (Observation.NOTHING_SEEN, True)


def test_a_server_that_is_back_counts_as_not_watched_all_the_time(bench: Bench) -> None:
    server = make_server(bench)
    action = bench.signal(server)
    bench.hypervisor.lose_server(server)
    bench.drain()
    bench.clock.advance(30)
    bench.hypervisor.restore_server(server)
    bench.wait(61)
    assert bench.observe(action) == (Observation.NOTHING_SEEN_YET, False)
    bench.wait(1800)
    assert bench.observe(action) == (Observation.NOT_OBSERVED, True)


def test_what_its_log_tells_when_it_is_back_ends_the_observation(bench: Bench) -> None:
    server = make_server(bench)
    action = bench.signal(server)
    bench.clock.advance(1)
    bench.hypervisor.lose_server(server)
    bench.hypervisor.panic(server)
    bench.wait(600)
    bench.hypervisor.restore_server(server)
    bench.drain()
    assert bench.observe(action) == (Observation.GUEST_PANICKED, True)
    assert [event.observed_late for event in bench.events("server.panicked")] == [True]


def test_a_server_that_was_switched_off_meanwhile_is_found_off(bench: Bench) -> None:
    server = make_server(bench)
    bench.hypervisor.lose_server(server)
    bench.hypervisor.stop(server)
    bench.drain()
    assert bench.find_server(server).power_state is PowerState.RUNNING
    bench.hypervisor.restore_server(server)
    bench.drain()
    assert [event.observed_late for event in bench.events("server.stopped")] == [True]


def test_the_state_of_a_server_that_cannot_be_read_stays_and_the_reason_is_shown(bench: Bench) -> None:
    server = make_server(bench)
    before = bench.find_server(server)
    bench.hypervisor.lose_server(server, "10.0.0.7 does not answer\n")
    bench.observer.reconcile()
    shown = bench.find_server(server)
    assert shown == before.model_copy(update={"state_reason": "not read: 10.0.0.7 does not answer"})
    bench.hypervisor.restore_server(server)
    bench.drain()
    assert bench.find_server(server) == before
    assert bench.events("server.") == []


def test_a_server_is_pending_until_it_was_read_and_that_is_no_event(bench: Bench) -> None:
    server = bench.make_server(bare_metal=True, unread="not asked yet")
    bench.observer.reconcile()
    assert (bench.find_server(server).power_state, bench.find_server(server).state_reason) == (
        PowerState.PENDING,
        "not read: not asked yet",
    )
    bench.clock.advance(5)
    bench.hypervisor.restore_server(server)
    bench.drain()
    assert bench.find_server(server).power_state is PowerState.RUNNING
    assert bench.find_server(server).state_at == bench.clock.now()
    assert bench.events("server.") == []


def test_a_server_that_was_merely_not_read_yet_is_watched_once_it_is(bench: Bench) -> None:
    """No driver says of it that it is back: it never was away."""
    server = bench.make_server(bare_metal=True, effect=NmiEffect.SURVIVE, unread="not asked yet")
    bench.observer.reconcile()
    bench.hypervisor._servers[server].lost = ""
    bench.wait(1)
    action = bench.signal(server)
    bench.wait(61)
    assert bench.observe(action) == (Observation.NOTHING_SEEN_YET, False)


def test_after_a_restart_a_server_out_of_reach_is_not_believed_to_be_watched(bench: Bench) -> None:
    server = make_server(bench)
    action = bench.signal(server)
    bench.hypervisor.lose_server(server)
    bench.restart(away=1)
    bench.wait(120)
    assert bench.observe(action) == (None, False)
    bench.wait(1800)
    assert bench.observe(action) == (Observation.NOT_OBSERVED, True)


def test_one_server_that_does_not_answer_delays_the_events_of_no_other(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """After one look that took its time there is none for a while: states are compared instead. A quick "no" delays nobody."""
    servers = [bench.hypervisor.make_server(bare_metal=True, unread="no answer") for _ in range(5)]
    get_server = bench.hypervisor.get_server
    seconds, asked = [0.0, 0.0, 1.5], list[str]()

    def answer_slowly(server: str) -> DriverServer:
        bench.clock.advance(seconds[len(asked)])
        asked.append(server)
        return get_server(server)

    monkeypatch.setattr(bench.hypervisor, "get_server", answer_slowly)
    bench.drain()
    assert asked == servers[:3]
    bench.wait(6)
    assert {bench.find_server(server).power_state for server in servers} == {PowerState.PENDING}


# Watchdogs


def test_a_firing_that_a_log_tells_late_waits_for_what_the_log_says_came_of_it(bench: Bench) -> None:
    server = make_server(bench, action="reset")
    bench.kill()
    bench.hypervisor.fire_watchdog(server)
    fired_at = bench.clock.now()
    bench.clock.advance(1)
    bench.hypervisor.write_log(server, DriverEventKind.REBOOTED, "watchdog reset")
    bench.clock.advance(7200)
    bench.start()
    while not bench.events("server.watchdog.fired"):
        assert bench.observer.step(0)
    bench.observer.check_timers()
    bench.drain()
    (fired,), (outcome,) = bench.events("server.watchdog.fired"), bench.events("server.watchdog.outcome")
    assert (fired.occurred_at, fired.observed_late) == (fired_at.isoformat().replace("+00:00", "Z"), True)
    assert (outcome.result, outcome.observed_late, outcome.fired_event) == ("rebooted", True, fired.id)


def test_the_hold_off_of_a_watchdogs_nmi_counts_from_when_it_was_injected(bench: Bench) -> None:
    server = make_server(bench, action="inject-nmi")
    bench.hypervisor.lose_server(server)
    bench.hypervisor.fire_watchdog(server)
    fired_at = bench.clock.now()
    bench.clock.advance(120)
    bench.hypervisor.restore_server(server)
    bench.drain()
    with bench.journal.transaction("test") as transaction:
        signal = transaction.find_signal(server)
    assert signal is not None
    assert signal.at == fired_at


def test_a_power_cycle_that_stays_half_done_is_called_a_stop(bench: Bench) -> None:
    server = make_server(bench, action="power_cycle")
    bench.hypervisor.write_log(server, DriverEventKind.WATCHDOG_FIRED, "power_cycle")
    bench.hypervisor.stop(server)
    bench.drain()
    assert bench.events("server.watchdog.outcome") == []
    bench.wait(61)
    (outcome,) = bench.events("server.watchdog.outcome")
    assert outcome.result == "stopped"
    assert "not on again" in outcome.text


# Controllers that keep the time of the last reset


def test_a_reset_that_was_told_is_no_start_to_a_later_comparison(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    server = make_server(bench)
    bench.clock.advance(100)
    reset_at = bench.clock.now()
    seen = replace(bench.hypervisor.driver.servers.get_server(server), started_at=reset_at)
    servers = type(bench.hypervisor.driver.servers)
    monkeypatch.setattr(servers, "get_server", lambda *_: seen)
    monkeypatch.setattr(servers, "list_servers", lambda *_: [seen])
    for kind in (DriverEventKind.REBOOTED, DriverEventKind.DEFINED):
        bench.observer.enqueue(DriverEvent(kind, server, reset_at, "reset time changed"))
    bench.drain()
    bench.observer.reconcile()
    assert bench.find_server(server).started_at == reset_at
    assert len(bench.events("server.rebooted")) == 1
    assert bench.events("server.started") == []


def test_a_reset_lies_not_in_the_future_whatever_the_clock_that_tells_it(bench: Bench) -> None:
    before = bench.find_server(make_server(bench))
    now = bench.clock.now()
    change = StateChange(before, before.model_copy(update={"started_at": now + timedelta(hours=8)}), restarted=True)
    assert change.find_reset(now) == now
