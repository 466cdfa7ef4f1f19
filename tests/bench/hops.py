"""Where the time goes between the POST and the panic that the API shows: one row per hop, from the moments that the parts write down.

Idle system, one action at a time, the fake driver, one machine and so one clock.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.client import HTTPConnection
from urllib.parse import urlsplit

from api_gateway.store import actions, events
from devstack.api_client import COMPUTE_MICROVERSION
from tests.bench.fake_stack import FakeStack, running_fake_stack
from tests.bench.figures import Figure, Goal

_WAIT = 10
_TIMEOUT = 30.0
_PAUSE = 0.05
"""Seconds between two actions, so that the last reports of one are no part of the next."""
_WARM_UP = 5

HOPS = (
    ("POST sent", "row written"),
    ("row written", "202 read"),
    ("row written", "cast recorded"),
    ("cast recorded", "received by the agent"),
    ("received by the agent", "started"),
    ("started", "driver returned"),
    ("driver returned", "panic journalled"),
    ("panic journalled", "panic recorded"),
    ("panic recorded", "panic visible"),
    ("POST sent", "started"),
    ("POST sent", "driver returned"),
    ("POST sent", "panic visible"),
)
"""From one moment to another; the last three are sums."""
_UNTIL_DRIVER = ("POST sent", "driver returned")
"""The driver's call begins no later, and the fake driver's is over at once."""
_GOAL = Goal(median=8.0, p99=25.0)
LEAST_RUNS = 100
"""Of fewer nobody can tell what the slowest of a hundred is."""


@dataclass
class _Samples:
    """Milliseconds of each hop."""

    of_hop: dict[tuple[str, str], list[float]] = field(default_factory=lambda: {hop: [] for hop in HOPS})

    def add(self, moments: dict[str, datetime]) -> None:
        for hop in HOPS:
            self.of_hop[hop].append((moments[hop[1]] - moments[hop[0]]).total_seconds() * 1000)


def measure(runs: int) -> list[Figure]:
    """Crash ``runs`` fake servers, one after the other.

    :raises RuntimeError: an answer was not what it should be.
    """
    samples = _Samples()
    with running_fake_stack(runs + _WARM_UP) as stack:
        for number, server in enumerate(stack.client.list_servers()):
            moments = _crash(stack, server["id"])
            if number >= _WARM_UP:
                samples.add(moments)
            time.sleep(_PAUSE)
    return [Figure(f"{hop[0]} → {hop[1]}", values, goal=_GOAL if hop == _UNTIL_DRIVER else None) for hop, values in samples.of_hop.items()]


def _crash(stack: FakeStack, server: str) -> dict[str, datetime]:
    """The moments of one crash dump."""
    connection = HTTPConnection(urlsplit(stack.client.url).netloc, timeout=_TIMEOUT)
    connection.connect()
    posted = datetime.now(UTC)
    headers = {"Content-Type": "application/json", "OpenStack-API-Version": f"compute {COMPUTE_MICROVERSION}"}
    connection.request("POST", f"/v2.1/servers/{server}/action", body=b'{"trigger_crash_dump": null}', headers=headers)
    response = connection.getresponse()
    text = response.read()
    answered = datetime.now(UTC)
    action_id = response.headers["x-openstack-request-id"]
    if response.status != 202:
        raise RuntimeError(f"POST answered {response.status}: {text!r}")
    connection.request("GET", f"/v1/actions/{action_id}?wait={_WAIT}")
    action = json.loads(connection.getresponse().read())
    visible = datetime.now(UTC)
    connection.close()
    if (action["observation"] or {}).get("observation") != "guest_panicked":
        raise RuntimeError(f"expected guest_panicked: {action}")
    with stack.store.read() as c:
        row = actions.get_action(c, action_id)
        (observed,) = (event for event in events.list_events_of_action(c, action_id) if event.event_type == "action.observed")
    moments = {
        "POST sent": posted,
        "row written": row.accepted_at,
        "202 read": answered,
        "cast recorded": row.last_cast_at,
        "received by the agent": row.received_at,
        "started": row.started_at,
        "driver returned": row.signalled_at,
        "panic journalled": observed.occurred_at,
        "panic recorded": observed.recorded_at,
        "panic visible": visible,
    }
    return {name: moment for name, moment in moments.items() if moment is not None}
