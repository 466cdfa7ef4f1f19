"""What the journal keeps of actions: each step once with its event, observations, and signals to hold off from."""

import sqlite3
import threading
from datetime import timedelta
from pathlib import Path

import pytest

from compute_agent.contract.errors import Code
from compute_agent.contract.models import Observation
from compute_agent.journal import ActionState
from tests.unit.agent.action_parts import HOST, Agent, Crash, make_id
from tests.unit.agent.journal_parts import SERVER, add, end, observe, start


@pytest.fixture
def agent(tmp_path: Path) -> Agent:
    return Agent(tmp_path / "state" / "journal.sqlite")


class TestActions:
    def test_an_action_moves_forward_once_and_each_step_has_its_event(self, agent: Agent) -> None:
        action_id = add(agent)
        assert start(agent, action_id)
        assert not start(agent, action_id)
        assert end(agent, action_id)
        assert not end(agent, action_id, Code.ANSWER_LOST)
        assert not start(agent, action_id)
        assert agent.get(action_id).state is ActionState.ENDED
        assert agent.list_event_types() == ["action.received", "action.started", "action.ended"]

    def test_ending_and_event_are_there_together_or_not_at_all(self, agent: Agent) -> None:
        action_id = add(agent)
        agent.journal.crash_at = agent.journal.commits
        with pytest.raises(Crash):
            end(agent, action_id)
        agent.restart()
        assert agent.get(action_id).state is ActionState.RECEIVED
        assert agent.list_event_types() == ["action.received"]

    def test_of_many_that_end_an_action_at_once_exactly_one_does(self, agent: Agent) -> None:
        action_id = add(agent)
        start(agent, action_id)
        barrier, won = threading.Barrier(8), []

        def race() -> None:
            barrier.wait()
            if end(agent, action_id, Code.CALL_OVERDUE):
                won.append(True)

        threads = [threading.Thread(target=race) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert won == [True]
        assert len(agent.list_events("action.ended")) == 1

    def test_the_same_id_is_not_added_twice(self, agent: Agent) -> None:
        add(agent)
        with pytest.raises(sqlite3.IntegrityError):
            add(agent)

    def test_the_ending_event_says_everything_about_the_ending(self, agent: Agent) -> None:
        action_id = add(agent)
        agent.clock.advance(1)
        start(agent, action_id)
        agent.clock.advance(1)
        end(agent, action_id)
        payload = agent.list_events("action.ended")[0].payload
        assert payload["epoch"] == agent.journal.journal_id
        assert payload["sequence"] == 3
        assert (payload["host"], payload["server"], payload["action_id"]) == (HOST, SERVER, action_id)
        assert (payload["ending"], payload["code"], payload["decided_by"]) == ("succeeded", "signal_delivered", "agent")
        assert (payload["started_at"], payload["signalled_at"]) == ("2026-01-01T00:00:01Z", "2026-01-01T00:00:02Z")

    def test_times_are_kept_to_the_microsecond(self, agent: Agent) -> None:
        agent.clock.advance(0.123457)
        assert agent.get(add(agent)).received_at == agent.clock.now()


class TestObservations:
    def test_one_seen_before_the_ending_follows_it(self, agent: Agent) -> None:
        action_id = add(agent)
        start(agent, action_id)
        assert observe(agent, action_id, Observation.GUEST_PANICKED)
        assert "action.observed" not in agent.list_event_types()
        end(agent, action_id)
        assert agent.list_event_types()[-2:] == ["action.ended", "action.observed"]

    def test_one_seen_before_an_ending_with_nothing_sent_is_dropped(self, agent: Agent) -> None:
        action_id = add(agent)
        start(agent, action_id)
        observe(agent, action_id, Observation.GUEST_REBOOTED)
        end(agent, action_id, Code.BACKEND_UNAVAILABLE)
        assert agent.observation(action_id) is None
        assert "action.observed" not in agent.list_event_types()
        assert not observe(agent, action_id, Observation.GUEST_REBOOTED)

    def test_none_follows_a_final_one(self, agent: Agent) -> None:
        action_id = add(agent)
        start(agent, action_id)
        end(agent, action_id)
        assert observe(agent, action_id, Observation.NOTHING_SEEN_YET, final=False)
        assert not observe(agent, action_id, Observation.NOTHING_SEEN_YET, final=False)
        assert observe(agent, action_id, Observation.GUEST_REBOOTED)
        assert not observe(agent, action_id, Observation.NOTHING_SEEN)
        assert agent.observation(action_id) is Observation.GUEST_REBOOTED
        assert len(agent.list_events("action.observed")) == 2

    def test_none_is_kept_of_an_action_that_has_not_started(self, agent: Agent) -> None:
        assert not observe(agent, add(agent), Observation.GUEST_REBOOTED)

    @pytest.mark.parametrize(
        ("code", "awaited"), [(Code.SIGNAL_DELIVERED, True), (Code.ANSWER_LOST, True), (Code.SERVER_NOT_RUNNING, False)]
    )
    def test_one_is_awaited_after_every_signal_that_was_perhaps_sent(self, agent: Agent, code: Code, awaited: bool) -> None:
        action_id = add(agent)

        def list_awaiting() -> list[str]:
            with agent.change() as transaction:
                return [action.request.id for action in transaction.list_awaiting_observation(SERVER)]

        assert list_awaiting() == []
        start(agent, action_id)
        assert list_awaiting() == [action_id]
        end(agent, action_id, code)
        assert list_awaiting() == ([action_id] if awaited else [])
        observe(agent, action_id, Observation.NOTHING_SEEN)
        assert list_awaiting() == []


class TestSignals:
    def test_the_latest_signal_counts_and_survives_a_restart(self, agent: Agent) -> None:
        for number in (1, 2):
            start(agent, add(agent, number))
            agent.clock.advance(5)
            end(agent, make_id(number))
        agent.restart()
        with agent.change() as transaction:
            signal = transaction.find_signal(SERVER)
        assert signal is not None
        assert (signal.action_id, signal.at, signal.cleared) == (make_id(2), agent.clock.now(), False)

    def test_an_action_that_sent_nothing_gives_back_the_signal_before_it(self, agent: Agent) -> None:
        start(agent, add(agent, 1))
        end(agent, make_id(1))
        start(agent, add(agent, 2))
        end(agent, make_id(2), Code.BACKEND_UNAVAILABLE)
        with agent.change() as transaction:
            signal = transaction.find_signal(SERVER)
        assert signal is not None
        assert signal.action_id == make_id(1)

    @pytest.mark.parametrize(("seconds", "cleared"), [(-1, False), (0, True), (1, True)])
    def test_only_a_reboot_after_the_signal_clears_it(self, agent: Agent, seconds: float, cleared: bool) -> None:
        start(agent, add(agent))
        agent.clock.advance(10)
        end(agent, make_id())
        with agent.change() as transaction:
            transaction.clear_signal(SERVER, agent.clock.now() + timedelta(seconds=seconds))
            signal = transaction.find_signal(SERVER)
        assert signal is not None
        assert signal.cleared is cleared

    def test_a_reboot_during_the_call_clears_nothing_once_the_call_came_back(self, agent: Agent) -> None:
        start(agent, add(agent))
        with agent.change() as transaction:
            transaction.clear_signal(SERVER, agent.clock.now())
        agent.clock.advance(3)
        end(agent, make_id())
        with agent.change() as transaction:
            signal = transaction.find_signal(SERVER)
        assert signal is not None
        assert not signal.cleared

    def test_a_pause_moves_a_signal_by_as_much_of_it_as_came_after_the_signal(self, agent: Agent) -> None:
        start(agent, add(agent))
        end(agent, make_id())
        sent_at = agent.clock.now()
        with agent.change() as transaction:
            transaction.discount_pause(SERVER, sent_at - timedelta(seconds=5), sent_at + timedelta(seconds=7))
            signal = transaction.find_signal(SERVER)
            assert signal is not None
            assert signal.at == sent_at + timedelta(seconds=7)
            transaction.discount_pause(SERVER, sent_at + timedelta(seconds=9), sent_at + timedelta(seconds=10))
            signal = transaction.find_signal(SERVER)
            assert signal is not None
            assert signal.at == sent_at + timedelta(seconds=8)
            transaction.discount_pause(SERVER, sent_at - timedelta(seconds=9), sent_at)
            assert transaction.find_signal(SERVER) == signal

    def test_a_pause_does_not_bring_back_a_signal_that_a_reboot_cleared(self, agent: Agent) -> None:
        start(agent, add(agent))
        end(agent, make_id())
        now = agent.clock.now()
        with agent.change() as transaction:
            transaction.clear_signal(SERVER, now)
            transaction.discount_pause(SERVER, now, now + timedelta(hours=1))
            signal = transaction.find_signal(SERVER)
        assert signal is not None
        assert signal.cleared
