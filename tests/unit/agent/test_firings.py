"""A watchdog's firing is told at once and its outcome once, by the real journal over the fake hypervisor."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from threading import Event
from types import SimpleNamespace
from typing import Any

import pytest

from compute_agent.contract.models import Observation, PowerState
from compute_agent.contract.watchdogs import ExpiryAction, Watchdog, WatchdogDevice
from compute_agent.drivers.base import BackendUnavailable, DriverEvent, DriverEventKind
from compute_agent.drivers.fake import NmiEffect
from compute_agent.dump_search import DUMP_LIMIT, DumpSearch
from compute_agent.inventory import Inventory
from tests.unit.agent.action_parts import Crash
from tests.unit.agent.observer_bench import Bench

NEVER_SEEN = "00000000-0000-0000-0000-00000000dead"


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path / "journal.sqlite")
    bench.drain()
    yield bench
    bench.kill()


def make_watched(bench: Bench, action: str, effect: NmiEffect = NmiEffect.SURVIVE) -> str:
    return bench.make_server(effect=effect, watchdog=WatchdogDevice(model="i6300esb", expiry_action=action))


def fire(bench: Bench, server: str, **keywords: Any) -> None:
    bench.hypervisor.fire_watchdog(server, **keywords)
    bench.drain()


def tell(bench: Bench, server: str, word: str) -> None:
    """The event alone, with the platform's word."""
    bench.observer.enqueue(DriverEvent(DriverEventKind.WATCHDOG_FIRED, server, bench.clock.now(), word))
    bench.drain()


def list_fired(bench: Bench) -> list[SimpleNamespace]:
    return bench.events("server.watchdog.fired")


def list_outcomes(bench: Bench) -> list[SimpleNamespace]:
    return bench.events("server.watchdog.outcome")


def get_outcome(bench: Bench) -> SimpleNamespace:
    """The one outcome, of the one firing."""
    (fired,), (outcome,) = list_fired(bench), list_outcomes(bench)
    assert outcome.fired_event == fired.id
    return outcome


def list_types(bench: Bench, server: str) -> list[str]:
    return [event.type.removeprefix("server.") for event in bench.events("server.") if event.server == server]


# One firing of each kind


@pytest.mark.parametrize(
    ("action", "effect", "word", "result", "types"),
    [
        ("none", NmiEffect.SURVIVE, "none", "continued", ["watchdog.fired", "watchdog.outcome"]),
        ("reset", NmiEffect.SURVIVE, "reset", "rebooted", ["watchdog.fired", "rebooted", "watchdog.outcome"]),
        ("poweroff", NmiEffect.SURVIVE, "poweroff", "stopped", ["watchdog.fired", "stopped", "watchdog.outcome"]),
        ("shutdown", NmiEffect.SURVIVE, "shutdown", "stopped", ["watchdog.fired", "stopped", "watchdog.outcome"]),
        ("pause", NmiEffect.SURVIVE, "pause", "paused", ["watchdog.fired", "paused", "watchdog.outcome"]),
        ("dump", NmiEffect.SURVIVE, "pause", "dumped", ["watchdog.fired", "paused", "resumed", "watchdog.outcome"]),
        ("inject-nmi", NmiEffect.PANIC, "inject-nmi", "panicked", ["watchdog.fired", "panicked", "watchdog.outcome"]),
        (
            "inject-nmi",
            NmiEffect.CRASH_KERNEL,
            "inject-nmi",
            "crash_kernel_started",
            ["watchdog.fired", "crash_kernel_started", "watchdog.outcome"],
        ),
    ],
)
def test_each_expiry_action_is_told_as_it_is_configured_and_then_what_came_of_it(
    bench: Bench, action: str, effect: NmiEffect, word: str, result: str, types: list[str]
) -> None:
    server = make_watched(bench, action, effect)
    fire(bench, server)
    outcome = get_outcome(bench)
    (fired,) = list_fired(bench)
    assert (fired.severity, fired.model, fired.expiry_action, fired.driver_word) == ("warn", "i6300esb", action, word)
    assert (outcome.severity, outcome.result, outcome.expiry_action, outcome.observed_late) == ("info", result, action, False)
    assert list_types(bench, server) == types


