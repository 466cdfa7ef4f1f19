"""How fast one worker of ``crashcart-api`` takes crash dumps on, beside what no implementation can leave out.

The installed command with one worker over a store with a fleet that heartbeats have told of, so that every check of a real request runs;
each request names another server, which had a crash dump yesterday. There is neither engine nor broker: accepting asks for neither. The
floor is a bare falcon application under the same server that commits one row. All take turns, so that a slow moment of the machine slows
all of them.

The identity service answers the first request of a token only: the middleware keeps what it said, as with any other.
"""

from __future__ import annotations

import base64
import os
import random
import statistics
import sys
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import bcrypt
from sqlalchemy import delete, text

from api_gateway.store import Store
from api_gateway.store import actions as stored_actions
from api_gateway.store.actions import ActionRow, ActionState
from api_gateway.store.tables import actions
from compute_agent.contract.errors import Code, Ending
from compute_agent.contract.models import ActionKind, Observation, PowerState
from devstack.api_client import ApiClient
from devstack.databases import DatabaseKind
from devstack.ports import Ports, find_free_base, find_free_port
from devstack.services import Service, list_children
from devstack.stack_config import Options, merge, write_gateway_config
from devstack.steps import NotInstalled
from tests.bench.figures import Figure, Goal, Unit
from tests.bench.load import Load, Plan, generate_load
from tests.bench.processes import read_processor_time
from tests.database_servers import run_database_server
from tests.http.fleet import Agent, build_server
from tests.unit.gateway.small_keystone import SmallKeystone, build_token

HOSTS = 100
SERVERS_PER_HOST = 100
REQUESTS = 1000
"""Of one sample; of one host far fewer than may be open."""
CLIENTS = 8
_WARM_UP = 100
_THREADS = 16
_START_TIMEOUT = 30.0
_PROJECT = "demo"
_TOKEN = "token-of-alice"  # known to a Keystone of our own only
_LOGIN = base64.b64encode(b"alice:wonderland").decode()
_NOBODY = "rabbit://nobody:nothing@127.0.0.1:1/"
"""Where no broker is."""
_HEADERS = {"OpenStack-API-Version": "compute 2.96"}
_STRATEGY_HEADERS = {
    "none": {},
    "http_basic": {"Authorization": f"Basic {_LOGIN}"},
    "keystone": {"X-Auth-Token": _TOKEN},
}


@dataclass
class _Server:
    """One that serves, and what it did: requests per second and its processor time per request in ms, one sample of each a turn."""

    name: str
    service: Service
    port: int
    headers: dict[str, str] = field(default_factory=dict)
    rates: list[float] = field(default_factory=list)
    processor: list[float] = field(default_factory=list)
    generator: list[float] = field(default_factory=list)

    def load(self, requests: Sequence[tuple[str, str, str]], *, clients: int = CLIENTS, rate: float | None = None) -> Load:
        return generate_load(Plan(self.port, requests, clients=clients, rate=rate, headers=self.headers), expected=202)

    def warm_up(self, requests: Sequence[tuple[str, str, str]]) -> None:
        """Log in, alone, and have whatever is made once made."""
        self.load(requests[:1], clients=1)
        self.load(requests[1:_WARM_UP])

    def take_turn(self, requests: Sequence[tuple[str, str, str]]) -> None:
        self.load(requests[:1], clients=1)  # logs in again, where that is due
        before = self._read_processor_ms()
        load = self.load(requests[1:])
        self.rates.append(load.per_second)
        self.processor.append((self._read_processor_ms() - before) / len(requests))
        self.generator.append(load.processor_seconds * 1000 / len(requests))

    def _read_processor_ms(self) -> float:
        """Of the worker, whose threads all live as long as it does."""
        return sum(read_processor_time(child.pid) for child in list_children(self.service.pid)) / 1e6

    @property
    def note(self) -> str:
        return f"the load generator took {statistics.median(self.generator):.2f} ms of processor time for a request beside it"


