"""The file that the platform wrote because a watchdog fired is named with its own firing, or the failure is."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from compute_agent.contract.models import PowerState
from compute_agent.drivers.errors import BackendUnavailable
from compute_agent.dump_search import DUMP_LIMIT, DumpSearch
from tests.unit.agent.firing_parts import (
    fire,
    get_outcome,
    list_fired,
    list_outcomes,
    make_watched,
    run_bench,
    tell,
)
from tests.unit.agent.observer_bench import Bench


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    yield from run_bench(tmp_path)


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


def test_a_dump_that_was_not_seen_to_end_is_looked_for_when_the_watchdog_fires_again(bench: Bench) -> None:
    server = make_watched(bench, "dump")
    tell(bench, server, "pause")
    bench.hypervisor.write_expiry_dump(server, "/dumps/1", 5)
    bench.clock.advance(5)
    tell(bench, server, "pause")
    (outcome,) = list_outcomes(bench)
    assert (outcome.dump_path, outcome.fired_event) == ("/dumps/1", list_fired(bench)[0].id)


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


# A dump that was over before


def _dump_and_die(bench: Bench) -> str:
    """Its server runs again after its watchdog's dump, which the journal knows; what came of it was not told yet."""
    server = make_watched(bench, "dump")
    bench.hypervisor.fire_watchdog(server)
    while bench.observer.step(0):
        pass
    bench.kill()
    bench.clock.advance(5)
    return server


@pytest.mark.parametrize("happens", ["pause", "stop"])
def test_a_dump_that_was_over_is_named_although_its_server_was_stopped_for_another_reason_since(bench: Bench, happens: str) -> None:
    """It would be waited for until the server runs again, or be told as cut off."""
    server = _dump_and_die(bench)
    getattr(bench.hypervisor, happens)(server)
    bench.start()
    bench.drain()
    assert get_outcome(bench).dump_path == f"/var/lib/fake/{server}-1"
    assert bench.events("server.")[-2].fired_event is None


@pytest.mark.parametrize("happens", ["pause", "stop"])
def test_it_is_named_when_that_is_told_before_the_first_comparison(bench: Bench, happens: str) -> None:
    server = _dump_and_die(bench)
    bench.start()
    while bench.observer._events.take(0) is not None:
        pass
    getattr(bench.hypervisor, happens)(server)
    bench.drain()
    assert get_outcome(bench).dump_path == f"/var/lib/fake/{server}-1"
    assert bench.events("server.")[-2].fired_event is None


def test_it_is_named_although_its_server_was_paused_again_before_the_agent_died(bench: Bench) -> None:
    server = make_watched(bench, "dump")
    bench.hypervisor.fire_watchdog(server)
    bench.hypervisor.pause(server)
    while bench.observer.step(0):
        pass
    bench.restart(away=5)
    assert get_outcome(bench).dump_path == f"/var/lib/fake/{server}-1"


def test_a_firing_that_nobody_saw_after_it_is_another_one(bench: Bench) -> None:
    server = _dump_and_die(bench)
    bench.hypervisor.change(server, power_state=PowerState.PAUSED, state_reason="paused: watchdog")
    bench.start()
    bench.drain()
    assert [outcome.dump_path for outcome in list_outcomes(bench)] == [f"/var/lib/fake/{server}-1"]
    bench.clock.advance(5)
    bench.hypervisor.write_expiry_dump(server, "/dumps/2", 5)
    bench.hypervisor.resume(server)
    bench.drain()
    assert [fired.observed_late for fired in list_fired(bench)] == [False, True]
    assert [outcome.dump_path for outcome in list_outcomes(bench)] == [f"/var/lib/fake/{server}-1", "/dumps/2"]


@pytest.mark.parametrize(
    ("state", "reason", "is_over"),
    [
        (PowerState.PAUSED, "paused: user", True),
        (PowerState.PAUSED, "paused: dump", False),
        (PowerState.PAUSED, "paused: watchdog", False),
        (PowerState.PAUSED, "paused", False),
        (PowerState.SUSPENDED, "shut off: saved", True),
    ],
)
def test_a_dump_is_over_when_its_server_is_found_standing_still_for_another_reason(
    bench: Bench, state: PowerState, reason: str, is_over: bool
) -> None:
    server = make_watched(bench, "dump")
    tell(bench, server, "pause")
    bench.hypervisor.change(server, power_state=PowerState.PAUSED, state_reason="paused: watchdog")
    bench.restart(away=5)
    bench.hypervisor.write_expiry_dump(server, "/dumps/1", 5)
    bench.hypervisor.change(server, power_state=state, state_reason=reason)
    bench.restart(away=5)
    assert [outcome.dump_path for outcome in list_outcomes(bench)] == (["/dumps/1"] if is_over else [])