@pytest.mark.parametrize("action", ["reset", "poweroff", "shutdown", "pause", "inject-nmi"])
def test_the_event_of_what_a_firing_did_names_it(bench: Bench, action: str) -> None:
    fire(bench, make_watched(bench, action, NmiEffect.PANIC))
    (fired,) = list_fired(bench)
    (state,) = [event for event in bench.events("server.") if "watchdog" not in event.type]
    assert (state.fired_event, state.action_id) == (fired.id, None)


def test_a_pause_says_so_and_names_the_platforms_reason(bench: Bench) -> None:
    fire(bench, make_watched(bench, "pause"))
    outcome = get_outcome(bench)
    assert outcome.reason == "watchdog"
    assert "until somebody resumes it" in outcome.text


def test_a_dump_is_named_with_path_and_size(bench: Bench) -> None:
    server = make_watched(bench, "dump")
    fire(bench, server)
    outcome = get_outcome(bench)
    assert (outcome.dump_path, outcome.dump_bytes) == (f"/var/lib/fake/{server}-1", 12288)
    assert outcome.dump_path in outcome.text


def test_a_dump_without_a_file_is_a_failure_that_somebody_is_to_look_into(bench: Bench) -> None:
    fire(bench, make_watched(bench, "dump"), heeded=False)
    outcome = get_outcome(bench)
    assert (outcome.result, outcome.severity, outcome.dump_path) == ("dump_failed", "warn", None)


def test_the_file_of_the_dump_before_is_not_taken_for_this_ones(bench: Bench) -> None:
    server = make_watched(bench, "dump")
    fire(bench, server)
    fire(bench, server, heeded=False)
    assert [outcome.result for outcome in list_outcomes(bench)] == ["dumped", "dump_failed"]


def test_each_of_two_dumps_is_named_with_its_own_firing_although_the_first_was_looked_for_late(bench: Bench) -> None:
    server = make_watched(bench, "dump")
    bench.hypervisor.fire_watchdog(server)
    while bench.observer.step(0):
        pass
    bench.hypervisor.lose_backend()
    bench.observer.dump_search.step(0)
    bench.hypervisor.restore_backend()
    bench.clock.advance(2)
    fire(bench, server)
    bench.wait(5)
    paths = {outcome.fired_event: outcome.dump_path for outcome in list_outcomes(bench)}
    assert [paths[fired.id] for fired in list_fired(bench)] == [f"/var/lib/fake/{server}-1", f"/var/lib/fake/{server}-2"]


