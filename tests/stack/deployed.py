"""A whole deployment over hypervisors that count, and callers of it who never rest while its parts are killed."""

import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select

from api_gateway.store import Store, counters
from api_gateway.store.tables import actions
from devstack.api_client import ApiClient
from devstack.checks import ROOT
from devstack.databases import DatabaseKind
from devstack.deployment import AgentProgram, AgentSpec, Deployment, FaultPoints
from devstack.ports import find_free_base
from devstack.real_parts import list_missing_parts, may_skip_real_tests
from devstack.services import wait_until
from devstack.stack import Stack
from devstack.stack_config import Options, merge
from devstack.steps import NotInstalled
from tests.stack.counting_agent import PANICKING, SHUT_OFF, SURVIVING

HOSTS = ("one", "two")
CALLERS = 2
SERVERS = len(HOSTS) * (PANICKING + SHUT_OFF + SURVIVING)
_FLOW_TIMEOUT = 40.0
_END_TIMEOUT = 60.0
_PAUSE = 0.25
"""Seconds between two requests of one caller: what is to be seen needs no more."""
_AT_ONCE = 5
"""Of the actions that one waits for, the oldest are looked at."""


@contextmanager
def running_deployment(
    directory: Path,
    kind: DatabaseKind,
    *,
    nodes: int,
    fault_points: FaultPoints | None = None,
    port: int | None = None,
    gateway_options: Options | None = None,
) -> Iterator[Stack]:
    """Two gateways and two hosts; skips on a laptop that lacks a part, fails in CI.

    :param port: the first of as many blocks as there are nodes, at least two; by default free ones
    """
    missing = [part for part in list_missing_parts() if part in ("epmd", "rabbitmq-server")]
    if missing and may_skip_real_tests():
        pytest.skip(f"not installed: {', '.join(missing)}")
    assert not missing, f"not installed: {', '.join(missing)}"
    agents = [AgentSpec(host, _make_program(directory / f"signals-{host}"), _make_options(host)) for host in HOSTS]
    deployment = Deployment(kind, nodes, apis=2, engines=2, agents=agents)
    try:
        stack = Stack(
            directory / "stack",
            port or find_free_base(deployment.port_blocks),
            deployment=deployment,
            fault_points=fault_points,
            holdoff=0,
            gateway_options=merge({"api": {"crash_dump_deadline": 20}}, gateway_options or {}),
        )
    except NotInstalled as error:
        if not may_skip_real_tests():
            raise
        pytest.skip(str(error))
    try:
        stack.up()
        for agent in stack.agents:
            agent.wait_ready(lambda: len(stack.client.list_servers()) == SERVERS, _FLOW_TIMEOUT, "every server is listed")
        yield stack
    finally:
        stack.down()


class Traffic:
    """Callers that ask for crash dumps, for the time of a with block.

    :param clients: where they ask, each time at one of them; by default at each API
    """

    def __init__(self, stack: Stack, clients: Sequence[ApiClient] = ()) -> None:
        self._stack = stack
        self._clients = list(clients) or stack.clients
        self._servers = [server["id"] for server in stack.client.list_servers()]
        self._is_over = threading.Event()
        self._threads = [threading.Thread(target=self._call, args=(number,)) for number in range(CALLERS)]
        self.accepted: list[str] = []
        self.answers: Counter[str] = Counter()

    def __enter__(self) -> "Traffic":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        for thread in self._threads:
            thread.join()

    def _call(self, number: int) -> None:
        chance = random.Random(number)
        while not self._is_over.wait(_PAUSE):
            try:
                answer = chance.choice(self._clients).trigger_crash_dump(chance.choice(self._servers), timeout=20)
            except (OSError, HTTPException) as error:
                self.answers[type(error).__name__] += 1
                continue
            self.answers[str(answer.status)] += 1
            if answer.status == 202:
                self.accepted.append(answer.request_id)

    def wait_flowing(self) -> float:
        """Wait until something that is asked for from now on has been carried out; the seconds that it took."""
        began, first = time.monotonic(), len(self.accepted)
        ended: dict[str, str] = {}

        def has_succeeded() -> bool:
            waiting = [action for action in self.accepted[first:] if not ended.get(action)]
            ended.update({action: find_action(self._stack, action).get("ending") or "" for action in waiting[:_AT_ONCE]})
            return "succeeded" in ended.values()

        wait_until(has_succeeded, _FLOW_TIMEOUT, "an action to be carried out", interval=0.1)
        return time.monotonic() - began


def find_action(stack: Stack, action: str) -> dict[str, Any]:
    """As whichever API answers shows it; empty when none does."""
    for client in stack.clients:
        try:
            return client.get_action(action)
        except (OSError, HTTPException, LookupError):
            continue
    return {}


def check_endings(stack: Stack, traffic: Traffic, directory: Path) -> Counter[str]:
    """Every 202 has its row, every row one ending, each server as many signals as its endings say, nothing happened that must not; how many
    ended how."""
    store = Store(stack.database_url)
    columns = (actions.c.id, actions.c.server, actions.c.ending)
    try:

        def is_over() -> bool:
            with store.read() as c:
                return c.execute(select(func.count()).where(actions.c.ending.is_(None))).scalar_one() == 0

        wait_until(is_over, _END_TIMEOUT, "every action to end", interval=0.1)
        with store.read() as c:
            rows = c.execute(select(*columns)).all()
            assert counters.list_violations(c) == {}
    finally:
        store.dispose()
    assert set(traffic.accepted) <= {row.id for row in rows}
    endings: dict[str, Counter[str]] = {}
    for row in rows:
        endings.setdefault(row.server, Counter())[row.ending] += 1
    for server, counted in endings.items():
        signals = sum(len(path.read_text()) for path in directory.glob(f"signals-*/{server}"))
        assert counted["succeeded"] <= signals <= counted["succeeded"] + counted["unknown"], (server, counted)
    return Counter(row.ending for row in rows)


def _make_program(signals: Path) -> AgentProgram:
    signals.mkdir(parents=True)
    environment = {"SIGNALS": str(signals), "PYTHONPATH": str(ROOT)}
    return AgentProgram((sys.executable, "-m", "tests.stack.counting_agent"), environment)


def _make_options(host: str) -> Options:
    return {"agent": {"driver": "fake"}, "fake": {"seed": host}}
