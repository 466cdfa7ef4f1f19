"""Firings and outcomes that nobody was there to see, and those beside which the agent dies: none is lost, none told twice."""

from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from compute_agent.contract.watchdogs import ExpiryAction, WatchdogDevice
from compute_agent.drivers.fake import NmiEffect
from compute_agent.drivers.models import DriverEvent
from compute_agent.inventory import Inventory
from tests.unit.agent.action_parts import Crash
from tests.unit.agent.firing_parts import (
    fire,
    get_outcome,
    list_fired,
    list_outcomes,
    list_types,
    make_watched,
    run_bench,
    tell,
)
from tests.unit.agent.observer_bench import Bench


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    yield from run_bench(tmp_path)


# While nobody was watching


def test_a_server_that_its_watchdog_paused_unseen_is_told_late(bench: Bench) -> None:
    server = make_watched(bench, "pause")
    bench.kill()
    bench.hypervisor.fire_watchdog(server)
    bench.clock.advance(60)
    bench.start()
    bench.drain()
    (fired,), outcome = list_fired(bench), get_outcome(bench)
    assert (fired.observed_late, fired.expiry_action, fired.driver_word) == (True, "pause", "pause")
    assert (outcome.observed_late, outcome.result, outcome.reason) == (True, "paused", "watchdog")
    assert list_types(bench, server) == ["watchdog.fired", "paused", "watchdog.outcome"]
    (paused,) = bench.events("server.paused")
    assert (paused.observed_late, paused.reason, paused.fired_event) == (True, "watchdog", fired.id)
    bench.restart()
    assert len(list_fired(bench)) == 1


def test_it_is_told_of_a_server_that_was_paused_by_somebody_else_before(bench: Bench) -> None:
    server = make_watched(bench, "pause")
    bench.hypervisor.pause(server)
    bench.drain()
    bench.hypervisor.lose_backend()
    bench.hypervisor.resume(server)
    bench.hypervisor.fire_watchdog(server)
    bench.hypervisor.restore_backend()
    bench.drain()
    assert get_outcome(bench).result == "paused"


def test_a_server_that_is_first_seen_paused_by_its_watchdog_is_told(bench: Bench) -> None:
    bench.kill()
    server = bench.hypervisor.make_server(watchdog=WatchdogDevice(model="ib700", expiry_action="pause"))
    bench.hypervisor.fire_watchdog(server)
    bench.start()
    bench.drain()
    assert get_outcome(bench).observed_late


@pytest.mark.parametrize("known", [True, False])
def test_a_heartbeat_before_the_first_comparison_hides_no_firing(bench: Bench, known: bool) -> None:
    if known:
        server = make_watched(bench, "pause")
        bench.hypervisor.pause(server)
        bench.drain()
    bench.kill()
    if known:
        bench.hypervisor.resume(server)
    else:
        server = bench.hypervisor.make_server(watchdog=WatchdogDevice(model="ib700", expiry_action="pause"))
    bench.hypervisor.fire_watchdog(server)
    bench.start()
    inventory = Inventory(bench.journal, bench.hypervisor.driver, bench.clock)
    assert inventory.refresh() == {server}
    bench.drain()
    assert get_outcome(bench).observed_late
    assert inventory.refresh() == set()


def test_a_firing_that_was_found_is_not_told_again_by_its_event(bench: Bench) -> None:
    """It came between the registration for events and the reading of the states."""
    server = make_watched(bench, "pause")
    events: list[DriverEvent] = []
    bench.hypervisor.subscribe(events.append)
    bench.hypervisor.fire_watchdog(server)
    assert bench.observer.reconcile()
    for event in events:
        bench.observer.enqueue(event)
    bench.drain()
    assert get_outcome(bench).observed_late


def test_the_next_firing_after_a_found_one_is_told(bench: Bench) -> None:
    server = make_watched(bench, "pause")
    bench.kill()
    bench.hypervisor.fire_watchdog(server)
    bench.start()
    bench.drain()
    bench.hypervisor.resume(server)
    bench.clock.advance(2)
    fire(bench, server)
    assert [event.observed_late for event in list_fired(bench)] == [True, False]
    assert len(list_outcomes(bench)) == 2


