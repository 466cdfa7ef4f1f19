"""A kill before and after every commit of a watchdog's change, and at every step of the driver: the old device or the new one, never none,
and one ending that says which."""

from pathlib import Path

import pytest

from compute_agent.contract.errors import CODES, Code, Ending
from compute_agent.contract.watchdogs import WatchdogDevice
from compute_agent.drivers.errors import BackendUnavailable
from compute_agent.drivers.fake_behaviours import break_down, refuse
from compute_agent.drivers.fake_server import Call
from compute_agent.journal import ActionState
from tests.unit.agent.action_parts import Agent, Crash, make_id
from tests.unit.agent.watchdog_parts import ISA, PAUSE, RESET, ask, count_begun, find_wanted, get_devices, make_watched, recover, sweep

MOST_COMMITS = 11
"""More than one life of a change has, reads included; the tests check that."""
STEPS = (Call.DETACH_WATCHDOG, Call.ATTACH_WATCHDOG, Call.CONFIGURE_WATCHDOG)
DEADLINE = 30.0


def live(agent: Agent, server: str, device: WatchdogDevice | None) -> None:
    """One life: cast, work, the sweep, and the same cast once more."""
    request = ask(agent, server, device, seconds=DEADLINE)
    agent.cast(request)
    agent.work()
    sweep(agent)
    agent.cast(request)


def settle(agent: Agent, server: str, device: WatchdogDevice | None) -> None:
    """A new agent does what is left; the gateway, which has heard nothing, casts again if it still may."""
    recover(agent)
    if agent.clock.now() < ask(agent, server, device, seconds=DEADLINE).deadline:
        agent.cast(ask(agent, server, device, seconds=DEADLINE))
    agent.work()
    sweep(agent)


def check_end(agent: Agent, server: str, former: WatchdogDevice | None, wanted: WatchdogDevice | None) -> None:
    """The device is the former or the wanted one, live and configured, and the one ending says which."""
    action = agent.get(make_id())
    assert action.state is ActionState.ENDED
    assert action.result is not None
    assert action.result.ending in (Ending.SUCCEEDED, Ending.FAILED, Ending.EXPIRED)
    is_done = action.result.ending is Ending.SUCCEEDED
    device = wanted if is_done else former
    is_cold = ISA in (former, wanted)
    assert get_devices(agent, server) == (device, former if is_cold else device), action.result
    assert find_wanted(agent, server) == ((wanted,) if is_done else None)
    assert not count_begun(agent)
    assert len(agent.list_events("action.received")) == 1
    assert len(agent.list_events("action.ended")) == 1
    assert agent.list_events("action.ended")[0].payload["ending"] == CODES[Code(action.result.code)].ending


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("crash_at", range(MOST_COMMITS))
@pytest.mark.parametrize(("former", "wanted", "late"), [(RESET, PAUSE, False), (RESET, PAUSE, True), (RESET, ISA, False)])
def test_after_a_kill_beside_any_commit_the_device_is_the_old_or_the_new_one_and_the_ending_says_which(
    tmp_path: Path, former: WatchdogDevice | None, wanted: WatchdogDevice | None, crash_at: int, after: bool, late: bool
) -> None:
    agent = Agent(tmp_path / "journal.sqlite")
    server = make_watched(agent, former)
    agent.journal.crash_at, agent.journal.crash_after_commit = agent.journal.commits + crash_at, after
    try:
        live(agent, server, wanted)
    except Crash:
        if late:
            agent.clock.advance(DEADLINE)
    else:
        assert crash_at >= 8
        agent.journal.close()
        return
    settle(agent, server, wanted)
    check_end(agent, server, former, wanted)
    agent.journal.close()


@pytest.mark.parametrize(("then_refused", "late"), [(False, False), (True, False), (False, True)])
@pytest.mark.parametrize("delivered", [False, True])
@pytest.mark.parametrize(
    ("former", "wanted", "step"),
    [
        *((RESET, PAUSE, step) for step in STEPS),
        (RESET, None, Call.DETACH_WATCHDOG),
        (RESET, None, Call.CONFIGURE_WATCHDOG),
        (None, RESET, Call.ATTACH_WATCHDOG),
    ],
)
def test_after_a_kill_at_any_step_of_the_driver_so_it_is_too(
    tmp_path: Path,
    former: WatchdogDevice | None,
    wanted: WatchdogDevice | None,
    step: Call,
    delivered: bool,
    then_refused: bool,
    late: bool,
) -> None:
    """Also where the next agent cannot go on, and where it comes too late to."""
    agent = Agent(tmp_path / "journal.sqlite")
    server = make_watched(agent, former)
    agent.hypervisor.behave(server, break_down(Crash("in the driver"), delivered=delivered), call=step)
    with pytest.raises(Crash):
        live(agent, server, wanted)
    if then_refused:
        for call in STEPS:
            agent.hypervisor.behave(server, refuse(BackendUnavailable(None, "no", Code.WATCHDOG_NOT_CHANGED)), call=call)
    if late:
        agent.clock.advance(DEADLINE)
    settle(agent, server, wanted)
    for _ in range(3):
        agent.clock.advance(2.1)
        sweep(agent)
    check_end(agent, server, former, wanted)
    agent.journal.close()


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("crash_at", range(6))
def test_a_kill_while_it_is_brought_to_an_end_is_recovered_from(tmp_path: Path, crash_at: int, after: bool) -> None:
    agent = Agent(tmp_path / "journal.sqlite")
    server = make_watched(agent, RESET)
    agent.hypervisor.behave(server, break_down(Crash("between detach and attach")), call=Call.ATTACH_WATCHDOG)
    with pytest.raises(Crash):
        live(agent, server, PAUSE)
    agent.journal.close()
    agent.start()
    agent.journal.crash_at, agent.journal.crash_after_commit = agent.journal.commits + crash_at, after
    try:
        for action_id in agent.actions.recover():
            agent.queue.add(server, action_id)
        agent.work()
    except Crash:
        settle(agent, server, PAUSE)
    else:
        assert crash_at >= 5
    agent.journal.crash_at = None
    check_end(agent, server, RESET, PAUSE)
    assert get_devices(agent, server) == (PAUSE, PAUSE)
    agent.journal.close()


def test_no_life_has_more_commits_than_were_tried(tmp_path: Path) -> None:
    agent = Agent(tmp_path / "journal.sqlite")
    server = make_watched(agent, RESET)
    before = agent.journal.commits
    live(agent, server, PAUSE)
    assert agent.journal.commits - before <= MOST_COMMITS


def test_a_crash_dump_is_not_gone_on_with_whatever_the_journal_says(tmp_path: Path) -> None:
    """Only kinds that may be repeated are ever begun."""
    agent = Agent(tmp_path / "journal.sqlite")
    server = agent.make_server()
    agent.cast(agent.make_request(server))
    with agent.change() as transaction:
        former = agent.hypervisor.get_server(server).watchdog
        assert former is not None
        transaction.begin_watchdog_change(make_id(), former, agent.clock.now())
        transaction.start_action(make_id(), agent.clock.now())
    agent.work()
    assert agent.restart() == []
    assert agent.code(make_id()) == Code.AGENT_RESTARTED
    assert agent.hypervisor.count_signals(server) == 0
    agent.journal.close()
