"""The main job from a caller's side: ask for a crash dump over HTTP, and show what really happened, and when."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import libvirt

from devstack.api_client import Answer, ApiClient
from devstack.guest_log import PANIC_LINE
from devstack.guests import Guest, GuestKind
from devstack.services import wait_until
from devstack.stack import GuestSpec, Stack
from devstack.stack_config import Options
from devstack.steps import StepFailed, Steps

GUEST_NAME = "demo"
GUEST_SETUP = "doc/guest-setup.rst"
_ENDING_TIMEOUT = 35.0
_DUMP_TIMEOUT = 60.0
# The agent's first look after a signal (60 s) is shortened, so that a demo shows in seconds what it would then say.
_FIRST_LOOK = {GuestKind.DEAF: 3, GuestKind.KDUMP: 1, GuestKind.KDUMP_POST_NOTIFIERS: 1}
_OBSERVED_WORDS = {
    "guest_panicked": "guest panicked",
    "crash_kernel_started": "crash kernel started",
    "guest_rebooted": "guest rebooted",
    "nothing_seen_yet": "nothing seen yet",
}


@dataclass
class Timeline:
    """Moments in milliseconds since the request, printed in their order."""

    zero: datetime
    _moments: list[tuple[float, str]] = field(default_factory=list)

    def add(self, text: str, at: str | datetime | None) -> None:
        """Add a moment, by a time of this machine's clock; None (it never came) is left out."""
        if at is None:
            return
        moment = datetime.fromisoformat(at) if isinstance(at, str) else at
        self._moments.append(((moment - self.zero).total_seconds() * 1000, text))

    def print_to(self, steps: Steps) -> None:
        steps.say("\n  ms since the request")
        for milliseconds, text in sorted(self._moments):
            steps.say(f"  {milliseconds:10.1f}  {text}")


def list_guests(kind: GuestKind) -> list[GuestSpec]:
    """What a demo's stack consists of: one guest, a new one each time, so that no hold-off of an earlier one is met."""
    return [GuestSpec(GUEST_NAME, kind, uuid=str(uuid.uuid4()))]


def make_agent_options(kind: GuestKind) -> Options:
    """The agent's options that a demo of this kind of guest needs."""
    return {"agent": {"first_look": _FIRST_LOOK[kind]}} if kind in _FIRST_LOOK else {}


def run_demo(stack: Stack, kind: GuestKind) -> int:
    """Trigger the crash dump on the stack's guest and print what followed; the exit code."""
    guest = stack.guests[GUEST_NAME]
    steps = stack.steps
    steps.say(f"\ntrigger_crash_dump of server {guest.uuid} ({guest.kind}), POST {stack.url}/v2.1/servers/{guest.uuid}/action")
    zero = datetime.now(UTC)
    answer = stack.client.trigger_crash_dump(guest.uuid)
    accepted = datetime.now(UTC)
    if answer.status != 202:
        raise StepFailed(
            f"the API answered {answer.status}: {answer.message}",
            log=stack.api.log,
            advice="read the logs of crashcart-api and crashcart-agent",
        )
    timeline = Timeline(zero)
    timeline.add(f"accepted (202), {answer.request_id}", accepted)
    if kind.has_crash_kernel:
        return _show_kdump(stack, guest, answer.request_id, timeline)
    if kind is GuestKind.DEAF:
        return _show_deaf(stack, answer.request_id, timeline)
    return _show_panic(stack, guest, answer.request_id, timeline)


def _show_panic(stack: Stack, guest: Guest, action_id: str, timeline: Timeline) -> int:
    action = stack.client.get_action(action_id, wait=_ENDING_TIMEOUT - 5)
    _add_agent_moments(timeline, action)
    _add_observation(timeline, action)
    timeline.print_to(stack.steps)
    _print_action(stack.steps, action)
    really = guest.state() == (libvirt.VIR_DOMAIN_CRASHED, libvirt.VIR_DOMAIN_CRASHED_PANICKED)
    return _judge(
        stack.steps,
        {
            "the API says: succeeded": action["ending"] == "succeeded",
            "the API says: guest_panicked": _get_observation(action) == "guest_panicked",
            "libvirt says: the domain is crashed, panicked": really,
        },
    )


def _show_deaf(stack: Stack, action_id: str, timeline: Timeline) -> int:
    client = stack.client
    _wait_ended(client, action_id)
    action = _wait_observed(client, action_id, _ENDING_TIMEOUT)
    _add_agent_moments(timeline, action)
    _add_observation(timeline, action)
    timeline.print_to(stack.steps)
    _print_action(stack.steps, action)
    stack.steps.say(
        f"\nThe NMI was delivered and nothing of it was seen. If this is not a guest that is writing its dump, it is not"
        f"\nset up to take an NMI: {GUEST_SETUP} says what it needs (kdump, NMI sysctls, pvpanic) and what each shows."
    )
    return 1


