"""The scenarios against the simulated broker; ``tests/stack/test_scenarios.py`` tells the same ones to a real one."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.scenarios.cases import SCENARIOS
from tests.scenarios.world import ScenarioWorld
from tests.simulation.invariants import check_run
from tests.simulation.scenario_world import SimulatedScenarioWorld


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_the_simulated_world_tells_it_so(scenario: Callable[[ScenarioWorld], None], template: Path, folder: Path) -> None:
    world = SimulatedScenarioWorld(scenario.__name__, template, folder)
    try:
        scenario(world)
        world.world.calm()
        world.pass_time(200)
        for agent in world.world.agents:
            agent.read_committed()
        assert not check_run(world.world)
    finally:
        world.close()
