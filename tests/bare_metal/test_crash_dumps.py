"""Crash dumps of machines through all the real parts: HTTP, SQLite, RabbitMQ, the agent, IPMI, `ipmi_sim`, and QEMU on its system bus.

NMIs are counted by the simulator. A relay loses answers; what is behind a lost one nobody can know, and everybody must say so.
"""

import socket
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import pytest

from devstack.bare_metal import BareMetalMachine
from devstack.bmc_inventory import InventoryEntry
from devstack.fleet import Machine, MachineSpec
from devstack.guest_image import GuestImages
from devstack.ipmi_sim import ADDRESS, ADMINISTRATOR, USER, BmcUser, IpmiSim
from devstack.services import PATIENCE, wait_until
from devstack.stack import Stack
from devstack.stack_config import Options
from tests.bare_metal.machines import (
    OFF,
    PANICKED,
    Lone,
    ask_for,
    assert_panicked,
    force,
    get_span,
    make_entry,
    make_lone,
    panic,
    show,
    wait_read,
    wait_reason,
)
from tests.bare_metal.test_ipmi_faults import ANSWERS_OF_AN_INJECTION, Watched, losing
from tests.conformance.libvirt_host import require_real_parts
from tests.stack.real_stack import TIMEOUT, running_stack, trigger, wait_asked, wait_for, wait_power_state
from tests.stack.watchdogs_over_http import wait_events
from tests.udp_relay import LOST, Delivery, Direction, Passing, Rule, UdpRelay, closed_port, pass_on, relaying

CALL_BOUND = 3.5 * PATIENCE
SILENCE = 2.8 * PATIENCE
"""Seconds that a BMC which does not answer is waited for: a share of the bound."""
LATE = 15.0
"""Seconds that an action takes beside its call to the BMC, at most."""
AGENT: Options = {
    "agent": {"workers": 32},
    "bmc": {"call_bound": CALL_BOUND, "poll_interval": 1, "attentive_interval": 0.5, "attentive_span": 5},
}
MISTYPED = BmcUser(ADMINISTRATOR.name, "mistyped", ADMINISTRATOR.privilege)
LONE = ("off", "prompt", "silenced", "cleared", "mistyped", "viewer")
SILENT = 4
LOSING = 20


@dataclass(frozen=True)
class World:
    """``lone`` are machines without a guest; ``held`` and ``relay`` are one with a guest, and the way to it."""

    stack: Stack
    lone: Mapping[str, Lone]
    entries: Mapping[str, InventoryEntry]
    held: BareMetalMachine
    relay: UdpRelay
    lossy: Sequence[tuple[Lone, UdpRelay]]
    dying: IpmiSim
    dying_relay: UdpRelay

    @property
    def panicking(self) -> Machine:
        return self.stack.machines["panicking"]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """One whole system; each test leaves all its parts running."""
    require_real_parts()
    directory = tmp_path_factory.mktemp("world")
    with ExitStack() as ends:
        held = BareMetalMachine(directory / "held", name="held")
        ends.callback(held.end)
        held.start(GuestImages().ensure())
        bmcs = IpmiSim(directory / "bmcs", len(LONE) + LOSING)
        dying = IpmiSim(directory / "dying")
        for simulator in (bmcs, dying):
            ends.callback(simulator.stop)
            simulator.start()
        lone = make_lone(bmcs, [*LONE, *(f"loses-{number}" for number in range(LOSING))])
        relay, dying_relay = (ends.enter_context(relaying(port)) for port in (held.bmc.port, dying.bmc.port))
        lossy = []
        for number in range(LOSING):
            bmc = lone.pop(f"loses-{number}").bmc
            way = ends.enter_context(relaying(bmc.port))
            lossy.append((Lone(make_entry(f"loses-{number}", way.port), bmc), way))
        for name, login in (("mistyped", MISTYPED), ("viewer", USER)):
            lone[name] = Lone(make_entry(name, lone[name].bmc.port, login), lone[name].bmc)
        entries = {
            "held": make_entry("held", relay.port),
            "dying": make_entry("dying", dying_relay.port),
            "misspelt": make_entry("misspelt", 623, adress=ADDRESS),
            **{f"silent-{number}": make_entry(f"silent-{number}", listen_silently(ends)) for number in range(SILENT)},
            "closed": make_entry("closed", ends.enter_context(closed_port())),
        }
        inventory = [*entries.values(), *(each.entry for each in lone.values()), *(each.entry for each, _ in lossy)]
        machines = [MachineSpec("panicking")]
        stack = ends.enter_context(running_stack(directory / "stack", (), AGENT, machines=machines, inventory=inventory))
        held.wait_ready()
        wait_read(stack, entries["held"], entries["dying"], *(lone[name] for name in LONE if name != "mistyped"))
        wait_read(stack, *(each for each, _ in lossy))
        wait_asked(stack, stack.machines["panicking"].uuid)
        yield World(stack, lone, entries, held, relay, lossy, dying, dying_relay)


