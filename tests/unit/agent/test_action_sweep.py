"""What happens to an action between two looks of the sweep, and what is left of one that waited or hung."""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import pytest

from compute_agent.contract.errors import Code
from compute_agent.contract.models import ActionKind
from compute_agent.drivers.errors import OutcomeUnknown
from compute_agent.drivers.fake_behaviours import answer_late, lose_request
from compute_agent.drivers.fake_server import Call
from compute_agent.journal import ActionState, JournalUnusable
from compute_agent.kinds import make_result
from tests.unit.agent.action_parts import HOLDOFF, Agent, make_id
from tests.unit.agent.test_actions import UnreadableServers
from tests.unit.agent.test_watchdog_changes_begun import break_driver
from tests.unit.agent.watchdog_parts import PAUSE, RESET, ask, make_watched, sweep


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Agent]:
    agent = Agent(tmp_path / "journal.sqlite")
    yield agent
    agent.journal.close()


@pytest.fixture
def under_the_sweep(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], None]], None]:
    """Sweep once; what is given happens after the sweep has read the journal and before it writes: when it first looks at the clock."""

    def run(meanwhile: Callable[[], None]) -> None:
        now, monotonic = agent.clock.now, agent.clock.monotonic

        def look_back() -> None:
            monkeypatch.setattr(agent.clock, "now", now)
            monkeypatch.setattr(agent.clock, "monotonic", monotonic)
            meanwhile()

        def look_now() -> datetime:
            look_back()
            return now()

        def look_monotonic() -> float:
            look_back()
            return monotonic()

        monkeypatch.setattr(agent.clock, "now", look_now)
        monkeypatch.setattr(agent.clock, "monotonic", look_monotonic)
        agent.actions.end_overdue()

    return run


def start(agent: Agent) -> None:
    with agent.change() as transaction:
        assert transaction.start_action(make_id(), agent.clock.now())


def test_what_a_worker_starts_under_the_sweep_is_not_said_to_have_expired(
    agent: Agent, under_the_sweep: Callable[[Callable[[], None]], None]
) -> None:
    agent.cast(agent.make_request(agent.make_server(), seconds=30))
    agent.clock.advance(30)
    under_the_sweep(lambda: start(agent))
    assert agent.get(make_id()).state is ActionState.STARTED


def test_a_call_that_comes_back_under_the_sweep_is_not_late(agent: Agent, under_the_sweep: Callable[[Callable[[], None]], None]) -> None:
    agent.cast(agent.make_request(agent.make_server(), seconds=30))
    start(agent)
    agent.clock.advance(30 + agent.driver.call_bound)

    def come_back() -> None:
        with agent.change() as transaction:
            assert transaction.end_action(make_id(), make_result(Code.SIGNAL_DELIVERED), agent.clock.now())

    under_the_sweep(come_back)
    assert (agent.code(make_id()), agent.actions.late_returns) == (Code.SIGNAL_DELIVERED, 0)


@pytest.mark.parametrize("is_begun", [True, False])
def test_what_the_sweep_ends_while_its_call_hangs_takes_no_turn_of_others(agent: Agent, is_begun: bool) -> None:
    server, counts = agent.make_server(), []

    def hang() -> None:
        agent.clock.advance(30 + agent.driver.call_bound)
        agent.actions.end_overdue()
        counts.append(agent.queue.count_given_up())

    if is_begun:
        agent.hypervisor.behave(server, answer_late(hang))
    else:
        agent.use_driver(replace(agent.driver, servers=UnreadableServers(agent, meanwhile=hang)))
    agent.do(agent.make_request(server, seconds=30))
    assert agent.code(make_id()) == (Code.CALL_OVERDUE if is_begun else Code.DEADLINE_PASSED)
    assert (counts, agent.queue.count_given_up()) == ([1], 0)


def test_after_a_call_was_given_up_the_hold_off_counts_from_then(agent: Agent) -> None:
    """The agent may die before the call comes back: until the sweep ended it the signal may have gone out."""
    server = agent.make_server()
    agent.cast(agent.make_request(server, seconds=30))
    start(agent)
    agent.clock.advance(30 + agent.driver.call_bound)
    agent.actions.end_overdue()
    agent.clock.advance(HOLDOFF - 1)
    agent.do(agent.make_request(server, 2))
    assert agent.code(make_id(2)) == Code.CRASH_DUMP_IN_PROGRESS
    agent.clock.advance(1)
    agent.do(agent.make_request(server, 3))
    assert agent.code(make_id(3)) == Code.SIGNAL_DELIVERED


def test_after_a_restart_the_hold_off_of_what_was_begun_counts_from_then(agent: Agent) -> None:
    """Nobody knows until when the dead agent's call may have gone out."""
    server = agent.make_server()
    agent.cast(agent.make_request(server, seconds=HOLDOFF))
    start(agent)
    agent.clock.advance(HOLDOFF - 1)
    agent.restart()
    agent.clock.advance(HOLDOFF - 1)
    agent.do(agent.make_request(server, 2))
    assert agent.code(make_id(2)) == Code.CRASH_DUMP_IN_PROGRESS


