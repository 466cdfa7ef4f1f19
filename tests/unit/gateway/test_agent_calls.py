"""Questions to agents: nobody is asked in vain again and again, and there are never more questions than allowed."""

from collections.abc import Callable

import pytest

from api_gateway.agent_calls import PAUSE_SECONDS, AgentCalls, NoAnswer
from compute_agent.contract.diagnostics import DiagnosticsReply
from compute_agent.contract.models import BlackBoxChunk
from compute_agent.contract.question_line import BrokerAway, NoReply
from tests.fakes import FakeClock
from tests.http.answering_agents import build_report

SERVER = "11111111-2222-4333-8444-555555555555"
LIMIT = 3.0


class Agents:
    """Answers as it is told."""

    def __init__(self, clock: FakeClock) -> None:
        self.reply = DiagnosticsReply(report=build_report(clock, SERVER))
        self.asked: list[str] = []
        self.timeouts: list[float] = []
        self.error: Exception | None = None
        self.during: Callable[[], None] = lambda: None

    def get_diagnostics(self, host: str, server: str, *, timeout: float, history: bool = False) -> DiagnosticsReply:
        self.asked.append(host)
        self.timeouts.append(timeout)
        self.during()
        if self.error is not None:
            raise self.error
        return self.reply

    def get_black_box(self, host: str, black_box_id: str, part: str, *, offset: int, timeout: float) -> BlackBoxChunk:
        return BlackBoxChunk(total=offset)


@pytest.fixture
def agents(clock: FakeClock) -> Agents:
    return Agents(clock)


def create(agents: Agents, clock: FakeClock, *, most: int = 2) -> AgentCalls:
    return AgentCalls(lambda: agents, most=most, limit=LIMIT, monotonic=clock.monotonic)


def refuse(calls: AgentCalls, host: str, match: str) -> None:
    with pytest.raises(NoAnswer, match=match):
        calls.get_diagnostics(host, SERVER)


def test_an_answer_is_handed_over(agents: Agents, clock: FakeClock) -> None:
    calls = create(agents, clock)

    assert calls.get_diagnostics("a", SERVER) == agents.reply
    assert calls.get_black_box("a", "box", "part", offset=7) == BlackBoxChunk(total=7)
    assert agents.timeouts == [LIMIT]


def test_nothing_is_connected_before_the_first_question() -> None:
    AgentCalls(lambda: pytest.fail("connected"), most=2, limit=LIMIT)


def test_while_the_broker_is_away_others_are_refused_at_once_and_now_and_then_one_tries(agents: Agents, clock: FakeClock) -> None:
    calls = create(agents, clock)
    agents.error = BrokerAway("frozen")

    refuse(calls, "a", "could not be asked: the message broker is away or in alarm")
    for host in ("a", "b") * 50:
        refuse(calls, host, "No agent can be asked")
    assert agents.asked == ["a"]
    clock.advance(PAUSE_SECONDS)
    agents.during = lambda: refuse(calls, "b", "No agent can be asked")  # one that tries is enough
    refuse(calls, "a", "could not be asked")
    refuse(calls, "a", "No agent can be asked")
    assert agents.asked == ["a", "a"]


def test_when_the_broker_is_back_all_are_asked_again(agents: Agents, clock: FakeClock) -> None:
    calls = create(agents, clock)
    agents.error = BrokerAway("frozen")
    refuse(calls, "a", "away")

    agents.error = None
    clock.advance(PAUSE_SECONDS)
    for host in ("a", "b", "a"):
        assert calls.get_diagnostics(host, SERVER) == agents.reply


def test_one_more_than_may_be_under_way_is_refused_at_once(agents: Agents, clock: FakeClock) -> None:
    calls = create(agents, clock, most=1)
    agents.during = lambda: refuse(calls, "b", r"as may be at a time \(1\)")

    calls.get_diagnostics("a", SERVER)

    agents.during = lambda: None
    assert calls.get_diagnostics("b", SERVER) == agents.reply
    assert agents.asked == ["a", "b"]


def test_a_host_that_did_not_answer_is_left_alone_for_a_moment(agents: Agents, clock: FakeClock) -> None:
    calls = create(agents, clock)
    agents.error = NoReply("no answer")
    refuse(calls, "a", "gave no answer within 3 s")
    agents.error = None

    refuse(calls, "a", "did not answer a moment ago")
    assert calls.get_diagnostics("b", SERVER) == agents.reply
    clock.advance(PAUSE_SECONDS)
    assert calls.get_diagnostics("a", SERVER) == agents.reply


def test_a_host_that_refused_is_asked_again_at_once(agents: Agents, clock: FakeClock) -> None:
    calls = create(agents, clock)
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

    calls = AgentCalls(connect, most=1, limit=LIMIT, monotonic=clock.monotonic)
    with pytest.raises(NoAnswer):
        calls.get_diagnostics("a", SERVER)

    assert calls.get_diagnostics("a", SERVER) == agents.reply
    assert calls.get_diagnostics("b", SERVER) == agents.reply