def listen_silently(ends: ExitStack) -> int:
    """A port where nobody answers."""
    silent = ends.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    silent.bind((ADDRESS, 0))
    port: int = silent.getsockname()[1]
    return port


# What goes well


def test_a_machine_tells_what_its_bmc_knows(world: World) -> None:
    answer = world.stack.client.get(f"/v1/servers/{world.panicking.uuid}/diagnostics")
    assert answer.status == 200, answer.text
    told, hardware = answer.body["diagnostics"], answer.body["hardware"]
    assert (told["driver"], told["hypervisor"], told["state"]) == ("ironic", None, "running")
    assert {sensor["name"]: (sensor["value"], sensor["unit"]) for sensor in hardware["sensors"]} == {
        "CPU Temp": (45.0, "°C"),
        "12V": (12.0, "V"),
        "Fan 1": (4200.0, "RPM"),
    }
    assert (hardware["power"], hardware["health"], bool(hardware["firmware"])) == ("on", "ok", True)
    assert "cpus" in answer.body["errors"]
    plain = world.stack.client.get(f"/v2.1/servers/{world.panicking.uuid}/diagnostics", headers={"OpenStack-API-Version": "compute 2.48"})
    assert (plain.status, plain.body["driver"], plain.body["hypervisor"]) == (200, "ironic", None)


def test_a_crash_dump_panics_the_machine_once_and_its_bmcs_log_says_so(world: World) -> None:
    stack, machine = world.stack, world.panicking
    assert machine.bare_metal is not None
    action_id = trigger(stack, machine)
    action = wait_for(stack, action_id, ending="succeeded", observation="guest_panicked", final=True)
    assert (action["code"], action["decided_by"]) == ("signal_delivered", "agent")
    assert (machine.bmc.count_nmis(), machine.bare_metal.log.count_panics()) == (1, 1)
    (told,) = wait_events(stack, machine, PANICKED)
    payload = told["payload"]
    assert (payload["reason"], payload["action_id"]) == ("os_critical_stop", action_id)
    # The power is all that a BMC sees: the machine is on.
    assert show(stack, machine)["power_state"] == "running"
    second = stack.client.trigger_crash_dump(machine.uuid)
    assert (second.status, action_id in second.message) == (409, True), second.text
    hardware = stack.client.get(f"/v1/servers/{machine.uuid}/diagnostics").body["hardware"]
    assert any("OS" in entry["text"] and entry["severity"] == "critical" for entry in hardware["log"]), hardware["log"]
    # One that has panicked keeps a processor busy.
    machine.bmc.run_ipmitool("chassis", "power", "off")
    wait_power_state(stack, machine, OFF)
    assert machine.bmc.count_nmis() == 1


# What a BMC refuses, and BMCs that are not there


@pytest.fixture(scope="module")
def refusals(world: World) -> dict[str, str]:
    """The actions' ids by the machine's name: all asked for at once, and behind all of them one of a machine that is well."""
    names = ["mistyped", "viewer", "misspelt", "closed", *(f"silent-{number}" for number in range(SILENT)), "prompt"]
    return {name: trigger(world.stack, world.lone[name] if name in world.lone else world.entries[name]) for name in names}


@pytest.mark.parametrize(
    ("name", "code", "says"),
    [
        ("mistyped", "forbidden", "refuses the password"),
        ("viewer", "forbidden", "may not send the diagnostic interrupt"),
        ("misspelt", "backend_unavailable", "adress: there is no such field"),
        ("closed", "backend_unavailable", "nothing listens"),
        ("silent-0", "backend_unavailable", "no answer came"),
    ],
)
def test_a_refusal_says_what_is_wrong_with_the_way_to_the_machine(
    world: World, refusals: dict[str, str], name: str, code: str, says: str
) -> None:
    action = wait_for(world.stack, refusals[name], ending="failed", code=code)
    assert says in action["reason"]
    assert get_span(action) < CALL_BOUND + LATE
    if name in world.lone:
        assert world.lone[name].bmc.count_nmis() == 0


