"""Who may do what, with the tokens of a real Keystone: every route, every kind of caller, locked and not."""

import json
from dataclasses import dataclass, field

import pytest

from api_gateway.compute.routes import ROUTES as COMPUTE_ROUTES
from api_gateway.documents import ROUTES as DOCUMENT_ROUTES
from api_gateway.native.routes import ROUTES as NATIVE_ROUTES
from devstack.api_client import ApiClient
from tests.clients.system import MAXIMUM, OTHER, FleetServer, System

LOCKS = ("unlocked", "locked by its owner", "locked by an admin")


@dataclass(frozen=True)
class Row:
    """Statuses for an admin, a member and a reader of the server's project, and somebody of another project."""

    method: str
    path: str
    statuses: tuple[int, int, int, int]
    body: object = None
    locked: tuple[int, int, int, int] | None = None
    """While the server is locked, by its owner or an admin; None: the same."""
    locked_by_admin: tuple[int, int, int, int] | None = None
    """While an admin of another project has locked it; None: as `locked`."""

    def list_expected(self, lock: str) -> tuple[int, int, int, int]:
        locked = self.locked or self.statuses
        return {LOCKS[0]: self.statuses, LOCKS[1]: locked, LOCKS[2]: self.locked_by_admin or locked}[lock]


_SERVER = "/v2.1/servers/{server}"
_ACTION = f"{_SERVER}/action"
_OWN = "/v1/servers/{server}"
_NOWHERE = "00000000-0000-4000-8000-0000000000ff"
"""The id of no server, action, event or subscription."""
_READ = (200, 200, 200, 404)
_WRITE = (202, 202, 403, 404)
_ADMIN_ONLY = (200, 403, 403, 404)
MATRIX = (
    Row("GET", "/v2.1/servers", (200, 200, 200, 200)),
    Row("GET", "/v2.1/servers?all_tenants=1", (200, 403, 403, 403)),
    Row("GET", "/v2.1/servers/detail", (200, 200, 200, 200)),
    Row("GET", "/v2.1/servers/detail?all_tenants=1", (200, 403, 403, 403)),
    Row("GET", _SERVER, _READ),
    Row("GET", f"{_SERVER}/diagnostics", _ADMIN_ONLY),
    Row("GET", f"{_SERVER}/os-instance-actions", _READ),
    Row("GET", f"{_SERVER}/os-instance-actions/{{action}}", _READ),
    Row("POST", _ACTION, _WRITE, {"trigger_crash_dump": None}, locked=(202, 409, 403, 404)),
    Row("POST", _ACTION, _WRITE, {"lock": None}),
    Row("POST", _ACTION, _WRITE, {"unlock": None}, locked_by_admin=(202, 403, 403, 404)),
    Row("GET", _OWN, _READ),
    Row("PATCH", _OWN, _ADMIN_ONLY, {"description": "kept for its dump"}),
    Row("DELETE", _OWN, (409, 403, 403, 404)),  # its host is up
    Row("GET", f"{_OWN}/actions", _READ),
    Row("POST", f"{_OWN}/actions", _WRITE, {"kind": "trigger_crash_dump"}, locked=(202, 409, 403, 404)),
    Row("POST", f"{_OWN}/actions", (202, 403, 403, 404), {"kind": "trigger_crash_dump", "force": True}),
    Row("POST", f"{_OWN}/actions", (202, 403, 403, 404), {"kind": "collect_diagnostics"}),
    Row("POST", f"{_OWN}/actions", (202, 403, 403, 404), {"kind": "take_host_dump", "force": True}),
    Row("POST", f"{_OWN}/actions", (409, 409, 403, 404), {"kind": "resume"}),  # it is not paused
    Row("POST", f"{_OWN}/actions", _WRITE, {"kind": "reset_watchdog_timer"}),  # also while it is locked
    Row("GET", f"{_OWN}/watchdog", _READ),
    Row("PUT", f"{_OWN}/watchdog", _WRITE, {"model": "i6300esb", "expiry_action": "reset"}, locked=(202, 409, 403, 404)),
    Row("DELETE", f"{_OWN}/watchdog", _WRITE, locked=(202, 409, 403, 404)),
    Row("GET", "/v1/watchdog-models", (200, 200, 200, 200)),
    Row("GET", "/v1/watchdog-models?server_id={server}", _READ),
    Row("GET", "/v1/servers", (200, 200, 200, 200)),
    Row("GET", f"{_OWN}/diagnostics", _ADMIN_ONLY),
    Row("POST", "/v1/diagnostics", (202, 403, 403, 403), {"servers": [_NOWHERE]}),
    Row("GET", "/v1/events", (200, 200, 200, 200)),
    Row("GET", "/v1/events?host=compute-1", (200, 403, 403, 403)),
    Row("GET", "/v1/events/stream", (307, 307, 307, 307)),
    Row("GET", f"/v1/events/{_NOWHERE}", (404, 404, 404, 404)),
    Row("GET", f"/v1/events/{_NOWHERE}/black-box", (404, 404, 404, 404)),
    Row("GET", f"/v1/events/{_NOWHERE}/black-box/state.json", (404, 404, 404, 404)),
    Row("GET", "/v1/actions/{action}", _READ),
    Row("POST", "/v1/actions/{action}/cancel", (409, 409, 403, 404)),  # it has ended
    Row("GET", "/v1/subscriptions", (200, 200, 200, 200)),
    Row("POST", "/v1/subscriptions", (409, 409, 403, 409), {"target": {"kind": "email", "address": "ops@example.com"}}),  # sends no mail
    Row("GET", f"/v1/subscriptions/{_NOWHERE}", (404, 404, 404, 404)),
    Row("DELETE", f"/v1/subscriptions/{_NOWHERE}", (404, 404, 404, 404)),
    Row("GET", f"/v1/subscriptions/{_NOWHERE}/deliveries", (404, 404, 404, 404)),
    Row("GET", "/v1/agents", (200, 403, 403, 403)),
    Row("GET", "/v1/schemas", (200, 200, 200, 200)),
    Row("GET", f"/v1/schemas/{_NOWHERE}", (404, 404, 404, 404)),
)
OPEN = ("/", "/v2.1", "/v2.1/", "/v2", "/v2/", "/healthcheck")
"""What version discovery and load balancers ask without a token."""


