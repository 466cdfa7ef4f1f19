"""What a demo shows of an action: its moments in their order, its ending and observation, and the claims that it is judged by."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from devstack.api_client import ApiClient
from devstack.guests import GuestKind
from devstack.services import wait_until
from devstack.stack import Stack
from devstack.steps import StepFailed, Steps

ENDING_TIMEOUT = 35.0
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


def trigger(stack: Stack, server: str, kind: GuestKind) -> tuple[str, Timeline]:
    """Ask for the crash dump of a server as today's clients do; the action's id, and the timeline that begins with the request."""
    stack.steps.say(f"\ntrigger_crash_dump of server {server} ({kind}), POST {stack.url}/v2.1/servers/{server}/action")
    timeline = Timeline(datetime.now(UTC))
    answer = stack.client.trigger_crash_dump(server)
    accepted = datetime.now(UTC)
    if answer.status != 202:
        raise StepFailed(
            f"the API answered {answer.status}: {answer.message}",
            log=stack.api.log,
            advice="read the logs of crashcart-api and crashcart-agent",
        )
    timeline.add(f"accepted (202), {answer.request_id}", accepted)
    return answer.request_id, timeline


def wait_ended(client: ApiClient, action_id: str) -> dict[str, Any]:
    """The action once it has ended; raises TimeoutError, as all that wait."""
    return wait_until(lambda: _find_if(client, action_id, "ending"), ENDING_TIMEOUT, f"{action_id} to end")


def wait_observed(client: ApiClient, action_id: str, timeout: float) -> dict[str, Any]:
    """The action once something of the guest was seen, or was not for a while."""
    return wait_until(lambda: _find_if(client, action_id, "observation"), timeout, f"an observation of {action_id}")


def _find_if(client: ApiClient, action_id: str, key: str) -> dict[str, Any] | None:
    action = client.get_action(action_id)
    return action if action[key] is not None else None


def find_final(client: ApiClient, action_id: str) -> dict[str, Any] | None:
    """The action, when its observation is the last word."""
    action = client.get_action(action_id)
    return action if action["observation"] is not None and action["observation"]["final"] else None


def get_observation(action: dict[str, Any]) -> str | None:
    return None if action["observation"] is None else str(action["observation"]["observation"])


def add_agent_moments(timeline: Timeline, action: dict[str, Any]) -> None:
    timeline.add("received by the agent", action["received_at"])
    timeline.add("NMI injected", action["signalled_at"])
    timeline.add("ending recorded", action["recorded_at"])


def add_observation(timeline: Timeline, action: dict[str, Any]) -> None:
    observation = get_observation(action)
    if observation is not None:
        timeline.add(_OBSERVED_WORDS.get(observation, observation), action["observation"]["observed_at"])


def print_action(steps: Steps, action: dict[str, Any]) -> None:
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


def judge(steps: Steps, claims: dict[str, bool]) -> int:
    """Print whether each claim holds; the exit code."""
    steps.say("")
    for claim, holds in claims.items():
        steps.say(f"  {'yes' if holds else 'NO '}  {claim}")
    return 0 if all(claims.values()) else 1
