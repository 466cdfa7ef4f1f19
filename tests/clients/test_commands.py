"""``nova`` and ``openstack`` as operators use them, against gateways with several maximum microversions, with a real Keystone."""

import json
import uuid
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from tests.clients.clients import Clients, Output
from tests.clients.system import LOWER_MAXIMA, MAXIMA, MAXIMUM, FleetServer, System


def read_table(output: Output) -> list[list[str]]:
    """The cells of each row of a printed table, its head first."""
    return [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in output.stdout.splitlines() if line.startswith("|")]


def read_fields(output: Output) -> dict[str, str]:
    """A table of two columns."""
    return {row[0]: row[1] for row in read_table(output)}


@dataclass
class Terminal:
    """One user at one gateway, who sees what a command prints."""

    system: System
    clients: Clients
    maximum: str
    user: str = "member"

    def run(self, *argv: str) -> Output:
        return self.clients.run(self.system.make_openrc(self.user, self.maximum), *argv)

    def run_and_find_action(self, server: FleetServer, *argv: str) -> str:
        """Run what makes an action, expect that it prints nothing and ends well, and find that action."""
        before = self._list_actions(server)
        assert self.run(*argv).expect().stdout.strip() == ""
        made = self._list_actions(server) - before
        assert len(made) == 1, f"{argv} made {made or 'no action'}"
        return made.pop()

    def _list_actions(self, server: FleetServer) -> set[str]:
        answer = self.system.ask("admin", "GET", f"/v2.1/servers/{server.id}/os-instance-actions")
        return {action["request_id"] for action in answer.body["instanceActions"]}


@pytest.fixture(params=MAXIMA)
def member(request: pytest.FixtureRequest, system: System, clients: Clients) -> Terminal:
    """A member of the servers' project at a gateway of each maximum."""
    return Terminal(system, clients, request.param)


@pytest.fixture
def admin(member: Terminal) -> Terminal:
    """An admin at the same gateway."""
    return Terminal(member.system, member.clients, member.maximum, "admin")


@pytest.fixture
def server(member: Terminal) -> FleetServer:
    """One of its own for each maximum."""
    return member.system.surviving[MAXIMA.index(member.maximum)]


def _expect_one_signal(member: Terminal, server: FleetServer, trigger: Callable[[], str]) -> str:
    before = member.system.count_signals(server.id)
    action = trigger()
    assert member.system.wait_ended(action) == "succeeded"
    assert member.system.count_signals(server.id) == before + 1
    return action


def test_nova_triggers_one_signal_and_shows_how_the_action_went(member: Terminal, server: FleetServer) -> None:
    reference = server.id if MAXIMA.index(member.maximum) % 2 else server.name
    action = _expect_one_signal(member, server, lambda: member.run_and_find_action(server, "nova", "trigger-crash-dump", reference))

    listed = read_table(member.run("nova", "instance-action-list", reference).expect())
    assert ["trigger_crash_dump", action] == listed[-1][:2]

    output = member.run("nova", "instance-action", reference, action).expect()
    shown = read_fields(output)
    assert (shown["action"], shown["request_id"], shown["instance_uuid"]) == ("trigger_crash_dump", action, server.id)
    assert shown["message"] in ("-", "None")
    assert ("'Success'" in output.stdout) == (member.maximum not in ("2.17", "2.48"))  # events are an admin's only, before 2.51


def test_nova_lists_and_shows_servers(member: Terminal, server: FleetServer) -> None:
    listed = read_table(member.run("nova", "list").expect())
    assert [server.id, server.name, "ACTIVE", "-", "Running", ""] in listed
    assert [member.system.shut_off.id, member.system.shut_off.name, "SHUTOFF", "-", "Shutdown", ""] in listed
    shown = read_fields(member.run("nova", "show", server.name).expect())
    assert (shown["id"], shown["status"], shown["tenant_id"]) == (server.id, "ACTIVE", member.system.projects["demo"])
    assert ("locked" in shown, "locked_reason" in shown) == (True, member.maximum in ("2.84", "2.96", "2.100"))


def test_nova_shows_diagnostics_to_an_admin(admin: Terminal, server: FleetServer) -> None:
    shown = read_fields(admin.run("nova", "diagnostics", server.id).expect())
    if admin.maximum == "2.17":
        assert shown["memory"] == str(128 * 1024)
    else:
        assert (shown["state"], shown["driver"], shown["num_cpus"]) == ("running", "libvirt", "1")


def test_nova_locks_with_a_reason_and_unlocks(member: Terminal, admin: Terminal, server: FleetServer) -> None:
    takes_reasons = member.maximum in ("2.84", "2.96", "2.100")
    reason = ("--reason", "a dump is being fetched") if takes_reasons else ()
    assert admin.run("nova", "lock", *reason, server.id).expect().stdout == ""
    shown = read_fields(member.run("nova", "show", server.id).expect())
    assert shown["locked"] == "True"
    assert not takes_reasons or shown["locked_reason"] == "a dump is being fetched"
    before = member.system.count_signals(server.id)
    refused = member.run("nova", "trigger-crash-dump", server.id).expect(1)
    assert f"Instance {server.id} is locked (HTTP 409)" in refused.stderr
    admin.run("nova", "unlock", server.id).expect()  # by name it would look in its own project
    assert member.system.count_signals(server.id) == before


