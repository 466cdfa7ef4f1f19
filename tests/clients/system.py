"""A whole system under a real Keystone: real API, engine, agent and broker; of the hypervisor only the signals are counted."""

import sys
from dataclasses import dataclass, field
from pathlib import Path

from devstack.api_client import Answer, ApiClient
from devstack.keystone import ADMIN, KeystoneUser, PrivateKeystone
from devstack.ports import Ports, find_free_base
from devstack.services import wait_until
from devstack.side_by_side import run_side_by_side
from devstack.stack import AgentProgram, Stack
from tests.clients.lower_maximum import LowerMaximum
from tests.databases import PATIENT
from tests.stack.counting_agent import PANICKING, SHUT_OFF, SURVIVING

OWN, OTHER = "demo", "elsewhere"
"""The servers' project, and the one of the stranger."""
MAXIMUM = "2.100"
LOWER_MAXIMA = ("2.17", "2.48", "2.84", "2.96")
MAXIMA = (*LOWER_MAXIMA, MAXIMUM)
_READY_SECONDS = 60.0
_DIAGNOSTICS_SECONDS = 20
"""A machine that stands still for seconds is no agent that does not answer."""


@dataclass(frozen=True)
class FleetServer:
    """A server as the tests name it."""

    id: str
    name: str


@dataclass
class System:
    """``users`` by name: admin, member, reader (of OWN) and stranger (member of OTHER)."""

    keystone: PrivateKeystone
    stack: Stack
    signals: Path
    projects: dict[str, str]
    users: dict[str, KeystoneUser]
    servers: list[FleetServer] = field(default_factory=list)
    lower: dict[str, LowerMaximum] = field(default_factory=dict)
    _tokens: dict[str, str] = field(default_factory=dict)

    @property
    def surviving(self) -> list[FleetServer]:
        """Those that take a signal and run on."""
        return self.servers[:SURVIVING]

    @property
    def shut_off(self) -> FleetServer:
        return self.servers[-1]

    def make_openrc(self, user: str, maximum: str = MAXIMUM) -> dict[str, str]:
        """What the user sources to reach a gateway with that maximum: each is a region of the catalogue."""
        return {**self.users[user].make_openrc(), "OS_REGION_NAME": _name_region(maximum)}

    def get_token(self, user: str) -> str:
        if user not in self._tokens:
            self._tokens[user] = self.keystone.issue_token(self.users[user])
        return self._tokens[user]

    def get_api(self, user: str, version: str = MAXIMUM) -> ApiClient:
        return ApiClient(self.stack.url, {"X-Auth-Token": self.get_token(user), "OpenStack-API-Version": f"compute {version}"})

    def ask(self, user: str, method: str, path: str, body: bytes | None = None) -> Answer:
        return self.get_api(user).request(method, path, body=body, timeout=30)

    def count_signals(self, server: str) -> int:
        counted = self.signals / server
        return len(counted.read_text()) if counted.exists() else 0

    def wait_ended(self, action: str) -> str:
        """The ending of an action."""
        admin = self.get_api(ADMIN)
        return str(wait_until(lambda: admin.get_action(action, wait=5).get("ending"), 30, f"{action} to end"))

    def start(self) -> None:
        self.stack.up()
        for maximum in LOWER_MAXIMA:
            self.lower[maximum] = LowerMaximum(self.stack.url, Ports(find_free_base()).base, maximum)
        service = self.keystone.make_compute_service()
        for maximum in MAXIMA:
            url = self.lower[maximum].url if maximum in self.lower else self.stack.url
            self.keystone.make_endpoint(service, _name_region(maximum), f"{url}/v2.1")
        self.servers = wait_until(self._find_servers, _READY_SECONDS, "the API to list the agent's servers")
        wait_asked(self.get_api(ADMIN), self.servers[0])

    def stop(self) -> None:
        for proxy in self.lower.values():
            proxy.close()
        run_side_by_side(self.stack.down, self.keystone.stop)

    def _find_servers(self) -> list[FleetServer] | None:
        answer = self.ask(ADMIN, "GET", "/v2.1/servers/detail?all_tenants=1")
        found = [FleetServer(server["id"], server["name"]) for server in answer.body["servers"]] if answer.status == 200 else []
        if len(found) < SURVIVING + PANICKING + SHUT_OFF:
            return None
        return sorted(found, key=lambda server: int(server.name.rpartition("-")[2]))


def wait_asked(api: ApiClient, server: FleetServer) -> None:
    """Until this API has got through to the agent: the first question may come before, on a busy machine, and is answered with 503."""
    path = f"/v2.1/servers/{server.id}/diagnostics"
    wait_until(lambda: api.get(path).status == 200, _READY_SECONDS, "the API to get through to the agent", interval=0.2)


def create_system(directory: Path) -> System:
    """Keystone runs when this returns; ``start()`` starts the rest."""
    signals = directory / "signals"
    signals.mkdir()
    base = find_free_base()
    keystone = PrivateKeystone(directory / "keystone", find_free_base())
    keystone.start()
    try:
        projects = {name: keystone.make_project(name) for name in (OWN, OTHER)}
        users = {
            ADMIN: keystone.admin,
            "member": keystone.make_user("member", "member", OWN, projects[OWN]),
            "reader": keystone.make_user("reader", "reader", OWN, projects[OWN]),
            "stranger": keystone.make_user("stranger", "member", OTHER, projects[OTHER]),
        }
        stack = Stack(
            directory / "stack",
            base,
            holdoff=0,
            agent_options={"agent": {"driver": "fake", "default_project": projects[OWN], "first_look": 0.5}, "fake": {"seed": "web"}},
            gateway_options={
                "api": {"auth_strategy": "keystone", "diagnostics_timeout": _DIAGNOSTICS_SECONDS},
                "keystone_authtoken": keystone.list_middleware_options(),
                "database": {"busy_timeout": PATIENT},
            },
            agent_program=AgentProgram(
                [sys.executable, "-m", "tests.stack.counting_agent"],
                {"SIGNALS": str(signals), "PYTHONPATH": str(Path(__file__).parents[2])},
            ),
        )
    except BaseException:
        keystone.stop()
        raise
    return System(keystone, stack, signals, projects, users)


def _name_region(maximum: str) -> str:
    return f"maximum-{maximum}"
