"""A watchdog's firing is told at once and its outcome once, by the real journal over the fake hypervisor."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from compute_agent.contract.models import PowerState
from compute_agent.contract.watchdogs import Watchdog, WatchdogDevice
from compute_agent.drivers.fake import NmiEffect
from compute_agent.drivers.models import DriverEventKind
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

NEVER_SEEN = "00000000-0000-0000-0000-00000000dead"


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    yield from run_bench(tmp_path)


# One firing of each kind


@pytest.mark.parametrize(
    ("action", "effect", "word", "result", "types"),
    [
        ("none", NmiEffect.SURVIVE, "none", "continued", ["watchdog.fired", "watchdog.outcome"]),
        ("reset", NmiEffect.SURVIVE, "reset", "rebooted", ["watchdog.fired", "rebooted", "watchdog.outcome"]),
        ("power_cycle", NmiEffect.SURVIVE, "power_cycle", "rebooted", ["watchdog.fired", "stopped", "started", "watchdog.outcome"]),
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
    bench.lose_events()
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