def test_machines_that_are_silent_delay_no_other(world: World, refusals: dict[str, str]) -> None:
    prompt = wait_for(world.stack, refusals["prompt"], ending="succeeded")
    silent = [wait_for(world.stack, refusals[f"silent-{number}"], ending="failed") for number in range(SILENT)]
    # Of a machine that was silent a moment ago it is known: nobody waits for it.
    waited = [action for action in silent if get_span(action) >= SILENCE]
    assert all(prompt["ended_at"] < action["ended_at"] for action in waited)
    assert max(get_span(action) for action in silent) < CALL_BOUND + LATE
    assert world.lone["prompt"].bmc.count_nmis() == 1


def test_an_entry_that_is_wrong_says_why(world: World) -> None:
    """It disables no other: all the other tests are about those."""
    machine = world.entries["misspelt"]
    wait_reason(world.stack, machine, "not read: its entry in the agent's inventory cannot be used: ")
    wait_reason(world.stack, machine, "adress: there is no such field")
    answer = world.stack.client.get(f"/v1/servers/{machine.uuid}/diagnostics")
    assert (answer.status == 200, "adress: there is no such field" in answer.text) == (False, True), answer.text


def test_a_machine_that_was_switched_off_unseen_fails_with_nothing_sent(world: World) -> None:
    """Some BMCs take an NMI for a machine that is off, and say that it was done."""
    machine, agent = world.lone["off"], world.stack.agent
    agent.freeze()
    machine.bmc.set_power(False)
    action_id = trigger(world.stack, machine)
    agent.thaw()
    action = wait_for(world.stack, action_id, ending="failed", code="server_not_running")
    # The BMC when it is asked for the NMI, or a look at its machine that came before.
    assert any(word in action["reason"] for word in ("off", "is shutdown; nothing was sent"))
    wait_power_state(world.stack, machine, OFF)
    refused = world.stack.client.trigger_crash_dump(machine.uuid)
    assert (refused.status, "vm_state stopped" in refused.message) == (409, True), refused.text
    assert machine.bmc.count_nmis() == 0


def test_a_bmc_that_dies_before_it_answers_leaves_an_unknown_ending_and_goes_on_when_it_is_back(world: World) -> None:
    stack, simulator, machine = world.stack, world.dying, world.entries["dying"]

    def die(packet: Passing) -> Sequence[Delivery]:
        if simulator.bmc.count_nmis() and packet.direction is Direction.ANSWER:
            simulator.kill()
            return LOST
        return pass_on(packet)

    world.dying_relay.set_rule(die)
    action = wait_for(stack, trigger(stack, machine), ending="unknown")
    assert (action["code"], simulator.is_running) == ("answer_lost", False)
    world.dying_relay.set_rule(pass_on)
    wait_reason(stack, machine, "not read: ")
    simulator.start()
    wait_read(stack, machine)
    assert simulator.bmc.count_nmis() == 1
    wait_for(stack, force(stack, machine), ending="succeeded")
    assert simulator.bmc.count_nmis() == 2


# An agent that is away


@pytest.fixture(scope="module")
def away(world: World) -> dict[str, str]:
    """The agent was killed between an NMI and its answer, and other things happened before it was there again; actions' ids by name."""
    stack, given = world.stack, threading.Event()

    def hold(packet: Passing) -> Sequence[Delivery]:
        if not world.held.bmc.count_nmis():
            return pass_on(packet)
        given.set()
        return LOST

    silenced = trigger(stack, world.lone["silenced"])
    wait_for(stack, silenced, ending="succeeded")
    panic(world.lone["cleared"].bmc)
    wait_events(stack, world.lone["cleared"], PANICKED)
    world.relay.set_rule(hold)
    held = trigger(stack, world.entries["held"])
    assert given.wait(TIMEOUT)
    stack.agent.kill()
    world.relay.set_rule(pass_on)
    panic(world.lone["silenced"].bmc)
    world.lone["cleared"].bmc.clear_log()
    panic(world.lone["cleared"].bmc)
    wait_until(lambda: any("OS" in line for line in world.held.bmc.list_log()), TIMEOUT, "the machine's panic to be logged")
    stack.agent.start()
    return {"held": held, "silenced": silenced}


