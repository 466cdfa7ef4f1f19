"""The same job for a machine with a BMC: what the API says, the BMC counted and the machine's own kernel wrote."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime

from devstack.fleet import MachineSpec
from devstack.guest_log import PANIC_LINE
from devstack.guests import GuestKind
from devstack.stack import Stack
from devstack.timeline import ENDING_TIMEOUT, add_agent_moments, add_observation, get_observation, judge, print_action, trigger

_NAME = "demo"


def list_machines() -> list[MachineSpec]:
    """One machine, a new one each time, so that no hold-off of an earlier one is met."""
    return [MachineSpec(_NAME, GuestKind.PANICKING, uuid=str(uuid.uuid4()))]


def run_bare_metal_demo(stack: Stack) -> int:
    """Trigger the crash dump on the stack's machine and print what followed; the exit code."""
    machine = stack.machines[_NAME]
    assert machine.bare_metal is not None, "its kernel is to panic"
    stack.steps.say(f"\nmachine {machine.name}: BMC on {machine.bmc.address}:{machine.bmc.port} (IPMI), pid {machine.simulator.pid}")
    action_id, timeline = trigger(stack, machine.uuid, GuestKind.PANICKING)
    action = stack.client.get_action(action_id, wait=ENDING_TIMEOUT - 5)
    add_agent_moments(timeline, action)
    for at, what in machine.bmc.list_done_at():
        if what == "nmi":
            timeline.add("the BMC pulsed the diagnostic interrupt", datetime.fromtimestamp(at, UTC))
    add_observation(timeline, action)
    timeline.print_to(stack.steps)
    print_action(stack.steps, action)
    nmis, panics = machine.bmc.count_nmis(), machine.bare_metal.log.count_panics()
    stack.steps.say("\n  the BMC's log, as ipmitool reads it:")
    for line in machine.bmc.list_log():
        stack.steps.say(f"    {line}")
    return judge(
        stack.steps,
        {
            "the API says: succeeded": action["ending"] == "succeeded",
            "the API says: guest_panicked": get_observation(action) == "guest_panicked",
            f"the machine's kernel wrote on its console: {PANIC_LINE}": panics == 1,
            "the BMC gave its machine exactly one NMI": nmis == 1,
        },
    )