def measure(runs: int) -> list[Figure]:
    """SQLite, and PostgreSQL where it is installed.

    :raises RuntimeError: an answer was not 202.
    """
    with tempfile.TemporaryDirectory(prefix="crashcart-bench-") as name:
        directory = Path(name)
        figures = _measure_store("SQLite", f"sqlite:///{directory / 'gateway.sqlite'}", directory, runs)
        try:
            with run_database_server(DatabaseKind.POSTGRESQL, durable=True) as server:
                return figures + _measure_store("PostgreSQL", server.create_database("gateway"), directory, runs)
        except NotInstalled as error:
            print(f"not measured on PostgreSQL: {error}")
            return figures


def _measure_store(database: str, url: str, directory: Path, runs: int) -> list[Figure]:
    with ExitStack() as ending:
        store = Store(url)
        ending.callback(store.dispose)
        store.upgrade_schema()
        ids = _fill(store)
        _add_history(store, ids)
        requests = [("POST", f"/v2.1/servers/{server}/action", '{"trigger_crash_dump": null}') for server in ids]
        floor_url = f"sqlite:///{directory / 'floor.sqlite'}" if database == "SQLite" else url
        floor = ending.enter_context(_running_floor(directory, floor_url))
        keystone = SmallKeystone()
        ending.callback(keystone.stop)
        keystone.tokens[_TOKEN] = build_token("member", project=_PROJECT)
        served = {strategy: ending.enter_context(_running_api(directory, strategy, url, keystone.url)) for strategy in _STRATEGY_HEADERS}
        floor_requests = [("POST", "/", requests[0][2])] * REQUESTS
        floor.warm_up(floor_requests)
        for server in served.values():
            server.warm_up(requests)
            _forget_actions(store)
        latencies: list[float] = []
        for turn in range(runs):
            chosen = random.Random(turn).sample(requests, REQUESTS)
            floor.take_turn(floor_requests)
            for server in served.values():
                server.take_turn(chosen)
                _forget_actions(store)
            half = statistics.median(served["none"].rates) / 2
            latencies += served["none"].load(chosen, rate=half).latencies
            _forget_actions(store)
        return _make_figures(database, floor, served, latencies)


def _make_figures(database: str, floor: _Server, served: dict[str, _Server], latencies: list[float]) -> list[Figure]:
    def name(what: str) -> str:
        return f"{database}: {what}"

    none = served["none"]
    floor_name, none_name = name("bare falcon and one commit, 8 clients"), name("POST trigger_crash_dump, 8 clients, none")
    floor_cpu = name("bare falcon and one commit, processor time of a request")
    figures = [
        Figure(floor_name, floor.rates, unit=Unit.PER_SECOND, note=floor.note),
        Figure(none_name, none.rates, floor=floor_name, unit=Unit.PER_SECOND, goal=Goal(share=0.5), note=none.note),
    ]
    for strategy in ("http_basic", "keystone"):
        server = served[strategy]
        figures.append(
            Figure(
                name(f"POST trigger_crash_dump, 8 clients, {strategy}"),
                server.rates,
                floor=none_name,
                unit=Unit.PER_SECOND,
                goal=Goal(share=0.7),
                note=server.note,
            )
        )
    half = statistics.median(none.rates) / 2
    figures.append(
        Figure(
            name("POST trigger_crash_dump at half of that load, none"),
            latencies,
            goal=Goal(p99=10),
            note=f"about {half:.0f} requests/s, each due at its fixed moment",
        )
    )
    figures.append(Figure(floor_cpu, floor.processor))
    figures += [
        Figure(name(f"processor time of a POST, {strategy}"), server.processor, floor=floor_cpu) for strategy, server in served.items()
    ]
    return figures


def _name_host(number: int) -> str:
    return f"compute-{number:03}"


def _fill(store: Store) -> list[str]:
    """The servers of a hundred agents; their ids."""
    now = datetime.now(UTC)
    ids = []
    for host in range(HOSTS):
        agent = Agent(_name_host(host))
        for number in range(SERVERS_PER_HOST):
            server = build_server(
                str(uuid.uuid5(uuid.NAMESPACE_URL, f"{host}/{number}")), PowerState.RUNNING, now, project=_PROJECT, name=f"web-{number}"
            )
            agent.servers[server.id] = server
            ids.append(server.id)
        agent.beat(store, now)
    return ids


