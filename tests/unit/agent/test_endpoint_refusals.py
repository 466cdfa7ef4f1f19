"""What is told of an action that could not be taken up: of which server, how grave, and why."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from compute_agent.contract.diagnostics import DiagnosticsReply
from compute_agent.contract.models import ActionKind, BlackBoxChunk
from tests.unit.agent.action_parts import Agent, make_id


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Agent]:
    agent = Agent(tmp_path / "journal.sqlite")
    yield agent
    agent.journal.close()


@pytest.mark.parametrize("is_readable", [True, False])
def test_a_conflict_is_an_event_of_the_server_that_the_second_request_names(agent: Agent, is_readable: bool) -> None:
    server, other = agent.make_server(), agent.make_server()
    agent.cast(agent.make_request(server))
    second = agent.make_request(other).to_wire()
    if not is_readable:
        del second["deadline"]
    agent.endpoint.trigger_crash_dump({}, second)
    [conflict] = agent.list_events("action.id_conflict")
    assert (conflict.server, conflict.payload["server"], conflict.payload["kind"]) == (other, other, "trigger_crash_dump")


def test_an_unreadable_request_is_a_warning_that_names_what_is_wrong_with_it(agent: Agent) -> None:
    body = agent.make_request(agent.make_server()).to_wire()
    del body["deadline"], body["kind"]
    agent.endpoint.trigger_crash_dump({}, body)
    [ended] = agent.list_events("action.ended")
    assert (ended.severity, ended.payload["action_id"]) == ("warn", make_id())
    assert "(kind: Field required; deadline: Field required)" in ended.payload["reason"]


def test_an_action_that_comes_by_the_verb_of_another_kind_is_ended_and_says_so(agent: Agent) -> None:
    server = agent.make_server()
    agent.endpoint.trigger_crash_dump({}, agent.make_request(server, kind=ActionKind.RESUME).to_wire())
    [ended] = agent.list_events()
    assert (ended.event_type, ended.server, ended.payload["action_id"]) == ("action.ended", server, make_id())
    assert (ended.payload["kind"], ended.payload["code"]) == ("trigger_crash_dump", "invalid_request")
    assert "(kind: resume came as trigger_crash_dump)" in ended.payload["reason"]


def test_a_question_is_answered_by_whoever_was_given_for_it(agent: Agent) -> None:
    server = agent.make_server()
    assert DiagnosticsReply.from_wire(agent.endpoint.get_diagnostics({}, server)) == agent.collector.get_reply(server, history=False)
    assert BlackBoxChunk.from_wire(agent.endpoint.get_black_box({}, "none", "console")) == agent.files.read("none", "console", 0)


def test_a_watchdog_that_is_to_be_set_must_be_named(agent: Agent) -> None:
    agent.endpoint.set_watchdog({}, agent.make_request(agent.make_server(), kind=ActionKind.SET_WATCHDOG).to_wire())
    [ended] = agent.list_events()
    assert (ended.event_type, ended.payload["kind"], ended.payload["code"]) == ("action.ended", "set_watchdog", "invalid_request")
    assert "(watchdog: it does not say which one)" in ended.payload["reason"]
