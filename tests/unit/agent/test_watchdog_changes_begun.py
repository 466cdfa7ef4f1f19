"""A change of a watchdog that is begun: it is gone on with, taken back, or given up, and what the ending says of it."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from compute_agent.contract.errors import Code, Ending
from compute_agent.contract.watchdogs import Watchdog, WatchdogDevice, WatchdogModel
from compute_agent.drivers.base import Watchdogs
from compute_agent.drivers.errors import BackendUnavailable, OutcomeUnknown
from compute_agent.drivers.fake_behaviours import go_away, ignore_request, lose_answer, refuse
from compute_agent.drivers.fake_server import Call
from compute_agent.journal import ActionState
from tests.unit.agent.action_parts import Agent, make_id
from tests.unit.agent.watchdog_parts import (
    PAUSE,
    RESET,
    ask,
    count_begun,
    do,
    find_wanted,
    forbid_changes,
    get_devices,
    make_watched,
    recover,
    sweep,
)

NO = BackendUnavailable(None, "no more slots", Code.WATCHDOG_NOT_CHANGED)


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Agent]:
    agent = Agent(tmp_path / "journal.sqlite")
    yield agent
    agent.journal.close()


@pytest.mark.parametrize("call", [Call.DETACH_WATCHDOG, Call.ATTACH_WATCHDOG, Call.CONFIGURE_WATCHDOG])
def test_a_step_that_is_refused_ends_with_the_former_device_and_says_so(agent: Agent, call: Call) -> None:
    server = make_watched(agent, RESET)
    agent.hypervisor.behave(server, refuse(NO), call=call)
    code, reason = do(agent, server, PAUSE)
    assert code is Code.WATCHDOG_NOT_CHANGED
    assert reason.startswith("no more slots")
    assert reason.endswith("The server has i6300esb with the expiry action reset.")
    assert get_devices(agent, server) == (RESET, RESET)
    assert find_wanted(agent, server) is None


def test_a_guest_that_does_not_let_go_keeps_its_device(agent: Agent) -> None:
    server = make_watched(agent, RESET)
    agent.hypervisor.behave(server, ignore_request, call=Call.DETACH_WATCHDOG)
    assert do(agent, server, None)[0] is Code.WATCHDOG_NOT_CHANGED
    assert get_devices(agent, server) == (RESET, RESET)


def test_an_answer_that_was_lost_is_looked_for_in_the_device(agent: Agent) -> None:
    server = make_watched(agent, RESET)
    agent.hypervisor.behave(server, lose_answer(), call=Call.CONFIGURE_WATCHDOG)
    assert do(agent, server, PAUSE)[0] is Code.WATCHDOG_SET


def test_what_is_configured_and_could_be_live_is_half_done_after_an_answer_that_was_lost(agent: Agent) -> None:
    """A platform may write the configuration first."""
    server = make_watched(agent, RESET)

    def configure_only(deliver: object) -> None:
        agent.hypervisor.change_device(server, configured=PAUSE, live=RESET)
        raise OutcomeUnknown(None, "no answer")

    agent.hypervisor.behave(server, configure_only, call=Call.DETACH_WATCHDOG)
    assert agent.do(ask(agent, server, PAUSE)).state is ActionState.STARTED
    agent.clock.advance(2)
    sweep(agent)
    assert agent.code(make_id()) == Code.WATCHDOG_SET
    assert get_devices(agent, server) == (PAUSE, PAUSE)


class Broken(Watchdogs):
    """Fails with ``error`` when a watchdog is to be set, and does nothing before it does."""

    def __init__(self, inner: Watchdogs, error: Exception) -> None:
        self._inner = inner
        self.error: Exception | None = error

    def list_models(self) -> Sequence[WatchdogModel]:
        return self._inner.list_models()

    def get_watchdog(self, server: str) -> Watchdog:
        return self._inner.get_watchdog(server)

    def set_watchdog(self, server: str, device: WatchdogDevice) -> Watchdog:
        if self.error is not None:
            raise self.error
        return self._inner.set_watchdog(server, device)

    def remove_watchdog(self, server: str) -> Watchdog:
        return self._inner.remove_watchdog(server)


def break_driver(agent: Agent, error: Exception) -> Broken:
    assert agent.driver.watchdog is not None
    broken = Broken(agent.driver.watchdog, error)
    agent.use_driver(replace(agent.driver, watchdog=broken))
    return broken


@pytest.mark.parametrize("error", [RuntimeError("library broke"), OutcomeUnknown(None, "no answer")])
def test_after_a_call_of_which_nobody_knows_how_far_it_came_it_is_made_again(agent: Agent, error: Exception) -> None:
    server = make_watched(agent, RESET)
    broken = break_driver(agent, error)
    action = agent.do(ask(agent, server, PAUSE))
    assert action.state is ActionState.STARTED
    broken.error = None
    sweep(agent)
    assert agent.get(make_id()).state is ActionState.STARTED, "not at once"
    agent.clock.advance(2)
    sweep(agent)
    assert agent.code(make_id()) == Code.WATCHDOG_SET
    assert get_devices(agent, server) == (PAUSE, PAUSE)
    assert len(agent.list_events("action.started")) == 1
    assert len(agent.list_events("action.ended")) == 1


def test_what_can_never_be_brought_to_an_end_is_unknown_and_says_what_was_last_seen(agent: Agent) -> None:
    server = make_watched(agent, RESET)
    break_driver(agent, OutcomeUnknown(None, "no answer"))
    agent.do(ask(agent, server, PAUSE, seconds=30))
    for _ in range(20):
        agent.clock.advance(2.1)
        sweep(agent)
    result = agent.get(make_id()).result
    assert result is not None
    assert (result.ending, result.code) == (Ending.UNKNOWN, Code.ANSWER_LOST)
    assert "the former watchdog could not be put back: no answer" in result.reason
    assert not count_begun(agent)


def test_after_an_unknown_change_nobody_is_blamed_for_what_the_server_has(agent: Agent) -> None:
    server = make_watched(agent)
    do(agent, server, RESET)
    break_driver(agent, OutcomeUnknown(None, "no answer"))
    agent.do(ask(agent, server, PAUSE, 2, seconds=30))
    for _ in range(20):
        agent.clock.advance(2.1)
        sweep(agent)
    assert agent.code(make_id(2)) == Code.ANSWER_LOST
    assert find_wanted(agent, server) is None


def test_a_change_that_is_begun_survives_its_hypervisors_absence_and_is_finished_in_time(agent: Agent) -> None:
    server = make_watched(agent, RESET)
    agent.hypervisor.behave(server, go_away(agent.hypervisor.lose_backend), call=Call.ATTACH_WATCHDOG)
    assert agent.do(ask(agent, server, PAUSE)).state is ActionState.STARTED
    agent.clock.advance(10)
    sweep(agent)
    agent.hypervisor.restore_backend()
    assert get_devices(agent, server) == (RESET, None), "half done"
    agent.clock.advance(2)
    sweep(agent)
    assert agent.code(make_id()) == Code.WATCHDOG_SET
    assert get_devices(agent, server) == (PAUSE, PAUSE)


def test_after_its_deadline_the_former_device_is_put_back_however_long_the_hypervisor_was_away(agent: Agent) -> None:
    server = make_watched(agent, RESET)
    agent.hypervisor.behave(server, go_away(agent.hypervisor.lose_backend), call=Call.ATTACH_WATCHDOG)
    agent.do(ask(agent, server, PAUSE, seconds=30))
    for _ in range(100):
        agent.clock.advance(2)
        sweep(agent)
    assert agent.get(make_id()).state is ActionState.STARTED
    agent.hypervisor.restore_backend()
    agent.clock.advance(2)
    sweep(agent)
    result = agent.get(make_id()).result
    assert result is not None
    assert result.code is Code.WATCHDOG_NOT_CHANGED
    assert result.reason == "The deadline passed. The server has i6300esb with the expiry action reset."
    assert get_devices(agent, server) == (RESET, RESET)


def test_what_was_asked_for_and_is_there_after_the_deadline_succeeded(agent: Agent) -> None:
    server = make_watched(agent, RESET)
    agent.hypervisor.behave(server, go_away(agent.hypervisor.lose_backend, delivered=True), call=Call.CONFIGURE_WATCHDOG)
    agent.do(ask(agent, server, PAUSE, seconds=30))
    agent.clock.advance(31)
    agent.hypervisor.restore_backend()
    sweep(agent)
    assert agent.code(make_id()) == Code.WATCHDOG_SET
    assert find_wanted(agent, server) == (PAUSE,)


def test_the_former_device_is_the_first_one_however_often_the_agent_dies(agent: Agent) -> None:
    server = make_watched(agent, RESET)
    agent.hypervisor.behave(server, go_away(agent.hypervisor.lose_backend), call=Call.ATTACH_WATCHDOG)
    agent.do(ask(agent, server, PAUSE, seconds=30))
    agent.hypervisor.restore_backend()
    agent.hypervisor.behave(server, refuse(NO), call=Call.ATTACH_WATCHDOG)
    recover(agent)
    assert agent.code(make_id()) == Code.WATCHDOG_NOT_CHANGED
    assert get_devices(agent, server) == (RESET, RESET)


def test_a_begun_change_that_nobody_could_go_on_with_yet_is_not_given_up(agent: Agent) -> None:
    """No worker runs before the broker is there, and that may take long."""
    server = make_watched(agent, RESET)
    agent.hypervisor.behave(server, go_away(agent.hypervisor.lose_backend), call=Call.ATTACH_WATCHDOG)
    agent.do(ask(agent, server, PAUSE, seconds=30))
    agent.hypervisor.restore_backend()
    waiting = agent.restart()
    agent.clock.advance(3600)
    agent.actions.end_overdue()
    agent.queue.add(server, *waiting)
    agent.work()
    assert agent.code(make_id()) == Code.WATCHDOG_NOT_CHANGED
    assert get_devices(agent, server) == (RESET, RESET)


def test_a_server_that_left_while_its_change_was_begun_ends_it(agent: Agent) -> None:
    server = make_watched(agent, RESET)
    agent.hypervisor.behave(server, go_away(agent.hypervisor.lose_backend), call=Call.ATTACH_WATCHDOG)
    agent.do(ask(agent, server, PAUSE))
    agent.hypervisor.restore_backend()
    agent.hypervisor.remove(server)
    agent.clock.advance(2)
    sweep(agent)
    assert agent.code(make_id()) == Code.SERVER_NOT_FOUND


def test_the_next_change_of_a_server_waits_for_the_one_that_is_begun(agent: Agent) -> None:
    """It would be overwritten by it otherwise."""
    server = make_watched(agent, RESET)
    agent.hypervisor.behave(server, go_away(agent.hypervisor.lose_backend), call=Call.ATTACH_WATCHDOG)
    agent.do(ask(agent, server, PAUSE, 1))
    agent.hypervisor.restore_backend()
    assert agent.do(ask(agent, server, None, 2)).state is ActionState.RECEIVED
    agent.clock.advance(2)
    for _ in range(2):
        sweep(agent)
    assert (agent.code(make_id(1)), agent.code(make_id(2))) == (Code.WATCHDOG_SET, Code.WATCHDOG_REMOVED)
    assert get_devices(agent, server) == (None, None)


def test_what_waits_for_another_change_expires_with_nothing_changed(agent: Agent) -> None:
    server = make_watched(agent, RESET)
    agent.hypervisor.behave(server, go_away(agent.hypervisor.lose_backend), call=Call.ATTACH_WATCHDOG)
    agent.do(ask(agent, server, PAUSE, 1, seconds=30))
    agent.hypervisor.restore_backend()
    agent.do(ask(agent, server, None, 2, seconds=1))
    agent.clock.advance(1)
    agent.actions.end_overdue()
    assert agent.code(make_id(2)) == Code.DEADLINE_PASSED
    assert agent.actions.list_due() == []


def test_a_deadline_that_passes_right_before_the_call_changes_nothing(agent: Agent) -> None:
    server = make_watched(agent, RESET)
    forbid_changes(agent, server)
    request = ask(agent, server, PAUSE, seconds=5)
    agent.cast(request)
    with agent.change() as transaction:
        former = agent.hypervisor.get_server(server).watchdog
        assert former is not None
        transaction.begin_watchdog_change(request.id, former, agent.clock.now())
        transaction.start_action(request.id, agent.clock.now())
    agent.clock.advance(5)
    agent.work()
    assert agent.code(make_id()) == Code.WATCHDOG_NOT_CHANGED


def test_a_call_that_hangs_is_unknown_once_the_former_device_could_have_been_put_back_too(agent: Agent) -> None:
    server = make_watched(agent, RESET)
    request = ask(agent, server, PAUSE, seconds=10)
    agent.cast(request)
    with agent.change() as transaction:
        transaction.start_action(request.id, agent.clock.now())
    agent.clock.advance(10 + 2 * agent.driver.call_bound - 0.1)
    agent.actions.end_overdue()
    assert agent.get(make_id()).state is ActionState.STARTED
    agent.clock.advance(0.1)
    agent.actions.end_overdue()
    assert agent.code(make_id()) == Code.CALL_OVERDUE