@dataclass(frozen=True)
class Ground:
    """A server of the callers' project and one of the stranger's, each with an action."""

    system: System
    own: FleetServer
    other: FleetServer
    actions: dict[str, str]
    locks: dict[str, str] = field(default_factory=dict)
    """What is known of each server; nothing after a request that may have changed it."""

    def lock(self, server: FleetServer, lock: str) -> None:
        """Bring it into the wanted state, whatever it is in."""
        if self.locks.get(server.id) == lock:
            return
        owner = "member" if server is self.own else "stranger"
        self._act("admin", server, {"unlock": None})
        if lock != LOCKS[0]:
            self._act(owner if lock == LOCKS[1] else "admin", server, {"lock": None})
        self.locks[server.id] = lock

    def trigger(self, server: FleetServer, user: str) -> str:
        """The id of a crash dump that has ended."""
        answer = self._act(user, server, {"trigger_crash_dump": None})
        self.system.wait_ended(answer)
        return answer

    def ask(self, user: str, server: FleetServer, row: Row) -> int:
        path = row.path.format(server=server.id, action=self.actions[server.id])
        body = None if row.body is None else json.dumps(row.body).encode()
        if row.body in ({"lock": None}, {"unlock": None}):
            self.locks.pop(server.id, None)
        answer = self.system.ask(user, row.method, path, body)
        if answer.status == 202 and ("trigger_crash_dump" in json.dumps(row.body) or row.path.endswith("/watchdog")):
            self.system.wait_ended(answer.request_id)  # the next one would be refused until then, whoever asks
        return answer.status

    def _act(self, user: str, server: FleetServer, body: object) -> str:
        answer = self.system.ask(user, "POST", f"/v2.1/servers/{server.id}/action", json.dumps(body).encode())
        assert answer.status == 202, f"{user}: {body}: {answer.status} {answer.text}"
        return answer.request_id


@pytest.fixture(scope="module")
def ground(system: System) -> Ground:
    own, other = system.surviving[10], system.surviving[11]
    body = json.dumps({"project": system.projects[OTHER]}).encode()
    assert system.ask("admin", "PATCH", f"/v1/servers/{other.id}", body).status == 200
    ground = Ground(system, own, other, {})
    ground.actions.update({own.id: ground.trigger(own, "member"), other.id: ground.trigger(other, "stranger")})
    return ground


