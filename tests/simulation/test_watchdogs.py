"""The judge of what watchdogs' NMIs hold off: a reset that nobody saw is one, a pause is none."""

from pathlib import Path

import pytest

from compute_agent.contract.watchdogs import ExpiryAction, WatchdogDevice
from compute_agent.crash_dump import HoldOff
from tests.simulation.invariants import check_run
from tests.simulation.scenario_world import SimulatedScenarioWorld


def _judge_dump_after_unseen_pause(template: Path, folder: Path, *, restarted: bool) -> list[str]:
    """A watchdog injects an NMI. While the daemon is away the guest is paused, perhaps after a new start; then a dump is asked for."""
    scenario = SimulatedScenarioWorld("watchdogs", template, folder)
    try:
        world = scenario.world
        agent, server = world.agents[0], scenario.take_server()
        hypervisor, guest = agent.hypervisor, agent.hypervisor.guests[server]
        guest.watchdog = guest.configured = guest.first = WatchdogDevice(model="i6300esb", expiry_action=ExpiryAction.INJECT_NMI)
        world.watchdogs[0].fire(guest, agent.process)
        scenario.pass_time(1)
        hypervisor.set_up(False)
        scenario.pass_time(1)
        if restarted:
            hypervisor.stop(guest)
            hypervisor.start(guest)
        hypervisor.pause(guest)
        scenario.pass_time(1)
        hypervisor.set_up(True)
        scenario.pass_time(10)
        assert scenario.post(server, deadline=10)
        scenario.pass_time(20)
        assert scenario.count_signals(server) == 1
        world.calm()
        scenario.pass_time(200)
        agent.read_committed()
        return check_run(world)
    finally:
        scenario.close()


def test_a_server_that_was_started_anew_unseen_is_held_off_no_longer_though_it_is_told_as_paused(template: Path, folder: Path) -> None:
    assert not _judge_dump_after_unseen_pause(template, folder, restarted=True)


def test_a_server_that_was_only_paused_unseen_is_held_off(template: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(HoldOff, "check", lambda *_: None)
    violations = _judge_dump_after_unseen_pause(template, folder, restarted=False)
    assert len(violations) == 1
    assert "s after the watchdog's NMI" in violations[0]
