"""The contract's client and the agent's endpoint through oslo.messaging itself, over its in-memory transport."""

import base64
from collections.abc import Iterator

import pytest
from oslo_config import cfg

from compute_agent.contract.errors import Code
from compute_agent.contract.models import ActionKind
from compute_agent.contract.rpcapi import ComputeAgentAPI
from compute_agent.contract.transport import RPC_TOPIC, create_rpc_transport, oslo_messaging, register_messaging_options
from compute_agent.drivers.fake_behaviours import Hang
from compute_agent.drivers.fake_server import Call
from compute_agent.host_dumps import DumpPlace
from tests.unit.agent.action_parts import HOST, Agent, make_id

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
    target = oslo_messaging.Target(topic=RPC_TOPIC, server=HOST)
    server = oslo_messaging.get_rpc_server(transport, target, [agent.endpoint], access_policy=oslo_messaging.DefaultRPCAccessPolicy)
    server.start()
    yield ComputeAgentAPI(transport)
    server.stop()
    server.wait()
    transport.cleanup()


def test_diagnostics_are_answered_to_a_call(agent: Agent, api: ComputeAgentAPI) -> None:
    server = agent.make_server()
    agent.sampler.step()
    agent.clock.advance(30)
    reply = api.get_diagnostics(HOST, server, timeout=PATIENCE, history=True)
    assert reply.report is not None
    assert (reply.report.server, reply.report.stale, len(reply.history)) == (server, False, 1)


def test_while_the_hypervisor_hangs_a_call_is_answered_within_the_limit(agent: Agent, api: ComputeAgentAPI) -> None:
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
