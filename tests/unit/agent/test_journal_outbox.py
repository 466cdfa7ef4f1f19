"""What the journal keeps to be sent and sent again, what it forgets, and the servers that it knows."""

from datetime import timedelta
from pathlib import Path

import pydantic
import pytest

from compute_agent.contract.models import Departure, Observation
from compute_agent.journal import ActionState
from tests.unit.agent.action_parts import Agent, make_id
from tests.unit.agent.journal_parts import LOST, SERVER, add, append_lost, end, observe, start


@pytest.fixture
def agent(tmp_path: Path) -> Agent:
    return Agent(tmp_path / "state" / "journal.sqlite")


class TestOutbox:
    def test_events_are_numbered_without_gaps_and_sent_in_order(self, agent: Agent) -> None:
        for _ in range(3):
            with agent.change() as transaction:
                append_lost(transaction, agent)
        with agent.change() as transaction:
            assert [row.sequence for row in transaction.list_unsent(2)] == [1, 2]
            transaction.mark_sent([1], agent.clock.now())
            assert [row.sequence for row in transaction.list_unsent(9)] == [2, 3]
            assert transaction.get_last_sequence() == 3

    def test_an_unknown_type_or_a_body_that_does_not_fit_is_refused(self, agent: Agent) -> None:
        with pytest.raises(KeyError), agent.change() as transaction:
            transaction.append_event("action.invented", server=None, occurred_at=agent.clock.now(), body={})
        with pytest.raises(pydantic.ValidationError), agent.change() as transaction:
            transaction.append_event("events.lost", server=None, occurred_at=agent.clock.now(), body={**LOST, "more": 1})

    def test_an_ending_is_sent_again_as_the_same_message(self, agent: Agent) -> None:
        action_id = add(agent)
        start(agent, action_id)
        end(agent, action_id)
        observe(agent, action_id, Observation.GUEST_REBOOTED)
        before = agent.list_events()
        agent.mark_all_sent()
        with agent.change() as transaction:
            assert transaction.resend_ending(action_id)
        assert agent.list_unsent() == before[2:]

    def test_what_has_not_ended_has_no_ending_to_send_again(self, agent: Agent) -> None:
        action_id = add(agent)
        with agent.change() as transaction:
            assert not transaction.resend_ending(action_id)

    def test_a_range_is_sent_again_as_far_as_it_is_here(self, agent: Agent) -> None:
        add(agent, 1)
        add(agent, 2)
        agent.mark_all_sent()
        with agent.change() as transaction:
            assert transaction.mark_range_unsent(2, 9) == 1
        assert [row.sequence for row in agent.list_unsent()] == [2]

    def test_what_was_sent_is_written_down_with_what_is_written_next(self, agent: Agent) -> None:
        """A commit of its own would cost as much as one of an action's."""
        add(agent, 1)
        commits = agent.journal._connection.total_changes
        agent.journal.note_sent([1], agent.clock.now())
        assert agent.list_unsent() == [], "it must not be sent twice meanwhile"
        assert agent.journal._connection.total_changes == commits
        add(agent, 2)
        assert [row.sent_at is None for row in agent.list_events()] == [False, True]

    def test_a_crash_forgets_only_that_it_was_sent(self, agent: Agent) -> None:
        add(agent, 1)
        agent.journal.note_sent([1], agent.clock.now())
        agent.restart()
        assert [row.sequence for row in agent.list_unsent()] == [1]

    def test_what_was_sent_a_moment_ago_is_sent_again_when_it_is_asked_for(self, agent: Agent) -> None:
        add(agent, 1)
        agent.journal.note_sent([1], agent.clock.now())
        with agent.change() as transaction:
            assert transaction.mark_range_unsent(1, 1) == 1
        assert [row.sequence for row in agent.list_unsent()] == [1]
        agent.journal.keep_sent()
        assert [row.sequence for row in agent.list_unsent()] == [1]

    def test_what_could_not_be_written_down_is_still_known(self, agent: Agent) -> None:
        add(agent, 1)
        agent.journal.note_sent([1], agent.clock.now())
        with pytest.raises(KeyError), agent.change() as transaction:
            transaction.get_action(make_id(append_lost(transaction, agent)))
        assert agent.list_unsent() == []
        agent.journal.keep_sent(older_than=1)
        assert agent.list_events()[0].sent_at is None, "it is not old enough"
        agent.clock.advance(1)
        agent.journal.keep_sent(older_than=1)
        assert agent.list_events()[0].sent_at is not None

    def test_pruning_takes_old_sent_events_only_and_never_lowers_the_sequence(self, agent: Agent) -> None:
        for _ in range(3):
            with agent.change() as transaction:
                append_lost(transaction, agent)
        with agent.change() as transaction:
            transaction.mark_sent([1, 2], agent.clock.now())
        agent.clock.advance(100)
        with agent.change() as transaction:
            transaction.mark_sent([2], agent.clock.now())
        prune(agent, outbox_keep=50)
        assert [row.sequence for row in agent.list_events()] == [2, 3]
        agent.mark_all_sent()
        prune(agent, outbox_max_rows=1)
        assert [row.sequence for row in agent.list_events()] == [3]
        agent.clock.advance(100)
        prune(agent, outbox_keep=50)
        with agent.change() as transaction:
            assert append_lost(transaction, agent) == 4

    def test_an_ending_stays_as_long_as_its_action_may_be_asked_for(self, agent: Agent) -> None:
        action_id = add(agent)
        start(agent, action_id)
        end(agent, action_id)
        agent.mark_all_sent()
        agent.clock.advance(3600)
        prune(agent, outbox_keep=50, outbox_max_rows=0)
        assert agent.list_event_types() == ["action.ended"]
        prune(agent, outbox_keep=50, action_keep=60)
        assert agent.list_events() == []
        with agent.change() as transaction:
            assert transaction.find_action(action_id) is None

    def test_pruning_never_takes_an_open_action(self, agent: Agent) -> None:
        action_id = add(agent)
        agent.clock.advance(3600)
        prune(agent, action_keep=60)
        assert agent.get(action_id).state is ActionState.RECEIVED


class TestKnownServers:
    def test_a_uuid_that_comes_back_is_another_generation(self, agent: Agent) -> None:
        with agent.change() as transaction:
            assert transaction.next_generation(SERVER) == 1
        agent.know(SERVER, 1)
        with agent.change() as transaction:
            transaction.remove_known_server(SERVER, Departure.UNDEFINED, agent.clock.now())
            assert transaction.list_known_servers() == {}
            known = transaction.find_known_server(SERVER)
            assert known is not None
            assert (known.departure, known.removed_at) == (Departure.UNDEFINED, agent.clock.now())
            assert transaction.next_generation(SERVER) == 2
        agent.know(SERVER, 2)
        agent.restart()
        with agent.change() as transaction:
            known = transaction.list_known_servers()[SERVER]
        assert (known.server.generation, known.removed_at) == (2, None)


def prune(agent: Agent, *, outbox_keep: float = 10**6, outbox_max_rows: int = 10**6, action_keep: float = 10**6) -> None:
    with agent.change() as transaction:
        transaction.prune(
            agent.clock.now(),
            outbox_keep=timedelta(seconds=outbox_keep),
            outbox_max_rows=outbox_max_rows,
            action_keep=timedelta(seconds=action_keep),
        )
