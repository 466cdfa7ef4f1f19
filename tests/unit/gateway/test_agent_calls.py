"""Questions to agents: nobody waits longer than the limit, and threads never grow, whatever the broker does."""

import contextlib
import threading
from collections.abc import Callable, Iterator

import pytest

from api_gateway.agent_calls import PAUSE_SECONDS, AgentCalls, NoAnswer
from compute_agent.contract.diagnostics import DiagnosticsReply
from compute_agent.contract.models import BlackBoxChunk
from devstack.services import wait_until
from tests.fakes import FakeClock
from tests.http.answering_agents import build_report

SERVER = "11111111-2222-4333-8444-555555555555"
LIMIT = 0.05
PATIENT = 5.0


class Agents:
    """Answers as it is told; calls to hosts in ``away`` are stuck until ``come_back``."""

    def __init__(self, clock: FakeClock) -> None:
        self.reply = DiagnosticsReply(report=build_report(clock, SERVER))
        self.asked: list[str] = []
        self.timeouts: list[float] = []
        self.away: set[str] = set()
        self.error: Exception | None = None
        self.during: Callable[[], None] = lambda: None
        self.come_back = threading.Event()

    def get_diagnostics(self, host: str, server: str, *, timeout: float, history: bool = False) -> DiagnosticsReply:
        self.asked.append(host)
        self.timeouts.append(timeout)
        if host in self.away:
            assert self.come_back.wait(10)
        self.during()
        if self.error is not None:
            raise self.error
        return self.reply

    def wait_asked(self, times: int) -> None:
        """A call that was given up may be made a moment later."""
        wait_until(lambda: len(self.asked) >= times, 10, "the agents to be asked")

    def get_black_box(self, host: str, black_box_id: str, part: str, *, offset: int, timeout: float) -> BlackBoxChunk:
        return BlackBoxChunk(total=offset)


@pytest.fixture
def agents(clock: FakeClock) -> Iterator[Agents]:
    agents = Agents(clock)
    yield agents
    agents.come_back.set()


def create(agents: Agents, clock: FakeClock, *, threads: int = 2, limit: float = LIMIT) -> AgentCalls:
    return AgentCalls(lambda: agents, threads=threads, limit=limit, monotonic=clock.monotonic)


def count_threads() -> int:
    return sum(thread.name.startswith("agent-call") for thread in threading.enumerate())


def test_an_answer_is_handed_over(agents: Agents, clock: FakeClock) -> None:
    calls = create(agents, clock, limit=PATIENT)

    assert calls.get_diagnostics("a", SERVER) == agents.reply
    assert calls.get_black_box("a", "box", "part", offset=7) == BlackBoxChunk(total=7)


def test_a_call_is_given_less_time_than_who_waits_for_it(agents: Agents, clock: FakeClock) -> None:
    create(agents, clock, limit=PATIENT).get_diagnostics("a", SERVER)

    assert 0 < agents.timeouts[0] < PATIENT


def test_nothing_is_connected_and_no_thread_begins_before_the_first_question(clock: FakeClock) -> None:
    before = count_threads()

    AgentCalls(lambda: pytest.fail("connected"), threads=2, limit=LIMIT)

    assert count_threads() == before


def test_one_after_the_other_takes_one_thread(agents: Agents, clock: FakeClock) -> None:
    before, calls = count_threads(), create(agents, clock, limit=PATIENT)

    for _ in range(20):
        calls.get_diagnostics("a", SERVER)

    assert count_threads() == before + 1


def test_a_stuck_call_holds_nobody_beyond_the_limit_and_its_thread_stays_counted(agents: Agents, clock: FakeClock) -> None:
    before, calls = count_threads(), create(agents, clock)
    agents.away = {"a"}

    with pytest.raises(NoAnswer, match=r"within 0\.05 s: the message broker is away or in alarm"):
        calls.get_diagnostics("a", SERVER)
    for host in ("a", "b") * 50:
        with pytest.raises(NoAnswer, match="the message broker is away"):
            calls.get_diagnostics(host, SERVER)

    agents.wait_asked(1)
    assert agents.asked == ["a"]
    assert count_threads() == before + 1


def test_now_and_then_one_more_tries_until_all_threads_are_stuck(agents: Agents, clock: FakeClock) -> None:
    before, calls = count_threads(), create(agents, clock, threads=2)
    agents.away = {"a", "b"}
    for _ in range(10):
        with pytest.raises(NoAnswer):
            calls.get_diagnostics("a", SERVER)
        clock.advance(PAUSE_SECONDS + 1)

    with pytest.raises(NoAnswer, match=r"as may be at a time \(2\)"):
        calls.get_diagnostics("b", SERVER)

    agents.wait_asked(2)
    assert agents.asked == ["a", "a"]
    assert count_threads() == before + 2


def test_when_the_broker_is_back_all_are_asked_again(agents: Agents, clock: FakeClock) -> None:
    calls = create(agents, clock)
    agents.away = {"a"}
    with pytest.raises(NoAnswer):
        calls.get_diagnostics("a", SERVER)

    agents.come_back.set()
    reply = None
    while reply is None:  # from the moment that the stuck call has returned
        with contextlib.suppress(NoAnswer):
            reply = calls.get_diagnostics("b", SERVER)

    assert reply == agents.reply


def test_a_full_pool_refuses_at_once(agents: Agents, clock: FakeClock) -> None:
    calls = create(agents, clock, threads=1, limit=PATIENT)
    agents.away = {"a"}
    held = threading.Thread(target=lambda: calls.get_diagnostics("a", SERVER))
    held.start()
    while not agents.asked:
        pass

    with pytest.raises(NoAnswer, match="as may be at a time"):
        calls.get_diagnostics("b", SERVER)

    agents.come_back.set()
    held.join(10)
    assert agents.asked == ["a"]


def test_a_host_that_did_not_answer_is_left_alone_for_a_moment(agents: Agents, clock: FakeClock) -> None:
    calls = create(agents, clock, limit=PATIENT)
    agents.error, agents.during = TimeoutError("no answer"), lambda: clock.advance(PATIENT)
    with pytest.raises(NoAnswer, match="gave no answer"):
        calls.get_diagnostics("a", SERVER)
    agents.error, agents.during = None, lambda: None

    with pytest.raises(NoAnswer, match="did not answer a moment ago"):
        calls.get_diagnostics("a", SERVER)
    assert calls.get_diagnostics("b", SERVER) == agents.reply
    clock.advance(PAUSE_SECONDS)
    assert calls.get_diagnostics("a", SERVER) == agents.reply


def test_a_host_that_refused_is_asked_again_at_once(agents: Agents, clock: FakeClock) -> None:
    calls = create(agents, clock, limit=PATIENT)
    agents.error = ValueError("I do not know this method")
    with pytest.raises(NoAnswer) as refused:
        calls.get_diagnostics("a", SERVER)
    agents.error = None

    assert "method" not in str(refused.value)  # what a library says is for the log
    assert calls.get_diagnostics("a", SERVER) == agents.reply


def test_connecting_is_tried_again_when_it_failed(agents: Agents, clock: FakeClock) -> None:
    answers: list[Agents | Exception] = [ValueError("no such driver"), agents]

    def connect() -> Agents:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    calls = AgentCalls(connect, threads=1, limit=PATIENT, monotonic=clock.monotonic)
    with pytest.raises(NoAnswer):
        calls.get_diagnostics("a", SERVER)

    assert calls.get_diagnostics("a", SERVER) == agents.reply
    assert calls.get_diagnostics("b", SERVER) == agents.reply