def test_what_a_dead_agent_had_begun_and_may_be_done_again_is_begun_anew(agent: Agent) -> None:
    server = agent.make_server()
    agent.do(agent.make_request(server, 2, kind=ActionKind.COLLECT_DIAGNOSTICS))
    agent.cast(agent.make_request(server, kind=ActionKind.COLLECT_DIAGNOSTICS))
    start(agent)
    agent.cast(agent.make_request(server, 3, kind=ActionKind.COLLECT_DIAGNOSTICS))
    assert agent.restart() == [make_id(1), make_id(3)], "what is open, once each, in order"
    agent.actions.run(make_id())
    assert agent.code(make_id()) == Code.DIAGNOSTICS_COLLECTED


def test_what_runs_already_is_not_begun_a_second_time_though_it_may_be_done_again(agent: Agent) -> None:
    agent.cast(agent.make_request(agent.make_server(), kind=ActionKind.COLLECT_DIAGNOSTICS))
    start(agent)
    agent.actions.run(make_id())
    assert agent.get(make_id()).state is ActionState.STARTED


def change_later(agent: Agent, reasons: Sequence[str]) -> None:
    """A watchdog's change of which one step after the other has no answer."""
    server = make_watched(agent, RESET)
    for number, reason in enumerate(reasons):
        agent.hypervisor.behave(server, lose_request(reason), call=Call.DETACH_WATCHDOG)
        if number == 0:
            agent.do(ask(agent, server, PAUSE))
        else:
            agent.clock.advance(2)
            sweep(agent)
        assert agent.get(make_id()).state is ActionState.STARTED


def test_what_waited_is_no_longer_due_after_its_ending(agent: Agent) -> None:
    change_later(agent, ["no answer"])
    agent.clock.advance(2)
    assert agent.actions.list_due() == [make_id()]
    sweep(agent)
    assert agent.code(make_id()) == Code.WATCHDOG_SET
    agent.clock.advance(2)
    assert agent.actions.list_due() == []


def test_why_an_action_waits_is_logged_once_for_each_reason_and_not_at_each_try(agent: Agent, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "compute_agent.actions")
    change_later(agent, ["slow", "slow", "away", "away", "slow"])
    assert [message.rpartition(" ")[2] for message in caplog.messages if "waits" in message] == ["slow", "away", "slow"]


def test_what_an_agent_found_begun_is_unknown_too_when_it_never_comes_to_an_end(agent: Agent) -> None:
    change_later(agent, ["no answer"])
    assert agent.restart() == [make_id()]
    agent.hypervisor.behave(agent.get(make_id()).request.server, lose_request("still none"), call=Call.DETACH_WATCHDOG)
    agent.actions.run(make_id())
    agent.clock.advance(3600)
    agent.actions.end_overdue()
    result = agent.get(make_id()).result
    assert result is not None
    assert (result.code, result.reason.endswith("Last: still none")) == (Code.ANSWER_LOST, True)


def test_each_call_that_comes_back_late_is_counted(agent: Agent) -> None:
    def come_back_late() -> None:
        agent.clock.advance(30 + agent.driver.call_bound)
        agent.actions.end_overdue()

    for number in (1, 2):
        server = agent.make_server()
        agent.hypervisor.behave(server, answer_late(come_back_late))
        agent.do(agent.make_request(server, number, seconds=30))
    assert agent.actions.late_returns == 2


def test_what_an_agent_finds_begun_after_long_is_tried_for_as_long_as_any_call_may_take(agent: Agent) -> None:
    server = make_watched(agent, RESET)
    break_driver(agent, OutcomeUnknown(None, "no answer"))
    agent.do(ask(agent, server, PAUSE))
    agent.clock.advance(3600)
    assert agent.restart() == [make_id()]
    agent.actions.run(make_id())
    agent.actions.end_overdue()
    assert agent.get(make_id()).state is ActionState.STARTED


def test_what_the_sweep_ended_under_a_try_that_failed_is_not_tried_for_ever(agent: Agent) -> None:
    server = make_watched(agent, RESET)

    def end_meanwhile(deliver: Callable[[], None]) -> None:
        agent.clock.advance(3600)
        agent.actions.end_overdue()
        agent.hypervisor.lose_backend()
        raise OutcomeUnknown(None, "no answer")

    agent.hypervisor.behave(server, end_meanwhile, call=Call.DETACH_WATCHDOG)
    assert agent.do(ask(agent, server, PAUSE)).state is ActionState.ENDED
    agent.clock.advance(2)
    sweep(agent)
    assert agent.actions.list_due() == []


def test_an_ending_that_was_written_late_is_written_once(agent: Agent) -> None:
    server, moved = agent.make_server(), agent.path.with_suffix(".aside")
    agent.cast(agent.make_request(server))
    agent.hypervisor.behave(server, answer_late(lambda: agent.path.rename(moved)))
    with pytest.raises(JournalUnusable):
        agent.work()
    moved.rename(agent.path)
    for _ in range(3):
        agent.actions.end_overdue()
    assert (agent.code(make_id()), agent.actions.late_returns) == (Code.SIGNAL_DELIVERED, 0)
