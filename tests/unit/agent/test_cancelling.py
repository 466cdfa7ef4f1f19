"""What is called off before it began never begins; what has begun, by whichever incarnation, goes on to its own ending."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from compute_agent.contract.errors import Code, Ending
from compute_agent.contract.models import ActionKind, ActionRequest
from compute_agent.journal import ActionState, JournalUnusable
from tests.unit.agent.action_parts import HOST, Agent, make_id


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Agent]:
    agent = Agent(tmp_path / "journal.sqlite")
    yield agent
    agent.journal.close()


def cancel(agent: Agent, request: ActionRequest) -> None:
    agent.endpoint.cancel_action({}, request.to_wire())


def test_an_action_that_waits_ends_as_cancelled_and_sends_nothing(agent: Agent) -> None:
    server = agent.make_server()
    request = agent.make_request(server)
    agent.cast(request)
    cancel(agent, request)
    agent.work()
    result = agent.get(request.id).result
    assert result is not None
    assert (result.ending, result.code) == (Ending.FAILED, Code.CANCELLED)
    assert agent.list_event_types() == ["action.received", "action.ended"]
    assert agent.ended == [request.id]
    assert agent.hypervisor.count_signals(server) == 0


def test_a_cancelled_crash_dump_holds_off_no_other(agent: Agent) -> None:
    server = agent.make_server()
    request = agent.make_request(server, 1)
    agent.cast(request)
    cancel(agent, request)
    agent.do(agent.make_request(server, 2))
    assert agent.code(make_id(2)) == Code.SIGNAL_DELIVERED


def test_what_is_cancelled_before_it_comes_finds_its_ending_when_it_comes(agent: Agent) -> None:
    server = agent.make_server()
    request = agent.make_request(server)
    cancel(agent, request)
    assert agent.list_event_types() == ["action.received", "action.ended"]
    agent.mark_all_sent()
    agent.cast(request)
    agent.work()
    assert [row.event_type for row in agent.list_unsent()] == ["action.ended"]
    assert (agent.code(request.id), agent.hypervisor.count_signals(server)) == (Code.CANCELLED, 0)


def test_what_has_begun_is_left_to_its_own_ending(agent: Agent) -> None:
    request = agent.make_request(agent.make_server())
    agent.cast(request)
    with agent.change() as transaction:
        assert transaction.start_action(request.id, agent.clock.now())
    cancel(agent, request)
    assert agent.get(request.id).state is ActionState.STARTED
    assert agent.list_event_types() == ["action.received", "action.started"]


def test_what_an_earlier_incarnation_had_begun_is_not_called_unbegun(agent: Agent) -> None:
    """It waits to be repeated, and was told of as started."""
    request = agent.make_request(agent.make_server(), kind=ActionKind.COLLECT_DIAGNOSTICS)
    agent.cast(request)
    with agent.change() as transaction:
        transaction.start_action(request.id, agent.clock.now())
    assert agent.restart() == [request.id]
    assert agent.get(request.id).state is ActionState.RECEIVED
    cancel(agent, request)
    assert agent.get(request.id).state is ActionState.RECEIVED
    agent.actions.run(request.id)
    assert agent.code(request.id) == Code.DIAGNOSTICS_COLLECTED


def test_of_what_has_ended_the_ending_is_published_again(agent: Agent) -> None:
    request = agent.make_request(agent.make_server())
    agent.do(request)
    before = agent.list_events("action.ended")
    agent.mark_all_sent()
    cancel(agent, request)
    cancel(agent, request)
    assert agent.list_unsent() == before
    assert agent.code(request.id) == Code.SIGNAL_DELIVERED


def test_a_cancellation_outlives_a_restart(agent: Agent) -> None:
    request = agent.make_request(agent.make_server())
    agent.cast(request)
    cancel(agent, request)
    assert agent.restart() == []
    assert agent.code(request.id) == Code.CANCELLED


def test_one_that_a_worker_took_meanwhile_does_not_start(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    server = agent.make_server()
    request = agent.make_request(server)
    agent.cast(request)
    check = agent.actions._check

    def be_overtaken(action: Any) -> Any:
        seen = check(action)
        cancel(agent, request)
        return seen

    monkeypatch.setattr(agent.actions, "_check", be_overtaken)
    agent.work()
    assert (agent.code(request.id), agent.hypervisor.count_signals(server)) == (Code.CANCELLED, 0)
    assert len(agent.list_events("action.ended")) == 1


def test_other_content_under_a_known_id_cancels_nothing(agent: Agent) -> None:
    request = agent.make_request(agent.make_server())
    agent.cast(request)
    cancel(agent, request.model_copy(update={"user": "eve"}))
    assert agent.list_event_types() == ["action.received", "action.id_conflict"]
    assert agent.get(request.id).state is ActionState.RECEIVED


def test_one_bound_to_a_lost_journal_is_unknown(agent: Agent) -> None:
    """That journal may have begun it."""
    request = agent.make_request(agent.make_server(), journal_id="the-lost-one")
    cancel(agent, request)
    assert agent.code(request.id) == Code.JOURNAL_LOST


def test_one_for_another_host_is_refused(agent: Agent) -> None:
    request = agent.make_request(agent.make_server(), host="host-2")
    cancel(agent, request)
    assert agent.code(request.id) == Code.INVALID_REQUEST


def test_an_unreadable_one_ends_as_its_own_cast_would(agent: Agent) -> None:
    request = agent.make_request(agent.make_server())
    body = request.to_wire()
    del body["deadline"]
    agent.endpoint.cancel_action({}, body)
    assert [row.payload["code"] for row in agent.list_events()] == ["invalid_request"]
    agent.mark_all_sent()
    agent.cast(request)
    agent.work()
    assert [row.payload["code"] for row in agent.list_unsent()] == ["invalid_request"]


@pytest.mark.parametrize("body", [None, [], {}, {"id": make_id()}, {"id": make_id(), "kind": ["x"]}, {"kind": "trigger_crash_dump"}])
def test_what_names_no_action_is_logged_and_dropped(agent: Agent, body: object, caplog: pytest.LogCaptureFixture) -> None:
    agent.endpoint.cancel_action({}, body)
    assert agent.list_events() == []
    assert HOST in caplog.text
    assert "unreadable" in caplog.text


def test_what_cannot_be_journalled_is_not_cancelled(agent: Agent) -> None:
    """The exception leaves no answer; the gateway casts again."""
    request = agent.make_request(agent.make_server())
    agent.path.unlink()
    with pytest.raises(JournalUnusable):
        cancel(agent, request)
