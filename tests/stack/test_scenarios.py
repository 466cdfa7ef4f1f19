"""The scenarios that the simulation tells, told to a real broker and real processes: what the simulation says must be so here too."""

from collections.abc import Callable, Iterator

import pytest

from devstack.rabbitmq import PrivateRabbitMQ
from tests.scenarios.cases import SCENARIOS
from tests.scenarios.world import ScenarioWorld
from tests.stack.scenario_world import RealScenarioWorld


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, broker: PrivateRabbitMQ) -> Iterator[RealScenarioWorld]:
    world = RealScenarioWorld(tmp_path_factory.mktemp("scenarios"), broker)
    try:
        yield world
    finally:
        world.close()


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_the_real_world_tells_it_so(scenario: Callable[[ScenarioWorld], None], world: RealScenarioWorld) -> None:
    scenario(world)
