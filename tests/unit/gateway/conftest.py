"""A clock, a store, a caster, an agent that was heard, and an engine's parts over them, of its own for each test."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from api_gateway.cast_slots import ImmediateCasts
from api_gateway.dispatcher import Dispatcher
from api_gateway.store import Store
from api_gateway.sweep import Sweep
from devstack.databases import DatabaseKind, DatabaseServer
from tests.database_servers import start_database_server
from tests.databases import write_database
from tests.fakes import FakeClock
from tests.unit.gateway.engine_parts import AgentVoice, NotingCaster, add_agent


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return write_database(tmp_path / "gateway.sqlite")


@pytest.fixture
def store(database: Path) -> Iterator[Store]:
    store = Store(f"sqlite:///{database}", busy_timeout=0.2)
    yield store
    store.dispose()


@pytest.fixture(scope="session")
def database_server() -> Iterator[DatabaseServer]:
    """Of the kind that is to be had soonest; what is true of it alone has tests of its own."""
    yield from start_database_server(DatabaseKind.POSTGRESQL)


@pytest.fixture(scope="session")
def empty_database(database_server: DatabaseServer) -> str:
    """Names a database with the tables of this release and no rows, to be copied."""
    store = Store(database_server.create_database("empty"))
    store.upgrade_schema()
    store.dispose()
    return "empty"


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def caster() -> NotingCaster:
    return NotingCaster()


@pytest.fixture
def voice(store: Store, clock: FakeClock) -> AgentVoice:
    """Of an agent that the store knows."""
    voice = AgentVoice(clock)
    add_agent(store, voice, clock)
    return voice


@pytest.fixture
def dispatcher(store: Store, caster: NotingCaster, clock: FakeClock, voice: AgentVoice) -> Dispatcher:
    return Dispatcher(store, caster, clock, owner="one", slots=ImmediateCasts())


@pytest.fixture
def sweep(store: Store, caster: NotingCaster, clock: FakeClock, voice: AgentVoice) -> Sweep:
    return Sweep(store, caster, clock, slots=ImmediateCasts())