def _show_kdump(stack: Stack, guest: Guest, action_id: str, timeline: Timeline) -> int:
    client = stack.client
    action = _wait_ended(client, action_id)
    _add_agent_moments(timeline, action)
    second = client.trigger_crash_dump(guest.uuid)
    timeline.add(f"second request refused ({second.status})", datetime.now(UTC))

    meanwhile = _wait_observed(client, action_id, _DUMP_TIMEOUT)
    _add_observation(timeline, meanwhile)
    wait_until(guest.has_complete_dump, _DUMP_TIMEOUT, "the crash kernel to save /proc/vmcore to the guest's disk")
    timeline.add("dump complete on the guest's disk", datetime.now(UTC))
    dump_log = guest.read_dump_log()
    final = wait_until(lambda: _find_final(client, action_id), _DUMP_TIMEOUT, "the final observation")
    _add_observation(timeline, final)
    guest.wait_ready(boots=2)
    timeline.add("guest is there again", datetime.now(UTC))
    timeline.print_to(stack.steps)

    steps = stack.steps
    steps.say(f"\n  meanwhile:  {_get_observation(meanwhile)}: {meanwhile['observation']['text']}")
    steps.say(f"  second POST: {second.status} {second.message}")
    steps.say(f"  dump:       {guest.dump_image}")
    steps.say("              " + next((line for line in dump_log.splitlines() if PANIC_LINE in line), "no panic line in its log"))
    _print_action(steps, final)
    expected = "crash_kernel_started" if guest.kind is GuestKind.KDUMP_POST_NOTIFIERS else "nothing_seen_yet"
    return _judge(
        steps,
        {
            "the API says: succeeded": final["ending"] == "succeeded",
            f"while the dump was being written the API said: {expected}": _get_observation(meanwhile) == expected,
            "a second request was refused (409), naming the first": _names_first(second, action_id),
            f"makedumpfile reads '{PANIC_LINE}' out of the dump": PANIC_LINE in dump_log,
            "the API says at last: guest_rebooted": _get_observation(final) == "guest_rebooted",
        },
    )


def _wait_ended(client: ApiClient, action_id: str) -> dict[str, Any]:
    return wait_until(lambda: _find_if(client, action_id, "ending"), _ENDING_TIMEOUT, f"{action_id} to end")


def _wait_observed(client: ApiClient, action_id: str, timeout: float) -> dict[str, Any]:
    return wait_until(lambda: _find_if(client, action_id, "observation"), timeout, f"an observation of {action_id}")


def _find_if(client: ApiClient, action_id: str, key: str) -> dict[str, Any] | None:
    action = client.get_action(action_id)
    return action if action[key] is not None else None


def _find_final(client: ApiClient, action_id: str) -> dict[str, Any] | None:
    action = client.get_action(action_id)
    return action if action["observation"] is not None and action["observation"]["final"] else None


def _get_observation(action: dict[str, Any]) -> str | None:
    return None if action["observation"] is None else str(action["observation"]["observation"])


def _names_first(second: Answer, action_id: str) -> bool:
    return second.status == 409 and action_id in second.message


def _add_agent_moments(timeline: Timeline, action: dict[str, Any]) -> None:
    timeline.add("received by the agent", action["received_at"])
    timeline.add("NMI injected", action["signalled_at"])
    timeline.add("ending recorded", action["recorded_at"])


def _add_observation(timeline: Timeline, action: dict[str, Any]) -> None:
    observation = _get_observation(action)
    if observation is not None:
        timeline.add(_OBSERVED_WORDS.get(observation, observation), action["observation"]["observed_at"])


def _print_action(steps: Steps, action: dict[str, Any]) -> None:
    steps.say(f"\n  GET /v1/actions/{action['id']}")
    steps.say(f"  ending:      {action['ending']} ({action['code'] or 'no code'}, decided by {action['decided_by']})")
    if action["reason"]:
        steps.say(f"               {action['reason']}")
    observation = action["observation"]
    if observation is None:
        steps.say("  observation: none")
    else:
        steps.say(f"  observation: {observation['observation']}{'' if observation['final'] else ' (not final)'}")
        steps.say(f"               {observation['text']}")


def _judge(steps: Steps, claims: dict[str, bool]) -> int:
    steps.say("")
    for claim, holds in claims.items():
        steps.say(f"  {'yes' if holds else 'NO '}  {claim}")
    return 0 if all(claims.values()) else 1
