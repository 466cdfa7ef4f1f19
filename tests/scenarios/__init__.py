"""The same stories told to the simulated broker and to a real one: where both end alike, the simulation is honest."""

import pytest

pytest.register_assert_rewrite("tests.scenarios.cases", "tests.scenarios.world")
