"""Without real parts these tests are skipped on a laptop and fail in CI; without the release before they fail and say what to do."""

import pytest

from devstack.real_parts import list_missing_parts, may_skip_real_tests
from devstack.releases import BEFORE
from devstack.steps import StepFailed, Steps


@pytest.fixture(scope="session")
def broker_parts() -> None:
    missing = [part for part in list_missing_parts() if part in ("epmd", "rabbitmq-server")]
    if missing and may_skip_real_tests():
        pytest.skip(f"not installed: {', '.join(missing)}")
    assert not missing, f"not installed: {', '.join(missing)}"


@pytest.fixture(scope="session", autouse=True)
def release_before() -> None:
    try:
        BEFORE.ensure(Steps())
    except StepFailed as failure:
        pytest.fail(failure.explain(), pytrace=False)
