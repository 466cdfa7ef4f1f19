"""Watchdogs, power and the inventory of machines through all the real parts; see test_crash_dumps.py for their crash dumps.

The tests share their machines and run in the order of this file; the last one looks at what all of them left.
"""

import base64
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from secrets import token_hex

import pytest

from compute_agent.contract.accounts import build_agent_account
from devstack.api_client import Answer
from devstack.bmc_inventory import InventoryEntry, write_inventory
from devstack.fleet import Machine, MachineSpec
from devstack.ipmi_sim import ADMINISTRATOR, BmcUser, IpmiSim
from devstack.services import Service, iterate_command_lines, wait_until
from devstack.stack import Stack
from devstack.stack_config import HOST, Options, merge, write_agent_config
from tests.bare_metal.machines import (
    OFF,
    ON,
    REBOOTED,
    STARTED,
    STOPPED,
    Lone,
    ask_for,
    make_entry,
    make_lone,
    show,
    wait_read,
    wait_reason,
)
from tests.conformance.libvirt_host import require_real_parts
from tests.stack.real_stack import TIMEOUT, Server, running_stack, trigger, wait_for, wait_power_state
from tests.stack.watchdogs_over_http import (
    FIRED,
    Seen,
    ask,
    assert_told,
    change,
    list_events,
    put,
    see,
    wait_events,
    wait_firings,
)

COUNTDOWN = 1.0
"""Seconds from a reset of a watchdog's timer to its firing: the shortest that an agent may be told."""
AGENT: Options = {"bmc": {"call_bound": 30, "poll_interval": 0.5, "attentive_interval": 0.5, "watchdog_countdown": COUNTDOWN}}
CLAIMED_TWICE = "server.claimed_twice"
SECOND_HOST = "second"
CANARY = "canary-in-the-mine"
LEAKY = BmcUser(ADMINISTRATOR.name, CANARY, ADMINISTRATOR.privilege)
"""Its password is wrong, so it goes through all that is said of logins that fail."""
LONE = ("cycled", "removed", "wronged", "added", "twice")


@dataclass(frozen=True)
class World:
    """``lone`` are machines without a guest; ``plain`` is one whose watchdog has no pre-timeout NMI."""

    stack: Stack
    lone: Mapping[str, Lone]
    plain: Lone
    leaky: InventoryEntry

    @property
    def guarded(self) -> Machine:
        return self.stack.machines["guarded"]

    def write_inventory(self, entries: Sequence[InventoryEntry]) -> None:
        """Besides these it always has the machine with a guest and the one whose password is wrong."""
        write_inventory(self.inventory, [self.guarded.make_entry(), self.leaky, *entries])

    @property
    def inventory(self) -> Path:
        return self.stack.state_dir / "machines" / "bmc_inventory.yaml"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """One whole system; each test leaves all its parts running."""
    require_real_parts()
    directory = tmp_path_factory.mktemp("world")
    with ExitStack() as ends:
        whole, plain = IpmiSim(directory / "whole", len(LONE), whole_watchdog=True), IpmiSim(directory / "plain")
        for simulator in (whole, plain):
            ends.callback(simulator.stop)
            simulator.start()
        lone = make_lone(whole, LONE)
        leaky = make_entry("leaky", plain.bmc.port, LEAKY, address="localhost")
        others = make_lone(plain, ["plain"])
        inventory = [leaky, *(each.entry for each in (lone | others).values() if each.name != "added")]
        machines = [MachineSpec("guarded", whole_watchdog=True)]
        stack = ends.enter_context(running_stack(directory / "stack", (), AGENT, machines=machines, inventory=inventory))
        wait_read(stack, *(each for each in (lone | others).values() if each.name != "added"))
        yield World(stack, lone, others["plain"], leaky)


def reload(agent: Service) -> None:
    process = agent.process
    assert process is not None
    process.send(signal.SIGHUP)


# Watchdogs


def set_and_see(stack: Stack, server: Server, device: str | None) -> None:
    change(stack, server, device)
    expected = Seen(device, device, pending_restart=False)
    wait_until(lambda: see(stack, server) == expected, TIMEOUT, f"{server.name} to have {device}")


def arm(stack: Stack, server: Server) -> None:
    answer = ask_for(stack, server, "reset_watchdog_timer")
    assert answer.status == 202, answer.text
    wait_for(stack, answer.body["id"], ending="succeeded", code="watchdog_timer_reset")


