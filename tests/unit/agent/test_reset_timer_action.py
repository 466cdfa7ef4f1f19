"""A watchdog is fed from outside: as often as asked, never of a server that is off, and never said to be done when that is not certain."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from compute_agent.contract.errors import Code
from compute_agent.contract.models import ActionKind, PowerState
from compute_agent.drivers.base import WatchdogTimer
from compute_agent.drivers.errors import BackendUnavailable, DriverError, OutcomeUnknown, ServerNotRunning, ServerUnsupported
from compute_agent.drivers.fake_backend import COUNTDOWN
from compute_agent.drivers.models import DriverEvent, DriverEventKind
from compute_agent.journal import ActionState
from tests.unit.agent.action_parts import Agent, make_id
from tests.unit.agent.watchdog_parts import RESET, make_watched, recover, sweep


@dataclass
class Timer(WatchdogTimer):
    """Notes which servers were fed; ``errors`` are raised instead, one each."""

    fed: list[str] = field(default_factory=list)
    errors: list[Exception] = field(default_factory=list)

    def reset_timer(self, server: str) -> None:
        if self.errors:
            raise self.errors.pop(0)
        self.fed.append(server)


@pytest.fixture
def timer() -> Timer:
    return Timer()


@pytest.fixture
def agent(tmp_path: Path, timer: Timer) -> Iterator[Agent]:
    agent = Agent(tmp_path / "journal.sqlite")
    agent.use_driver(replace(agent.driver, watchdog_timer=timer))
    yield agent
    agent.journal.close()


def feed(agent: Agent, power_state: PowerState = PowerState.RUNNING, number: int = 1) -> str:
    server = agent.make_server(power_state=power_state)
    agent.do(agent.make_request(server, number, kind=ActionKind.RESET_WATCHDOG_TIMER))
    return server


def begin(agent: Agent) -> str:
    """An agent died between its ``started`` and the driver's answer."""
    server = agent.make_server()
    agent.cast(agent.make_request(server, kind=ActionKind.RESET_WATCHDOG_TIMER))
    with agent.change() as transaction:
        transaction.start_action(make_id(), agent.clock.now())
    return server


def get_reason(agent: Agent) -> str:
    result = agent.get(make_id()).result
    assert result is not None
    return result.reason


@pytest.mark.parametrize("power_state", [state for state in PowerState if state is not PowerState.SHUTDOWN])
def test_a_watchdog_is_fed_whatever_state_its_server_is_in_unless_it_is_off(agent: Agent, timer: Timer, power_state: PowerState) -> None:
    server = feed(agent, power_state)
    assert (agent.code(make_id()), timer.fed) == (Code.WATCHDOG_TIMER_RESET, [server])


def test_the_watchdog_of_a_server_that_is_off_is_left_alone(agent: Agent, timer: Timer) -> None:
    feed(agent, PowerState.SHUTDOWN)
    assert (agent.code(make_id()), timer.fed) == (Code.SERVER_NOT_RUNNING, [])


def test_each_request_feeds_it_once(agent: Agent, timer: Timer) -> None:
    server = agent.make_server()
    for number in (1, 2, 2):
        agent.do(agent.make_request(server, number, kind=ActionKind.RESET_WATCHDOG_TIMER))
    assert timer.fed == [server, server]


def test_a_driver_that_cannot_feed_is_not_asked(agent: Agent) -> None:
    agent.use_driver(replace(agent.driver, watchdog_timer=None))
    feed(agent)
    assert (agent.code(make_id()), get_reason(agent)) == (
        Code.NOT_SUPPORTED,
        "The driver fake has no watchdog that is fed from outside; nothing was done.",
    )


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ServerUnsupported("s", "it has none"), Code.NOT_SUPPORTED),
        (ServerNotRunning("s", "it is off"), Code.SERVER_NOT_RUNNING),
        (BackendUnavailable(None, "no answer"), Code.BACKEND_UNAVAILABLE),
        (BackendUnavailable(None, "wrong password", Code.FORBIDDEN), Code.FORBIDDEN),
        (OutcomeUnknown("s", "no answer"), Code.ANSWER_LOST),
    ],
)
def test_it_ends_as_the_driver_says(agent: Agent, timer: Timer, error: DriverError, code: Code) -> None:
    timer.errors.append(error)
    feed(agent)
    assert (agent.code(make_id()), timer.fed) == (code, [])


def test_a_driver_that_fails_as_none_may_leaves_it_unknown_and_says_nothing_of_an_nmi(agent: Agent, timer: Timer) -> None:
    timer.errors.append(RuntimeError("broken"))
    feed(agent)
    assert agent.code(make_id()) == Code.DRIVER_FAULT
    assert "NMI" not in get_reason(agent)


def test_what_a_dead_agent_had_begun_is_done_again(agent: Agent, timer: Timer) -> None:
    server = begin(agent)
    recover(agent)
    assert (agent.code(make_id()), timer.fed) == (Code.WATCHDOG_TIMER_RESET, [server])


def test_what_was_begun_waits_for_its_backend(agent: Agent, timer: Timer) -> None:
    server = begin(agent)
    timer.errors.append(BackendUnavailable(None, "away"))
    recover(agent)
    assert agent.get(make_id()).state is ActionState.STARTED
    agent.clock.advance(2)
    agent.hypervisor.lose_backend()
    sweep(agent)
    assert agent.get(make_id()).state is ActionState.STARTED
    agent.clock.advance(2)
    agent.hypervisor.restore_backend()
    sweep(agent)
    assert (agent.code(make_id()), timer.fed) == (Code.WATCHDOG_TIMER_RESET, [server])


@pytest.mark.parametrize("is_away", [False, True])
def test_what_was_begun_is_unknown_after_its_deadline_and_not_done_any_more(agent: Agent, timer: Timer, is_away: bool) -> None:
    begin(agent)
    if is_away:
        agent.hypervisor.lose_backend()
        recover(agent)
    agent.clock.advance(31)
    recover(agent)
    assert (agent.code(make_id()), timer.fed) == (Code.AGENT_RESTARTED, [])
    assert get_reason(agent).endswith("the watchdog was perhaps fed then. Now: The deadline passed and the watchdog was not fed.")


@pytest.mark.parametrize("is_off", [True, False])
def test_a_refusal_does_not_undo_what_was_begun(agent: Agent, timer: Timer, is_off: bool) -> None:
    server = begin(agent)
    if is_off:
        agent.hypervisor.stop(server)
    else:
        timer.errors.append(ServerUnsupported(server, "it has none"))
    recover(agent)
    assert (agent.code(make_id()), timer.fed) == (Code.AGENT_RESTARTED, [])
    assert "perhaps fed then. Now: " in get_reason(agent)


def test_a_watchdog_that_is_fed_in_time_does_not_fire_and_one_that_is_not_does(agent: Agent) -> None:
    agent.use_driver(agent.hypervisor.driver)
    events: list[DriverEvent] = []
    agent.hypervisor.subscribe(events.append)
    agent.hypervisor.open()
    server = make_watched(agent, RESET)

    def pass_time(seconds: float) -> bool:
        agent.clock.advance(seconds)
        agent.hypervisor.run_timers()
        return any(event.kind is DriverEventKind.WATCHDOG_FIRED for event in events)

    assert not pass_time(COUNTDOWN * 2), "it counts before anybody fed it"
    for number in (1, 2, 3):
        agent.do(agent.make_request(server, number, kind=ActionKind.RESET_WATCHDOG_TIMER))
        assert not pass_time(COUNTDOWN * 0.9)
    assert pass_time(COUNTDOWN)
