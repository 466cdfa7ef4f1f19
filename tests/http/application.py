"""The application under test: its store in a directory, its clock and what the dispatcher would have been told."""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import falcon
import yaml
from falcon import testing

from api_gateway.agent_calls import AgentCalls
from api_gateway.config import load_config
from api_gateway.store import Store
from api_gateway.wsgi import create_app
from compute_agent.contract.clock import Clock, SystemClock
from tests.databases import PATIENT, write_database
from tests.http.answering_agents import AnsweringAgents
from tests.http.fleet import add_fleet

AUTHORITY = "127.0.0.1:8780"


@dataclass
class Application:
    """One application over a store of its own; ``wakes`` counts how often the dispatcher was woken, ``agents`` answer its questions."""

    app: "falcon.App[Any, Any]"
    store: Store
    clock: Clock
    client: testing.TestClient
    agents: AnsweringAgents
    wakes: list[bool] = field(default_factory=list)

    def close(self) -> None:
        self.store.dispose()


_PROVISIONED: dict[bool, tuple[datetime, bytes]] = {}
_AS_GOOD_AS_NEW = timedelta(seconds=2)


def _provision(clock: Clock) -> bytes:
    """A database with the fleet as of now, or of a moment ago: to tell the store of it takes as long as most of the tests do."""
    is_real, now = isinstance(clock, SystemClock), clock.now()
    if is_real in _PROVISIONED and timedelta() <= now - _PROVISIONED[is_real][0] <= (_AS_GOOD_AS_NEW if is_real else timedelta()):
        return _PROVISIONED[is_real][1]
    with TemporaryDirectory(prefix="crashcart-fleet-") as directory:
        path = write_database(Path(directory) / "gateway.sqlite")
        store = Store(f"sqlite:///{path}")
        add_fleet(store, clock)
        store.dispose()  # the last connection leaves nothing in the write-ahead log
        _PROVISIONED[is_real] = now, path.read_bytes()
    return _PROVISIONED[is_real][1]


def create_application(
    directory: Path, *, clock: Clock | None = None, fleet: bool = True, policy: dict[str, str] | None = None, **options: Any
) -> Application:
    """``options`` set options of the group ``[api]``, ``policy`` overrides rules."""
    conf = load_config([], config_files=[])
    if policy is not None:
        (directory / "policy.yaml").write_text(yaml.safe_dump(policy))
        conf.set_override("policy_file", str(directory / "policy.yaml"), group="oslo_policy")
    for name, value in options.items():
        conf.set_override(name, value, group="api")
    clock = clock or SystemClock()
    path = directory / "gateway.sqlite"
    if fleet and not path.exists():
        path.write_bytes(_provision(clock))
    store = Store(f"sqlite:///{write_database(path)}", busy_timeout=PATIENT)
    wakes: list[bool] = []
    agents = AnsweringAgents(clock)
    calls = AgentCalls(lambda: agents, threads=2, limit=PATIENT)
    app = create_app(conf, store=store, clock=clock, wake=lambda: wakes.append(True), agent_calls=calls)
    return Application(app, store, clock, testing.TestClient(app, headers={"Host": AUTHORITY}), agents, wakes)
