"""Real clients and a whole system for them: without a package index a test is skipped on a laptop and fails in CI."""

from collections.abc import Iterator

import pytest

from devstack.environments import CLIENTS, KEYSTONE, Environment
from devstack.real_parts import list_missing_parts, may_skip_real_tests
from tests.clients.clients import Clients
from tests.clients.system import System, create_system


def _require(*environments: Environment) -> None:
    missing = [environment.name for environment in environments if not environment.is_installed]
    missing += [part for part in list_missing_parts() if part in ("epmd", "rabbitmq-server")]
    if missing and may_skip_real_tests():
        pytest.skip(f"not installed: {', '.join(missing)}")
    assert not missing, f"not installed: {', '.join(missing)}; devstack/test clients installs the environments"


@pytest.fixture(scope="session")
def clients(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clients]:
    """Clients without any configuration of their own."""
    _require(CLIENTS)
    clients = Clients(tmp_path_factory.mktemp("clients"))
    yield clients
    clients.close()


@pytest.fixture(scope="session")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """One for all tests: each takes servers of its own or leaves them as they were."""
    _require(KEYSTONE)
    system = create_system(tmp_path_factory.mktemp("system"))
    try:
        system.start()
        yield system
    finally:
        system.stop()
