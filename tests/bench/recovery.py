"""How long after each fault the first action is completed: what was posted while the part was away, counted from when that is back.

Back is: the broker or the database accepts connections again, the process of an agent, an engine or an API is started. Everything that is
restarted ends by kill -9, and an action that waits is one that a person waits for.
"""

from __future__ import annotations

import itertools
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from devstack.postgresql import PrivatePostgreSQL
from devstack.services import wait_until
from devstack.steps import NotInstalled
from tests.bench.fake_stack import FakeAgent, FakeStack, running_fake_stack
from tests.bench.figures import Figure
from tests.stack.broker_events import settle

_SERVERS = 10
_TIMEOUT = 60.0
_AGENT = FakeAgent(_SERVERS, surviving=_SERVERS)


@dataclass(frozen=True)
class Fault:
    """What is taken away and comes back.

    :param goal: seconds until the first action is completed
    :param is_process: counted from its start, not from when it accepts connections
    :param is_on_the_way_in: nothing can be posted while it is away
    """

    name: str
    strike: Callable[[], object]
    bring_back: Callable[[], object]
    goal: float
    is_process: bool = False
    is_on_the_way_in: bool = False


def measure(runs: int) -> list[Figure]:
    """Each fault ``runs`` times.

    :raises StepFailed: a part did not start.
    :raises TimeoutError: no action was completed within a minute.
    """
    with running_fake_stack(agents=[_AGENT]) as stack:
        figures = [_measure_fault(stack, fault, runs) for fault in _list_faults(stack)]
    try:
        with _postgresql() as server, running_fake_stack(agents=[_AGENT], database=server.create_database("gateway")) as stack:
            figures += [_measure_fault(stack, fault, runs) for fault in _list_database_faults(server)]
    except NotInstalled as error:
        print(f"not measured on PostgreSQL: {error}")
    return figures


@contextmanager
def _postgresql() -> Iterator[PrivatePostgreSQL]:
    with tempfile.TemporaryDirectory(prefix="crashcart-bench-") as name:
        server = PrivatePostgreSQL(Path(name), durable=True)
        server.start()
        try:
            yield server
        finally:
            server.end()


def _list_faults(stack: FakeStack) -> Iterator[Fault]:
    services = stack.services
    for name, goal in ((_AGENT.service, 1.0), ("crashcart-engine", 2.0)):
        yield Fault(f"{name}: kill -9 and start", services[name].kill, services[name].start, goal, is_process=True)
    api = services["crashcart-api"]
    yield Fault("crashcart-api: kill -9 and start", api.kill, api.start, 2.0, is_process=True, is_on_the_way_in=True)
    yield Fault("broker: kill -9 and restart", lambda: _kill_broker(stack), stack.broker.start, 2.0)
    yield Fault("broker: orderly restart", stack.broker.stop, stack.broker.start, 2.0)


def _kill_broker(stack: FakeStack) -> None:
    settle(stack.broker)
    stack.broker.kill()


def _list_database_faults(server: PrivatePostgreSQL) -> Iterator[Fault]:
    yield Fault("PostgreSQL: kill -9 and restart", server.kill, server.start, 2.0, is_on_the_way_in=True)
    yield Fault("PostgreSQL: orderly restart", server.stop, server.start, 2.0, is_on_the_way_in=True)


def _measure_fault(stack: FakeStack, fault: Fault, runs: int) -> Figure:
    began = time.monotonic()
    servers = itertools.cycle([server["id"] for server in stack.client.list_servers()])
    samples: list[float] = []
    for _ in range(runs):
        _complete(stack, _post(stack, next(servers)))  # all is well before
        fault.strike()
        action = None if fault.is_on_the_way_in else _post(stack, next(servers))
        started_at = time.monotonic()
        fault.bring_back()
        back_at = started_at if fault.is_process else time.monotonic()
        _complete(stack, action or _post(stack, next(servers)))
        samples.append((time.monotonic() - back_at) * 1000)
    print(f"[{time.monotonic() - began:7.1f} s] {fault.name}, {runs} times", flush=True)
    missed = sum(sample > fault.goal * 1000 for sample in samples)
    return Figure(
        f"{fault.name}: until the first action is completed", samples, note=f"goal {fault.goal:g} s, missed {missed} of {runs} times"
    )


def _post(stack: FakeStack, server: str) -> str:
    """The id of a crash dump that was accepted; tried until it is."""

    def post() -> str | None:
        try:
            answer = stack.client.trigger_crash_dump(server)
        except OSError:
            return None  # the API is away
        if answer.status == 202:
            return answer.request_id
        if answer.status == 503:
            return None
        raise RuntimeError(f"POST answered {answer.status}: {answer.message}")

    return wait_until(post, _TIMEOUT, "an action to be accepted", interval=0.01)


def _complete(stack: FakeStack, action: str) -> None:
    """Wait until the API shows its ending.

    :raises RuntimeError: it is another one than that the signal was delivered.
    """

    def find_ended() -> dict[str, Any] | None:
        try:
            answer = stack.client.get(f"/v1/actions/{action}")
        except OSError:
            return None
        return dict(answer.body) if answer.status == 200 and answer.body["ending"] is not None else None

    ended = wait_until(find_ended, _TIMEOUT, f"action {action} to be completed", interval=0.01)
    if ended["ending"] != "succeeded":
        raise RuntimeError(f"action {action} ended otherwise: {json.dumps(ended)}")
