"""Pages of servers out of fifty thousand, and what happened to one of them: CPU of one request, beside its floor, and its queries.

The floor is what no implementation can leave out: the page's rows out of the same database by their ids, and the same answer into JSON.
Requests run in this process, without a server or a network, so the CPU is the application's own.
"""

from __future__ import annotations

import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import sqlalchemy
from falcon import testing
from sqlalchemy import Connection, event

from api_gateway.ascii_json import write_json
from api_gateway.config import load_config
from api_gateway.store import Store
from api_gateway.store.tables import actions, servers
from api_gateway.wsgi import create_app
from compute_agent.contract.models import PowerState, Server
from devstack.databases import DatabaseKind
from devstack.steps import NotInstalled
from tests.bench.figures import Figure, Goal
from tests.database_servers import run_database_server
from tests.http.fleet import Agent, add_action, end_action

HOSTS = 1000
SERVERS_PER_HOST = 50
PAGE = 1000
_HEADERS = {"Host": "127.0.0.1:8780", "OpenStack-API-Version": "compute 2.96"}
_DETAIL = "/v2.1/servers/detail?all_tenants=1"

CASES = {
    "detail of 50": (f"{_DETAIL}&limit=50", Goal(median=6)),
    "detail of 1,000": (f"{_DETAIL}&limit={PAGE}", Goal(median=60)),
    "detail of 1,000, the 25th page": (f"{_DETAIL}&limit={PAGE}&marker={{marker}}", Goal(median=60)),
    "detail of 1,000, status and name": (f"{_DETAIL}&limit={PAGE}&status=ACTIVE&name=web-1", Goal(median=60)),
    "detail of 1,000, by name": (f"{_DETAIL}&limit={PAGE}&sort_key=display_name&sort_dir=asc", Goal(median=60)),
}
HISTORY = 20
"""Actions that the server whose history is asked for has had."""
HISTORY_CASES = {
    f"os-instance-actions, {HISTORY} of them": "/v2.1/servers/{server}/os-instance-actions",
    "os-instance-actions, one with its events": "/v2.1/servers/{server}/os-instance-actions/{action}",
}


def measure(runs: int) -> list[Figure]:
    """SQLite, and PostgreSQL where it is installed.

    :raises AssertionError: a longer page took more queries than a short one, or an answer was not what it should be.
    """
    with tempfile.TemporaryDirectory(prefix="crashcart-bench-") as directory:
        figures = _measure_store("SQLite", f"sqlite:///{Path(directory) / 'gateway.sqlite'}", runs)
    try:
        with run_database_server(DatabaseKind.POSTGRESQL, durable=True) as server:
            return figures + _measure_store("PostgreSQL", server.create_database("gateway"), runs)
    except NotInstalled as error:
        print(f"not measured on PostgreSQL: {error}")
        return figures


def _measure_store(database: str, url: str, runs: int) -> list[Figure]:
    store = Store(url)
    try:
        store.upgrade_schema()
        fill(store)
        client = testing.TestClient(create_app(load_config([], config_files=[]), store=store), headers=_HEADERS)
        _check_queries(client)
        marker = _get(client, f"/v2.1/servers?all_tenants=1&limit={PAGE}", pages=24)[-1]["id"]
        figures = []
        for name, (path, goal) in CASES.items():
            figures += _measure_page(store, client, f"{database}: {name}", path.format(marker=marker), goal, runs)
        history = _add_history(store)
        for name, path in HISTORY_CASES.items():
            figures += _measure_history(store, client, f"{database}: {name}", path.format(**history), runs)
        return figures
    finally:
        store.dispose()


def fill(store: Store) -> None:
    """Fifty thousand servers, as the heartbeats of a thousand agents tell of them."""
    now = datetime.now(UTC)
    for host in range(HOSTS):
        agent = Agent(f"compute-{host:04}")
        for number in range(SERVERS_PER_HOST):
            server = _build_server(host, number, now)
            agent.servers[server.id] = server
        agent.beat(store, now)


def _name_host(host: int) -> str:
    return f"compute-{host:03}"


def _name_server(host: int, number: int) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"{host}/{number}"))


