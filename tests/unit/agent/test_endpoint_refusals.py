"""What is told of an action that could not be taken up: of which server, how grave, and why."""

from collections.abc import Iterator
from pathlib import Path

import pytest

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