def test_a_machine_whose_watchdog_fires_is_reset_once_and_its_next_one_panics_it(world: World) -> None:
    stack, machine = world.stack, world.guarded
    assert machine.bare_metal is not None
    assert see(stack, machine) == Seen(None, None, pending_restart=False)
    set_and_see(stack, machine, "ipmi:reset")
    change(stack, machine, "ipmi:reset", code="nothing_to_change")
    assert list_events(stack, machine, FIRED) == []
    arm(stack, machine)
    (firing,) = wait_firings(stack, machine)
    assert_told(firing, "ipmi:reset", "reset", "rebooted")
    (rebooted,) = wait_events(stack, machine, REBOOTED)
    assert rebooted["payload"]["fired_event"] == firing.fired["id"]
    assert machine.bmc.list_done() == ["power_on", "reset"]
    machine.bare_metal.wait_ready(boots=2)

    set_and_see(stack, machine, "ipmi:inject-nmi")
    arm(stack, machine)
    firings = wait_firings(stack, machine, 2)
    assert_told(firings[1], "ipmi:inject-nmi", "inject-nmi", "panicked")
    assert (machine.bmc.count_nmis(), machine.bare_metal.log.count_panics()) == (1, 1)
    set_and_see(stack, machine, None)


def test_a_watchdog_that_cycles_the_power_is_told_once_as_that(world: World) -> None:
    stack, machine = world.stack, world.lone["cycled"]
    set_and_see(stack, machine, "ipmi:power_cycle")
    arm(stack, machine)
    (firing,) = wait_firings(stack, machine)
    assert_told(firing, "ipmi:power_cycle", "power_cycle", "rebooted")
    # An agent that looks while the power is off tells of that, too.
    wait_until(lambda: machine.bmc.list_done() == ["power_off", "power_on"], TIMEOUT, "the power to be back")
    wait_power_state(stack, machine, ON)
    assert len(list_events(stack, machine, FIRED)) == 1


def test_what_a_bmcs_watchdog_cannot_do_is_refused_in_a_sentence(world: World) -> None:
    stack, machine = world.stack, world.plain
    refused = wait_for(stack, ask(stack, machine, "ipmi:inject-nmi"), ending="failed", code="not_supported")
    assert "no pre-timeout NMI" in refused["reason"]
    unset = ask_for(stack, machine, "reset_watchdog_timer")
    refused = wait_for(stack, unset.body["id"], ending="failed", code="not_supported")
    assert "set a watchdog first" in refused["reason"]
    for device, says in (("ipmi:pause", "pause"), ("i6300esb:reset", "i6300esb")):
        answer = put(stack, machine, device)
        assert (answer.status, says in answer.message) == (400, True), answer.text
    assert see(stack, machine) == Seen(None, None, pending_restart=False)


# Power


def test_a_machine_that_somebody_switches_off_and_on_is_told_of(world: World) -> None:
    """Its guest has panicked, and is still on."""
    stack, machine = world.stack, world.guarded
    assert list_events(stack, machine, STOPPED) == []
    machine.bmc.run_ipmitool("chassis", "power", "off")
    wait_events(stack, machine, STOPPED)
    wait_power_state(stack, machine, OFF)
    machine.bmc.run_ipmitool("chassis", "power", "on")
    wait_events(stack, machine, STARTED)
    wait_power_state(stack, machine, ON)
    assert [len(list_events(stack, machine, event_type)) for event_type in (STOPPED, STARTED, REBOOTED, FIRED)] == [1, 1, 1, 2]


# The inventory


def test_a_reload_brings_takes_and_disables_single_machines(world: World) -> None:
    stack, lone = world.stack, world.lone
    wrong = replace(lone["wronged"].entry, options={"privilege": "king"})
    kept = [lone["cycled"].entry, lone["twice"].entry, world.plain.entry]
    world.write_inventory([*kept, wrong, lone["added"].entry])
    reload(stack.agent)
    wait_read(stack, lone["added"])
    wait_until(lambda: show(stack, lone["removed"])["status"] == "UNKNOWN", TIMEOUT, "a machine to be gone")
    assert stack.client.trigger_crash_dump(lone["removed"].uuid).status == 409
    wait_reason(stack, lone["wronged"], "not read: its entry in the agent's inventory cannot be used: privilege: it must be one of ")
    assert show(stack, lone["wronged"])["power_state"] == "running"
    refused = wait_for(stack, trigger(stack, lone["wronged"]), ending="failed", code="backend_unavailable")
    assert "privilege" in refused["reason"]
    wait_for(stack, trigger(stack, world.plain), ending="succeeded")
    assert (world.plain.bmc.count_nmis(), lone["wronged"].bmc.count_nmis()) == (1, 0)

    world.inventory.write_text(f"machines: [{CANARY}")
    reload(stack.agent)
    log = stack.agent.log
    assert log is not None
    wait_until(lambda: "the one that was read before stays in force" in log.read_text(), TIMEOUT, "the agent to refuse its inventory")
    wait_for(stack, trigger(stack, lone["added"]), ending="succeeded")

    world.write_inventory([*kept, lone["wronged"].entry, lone["added"].entry])
    reload(stack.agent)
    wait_read(stack, lone["wronged"])
    wait_for(stack, trigger(stack, lone["wronged"]), ending="succeeded")
    assert (lone["added"].bmc.count_nmis(), lone["wronged"].bmc.count_nmis()) == (1, 1)