def _name(row: Row) -> str:
    return " ".join([row.method, row.path, *([json.dumps(row.body)] if row.body is not None else [])])


@pytest.mark.parametrize("row", MATRIX, ids=_name)
@pytest.mark.parametrize("lock", LOCKS)
def test_each_caller_gets_the_status_of_the_table(ground: Ground, row: Row, lock: str) -> None:
    admin, member, reader, outsider = row.list_expected(lock)
    of_their_own = {"admin": admin, "member": member, "reader": reader, "stranger": outsider}
    of_elsewhere = {"admin": admin, "member": outsider, "reader": outsider, "stranger": member}
    if "{server}" not in row.path and "{action}" not in row.path:
        of_elsewhere = {}
    seen: dict[str, tuple[int, int]] = {}
    for server, expected in ((ground.own, of_their_own), (ground.other, of_elsewhere)):
        for user, status in expected.items():
            ground.lock(server, lock)
            seen[f"{user} on a server of {'the first' if server is ground.own else 'the other'} project"] = (
                ground.ask(user, server, row),
                status,
            )
    assert {who: got for who, (got, _) in seen.items()} == {who: status for who, (_, status) in seen.items()}


class _Places(dict[str, str]):
    """Every parameter of a path as a star."""

    def __missing__(self, name: str) -> str:
        return "*"


def test_the_table_has_every_route() -> None:
    """The forms with a project or with /v2 in the path are the same handlers."""
    in_table = {(row.method, row.path.partition("?")[0].replace(_NOWHERE, "*").format(server="*", action="*")) for row in MATRIX}
    in_table |= {(method, path.replace("state.json", "*")) for method, path in in_table}
    in_table |= {("GET", path) for path in OPEN} | {("HEAD", "/healthcheck"), ("GET", "/openapi.json"), ("GET", "/asyncapi.json")}
    routes = {
        (route.method, route.path.format_map(_Places()))
        for route in (*COMPUTE_ROUTES, *NATIVE_ROUTES, *DOCUMENT_ROUTES)
        if not route.path.startswith("/v2/") and "{project_id}" not in route.path
    }
    assert routes - in_table == set()


@pytest.mark.parametrize("token", [None, "", "x" * 300], ids=["no token", "an empty one", "an invented one"])
def test_only_version_documents_and_the_healthcheck_answer_without_a_token_of_keystones(ground: Ground, token: str | None) -> None:
    client = ApiClient(ground.system.stack.url, {} if token is None else {"X-Auth-Token": token})
    for path in OPEN:
        assert client.get(path).status == 200, path
    for row in MATRIX:
        body = None if row.body is None else json.dumps(row.body).encode()
        path = row.path.format(server=ground.own.id, action=ground.actions[ground.own.id])
        answer = client.request(row.method, path, body=body)
        assert answer.status == 401, _name(row)
        assert ground.system.keystone.url.removesuffix("/v3") in answer.headers["www-authenticate"]


def test_headers_that_name_an_identity_are_not_believed(ground: Ground) -> None:
    forged = {"X-Roles": "admin", "X-Project-Id": ground.system.projects[OTHER], "X-User-Id": "x", "X-Identity-Status": "Confirmed"}
    assert ApiClient(ground.system.stack.url, forged).get(f"/v2.1/servers/{ground.own.id}").status == 401
    reader = ground.system.get_api("reader", MAXIMUM)
    assert reader.get("/v2.1/servers/detail?all_tenants=1", headers=forged).status == 403


def test_lists_hold_the_servers_of_the_callers_project_only(ground: Ground) -> None:
    def list_ids(user: str, query: str = "") -> set[str]:
        return {server["id"] for server in ground.system.ask(user, "GET", f"/v2.1/servers{query}").body["servers"]}

    everybodys = {server.id for server in ground.system.servers}
    assert list_ids("admin", "?all_tenants=1") == everybodys
    assert list_ids("member") == list_ids("reader") == everybodys - {ground.other.id}
    assert list_ids("stranger") == {ground.other.id}
    assert list_ids("admin") == set()


def test_a_request_for_another_project_in_the_path_is_refused(ground: Ground) -> None:
    project = ground.system.projects[OTHER]
    assert ground.system.ask("member", "GET", f"/v2.1/{project}/servers").status == 400
    assert ground.system.ask("stranger", "GET", f"/v2.1/{project}/servers").status == 200
