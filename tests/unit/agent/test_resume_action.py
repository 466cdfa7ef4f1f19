"""A paused server is let run again, once asked and also by an agent that died over it."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from compute_agent.contract.errors import Code
from compute_agent.contract.models import ActionKind, PowerState
from compute_agent.drivers.errors import BackendUnavailable
from compute_agent.drivers.fake_behaviours import Behaviour, lose_answer, refuse
from compute_agent.drivers.fake_server import Call
from compute_agent.journal import ActionState
from tests.unit.agent.action_parts import Agent, make_id
from tests.unit.agent.watchdog_parts import recover, sweep


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Agent]:
    agent = Agent(tmp_path / "journal.sqlite")
    yield agent
    agent.journal.close()


def resume(agent: Agent, power_state: PowerState) -> tuple[str, PowerState]:
    server = agent.make_server(power_state=power_state)
    agent.do(agent.make_request(server, kind=ActionKind.RESUME))
    return agent.code(make_id()), agent.hypervisor.get_server(server).power_state


@pytest.mark.parametrize(
    ("power_state", "code", "then"),
    [
        (PowerState.PAUSED, Code.RESUMED, PowerState.RUNNING),
        (PowerState.RUNNING, Code.NOTHING_TO_CHANGE, PowerState.RUNNING),
        (PowerState.SHUTDOWN, Code.SERVER_NOT_PAUSED, PowerState.SHUTDOWN),
        (PowerState.CRASHED, Code.SERVER_NOT_PAUSED, PowerState.CRASHED),
        (PowerState.SUSPENDED, Code.SERVER_NOT_PAUSED, PowerState.SUSPENDED),
    ],
)
def test_a_paused_server_resumes_and_no_other(agent: Agent, power_state: PowerState, code: Code, then: PowerState) -> None:
    assert resume(agent, power_state) == (code, then)


def test_a_driver_that_cannot_resume_is_not_asked(agent: Agent) -> None:
    agent.use_driver(replace(agent.driver, resume=None))
    assert resume(agent, PowerState.PAUSED) == (Code.NOT_SUPPORTED, PowerState.PAUSED)


def begin_resume(agent: Agent) -> str:
    server = agent.make_server(power_state=PowerState.PAUSED)
    agent.cast(agent.make_request(server, kind=ActionKind.RESUME))
    with agent.change() as transaction:
        transaction.start_action(make_id(), agent.clock.now())
    return server


@pytest.mark.parametrize(
    ("found", "code"),
    [
        (PowerState.RUNNING, Code.RESUMED),
        (PowerState.PAUSED, Code.RESUMED),
        (PowerState.SHUTDOWN, Code.AGENT_RESTARTED),
    ],
)
def test_a_resumption_that_a_dead_agent_had_begun_is_brought_to_an_end_from_the_servers_state(
    agent: Agent, found: PowerState, code: Code
) -> None:
    server = begin_resume(agent)
    agent.hypervisor.change(server, power_state=found)
    recover(agent)
    assert agent.code(make_id()) == code


def test_a_begun_resumption_waits_for_its_hypervisor(agent: Agent) -> None:
    begin_resume(agent)
    agent.hypervisor.lose_backend()
    recover(agent)
    assert agent.get(make_id()).state is ActionState.STARTED
    agent.clock.advance(2)
    agent.hypervisor.restore_backend()
    sweep(agent)
    assert agent.code(make_id()) == Code.RESUMED


def test_a_begun_resumption_of_a_server_that_is_still_paused_expires_at_its_deadline(agent: Agent) -> None:
    server = begin_resume(agent)
    agent.clock.advance(31)
    recover(agent)
    assert agent.code(make_id()) == Code.DEADLINE_PASSED
    assert agent.hypervisor.get_server(server).power_state is PowerState.PAUSED


@pytest.mark.parametrize(
    ("behaviour", "code"), [(lose_answer(), Code.ANSWER_LOST), (refuse(BackendUnavailable(None, "no")), Code.BACKEND_UNAVAILABLE)]
)
def test_a_resumption_ends_as_the_driver_says(agent: Agent, behaviour: Behaviour, code: Code) -> None:
    server = agent.make_server(power_state=PowerState.PAUSED)
    agent.hypervisor.behave(server, behaviour, call=Call.RESUME)
    agent.do(agent.make_request(server, kind=ActionKind.RESUME))
    assert agent.code(make_id()) == code
