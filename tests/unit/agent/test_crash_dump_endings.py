"""What the ending of a crash dump says, and from when on its hold-off counts."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from compute_agent.contract.errors import Code
from compute_agent.contract.models import ActionKind, PowerState
from compute_agent.drivers.errors import OutcomeUnknown
from tests.unit.agent.action_parts import HOLDOFF, HOST, Agent, make_id


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Agent]:
    agent = Agent(tmp_path / "journal.sqlite")
    yield agent
    agent.journal.close()


def get_reason(agent: Agent, number: int = 1) -> str:
    result = agent.get(make_id(number)).result
    assert result is not None
    return result.reason


def test_a_server_that_runs_is_not_said_to_be_paused(agent: Agent) -> None:
    agent.do(agent.make_request(agent.make_server()))
    assert "paused" not in get_reason(agent)


def test_the_refusal_names_the_state_of_the_server(agent: Agent) -> None:
    agent.do(agent.make_request(agent.make_server(power_state=PowerState.CRASHED)))
    assert get_reason(agent) == "The server is crashed; nothing was sent."


def test_the_refusal_names_the_driver_that_cannot(agent: Agent) -> None:
    server = agent.make_server()
    agent.use_driver(replace(agent.driver, nmi=None))
    agent.do(agent.make_request(server))
    assert get_reason(agent) == "The driver fake cannot inject an NMI; nothing was sent."


def test_the_refusal_names_the_host_that_was_meant(agent: Agent) -> None:
    agent.do(agent.make_request(agent.make_server(), host="host-2"))
    assert get_reason(agent) == f"The request names host host-2 and came to {HOST}; nothing was sent."


def test_of_a_lost_journal_each_kind_says_what_was_perhaps_done(agent: Agent) -> None:
    server = agent.make_server()
    agent.cast(agent.make_request(server, journal_id="the-lost-one", kind=ActionKind.RESUME))
    assert (agent.code(make_id()), "resumed" in get_reason(agent)) == (Code.JOURNAL_LOST, True)


def test_a_held_off_crash_dump_is_told_why_and_that_nothing_was_sent(agent: Agent) -> None:
    server = agent.make_server()
    agent.do(agent.make_request(server, 1))
    agent.do(agent.make_request(server, 2))
    assert get_reason(agent, 2).endswith("; a second NMI could ruin it. Nothing was sent.")


def test_the_refusal_names_when_the_signal_was_sent_however_long_the_server_stood_still_since(agent: Agent) -> None:
    server = agent.make_server()
    agent.do(agent.make_request(server, 1))
    sent_at = agent.clock.now()
    agent.clock.advance(100)
    with agent.change() as transaction:
        transaction.discount_pause(server, sent_at + timedelta(seconds=10), agent.clock.now())
    agent.do(agent.make_request(server, 2))
    assert sent_at.isoformat() in get_reason(agent, 2)


def test_while_a_server_is_paused_its_hold_off_stands_still(agent: Agent) -> None:
    server = agent.make_server()
    agent.do(agent.make_request(server, 1))
    agent.clock.advance(HOLDOFF - 1)
    with agent.change() as transaction:
        known = transaction.find_known_server(server)
        assert known is not None
        paused = {"power_state": PowerState.PAUSED, "state_at": agent.clock.now()}
        transaction.put_known_server(known.server.model_copy(update=paused))
    agent.clock.advance(HOLDOFF)
    agent.do(agent.make_request(server, 2))
    assert agent.code(make_id(2)) == Code.CRASH_DUMP_IN_PROGRESS


@pytest.mark.parametrize(("error", "code"), [(OutcomeUnknown(None, "line cut"), Code.ANSWER_LOST), (ValueError("odd"), Code.DRIVER_FAULT)])
def test_after_a_call_that_failed_late_the_hold_off_counts_from_then_and_the_driver_is_quoted(
    agent: Agent, error: Exception, code: Code
) -> None:
    """The signal may have gone out until the call came back."""
    server = agent.make_server()

    def fail_late(deliver: Callable[[], None]) -> None:
        agent.clock.advance(20)
        raise error

    agent.hypervisor.behave(server, fail_late)
    agent.do(agent.make_request(server, 1))
    assert (agent.code(make_id(1)), ("line cut" in get_reason(agent)) or ("ValueError('odd')" in get_reason(agent))) == (code, True)
    agent.clock.advance(HOLDOFF - 1)
    agent.do(agent.make_request(server, 2))
    assert agent.code(make_id(2)) == Code.CRASH_DUMP_IN_PROGRESS
    agent.clock.advance(1)
    agent.do(agent.make_request(server, 3))
    assert agent.code(make_id(3)) == Code.SIGNAL_DELIVERED


def test_the_refusal_of_a_clock_names_by_how_much_it_disagrees(agent: Agent) -> None:
    agent.do(agent.make_request(agent.make_server(), sent_at=agent.clock.now() + timedelta(seconds=5)))
    assert "5.0 s before it was sent, by this host's clock; 2 s are allowed" in get_reason(agent)
