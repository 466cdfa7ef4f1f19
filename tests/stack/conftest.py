"""Real parts for the stack tests: without them a test is skipped on a laptop and fails in CI."""

from collections.abc import Iterator

import pytest

from devstack.ports import Ports, find_free_base
from devstack.rabbitmq import PrivateRabbitMQ
from devstack.real_parts import list_missing_parts, may_skip_real_tests

INTRUDER = "intruder"
"""A host of no test's: what its agent's account can do to other hosts, everybody's agent can."""


def _require_broker() -> None:
    missing = [part for part in list_missing_parts() if part in ("epmd", "rabbitmq-server")]
    if missing and may_skip_real_tests():
        pytest.skip(f"not installed: {', '.join(missing)}")
    assert not missing, f"not installed: {', '.join(missing)}"


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateRabbitMQ]:
    """A RabbitMQ node of our own. A test that restarts or freezes it leaves it running."""
    _require_broker()
    node = PrivateRabbitMQ(tmp_path_factory.mktemp("broker"), Ports(find_free_base()), hosts=(INTRUDER,))
    try:
        node.start()
        yield node
    finally:
        node.stop()