def _build_server(host: int, number: int, now: datetime) -> Server:
    return Server(
        id=_name_server(host, number),
        name=f"web-{number}",
        project=f"project-{number % 10}",
        user="owner",
        power_state=PowerState.RUNNING if number % 4 else PowerState.SHUTDOWN,
        state_at=now,
        generation=1,
        instance_name=f"instance-{number:08x}",
        vcpus=2,
        memory_mib=2048,
        created_at=now - timedelta(seconds=SERVERS_PER_HOST * host + number),
    )


def _check_queries(client: testing.TestClient) -> None:
    """No query per server: a page of a thousand takes as many as one of ten."""
    for path in ("/v2.1/servers", "/v2.1/servers/detail", "/v1/servers"):
        counts = []
        for limit in (10, PAGE):
            with counting_queries() as statements:
                answer = client.simulate_get(f"{path}?limit={limit}" + ("&all_tenants=1" if path.startswith("/v2.1") else ""))
            if answer.status_code == 404:
                break  # not a route of this release
            assert answer.status_code == 200, answer.text
            assert len(answer.json["servers"]) == limit, path
            counts.append(len(statements))
        assert len(set(counts)) <= 1, f"{path}: {counts} queries for 10 and {PAGE} servers"


@contextmanager
def counting_queries() -> Iterator[list[str]]:
    """The statements that this process sends to any database while the block lasts."""
    statements: list[str] = []

    def note(_c: Connection, _cursor: object, statement: str, *_: object) -> None:
        statements.append(statement)

    event.listen(sqlalchemy.Engine, "before_cursor_execute", note)
    try:
        yield statements
    finally:
        event.remove(sqlalchemy.Engine, "before_cursor_execute", note)


def _add_history(store: Store) -> dict[str, str]:
    """A server that had some crash dumps, and the last of them, as the paths name them."""
    server, now = _name_server(0, 0), datetime.now(UTC)
    for hours in range(HISTORY, 0, -1):
        row = add_action(store, f"req-{uuid.uuid4()}", server, now - timedelta(hours=hours), project="project-0", host=_name_host(0))
        end_action(store, row, observation="guest_panicked")
    return {"server": server, "action": row.id}


def _measure_page(store: Store, client: testing.TestClient, name: str, path: str, goal: Goal, runs: int) -> list[Figure]:
    body = _ask(client, path)
    ids = [server["id"] for server in body["servers"]]
    assert ids, "nothing matched"
    return _measure_beside(store, client, name, path, goal, sqlalchemy.select(servers).where(servers.c.id.in_(ids)), body, runs)


def _measure_history(store: Store, client: testing.TestClient, name: str, path: str, runs: int) -> list[Figure]:
    body = _ask(client, path)
    shown = body["instanceActions"] if "instanceActions" in body else [body["instanceAction"]]
    assert len(shown) == HISTORY or len(shown[0]["events"]) == 2, "the history is not what it should be"
    ids = [action["request_id"] for action in shown]
    return _measure_beside(store, client, name, path, Goal(median=2), sqlalchemy.select(actions).where(actions.c.id.in_(ids)), body, runs)


def _measure_beside(
    store: Store, client: testing.TestClient, name: str, path: str, goal: Goal, rows: sqlalchemy.Select[Any], body: Any, runs: int
) -> list[Figure]:
    """:param rows: what of the store is in the answer's ``body``"""

    def floor() -> None:
        with store.read() as c:
            c.execute(rows).all()
        write_json(body)

    floor_name = f"{name}, floor"
    pairs = [(_measure_cpu(floor), _measure_cpu(lambda: client.simulate_get(path))) for _ in range(runs)]
    return [
        Figure(floor_name, [pair[0] for pair in pairs]),
        Figure(name, [pair[1] for pair in pairs], floor=floor_name, goal=goal),
    ]


def _measure_cpu(work: Callable[[], object]) -> float:
    """Milliseconds of this process's CPU."""
    began = time.process_time()
    work()
    return (time.process_time() - began) * 1000


def _ask(client: testing.TestClient, path: str) -> Any:
    answer = client.simulate_get(path)
    assert answer.status_code == 200, answer.text
    return answer.json


def _get(client: testing.TestClient, path: str, *, pages: int) -> list[dict[str, Any]]:
    """The page behind so many others, by following the links."""
    body: dict[str, Any] = {}
    for _ in range(pages):
        body = client.simulate_get(path).json
        link = next(link["href"] for link in body["servers_links"] if link["rel"] == "next")
        path = link[link.index("/v2.1") :]
    found: list[dict[str, Any]] = body["servers"]
    return found