def _add_history(store: Store, ids: Sequence[str]) -> None:
    """One ended action of each server; a database server is told what there is now, as its own housekeeping would some time later."""
    at = datetime.now(UTC) - timedelta(days=1)
    rows = [
        ActionRow(
            id=f"req-{uuid.uuid4()}",
            kind=ActionKind.TRIGGER_CRASH_DUMP,
            server=server,
            server_generation=1,
            host=_name_host(number // SERVERS_PER_HOST),
            project=_PROJECT,
            user="owner",
            state=ActionState.ENDED,
            accepted_at=at,
            deadline=at + timedelta(seconds=30),
            updated_at=at,
            signalled_at=at,
            ended_at=at,
            ending=Ending.SUCCEEDED,
            code=Code.SIGNAL_DELIVERED,
            observation=Observation.GUEST_REBOOTED,
            observation_final=True,
        )
        for number, server in enumerate(ids)
    ]
    with store.write() as c:
        for row in rows:
            stored_actions.insert_action(c, row)
        if c.dialect.name != "sqlite":
            c.execute(text("ANALYZE"))


def _forget_actions(store: Store) -> None:
    """So that each sample finds the same: no action but those of yesterday."""
    with store.write() as c:
        c.execute(delete(actions).where(actions.c.state != ActionState.ENDED))


@contextmanager
def _running_floor(directory: Path, url: str) -> Iterator[_Server]:
    port = find_free_port()
    command = [sys.executable, "-m", "tests.bench.floor_app", str(port), str(_THREADS), url]
    with _running("floor", command, directory, cwd=Path(__file__).parents[2]) as service:
        service.wait_ready(lambda: _answers(port, "/"), _START_TIMEOUT, "it answers")
        yield _Server("floor", service, port)


@contextmanager
def _running_api(directory: Path, strategy: str, url: str, identity_url: str) -> Iterator[_Server]:
    ports = Ports(find_free_base())
    config = directory / f"{strategy}.conf"
    write_gateway_config(
        config,
        transport_url=_NOBODY,
        ports=ports,
        state_path=directory / strategy,
        wake_socket=directory / "wake.sock",
        database_url=url,
        extra=merge({"api": {"auth_strategy": strategy, "threads": _THREADS}}, _configure(directory, strategy, identity_url)),
    )
    command = [str(Path(sys.executable).parent / "crashcart-api"), "--config-file", str(config)]
    with _running(f"crashcart-api-{strategy}", command, directory, cwd=directory) as service:
        service.wait_ready(lambda: _answers(ports.api, "/healthcheck"), _START_TIMEOUT, "it answers")
        yield _Server(strategy, service, ports.api, headers={**_HEADERS, **_STRATEGY_HEADERS[strategy]})


def _configure(directory: Path, strategy: str, identity_url: str) -> Options:
    """What a strategy needs beside its name."""
    if strategy == "http_basic":
        users, roles = directory / "htpasswd", directory / "roles.yaml"
        users.write_text(f"alice:{bcrypt.hashpw(b'wonderland', bcrypt.gensalt(12)).decode()}\n")
        users.chmod(0o640)
        roles.write_text(f"alice: {{project: {_PROJECT}, roles: [member]}}\n")
        return {"api": {"http_basic_auth_user_file": users, "http_basic_roles_file": roles}}
    if strategy == "keystone":
        login = {"username": "crashcart", "password": "of-a-bench", "project_name": "service"}
        domains = {"user_domain_id": "default", "project_domain_id": "default"}
        return {"keystone_authtoken": {"auth_type": "password", "auth_url": identity_url, **login, **domains}}
    return {}


@contextmanager
def _running(name: str, command: list[str], directory: Path, *, cwd: Path) -> Iterator[Service]:
    service = Service(name, command, env=dict(os.environ), log=directory / f"{name}.log", cwd=cwd)
    service.start()
    try:
        yield service
    finally:
        service.stop()


def _answers(port: int, path: str) -> bool:
    """Whether somebody does, whatever the answer is."""
    try:
        return ApiClient(f"http://127.0.0.1:{port}").get(path).status > 0
    except OSError:
        return False