def test_openstack_triggers_one_signal_and_shows_how_the_action_went(member: Terminal, admin: Terminal, server: FleetServer) -> None:
    reference = server.name if MAXIMA.index(member.maximum) % 2 else server.id
    action = _expect_one_signal(
        member, server, lambda: member.run_and_find_action(server, "openstack", "server", "dump", "create", reference)
    )
    listed = read_table(member.run("openstack", "server", "event", "list", reference).expect())
    assert listed[1][:3] == [action, server.id, "trigger_crash_dump"]
    # Before 2.51 events are an admin's only, and the client breaks where there are none, as it does with Nova.
    reader = admin if member.maximum in ("2.17", "2.48") else member
    shown = json.loads(reader.run("openstack", "server", "event", "show", server.id, action, "-f", "json").expect().stdout)
    assert (shown["request_id"], shown["action"]) == (action, "trigger_crash_dump")
    assert "compute_trigger_crash_dump" in [event["event"] for event in shown["events"]]


def test_openstack_lists_and_shows_servers(member: Terminal, server: FleetServer) -> None:
    listed = read_table(member.run("openstack", "server", "list").expect())
    assert [server.id, server.name, "ACTIVE"] in [row[:3] for row in listed]
    shown = read_fields(member.run("openstack", "server", "show", server.name).expect())
    assert (shown["id"], shown["name"], shown["status"]) == (server.id, server.name, "ACTIVE")


def test_openstack_shows_diagnostics_to_an_admin(admin: Terminal, server: FleetServer) -> None:
    shown = admin.run("openstack", "server", "show", "--diagnostics", server.id)
    if admin.maximum == "2.17":  # the client knows the format of 2.48 only and shows nothing of the older one
        assert shown.code in (0, 1)
    else:
        fields = read_fields(shown.expect())
        assert (fields["state"], fields["driver"], fields["num_cpus"]) == ("running", "libvirt", "1")


def test_openstack_locks_with_a_reason_and_unlocks(member: Terminal, server: FleetServer) -> None:
    reason = ("--reason", "in use") if member.maximum in ("2.84", "2.96", "2.100") else ()
    assert member.run("openstack", "server", "lock", *reason, server.name).expect().stdout.strip() == ""
    locked = member.system.ask("member", "GET", f"/v2.1/servers/{server.id}").body["server"]
    assert (locked["locked"], locked["locked_reason"]) == (True, "in use" if reason else None)
    member.run("openstack", "server", "unlock", server.id).expect()
    assert member.system.ask("member", "GET", f"/v2.1/servers/{server.id}").body["server"]["locked"] is False


@pytest.mark.parametrize("maximum", LOWER_MAXIMA)
def test_clients_ask_for_no_version_that_is_not_advertised(system: System, clients: Clients, maximum: str) -> None:
    terminal = Terminal(system, clients, maximum)
    asked = system.lower[maximum].asked
    terminal.run("nova", "list").expect()
    assert asked
    assert max(asked, key=lambda version: int(version[2:])) == maximum


def test_installed_commands_say_the_same_as_processes_of_their_own(system: System, clients: Clients) -> None:
    server, openrc = system.surviving[0], system.make_openrc("member")
    for argv in (("nova", "show", server.name), ("openstack", "server", "show", server.id)):
        forked, started = clients.run(openrc, *argv).expect(), clients.start(openrc, *argv).expect()
        assert forked.stdout == started.stdout


@pytest.mark.parametrize("argv", [("nova", "trigger-crash-dump"), ("openstack", "server", "dump", "create")], ids=["nova", "openstack"])
def test_a_server_that_cannot_take_a_signal_is_named_with_its_state(system: System, clients: Clients, argv: tuple[str, ...]) -> None:
    refused = Terminal(system, clients, MAXIMUM).run(*argv, system.shut_off.name).expect(1)
    assert f"Cannot 'trigger_crash_dump' instance {system.shut_off.id} while it is in vm_state stopped" in refused.stderr
    assert system.count_signals(system.shut_off.id) == 0


@pytest.mark.parametrize("argv", [("nova", "show"), ("openstack", "server", "show")], ids=["nova", "openstack"])
def test_a_server_that_nobody_has_is_not_found(system: System, clients: Clients, argv: tuple[str, ...]) -> None:
    unknown = str(uuid.uuid4())
    refused = Terminal(system, clients, MAXIMUM).run(*argv, unknown).expect(1)
    assert unknown in refused.stderr


@pytest.mark.parametrize("argv", [("nova", "diagnostics"), ("openstack", "server", "show", "--diagnostics")], ids=["nova", "openstack"])
def test_a_member_is_told_which_policy_keeps_diagnostics_from_it(system: System, clients: Clients, argv: tuple[str, ...]) -> None:
    refused = Terminal(system, clients, MAXIMUM).run(*argv, system.surviving[0].id).expect(1)
    assert "Policy doesn't allow os_compute_api:os-server-diagnostics to be performed." in refused.stderr


@pytest.mark.parametrize("argv", [("nova", "show"), ("openstack", "server", "show")], ids=["nova", "openstack"])
def test_a_stranger_sees_nothing_of_another_projects_server(system: System, clients: Clients, argv: tuple[str, ...]) -> None:
    for reference in (system.surviving[0].id, system.surviving[0].name):
        refused = Terminal(system, clients, MAXIMUM, "stranger").run(*argv, reference).expect(1)
        assert reference in refused.stderr
