"""Whatever comes in over RPC, the agent goes on: it journals nothing that it cannot read, and says no more than that."""

import itertools
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from compute_agent.contract.errors import Code
from compute_agent.contract.models import ActionKind
from compute_agent.contract.watchdogs import ExpiryAction, WatchdogDevice
from compute_agent.drivers.fake import NmiEffect
from tests.fuzzing import ANYTHING, count_examples, spoil_json
from tests.unit.agent.action_parts import Agent

WATCHDOG = WatchdogDevice(model="i6300esb", expiry_action=ExpiryAction.RESET)
_NUMBERS = itertools.count(1000)
QUIET = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture]


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:
    agent = Agent(tmp_path_factory.mktemp("endpoint") / "journal.sqlite")
    yield agent
    agent.journal.close()


@settings(max_examples=count_examples(60), deadline=None, derandomize=True, suppress_health_check=QUIET)
@given(kind=st.sampled_from(sorted(ActionKind)), number=st.integers(1, 4), data=st.data())
def test_a_spoiled_action_is_run_or_refused_and_the_next_one_of_its_server_is_run(
    agent: Agent, kind: ActionKind, number: int, data: st.DataObject
) -> None:
    server = agent.make_server(NmiEffect.SURVIVE)
    sample = agent.make_request(server, number, kind=kind, watchdog=WATCHDOG).to_wire()
    getattr(agent.endpoint, kind)({}, data.draw(spoil_json(sample) | ANYTHING))
    agent.work()
    agent.clock.advance(4000)  # beyond every hold-off
    fresh = agent.do(agent.make_request(server, next(_NUMBERS)))
    assert fresh.result is not None
    assert fresh.result.code == Code.SIGNAL_DELIVERED


@settings(max_examples=count_examples(60), deadline=None, derandomize=True, suppress_health_check=QUIET)
@given(ANYTHING, ANYTHING, ANYTHING)
def test_any_question_has_an_answer_that_can_be_sent(agent: Agent, first: Any, second: Any, third: Any) -> None:
    assert set(agent.endpoint.get_diagnostics({}, first, second)) == {"report", "history", "code", "reason"}
    assert agent.endpoint.get_black_box({}, first, second, third)["total"] is None
    agent.endpoint.resend_events({}, first)
