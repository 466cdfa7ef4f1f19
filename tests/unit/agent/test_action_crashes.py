"""A crash before and after every commit of an action's life: one ending each time, never a second signal."""

from pathlib import Path

import pytest

from compute_agent.contract.errors import Code, Ending
from compute_agent.contract.models import PowerState
from compute_agent.drivers.errors import BackendUnavailable
from compute_agent.drivers.fake_behaviours import Behaviour, lose_answer, refuse
from compute_agent.journal import ActionState
from tests.unit.agent.action_parts import Agent, Crash, make_id

MOST_COMMITS = 12
"""More than one life of an action has, reads included; the tests check that."""


def live(agent: Agent, server: str) -> None:
    """One life: cast, work, the sweep, and the same cast once more."""
    request = agent.make_request(server)
    agent.cast(request)
    agent.work()
    agent.actions.end_overdue()
    agent.cast(request)


def crash_somewhere(agent: Agent, server: str, crash_at: int, after: bool) -> bool:
    """Whether it came to the crash at all."""
    agent.journal.crash_at = agent.journal.commits + crash_at
    agent.journal.crash_after_commit = after
    try:
        live(agent, server)
    except Crash:
        return True
    return False


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("crash_at", range(MOST_COMMITS))
@pytest.mark.parametrize(
    ("behaviour", "power_state"),
    [
        (None, PowerState.RUNNING),
        (None, PowerState.PAUSED),
        (lose_answer(), PowerState.RUNNING),
        (refuse(BackendUnavailable(None, "away")), PowerState.RUNNING),
    ],
)
def test_after_a_crash_at_any_commit_there_is_one_ending_and_at_most_one_signal(
    tmp_path: Path, behaviour: Behaviour | None, power_state: PowerState, crash_at: int, after: bool
) -> None:
    agent = Agent(tmp_path / "journal.sqlite")
    server = agent.make_server(power_state=power_state)
    if behaviour is not None:
        agent.hypervisor.behave(server, behaviour)
    crashed = crash_somewhere(agent, server, crash_at, after)
    assert crashed or crash_at >= 6
    for action_id in agent.restart():
        agent.queue.add(server, action_id)
    agent.work()
    agent.cast(agent.make_request(server))  # the gateway has heard nothing and casts again
    agent.work()

    action = agent.get(make_id())
    assert action.state is ActionState.ENDED
    assert action.result is not None
    signals = agent.hypervisor.count_signals(server)
    assert signals <= 1
    if action.result.ending is Ending.SUCCEEDED:
        assert signals == 1
    if signals and action.result.ending is not Ending.SUCCEEDED:
        assert action.result.code in (Code.AGENT_RESTARTED, Code.ANSWER_LOST), "sent, so the ending must not say otherwise"
    assert len(agent.list_events("action.received")) == 1
    assert len(agent.list_events("action.ended")) == 1
    assert [row.sequence for row in agent.list_events()] == list(range(1, len(agent.list_events()) + 1))
    agent.journal.close()


def test_no_life_has_more_commits_than_were_tried(tmp_path: Path) -> None:
    agent = Agent(tmp_path / "journal.sqlite")
    server = agent.make_server()
    before = agent.journal.commits
    live(agent, server)
    assert agent.journal.commits - before <= MOST_COMMITS


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("crash_at", range(4))
def test_a_crash_while_recovering_is_recovered_from(tmp_path: Path, crash_at: int, after: bool) -> None:
    agent = Agent(tmp_path / "journal.sqlite")
    first, second = agent.make_server(), agent.make_server()
    agent.cast(agent.make_request(first, 1))
    agent.cast(agent.make_request(second, 2))
    with agent.change() as transaction:
        transaction.start_action(make_id(1), agent.clock.now())
    agent.journal.close()
    agent.start()
    agent.journal.crash_at = agent.journal.commits + crash_at
    agent.journal.crash_after_commit = after
    try:
        agent.actions.recover()
    except Crash:
        pass
    else:
        assert crash_at == 3
    assert agent.restart() == [make_id(2)]
    assert agent.code(make_id(1)) == Code.AGENT_RESTARTED
    assert len(agent.list_events("action.ended")) == 1
    agent.journal.close()