def test_an_agent_killed_before_the_answer_leaves_an_unknown_ending_and_sends_no_second_nmi(world: World, away: dict[str, str]) -> None:
    stack, machine = world.stack, world.entries["held"]
    action = wait_for(stack, away["held"], ending="unknown", observation="guest_panicked", final=True)
    assert action["code"] == "agent_restarted"
    assert_panicked(stack, machine, world.held.bmc, 1)
    assert (world.held.bmc.count_nmis(), world.held.log.count_panics()) == (1, 1)
    # One that has panicked keeps a processor busy.
    world.held.bmc.run_ipmitool("chassis", "power", "off")


def test_a_panic_while_the_agent_was_away_is_told_once_out_of_the_log(world: World, away: dict[str, str]) -> None:
    stack, machine = world.stack, world.lone["silenced"]
    wait_for(stack, away["silenced"], ending="succeeded", observation="guest_panicked", final=True)
    (told,) = wait_events(stack, machine, PANICKED)
    assert (told["payload"]["action_id"], told["payload"]["observed_late"]) == (away["silenced"], True)
    assert_panicked(stack, machine, machine.bmc, 1)
    assert machine.bmc.count_nmis() == 1


@pytest.mark.usefixtures("away")
def test_what_came_after_somebody_cleared_the_log_is_told_and_that_something_is_missing(world: World) -> None:
    machine = world.lone["cleared"]
    assert_panicked(world.stack, machine, machine.bmc, 2)
    assert world.stack.agent.log is not None
    assert f"{machine.uuid}: its BMC's log has gaps" in world.stack.agent.log.read_text()


def test_the_hold_off_of_a_machine_outlives_its_agent(world: World, away: dict[str, str]) -> None:
    machine = world.lone["silenced"]
    refused = ask_for(world.stack, machine, "trigger_crash_dump")
    assert (refused.status, away["silenced"] in refused.message) == (409, True), refused.text
    wait_for(world.stack, force(world.stack, machine), ending="succeeded")
    assert machine.bmc.count_nmis() == 2


# Answers that are lost


def losing_what_follows_the_nmi(machine: Lone) -> Rule:
    """Every answer from the one to the NMI on."""
    before = machine.bmc.count_nmis()

    def rule(packet: Passing) -> Sequence[Delivery]:
        return LOST if packet.direction is Direction.ANSWER and machine.bmc.count_nmis() > before else pass_on(packet)

    return rule


def make_rule(number: int, machine: Lone) -> Rule:
    """A fifth each is left alone, loses all, and loses what follows the NMI; the others lose one or two at some point of the exchange."""
    kinds: list[Rule] = [pass_on, losing(0, 1000), losing_what_follows_the_nmi(machine)]
    return kinds[number % 5] if number % 5 < len(kinds) else losing(number % ANSWERS_OF_AN_INJECTION, 1 + number % 2)


def test_no_answer_that_is_lost_makes_two_nmis_or_a_success(world: World) -> None:
    watched = [Watched(machine.bmc, make_rule(number, machine)) for number, (machine, _) in enumerate(world.lossy)]
    for rule, (_, relay) in zip(watched, world.lossy, strict=True):
        relay.set_rule(rule)
    asked = [trigger(world.stack, machine) for machine, _ in world.lossy]
    endings: Counter[str] = Counter()
    for action_id, rule in zip(asked, watched, strict=True):
        action = wait_for(world.stack, action_id, state="ended")
        endings[action["ending"]] += 1
        nmis = rule.bmc.count_nmis()
        match action["ending"]:
            case "succeeded":
                assert (nmis, rule.was_answer_passed) == (1, True), action
            case "unknown":
                # An answer that passed came when nobody waited for it any more.
                assert not rule.was_answer_passed or get_span(action) > SILENCE, action
                assert (action["code"], nmis <= 1) == ("answer_lost", True), action
            case _:
                assert (action["code"], nmis) == ("backend_unavailable", 0), action
    assert min(endings[ending] for ending in ("succeeded", "unknown", "failed")) >= LOSING // 5, endings
    for _, relay in world.lossy:
        relay.set_rule(pass_on)
    wait_read(world.stack, *(machine for machine, _ in world.lossy))
    # Nothing was sent later.
    assert max(rule.bmc.count_nmis() for rule in watched) == 1