def test_a_place_that_does_not_answer_keeps_no_other_servers_dump_from_being_found(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    stuck, found = make_watched(bench, "dump"), make_watched(bench, "dump")
    find, is_over = bench.hypervisor.find_expiry_dump, Event()
    bench.observer.dump_search = search = DumpSearch(bench.journal, replace(bench.hypervisor.driver, call_bound=0.01), bench.clock)
    bench.observer._firings._search = search

    def find_or_hang(server: str, *window: Any) -> Any:
        if server == stuck:
            is_over.wait(10)
        return find(server, *window)

    monkeypatch.setattr(bench.hypervisor, "find_expiry_dump", find_or_hang)
    try:
        fire(bench, stuck)
        search._looks._limit = 10
        fire(bench, found)
        assert [(outcome.server, outcome.result) for outcome in list_outcomes(bench)] == [(found, "dumped")]
    finally:
        is_over.set()


def test_a_place_that_cannot_be_read_is_asked_again(bench: Bench) -> None:
    server = make_watched(bench, "dump")
    bench.hypervisor.fire_watchdog(server)
    while bench.observer.step(0):
        pass
    bench.hypervisor.lose_backend()
    bench.drain()
    assert list_outcomes(bench) == []
    bench.hypervisor.restore_backend()
    bench.wait(5)
    assert get_outcome(bench).result == "dumped"


def test_a_place_that_stays_unreadable_is_named_in_the_end(bench: Bench) -> None:
    server = make_watched(bench, "dump")
    bench.hypervisor.fire_watchdog(server)
    while bench.observer.step(0):
        pass
    bench.hypervisor.lose_backend()
    bench.drain()
    bench.wait(299)
    assert list_outcomes(bench) == []
    bench.wait(6)
    outcome = get_outcome(bench)
    assert (outcome.result, outcome.severity) == ("not_observed", "warn")
    assert "the fake backend is away" in outcome.text


def test_a_dump_in_progress_is_waited_for_and_one_without_end_is_told_as_it_is(bench: Bench) -> None:
    server = make_watched(bench, "dump")
    tell(bench, server, "pause")
    bench.hypervisor.pause(server)
    bench.drain()
    bench.wait(DUMP_LIMIT - 1)
    assert list_outcomes(bench) == []
    bench.wait(1)
    assert get_outcome(bench).result == "paused"


def test_a_dump_whose_resumption_was_not_told_is_looked_for_in_time(bench: Bench) -> None:
    server = make_watched(bench, "dump")
    tell(bench, server, "pause")
    bench.hypervisor.write_expiry_dump(server, "/dumps/1", 5)
    bench.wait(59)
    assert list_outcomes(bench) == []
    bench.wait(1)
    bench.drain()
    assert get_outcome(bench).dump_path == "/dumps/1"


def test_a_guest_that_does_not_shut_down_is_told_after_a_minute(bench: Bench) -> None:
    fire(bench, make_watched(bench, "shutdown"), heeded=False)
    bench.wait(59)
    assert list_outcomes(bench) == []
    bench.wait(1)
    outcome = get_outcome(bench)
    assert (outcome.result, outcome.severity) == ("nothing_seen", "warn")
    assert "does not listen to ACPI" in outcome.text


def test_a_guest_that_answers_no_nmi_is_told_with_its_advice(bench: Bench) -> None:
    fire(bench, make_watched(bench, "inject-nmi"))
    bench.wait(60)
    outcome = get_outcome(bench)
    assert outcome.result == "nothing_seen"
    assert "A guest that is writing its dump looks exactly like this: do not inject another NMI" in outcome.text


@pytest.mark.parametrize(
    ("act", "result"),
    [
        (lambda hypervisor, server: hypervisor.stop(server), "stopped"),
        (lambda hypervisor, server: hypervisor.reboot(server), "rebooted"),
        (lambda hypervisor, server: hypervisor.panic(server), "panicked"),
        (lambda hypervisor, server: hypervisor.remove(server), "not_observed"),
        (lambda hypervisor, server: hypervisor.remove(server, migrated=True), "not_observed"),
    ],
)
@pytest.mark.parametrize("action", ["shutdown", "inject-nmi", "pause", "reset"])
def test_what_is_seen_first_is_told_as_what_it_is(bench: Bench, action: str, act: Callable[[Any, str], None], result: str) -> None:
    server = make_watched(bench, action)
    tell(bench, server, action)
    act(bench.hypervisor, server)
    bench.drain()
    assert get_outcome(bench).result == result


def test_somebody_elses_pause_is_not_the_outcome_of_an_nmi(bench: Bench) -> None:
    server = make_watched(bench, "inject-nmi")
    fire(bench, server)
    bench.hypervisor.pause(server)
    bench.drain()
    assert list_outcomes(bench) == []


def test_a_server_that_is_resumed_before_its_pause_was_told_goes_on(bench: Bench) -> None:
    server = make_watched(bench, "pause")
    tell(bench, server, "pause")
    bench.emit(DriverEventKind.RESUMED, server)
    assert get_outcome(bench).result == "continued"


# Which device it was


def test_an_unknown_device_is_looked_up(bench: Bench) -> None:
    server = bench.make_server(effect=NmiEffect.SURVIVE)
    device = WatchdogDevice(model="ib700", expiry_action="dump")
    bench.hypervisor.change(server, watchdog=Watchdog(configured=device, live=device))
    tell(bench, server, "pause")
    (fired,) = list_fired(bench)
    assert (fired.model, fired.expiry_action) == ("ib700", "dump")


def test_a_firing_is_told_although_the_device_cannot_be_read(bench: Bench) -> None:
    server = bench.make_server(effect=NmiEffect.SURVIVE)
    bench.hypervisor.lose_backend()
    tell(bench, server, "reset")
    (fired,) = list_fired(bench)
    assert (fired.model, fired.expiry_action, fired.driver_word) == (None, None, "reset")
    bench.emit(DriverEventKind.REBOOTED, server)
    assert get_outcome(bench).result == "rebooted"


def test_a_firing_is_told_although_the_driver_breaks(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    server = bench.make_server(effect=NmiEffect.SURVIVE)
    monkeypatch.setattr(bench.hypervisor, "get_server", lambda server: 1 / 0)
    tell(bench, server, "none")
    assert get_outcome(bench).result == "continued"


def test_a_firing_of_a_server_that_nobody_knows_is_told_too(bench: Bench) -> None:
    tell(bench, NEVER_SEEN, "poweroff")
    (fired,) = list_fired(bench)
    assert (fired.server, fired.driver_word) == (NEVER_SEEN, "poweroff")
    bench.wait(60)
    assert get_outcome(bench).result == "not_observed"


def test_a_server_is_known_from_its_firing_on(bench: Bench) -> None:
    server = bench.hypervisor.make_server(watchdog=WatchdogDevice(model="ib700", expiry_action="none"))
    while not bench.observer._events.empty():
        bench.observer._events.get()
    tell(bench, server, "none")
    assert bench.find_server(server) is not None
    assert list_fired(bench)[0].model == "ib700"


def test_the_platforms_word_decides_what_was_done_where_it_contradicts_the_configuration(bench: Bench) -> None:
    """Somebody changed the running device behind the platform's back: the NMI was sent."""
    server = make_watched(bench, "reset")
    tell(bench, server, "inject-nmi")
    (fired,) = list_fired(bench)
    assert (fired.expiry_action, fired.driver_word) == ("reset", "inject-nmi")
    assert bench.is_held_off(server)


# Hold-off and crash dumps


def get_refusal(bench: Bench, server: str) -> str | None:
    result = bench.get(bench.signal(server)).result
    assert result is not None
    return result.reason if result.code == "crash_dump_in_progress" else None


def test_a_watchdogs_nmi_holds_crash_dumps_off_and_is_named(bench: Bench) -> None:
    server = make_watched(bench, "inject-nmi")
    fire(bench, server)
    (fired,) = list_fired(bench)
    assert f"the NMI of the server's watchdog (event {fired.id})" in (get_refusal(bench, server) or "")
    bench.wait(601)
    assert get_refusal(bench, server) is None


def test_the_hold_off_after_a_watchdogs_nmi_stands_still_with_the_server_and_ends_with_its_reboot(bench: Bench) -> None:
    server = make_watched(bench, "inject-nmi")
    fire(bench, server)
    bench.wait(100)
    bench.hypervisor.pause(server)
    bench.wait(7200)
    bench.hypervisor.resume(server)
    bench.wait(498)
    assert get_refusal(bench, server) is not None
    bench.hypervisor.reboot(server)
    bench.drain()
    assert get_refusal(bench, server) is None


def test_the_reboot_after_a_watchdogs_nmi_names_the_firing_although_its_outcome_is_told(bench: Bench) -> None:
    server = make_watched(bench, "inject-nmi", NmiEffect.CRASH_KERNEL)
    fire(bench, server)
    bench.wait(90)
    bench.hypervisor.reboot(server)
    bench.drain()
    (rebooted,) = bench.events("server.rebooted")
    assert (rebooted.fired_event, rebooted.action_id) == (list_fired(bench)[0].id, None)
    assert len(list_outcomes(bench)) == 1


def test_a_reset_by_the_watchdog_is_not_taken_for_the_work_of_an_older_crash_dump(bench: Bench) -> None:
    server = make_watched(bench, "reset")
    action = bench.signal(server)
    bench.wait(30)
    fire(bench, server)
    (rebooted,) = bench.events("server.rebooted")
    assert (rebooted.action_id, rebooted.fired_event) == (None, list_fired(bench)[0].id)
    assert bench.observe(action) == (Observation.NOTHING_SEEN, True)
    (observed,) = bench.events("action.observed")
    assert rebooted.fired_event in observed.text
    assert "that was cut off" in observed.text
    assert not bench.is_held_off(server)


def test_a_dump_that_the_watchdog_cut_off_stays_a_started_one(bench: Bench) -> None:
    server = make_watched(bench, "reset", NmiEffect.CRASH_KERNEL)
    action = bench.signal(server)
    bench.wait(30)
    fire(bench, server)
    assert bench.observe(action) == (Observation.CRASH_KERNEL_STARTED, True)
    assert "probably not complete" in bench.events("action.observed")[-1].text


def test_a_panic_right_after_the_watchdogs_nmi_is_not_an_older_crash_dumps(bench: Bench) -> None:
    server = make_watched(bench, "inject-nmi")
    action = bench.signal(server)
    bench.wait(30)
    fire(bench, server)
    bench.clock.advance(0.01)
    bench.hypervisor.panic(server)
    bench.drain()
    (panicked,) = bench.events("server.panicked")
    assert (panicked.action_id, panicked.fired_event) == (None, list_fired(bench)[0].id)
    assert bench.observe(action) == (Observation.NOTHING_SEEN, True)


def test_a_panic_after_two_nmis_of_one_moment_names_both(bench: Bench) -> None:
    server = make_watched(bench, "inject-nmi")
    action = bench.signal(server)
    fire(bench, server)
    bench.hypervisor.panic(server)
    bench.drain()
    (panicked,) = bench.events("server.panicked")
    assert (panicked.action_id, panicked.fired_event) == (action, list_fired(bench)[0].id)
    assert bench.observe(action) == (Observation.GUEST_PANICKED, True)


def test_a_panic_after_a_forced_crash_dump_is_not_an_older_firings(bench: Bench) -> None:
    server = make_watched(bench, "inject-nmi")
    fire(bench, server)
    bench.wait(601)
    action = bench.signal(server)
    bench.hypervisor.panic(server)
    bench.drain()
    (panicked,) = bench.events("server.panicked")
    assert (panicked.action_id, panicked.fired_event) == (action, None)


def test_a_reboot_long_after_both_may_come_from_either(bench: Bench) -> None:
    server = make_watched(bench, "inject-nmi")
    action = bench.signal(server)
    bench.wait(30)
    fire(bench, server)
    bench.wait(20)
    bench.hypervisor.reboot(server)
    bench.drain()
    (rebooted,) = bench.events("server.rebooted")
    assert (rebooted.action_id, rebooted.fired_event) == (action, list_fired(bench)[0].id)
    assert bench.observe(action) == (Observation.GUEST_REBOOTED, True)


# One after the other


@pytest.mark.parametrize(
    ("action", "result"), [("none", "continued"), ("reset", "rebooted"), ("dump", "dumped"), ("pause", "paused"), ("inject-nmi", None)]
)
def test_twenty_firings_are_twenty_events_with_an_outcome_each(bench: Bench, action: str, result: str | None) -> None:
    server = make_watched(bench, action)
    for _ in range(20):
        fire(bench, server)
        bench.clock.advance(1.2)
        if bench.find_server(server).power_state is PowerState.PAUSED:
            bench.hypervisor.resume(server)
            bench.drain()
    bench.wait(60)
    fired = [event.id for event in list_fired(bench)]
    assert len(fired) == 20
    assert [outcome.fired_event for outcome in list_outcomes(bench)] == fired
    assert {outcome.result for outcome in list_outcomes(bench)} == {result or "nothing_seen"}
    if action == "reset":
        assert [event.fired_event for event in bench.events("server.rebooted")] == fired
    if action == "dump":
        assert len({outcome.dump_path for outcome in list_outcomes(bench)}) == 20


def test_a_firing_that_comes_before_anything_was_seen_of_the_last_one_concludes_that(bench: Bench) -> None:
    server = make_watched(bench, "inject-nmi")
    fire(bench, server)
    bench.clock.advance(30)
    fire(bench, server)
    (outcome,) = list_outcomes(bench)
    assert (outcome.result, outcome.fired_event) == ("nothing_seen", list_fired(bench)[0].id)
    assert "before its watchdog fired again" in outcome.text


def test_a_dump_that_was_not_seen_to_end_is_looked_for_when_the_watchdog_fires_again(bench: Bench) -> None:
    server = make_watched(bench, "dump")
    tell(bench, server, "pause")
    bench.hypervisor.write_expiry_dump(server, "/dumps/1", 5)
    bench.clock.advance(5)
    tell(bench, server, "pause")
    (outcome,) = list_outcomes(bench)
    assert (outcome.dump_path, outcome.fired_event) == ("/dumps/1", list_fired(bench)[0].id)


@pytest.mark.parametrize(
    ("action", "kind", "result"),
    [
        ("inject-nmi", DriverEventKind.PANICKED, "panicked"),
        ("reset", DriverEventKind.REBOOTED, "rebooted"),
        ("poweroff", DriverEventKind.STOPPED, "stopped"),
        ("pause", DriverEventKind.PAUSED, "paused"),
    ],
)
def test_an_event_that_was_held_back_finds_what_it_led_to(bench: Bench, action: str, kind: DriverEventKind, result: str) -> None:
    """QEMU tells at most one firing a second; what the second one did is told before it."""
    server = make_watched(bench, action)
    bench.wait(100)
    bench.emit(kind, server)
    bench.clock.advance(0.7)
    tell(bench, server, action)
    assert get_outcome(bench).result == result


def test_what_an_earlier_firing_led_to_is_not_the_outcome_of_the_next(bench: Bench) -> None:
    server = make_watched(bench, "reset")
    fire(bench, server)
    bench.clock.advance(0.9)
    tell(bench, server, "reset")
    assert len(list_outcomes(bench)) == 1


def test_a_clock_that_is_set_back_between_firing_and_reboot_changes_nothing(bench: Bench) -> None:
    server = make_watched(bench, "reset")
    tell(bench, server, "reset")
    bench.clock.step(-5)
    bench.hypervisor.reboot(server)
    bench.drain()
    assert get_outcome(bench).result == "rebooted"


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


def test_the_dump_of_a_firing_that_was_found_is_named_although_it_was_begun_before_that(bench: Bench) -> None:
    server = make_watched(bench, "dump")
    fire(bench, server)
    bench.clock.advance(60)
    bench.kill()
    bench.hypervisor.change(server, power_state=PowerState.PAUSED, state_reason="paused: watchdog")
    bench.hypervisor.write_expiry_dump(server, "/dumps/2", 5)
    bench.clock.advance(60)
    bench.start()
    bench.drain()
    bench.hypervisor.resume(server)
    bench.drain()
    assert [fired.observed_late for fired in list_fired(bench)] == [False, True]
    assert [outcome.dump_path for outcome in list_outcomes(bench)] == [f"/var/lib/fake/{server}-1", "/dumps/2"]


def test_a_dump_that_goes_on_after_a_gap_is_waited_for(bench: Bench) -> None:
    server = make_watched(bench, "dump")
    bench.kill()
    bench.hypervisor.change(server, power_state=PowerState.PAUSED, state_reason="paused: watchdog")
    bench.start()
    bench.drain()
    bench.wait(600)
    assert (len(list_fired(bench)), list_outcomes(bench)) == (1, [])
    bench.hypervisor.write_expiry_dump(server, "/dumps/1", 5)
    bench.hypervisor.resume(server)
    bench.drain()
    assert get_outcome(bench).dump_path == "/dumps/1"


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


def test_a_driver_that_cannot_look_for_dumps_says_so(bench: Bench) -> None:
    server = make_watched(bench, "dump")
    bench.observer._firings._driver = replace(bench.hypervisor.driver, expiry_dumps=None)
    fire(bench, server)
    outcome = get_outcome(bench)
    assert outcome.result == "not_observed"
    assert "cannot look for the file" in outcome.text


def test_a_search_that_breaks_is_tried_again(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = [ZeroDivisionError("no"), BackendUnavailable(None, "not now")]
    find = bench.hypervisor.find_expiry_dump

    def find_in_the_end(*window: Any) -> Any:
        if answers:
            raise answers.pop()
        return find(*window)

    monkeypatch.setattr(bench.hypervisor, "find_expiry_dump", find_in_the_end)
    fire(bench, make_watched(bench, "dump"))
    bench.wait(5)
    bench.wait(5)
    bench.drain()
    assert get_outcome(bench).result == "dumped"
