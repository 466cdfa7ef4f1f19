"""What a watchdog did and what a crash dump did are told apart, and a watchdog's NMI holds crash dumps off."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from compute_agent.contract.models import Observation
from compute_agent.drivers.fake import NmiEffect
from tests.unit.agent.firing_parts import (
    fire,
    list_fired,
    list_outcomes,
    make_watched,
    run_bench,
)
from tests.unit.agent.observer_bench import Bench


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    yield from run_bench(tmp_path)


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


def test_a_watchdogs_nmi_holds_crash_dumps_off_before_the_journal_knows_of_it(bench: Bench) -> None:
    server = make_watched(bench, "inject-nmi")
    bench.hypervisor.fire_watchdog(server)
    assert "injected an NMI a moment ago" in (get_refusal(bench, server) or "")
    bench.drain()
    assert f"(event {list_fired(bench)[0].id})" in (get_refusal(bench, server) or "")


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
