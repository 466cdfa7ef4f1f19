"""The main job from a caller's side: ask for a crash dump over HTTP, and show what really happened, and when."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime

import libvirt

from devstack.api_client import Answer
from devstack.guest_log import PANIC_LINE
from devstack.guests import Guest, GuestKind
from devstack.services import wait_until
from devstack.stack import GuestSpec, Stack
from devstack.stack_config import Options
from devstack.timeline import (
    ENDING_TIMEOUT,
    Timeline,
    add_agent_moments,
    add_observation,
    find_final,
    get_observation,
    judge,
    print_action,
    trigger,
    wait_ended,
    wait_observed,
)

GUEST_NAME = "demo"
GUEST_SETUP = "doc/guest-setup.rst"
_DUMP_TIMEOUT = 60.0
# The agent's first look after a signal (60 s) is shortened, so that a demo shows in seconds what it would then say.
_FIRST_LOOK = {GuestKind.DEAF: 3, GuestKind.KDUMP: 1, GuestKind.KDUMP_POST_NOTIFIERS: 1}


def list_guests(kind: GuestKind) -> list[GuestSpec]:
    """What a demo's stack consists of: one guest, a new one each time, so that no hold-off of an earlier one is met."""
    return [GuestSpec(GUEST_NAME, kind, uuid=str(uuid.uuid4()))]


def make_agent_options(kind: GuestKind) -> Options:
    """The agent's options that a demo of this kind of guest needs."""
    return {"agent": {"first_look": _FIRST_LOOK[kind]}} if kind in _FIRST_LOOK else {}


def run_demo(stack: Stack, kind: GuestKind) -> int:
    """Trigger the crash dump on the stack's guest and print what followed; the exit code."""
    guest = stack.guests[GUEST_NAME]
    action_id, timeline = trigger(stack, guest.uuid, kind)
    if kind.has_crash_kernel:
        return _show_kdump(stack, guest, action_id, timeline)
    if kind is GuestKind.DEAF:
        return _show_deaf(stack, action_id, timeline)
    return _show_panic(stack, guest, action_id, timeline)


def _show_panic(stack: Stack, guest: Guest, action_id: str, timeline: Timeline) -> int:
    action = stack.client.get_action(action_id, wait=ENDING_TIMEOUT - 5)
    add_agent_moments(timeline, action)
    add_observation(timeline, action)
    timeline.print_to(stack.steps)
    print_action(stack.steps, action)
    really = guest.state() == (libvirt.VIR_DOMAIN_CRASHED, libvirt.VIR_DOMAIN_CRASHED_PANICKED)
    return judge(
        stack.steps,
        {
            "the API says: succeeded": action["ending"] == "succeeded",
            "the API says: guest_panicked": get_observation(action) == "guest_panicked",
            "libvirt says: the domain is crashed, panicked": really,
        },
    )


def _show_deaf(stack: Stack, action_id: str, timeline: Timeline) -> int:
    client = stack.client
    wait_ended(client, action_id)
    action = wait_observed(client, action_id, ENDING_TIMEOUT)
    add_agent_moments(timeline, action)
    add_observation(timeline, action)
    timeline.print_to(stack.steps)
    print_action(stack.steps, action)
    stack.steps.say(
        f"\nThe NMI was delivered and nothing of it was seen. If this is not a guest that is writing its dump, it is not"
        f"\nset up to take an NMI: {GUEST_SETUP} says what it needs (kdump, NMI sysctls, pvpanic) and what each shows."
    )
    return 1


def _show_kdump(stack: Stack, guest: Guest, action_id: str, timeline: Timeline) -> int:
    client = stack.client
    action = wait_ended(client, action_id)
    add_agent_moments(timeline, action)
    second = client.trigger_crash_dump(guest.uuid)
    timeline.add(f"second request refused ({second.status})", datetime.now(UTC))

    meanwhile = wait_observed(client, action_id, _DUMP_TIMEOUT)
    add_observation(timeline, meanwhile)
    wait_until(guest.has_complete_dump, _DUMP_TIMEOUT, "the crash kernel to save /proc/vmcore to the guest's disk")
    timeline.add("dump complete on the guest's disk", datetime.now(UTC))
    dump_log = guest.read_dump_log()
    final = wait_until(lambda: find_final(client, action_id), _DUMP_TIMEOUT, "the final observation")
    add_observation(timeline, final)
    guest.wait_ready(boots=2)
    timeline.add("guest is there again", datetime.now(UTC))
    timeline.print_to(stack.steps)

    steps = stack.steps
    steps.say(f"\n  meanwhile:  {get_observation(meanwhile)}: {meanwhile['observation']['text']}")
    steps.say(f"  second POST: {second.status} {second.message}")
    steps.say(f"  dump:       {guest.dump_image}")
    steps.say("              " + next((line for line in dump_log.splitlines() if PANIC_LINE in line), "no panic line in its log"))
    print_action(steps, final)
    expected = "crash_kernel_started" if guest.kind is GuestKind.KDUMP_POST_NOTIFIERS else "nothing_seen_yet"
    return judge(
        steps,
        {
            "the API says: succeeded": final["ending"] == "succeeded",
            f"while the dump was being written the API said: {expected}": get_observation(meanwhile) == expected,
            "a second request was refused (409), naming the first": _names_first(second, action_id),
            f"makedumpfile reads '{PANIC_LINE}' out of the dump": PANIC_LINE in dump_log,
            "the API says at last: guest_rebooted": get_observation(final) == "guest_rebooted",
        },
    )


def _names_first(second: Answer, action_id: str) -> bool:
    return second.status == 409 and action_id in second.message
