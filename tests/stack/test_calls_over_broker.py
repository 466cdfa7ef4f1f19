"""Questions to agents over a real broker that freezes or is in alarm: nobody waits longer than the limit, and all comes back."""

import os
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from oslo_config import cfg

from api_gateway.agent_calls import AgentCalls, NoAnswer, create_agent_calls
from api_gateway.config import register_options
from compute_agent.contract import versions
from compute_agent.contract.clock import SystemClock
from compute_agent.contract.diagnostics import DiagnosticsReply
from compute_agent.contract.transport import CALL_TOPIC, create_rpc_transport, oslo_messaging, register_messaging_options
from devstack.rabbitmq import PrivateRabbitMQ
from devstack.services import PATIENCE
from tests.http.answering_agents import build_report

SERVER = "11111111-2222-4333-8444-555555555555"
LIMIT = 1.0
THREADS = 2
_HANDED_OVER = 4.0 * PATIENCE
"""Seconds beyond the limit that a busy machine may take until who waits goes on; without the limit it was 81 s."""
_AT_ONCE = 0.2
_STALLS = 5
"""Of a hundred and more refusals, how many the machine may keep from being at once."""
_BACK = 90.0


class Answering:
    """An agent's endpoint with one verb."""

    target = oslo_messaging.Target(version=versions.RPC_API_VERSION)

    def get_diagnostics(self, ctxt: Any, server: str, history: bool) -> dict[str, Any]:
        return DiagnosticsReply(report=build_report(SystemClock(), server)).to_wire()


@pytest.fixture
def host(broker: PrivateRabbitMQ) -> Iterator[str]:
    """An agent that answers."""
    name = f"asked-{time.monotonic_ns()}"
    transport = create_rpc_transport(_create_conf(broker))
    target = oslo_messaging.Target(topic=CALL_TOPIC, server=name, version=versions.RPC_API_VERSION)
    server = oslo_messaging.get_rpc_server(transport, target, [Answering()])
    server.start()
    yield name
    server.stop()
    server.wait()
    transport.cleanup()


@pytest.fixture
def calls(broker: PrivateRabbitMQ) -> AgentCalls:
    return create_agent_calls(_create_conf(broker), None, SystemClock())


def _create_conf(broker: PrivateRabbitMQ) -> cfg.ConfigOpts:
    conf = cfg.ConfigOpts()
    register_messaging_options(conf)
    register_options(conf)
    conf([], default_config_files=[])
    conf.set_override("transport_url", broker.transport_url)
    conf.set_override("diagnostics_timeout", LIMIT, group="api")
    conf.set_override("agent_call_threads", THREADS, group="api")
    return conf


def ask(calls: AgentCalls, host: str) -> tuple[bool, float]:
    """Whether an answer came, and how long that took in seconds."""
    begun = time.monotonic()
    try:
        calls.get_diagnostics(host, SERVER)
    except NoAnswer:
        return False, time.monotonic() - begun
    return True, time.monotonic() - begun


def count_call_threads() -> int:
    return sum(thread.name.startswith("agent-call") for thread in threading.enumerate())


def ask_until_answered(calls: AgentCalls, host: str) -> None:
    give_up_at = time.monotonic() + _BACK
    while not ask(calls, host)[0]:
        assert time.monotonic() < give_up_at, "no answer although the broker is back"
        threading.Event().wait(0.05)


@pytest.mark.parametrize(
    ("go_away", "come_back"),
    [
        (PrivateRabbitMQ.freeze, PrivateRabbitMQ.thaw),
        (lambda broker: broker.set_memory_alarm(True), lambda broker: broker.set_memory_alarm(False)),
    ],
    ids=["frozen", "in alarm"],
)
def test_nobody_waits_longer_than_the_limit_for_a_broker_that_is_away(
    broker: PrivateRabbitMQ,
    host: str,
    calls: AgentCalls,
    go_away: Callable[[PrivateRabbitMQ], None],
    come_back: Callable[[PrivateRabbitMQ], None],
) -> None:
    ask_until_answered(calls, host)
    before = count_call_threads()

    go_away(broker)
    try:
        asked = [ask(calls, host) for _ in range(100)]
        during = count_call_threads()
        tasks = len(os.listdir("/proc/self/task"))
        asked += [ask(calls, host) for _ in range(100)]
        grown = len(os.listdir("/proc/self/task")) - tasks
    finally:
        come_back(broker)

    assert not any(answered for answered, _ in asked)
    assert max(took for _, took in asked) < LIMIT + _HANDED_OVER
    assert sum(took > _AT_ONCE for _, took in asked) <= THREADS + _STALLS
    assert during - before < THREADS
    assert grown <= THREADS
    ask_until_answered(calls, host)