@contextmanager
def second_agent(stack: Stack, directory: Path, entries: Sequence[InventoryEntry]) -> Iterator[Service]:
    """Of another host, with an inventory and an account of its own."""
    write_inventory(directory / "bmc_inventory.yaml", entries)
    account, password = build_agent_account(SECOND_HOST), token_hex(16)
    stack.broker.ctl("add_user", account, password)
    stack.broker.ctl("set_permissions", account, ".*", ".*", ".*")
    write_agent_config(
        directory / "agent.conf",
        transport_url=f"rabbit://{account}:{password}@127.0.0.1:{stack.ports.amqp}/",
        driver={"agent": {"driver": "bmc"}, "bmc": {"inventory": directory / "bmc_inventory.yaml"}},
        state_path=directory / "state",
        extra=merge(AGENT, {"DEFAULT": {"host": SECOND_HOST}}),
    )
    argv = [stack.agent.argv[0], "--config-file", str(directory / "agent.conf")]
    agent = Service("second agent", argv, log=stack.state_dir / "second-agent.log", cwd=directory)
    agent.start()
    try:
        yield agent
    finally:
        agent.kill()


def test_a_machine_in_two_inventories_is_sent_nothing_until_one_lets_go(world: World, tmp_path: Path) -> None:
    stack, machine = world.stack, world.lone["twice"]
    with second_agent(stack, tmp_path, [machine.entry]) as second:
        (told,) = wait_events(stack, machine, CLAIMED_TWICE)
        assert set(told["payload"]["hosts"]) == {HOST, SECOND_HOST}
        refused = stack.client.trigger_crash_dump(machine.uuid)
        assert (refused.status, HOST in refused.message, SECOND_HOST in refused.message) == (409, True, True), refused.text
        assert machine.bmc.count_nmis() == 0
        write_inventory(tmp_path / "bmc_inventory.yaml", [])
        reload(second)
        wait_until(lambda: not show(stack, machine)["conflict"], TIMEOUT, "one of two hosts to let go")
        action = wait_for(stack, trigger(stack, machine), ending="succeeded")
    assert (action["host"], machine.bmc.count_nmis(), len(list_events(stack, machine, CLAIMED_TWICE))) == (HOST, 1, 1)


# Secrets


def test_no_password_is_anywhere_but_in_its_file(world: World) -> None:
    stack = world.stack
    refused = wait_for(stack, trigger(stack, world.leaky), ending="failed", code="forbidden")
    assert "refuses the password" in refused["reason"]
    assert stack.client.get(f"/v1/servers/{world.leaky.uuid}/diagnostics").status != 200
    secrets = [form for login in (LEAKY, ADMINISTRATOR) for form in list_forms(login.password)]
    machines = world.inventory.parent
    files = [path for path in stack.state_dir.rglob("*") if path.is_file() and machines not in path.parents]
    assert {"crashcart-agent.log", "gateway.sqlite", "journal.sqlite"} <= {path.name for path in files}
    answers = [get_all(stack, path) for path in ("/v1/servers", "/v1/events?limit=200", "/v1/agents", "/v2.1/servers/detail")]
    assert str(world.leaky.uuid) in answers[0].text
    told = {str(number): each.text.encode() for number, each in enumerate(answers)}
    for path in files:
        with suppress(FileNotFoundError):  # a database's, which come and go
            told[path.name] = path.read_bytes()
    told["ps"] = b"\n".join(line for _, line in iterate_command_lines() if str(stack.state_dir).encode() in line)
    assert b"crashcart-agent" in told["ps"]
    leaks = {(name, secret) for name, content in told.items() for secret in secrets if secret in content}
    assert leaks == set()


def list_forms(secret: str) -> list[bytes]:
    """As it is, and as what copies bytes without looking at them writes it."""
    plain = secret.encode()
    return [plain, base64.b64encode(plain).rstrip(b"="), plain.hex().encode()]


def get_all(stack: Stack, path: str) -> Answer:
    answer = stack.client.get(path)
    assert answer.status == 200, answer.text
    return answer