def test_the_next_firing_after_a_found_one_is_told_although_nobody_saw_the_server_resume(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither did the first comparison: the driver did not answer."""
    server = make_watched(bench, "pause")
    bench.kill()
    bench.hypervisor.fire_watchdog(server)
    bench.start()
    bench.drain()
    bench.kill()
    bench.hypervisor.resume(server)
    with monkeypatch.context() as patch:
        patch.setattr(type(bench.observer), "reconcile", lambda *_: False)
        bench.start()
        bench.clock.advance(2)
        fire(bench, server)
    assert [event.observed_late for event in list_fired(bench)] == [True, False]
    bench.hypervisor.lose_backend()
    bench.hypervisor.restore_backend()
    bench.drain()
    assert len(list_fired(bench)) == len(list_outcomes(bench)) == 2


@pytest.mark.parametrize(
    ("action", "happens", "result"),
    [
        ("reset", lambda hypervisor, server: None, "not_observed"),
        ("reset", lambda hypervisor, server: hypervisor.reboot(server), "not_observed"),
        ("poweroff", lambda hypervisor, server: hypervisor.stop(server), "stopped"),
        ("shutdown", lambda hypervisor, server: hypervisor.stop(server), "stopped"),
        ("pause", lambda hypervisor, server: hypervisor.pause(server), "paused"),
        ("inject-nmi", lambda hypervisor, server: hypervisor.panic(server), "panicked"),
        ("inject-nmi", lambda hypervisor, server: hypervisor.remove(server), "not_observed"),
        ("poweroff", lambda hypervisor, server: (hypervisor.stop(server), hypervisor.start(server)), "stopped"),
        ("dump", lambda hypervisor, server: hypervisor.write_expiry_dump(server, "/dumps/1", 5), "dumped"),
        ("dump", lambda hypervisor, server: None, "dump_failed"),
        ("dump", lambda hypervisor, server: hypervisor.stop(server), "stopped"),
    ],
)
@pytest.mark.parametrize("gap", ["agent", "backend"])
def test_an_open_firing_is_concluded_after_a_gap(
    bench: Bench, action: str, happens: Callable[[Any, str], Any], result: str, gap: str
) -> None:
    server = make_watched(bench, action)
    tell(bench, server, "pause" if action == "dump" else action)
    bench.kill() if gap == "agent" else bench.hypervisor.lose_backend()
    bench.clock.advance(1)
    happens(bench.hypervisor, server)
    bench.clock.advance(1)
    bench.start() if gap == "agent" else bench.hypervisor.restore_backend()
    bench.drain()
    bench.wait(60)
    outcome = get_outcome(bench)
    assert outcome.result == result
    assert outcome.observed_late or result == "not_observed"


def test_a_reboot_that_comes_after_a_gap_is_the_outcome_still(bench: Bench) -> None:
    server = make_watched(bench, "inject-nmi")
    fire(bench, server)
    bench.restart(away=5)
    bench.clock.advance(20)
    bench.hypervisor.reboot(server)
    bench.drain()
    assert get_outcome(bench).result == "rebooted"


def test_silence_says_nothing_while_the_backend_is_away(bench: Bench) -> None:
    fire(bench, make_watched(bench, "inject-nmi"))
    bench.hypervisor.lose_backend()
    bench.wait(120)
    assert list_outcomes(bench) == []
    bench.wait(1680)
    assert get_outcome(bench).result == "not_observed"


# Crashes


@pytest.mark.parametrize("crash_after_commit", [False, True])
@pytest.mark.parametrize("action", [action.value for action in ExpiryAction])
def test_a_crash_beside_any_commit_loses_no_outcome_and_tells_none_twice(tmp_path: Path, action: str, crash_after_commit: bool) -> None:
    """Whatever was committed of a firing gets its one outcome after the restart."""
    crash_at = 0
    while True:
        bench = Bench(tmp_path / f"journal-{crash_at}.sqlite")
        bench.drain()
        server = make_watched(bench, action, NmiEffect.PANIC)
        bench.journal.commits, bench.journal.crash_at, bench.journal.crash_after_commit = 0, crash_at, crash_after_commit
        try:
            fire(bench, server)
        except Crash:
            bench.restart(away=3)
            bench.wait(61)
            bench.drain()
            fired, outcomes = list_fired(bench), list_outcomes(bench)
            assert [outcome.fired_event for outcome in outcomes] == [event.id for event in fired]
            assert len(fired) <= 1
            bench.kill()
            crash_at += 1
            continue
        assert crash_at >= 2
        bench.kill()
        return


def test_a_firing_in_the_journal_is_forgotten_with_the_actions_of_its_time(bench: Bench) -> None:
    fire(bench, make_watched(bench, "none"))
    bench.clock.advance(100)
    with bench.journal.transaction("test") as transaction:
        transaction.prune(bench.clock.now(), outbox_keep=timedelta(days=1), outbox_max_rows=1000, action_keep=timedelta(seconds=50))
        assert transaction.execute("SELECT count(*) FROM firings").fetchone()[0] == 0
