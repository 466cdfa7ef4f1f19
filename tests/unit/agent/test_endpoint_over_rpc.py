"""The contract's client and the agent's endpoint through oslo.messaging itself, over its in-memory transport."""

import base64
import inspect
import threading
from collections.abc import Iterator
from contextlib import suppress

import pydantic
import pytest
from oslo_config import cfg

from compute_agent.contract.errors import Code
from compute_agent.contract.models import ActionKind
from compute_agent.contract.rpcapi import ComputeAgentAPI
from compute_agent.contract.transport import create_rpc_transport, register_messaging_options
from compute_agent.drivers.fake_behaviours import Hang
from compute_agent.drivers.fake_server import Call
from compute_agent.host_dumps import DumpPlace
from compute_agent.rpc_servers import RpcServers
from devstack.services import wait_until
from tests.unit.agent.action_parts import HOST, SHORT_COLLECTION_LIMIT, Agent, make_id

PATIENCE = 10.0
BOX = "0" * 32


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:
    folder = tmp_path_factory.mktemp("agent")
    agent = Agent(folder / "journal.sqlite")
    agent.use_place(DumpPlace(folder / "dumps"))
    yield agent
    agent.journal.close()


@pytest.fixture(scope="module")  # a server of oslo.messaging takes a second to stop
def api(agent: Agent) -> Iterator[ComputeAgentAPI]:
    conf = cfg.ConfigOpts()
    conf(args=[], default_config_files=[])
    register_messaging_options(conf)
    conf.set_override("transport_url", "fake://")
    transport = create_rpc_transport(conf)
    server = RpcServers(transport, HOST, agent.endpoint)
    server.start()
    yield ComputeAgentAPI(transport)
    server.stop()
    server.wait()
    transport.cleanup()


@pytest.mark.usefixtures("api")
def test_a_server_waits_for_its_next_message_and_does_not_look_for_it_every_few_milliseconds() -> None:
    from oslo_messaging._drivers import amqpdriver  # not before the transport

    assert amqpdriver.ACK_REQUEUE_EVERY_SECONDS_MIN >= 1
    assert "ACK_REQUEUE_EVERY_SECONDS_MIN" in inspect.getsource(amqpdriver.AMQPListener), "this library waits in another way"


def test_diagnostics_are_answered_to_a_call(agent: Agent, api: ComputeAgentAPI) -> None:
    server = agent.make_server()
    agent.sampler.step()
    agent.clock.advance(30)
    reply = api.get_diagnostics(HOST, server, timeout=PATIENCE, history=True)
    assert reply.report is not None
    assert (reply.report.server, reply.report.stale, len(reply.history)) == (server, False, 1)


def test_while_the_hypervisor_hangs_a_call_is_answered_within_the_limit(
    agent: Agent, api: ComputeAgentAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agent.collector._calls, "_limit", SHORT_COLLECTION_LIMIT)
    server, hang = agent.make_server(), Hang()
    agent.sampler.step()
    agent.hypervisor.behave(server, hang, call=Call.COLLECT_DIAGNOSTICS)
    try:
        reports = [api.get_diagnostics(HOST, server, timeout=PATIENCE).report for _ in range(3)]
        assert [report is not None and report.stale for report in reports] == [True] * 3
    finally:
        hang.release()


def test_a_refusal_is_an_answer_and_no_exception(api: ComputeAgentAPI) -> None:
    assert api.get_diagnostics(HOST, "22222222-2222-4222-8222-222222222222", timeout=PATIENCE).code is Code.SERVER_NOT_FOUND


def test_a_black_box_is_read_in_pieces(agent: Agent, api: ComputeAgentAPI) -> None:
    agent.files.put(BOX, {"state.json": b"{}"})
    chunk = api.get_black_box(HOST, BOX, "state.json", offset=1, timeout=PATIENCE)
    assert (chunk.total, base64.b64decode(chunk.content)) == (2, b"}")
    assert api.get_black_box(HOST, "../..", "state.json", offset=0, timeout=PATIENCE).total is None


@pytest.mark.parametrize(
    ("number", "kind", "code"),
    [(1, ActionKind.COLLECT_DIAGNOSTICS, Code.DIAGNOSTICS_COLLECTED), (2, ActionKind.TAKE_HOST_DUMP, Code.HOST_DUMP_TAKEN)],
)
def test_an_action_of_each_new_kind_is_cast_to_its_own_method(
    agent: Agent, api: ComputeAgentAPI, number: int, kind: ActionKind, code: Code
) -> None:
    request = agent.make_request(agent.make_server(), number, kind=kind)
    api.cast_action(request)
    action_id = agent.queue.take(PATIENCE)
    assert action_id == make_id(number)
    agent.actions.run(action_id)
    assert agent.code(action_id) == code


def test_questions_that_hang_hold_up_no_action(agent: Agent, api: ComputeAgentAPI, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many there are: they have threads of their own."""
    release, asked = threading.Event(), threading.Semaphore(0)

    def hang(*_arguments: object) -> dict[str, object]:
        asked.release()
        release.wait(PATIENCE)
        return {}

    monkeypatch.setattr(agent.endpoint, "ping", hang)
    askers = [threading.Thread(target=_ask, args=(api,)) for _ in range(12)]
    for asker in askers:
        asker.start()
    assert asked.acquire(timeout=PATIENCE)
    request = agent.make_request(agent.make_server(), 77)
    api.cast_action(request)
    try:
        wait_until(lambda: request.id in list_received(agent), PATIENCE, "the action to be journalled")
    finally:
        release.set()
        for asker in askers:
            asker.join(PATIENCE)


def list_received(agent: Agent) -> list[str]:
    return [event.payload["action_id"] for event in agent.list_events("action.received")]


def _ask(api: ComputeAgentAPI) -> None:
    with suppress(pydantic.ValidationError):
        api.ping(HOST, timeout=PATIENCE)
