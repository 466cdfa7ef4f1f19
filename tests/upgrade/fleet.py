"""A whole system whose parts are of two releases: each may be replaced by that of the other one, while actions flow."""

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compute_agent.contract import versions
from compute_agent.contract.models import ActionKind
from compute_agent.drivers.fake_server import NmiEffect
from devstack.api_client import Answer
from devstack.checks import ROOT
from devstack.databases import DatabaseKind
from devstack.deployment import RUNNING, AgentProgram, FaultPoints, Installation
from devstack.releases import BEFORE
from devstack.services import Service, wait_until
from devstack.stack import Stack
from devstack.stack_config import Options, merge
from devstack.steps import Steps
from tests.chaos.history import History
from tests.chaos.hosting import FakeHosts
from tests.chaos.hypervisor import Machine
from tests.chaos.system import ChaosSystem, Host
from tests.chaos.traffic import Traffic
from tests.databases import PATIENT

HOSTS = 2
KEEPING = "host-2"
"""The host whose hold-off lasts longer than the test."""
DEADLINE = 60
"""Seconds that every action has: longer than it takes to replace a part, even on a busy machine."""
TIMEOUT = 60.0
_HOLDOFF = 600.0
_BOUND = 30.0
"""Seconds that a call may hang: longer than the test lets it."""
_GRACE = 20.0
_AGENT = ("-m", "tests.chaos.agent_program")


@dataclass(frozen=True)
class Side:
    """One of the two releases: what its agents say of themselves, its commands, and its agent over a fake hypervisor that counts.

    That agent is of the release as well: a release's own tests are taken out of git with it.
    """

    release: str
    installation: Installation
    agent: AgentProgram


OLD = Side(BEFORE.name, BEFORE.installation, AgentProgram((str(BEFORE.python), *_AGENT), BEFORE.test_environment))
_THIS_TREE = {"PYTHONPATH": str(ROOT)}
NEW = Side(versions.RELEASE, Installation(RUNNING.commands, _THIS_TREE), AgentProgram((sys.executable, *_AGENT), _THIS_TREE))


class OldHosts(FakeHosts):
    """Their agents are of the release before at first."""

    def __init__(self) -> None:
        super().__init__(HOSTS, OLD.agent.argv)

    def get_agent_program(self, host: str) -> AgentProgram:
        program = super().get_agent_program(host)
        return AgentProgram(program.argv, {**program.environment, **OLD.agent.environment})

    def make_agent_options(self, stack: Stack, host: str) -> Options:
        return self._make_options(host)

    def _make_options(self, host: str) -> Options:
        options = merge(super()._make_options(host), {"fake": {"call_bound": _BOUND}})
        return merge(options, {"agent": {"crash_dump_holdoff": _HOLDOFF}}) if host == KEEPING else options


def make_system(directory: Path, port: int, database: DatabaseKind, steps: Steps) -> ChaosSystem:
    """Everything of the release before, nothing of it started."""
    return ChaosSystem(
        directory,
        port,
        OldHosts(),
        database=database,
        gateway=OLD.installation,
        fault_points=FaultPoints(),
        deadline=DEADLINE,
        busy_timeout=PATIENT,
        steps=steps,
    )


class Fleet:
    """The running system, and an admin who replaces parts of it and looks whether it goes on."""

    def __init__(self, system: ChaosSystem, history: History) -> None:
        self._system = system
        self._asking = Traffic(system, history, seed="admin", rate=1, clients=0)
        self._admin = system.create_clients()[0]

    def upgrade_database(self, *arguments: str) -> None:
        """With the newer release's own command."""
        self._system.stack.run_manage(NEW.installation, "db", "upgrade", *arguments)

    def replace_agent(self, host: str, side: Side) -> None:
        """Wait until the gateway has heard of the new one."""
        service = self._system.hosts[host].agent
        self._replace(service, list(side.agent.argv), side.agent.environment, side)
        self._wait(lambda: self.list_releases()[host] == side.release, f"the agent of {host} to be of release {side.release}")

    def replace_engine(self, side: Side) -> None:
        self._replace(self._system.stack.engine, side.installation.find_command("crashcart-engine"), side.installation.environment, side)

    def replace_api(self, side: Side) -> None:
        api = self._system.stack.api
        self._replace(api, side.installation.find_command("crashcart-api"), side.installation.environment, side)
        api.wait_ready(self._admin.is_healthy, TIMEOUT, "the API serves")

    def list_releases(self) -> dict[str, str]:
        """Of each host's agent, as the API shows them."""
        answer = self._admin.get("/v1/agents")
        assert answer.status == 200, answer.text
        return {agent["host"]: agent["release"] for agent in answer.body["agents"]}

    def check_flow(self) -> None:
        """What is asked for from now on is carried out, on each host; it is seen in the events, too."""
        asked = {host.name: self.ask_for_dump(list_surviving(host)[0], force=True) for host in self._system.hosts.values()}
        for host, action in asked.items():
            ended = self.wait_ended(action)
            assert ended["ending"] == "succeeded", (host, ended)
            events = self._admin.get(f"/v1/events?action_id={action}").body["events"]
            assert "action.ended" in {event["type"] for event in events}, (host, events)

    def ask_for_dump(self, server: str, *, force: bool = False) -> str:
        """The id of what was accepted. ``force``: in spite of a hold-off."""
        answer = self._asking.ask(server, ActionKind.TRIGGER_CRASH_DUMP, deadline=DEADLINE, force=force)
        assert answer.status == 202, answer.text
        action: str = answer.body["id"]
        return action

    def cancel(self, action: str) -> Answer:
        return self._admin.post(f"/v1/actions/{action}/cancel", {})

    def wait_ended(self, action: str) -> dict[str, Any]:
        return self.wait_state(action, "ended")

    def wait_state(self, action: str, state: str) -> dict[str, Any]:
        """The action when it has come so far."""
        seen: dict[str, Any] = {}

        def has_come() -> bool:
            seen.update(self._admin.get_action(action))
            return seen["state"] in (state, "ended")

        self._wait(has_come, f"{action} to be {state}")
        assert seen["state"] == state, seen
        return seen

    def _replace(self, service: Service, argv: list[str], environment: Mapping[str, str], side: Side) -> None:
        with self._system.steps.step(f"{service.name} of {side.release}"):
            assert service.stop(_GRACE), f"{service.name} had to be killed"
            service.argv = [*argv, *service.argv[-2:]]  # its configuration stays
            service.env.update(environment)
            service.start()

    @staticmethod
    def _wait(condition: Callable[[], object], what: str) -> None:
        wait_until(condition, TIMEOUT, what, interval=0.05)


def list_surviving(host: Host) -> list[str]:
    """Its servers that take an NMI and go on as if nothing had been: only time ends their hold-off."""
    assert host.hypervisor is not None
    machines = Machine.list_of(host.hypervisor)
    return [server for server, machine in zip(host.servers, machines, strict=True) if machine.effect is NmiEffect.SURVIVE]
