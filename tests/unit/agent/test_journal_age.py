"""What a wall clock that somebody sets does to the journal: nothing is forgotten before its time, and no signal is cleared by mistake."""

from datetime import timedelta
from pathlib import Path

import pytest

from compute_agent.contract.errors import Code
from compute_agent.contract.models import Departure, PowerState
from compute_agent.drivers.fake_behaviours import answer_late
from compute_agent.journal_age import JournalAge
from tests.fakes import FakeClock
from tests.unit.agent.action_parts import Agent, make_id
from tests.unit.agent.journal_parts import SERVER, add, append_lost, end, start

DAY = 86_400.0
KEEP = timedelta(days=7)


@pytest.fixture
def agent(tmp_path: Path) -> Agent:
    return Agent(tmp_path / "journal.sqlite")


def prune(agent: Agent) -> None:
    with agent.change() as transaction:
        transaction.prune(agent.clock.now(), outbox_keep=KEEP, outbox_max_rows=1000, action_keep=KEEP)


def count(agent: Agent, table: str) -> int:
    with agent.change() as transaction:
        return int(transaction.execute(f"SELECT count(*) FROM {table}").fetchone()[0])


class TestAge:
    def test_it_counts_what_passes_whatever_the_date_is(self) -> None:
        clock = FakeClock()
        age = JournalAge.read(clock, None)
        clock.advance(10)
        clock.step(1000 * DAY)
        assert age.count() == 10

    def test_it_goes_on_in_the_next_life_of_the_agent_and_counts_the_time_between(self) -> None:
        clock = FakeClock()
        age = JournalAge.read(clock, None)
        clock.advance(10)
        stored = age.to_stored()
        clock.advance(5)
        assert JournalAge.read(clock, stored).count() == 15

    def test_what_passed_while_the_machine_was_off_is_not_counted(self) -> None:
        clock = FakeClock()
        age = JournalAge.read(clock, None)
        clock.advance(10)
        stored = age.to_stored()
        clock.step(DAY)
        clock.reboot()
        again = JournalAge.read(clock, stored)
        assert again.count() == 10
        clock.advance(1)
        assert again.count() == 11


class TestForgetting:
    @pytest.mark.parametrize("happens", ["nothing", "restart", "reboot"])
    def test_an_ended_action_outlives_a_clock_that_is_set_forward(self, agent: Agent, happens: str) -> None:
        """Else a cast of it would be told as expired although its signal went out."""
        request = agent.make_request(agent.make_server())
        agent.do(request)
        agent.mark_all_sent()
        told = agent.list_event_types()
        if happens == "reboot":
            agent.clock.reboot()
        agent.clock.step(30 * DAY)
        if happens != "nothing":
            agent.restart()
        prune(agent)
        agent.cast(request)
        assert agent.code(request.id) == Code.SIGNAL_DELIVERED
        assert agent.list_event_types() == told

    def test_a_clock_that_is_set_forward_and_back_makes_no_second_signal_of_a_cast_that_comes_again(self, agent: Agent) -> None:
        request = agent.make_request(agent.make_server(), force=True)
        agent.do(request)
        agent.mark_all_sent()
        agent.clock.step(30 * DAY)
        prune(agent)
        agent.clock.step(-30 * DAY)
        agent.do(request)
        assert agent.hypervisor.count_signals(request.server) == 1

    def test_everything_goes_when_its_time_has_passed_in_several_lives_of_agent_and_machine(self, agent: Agent) -> None:
        server = agent.make_server()
        agent.do(agent.make_request(server))
        with agent.change() as transaction:
            append_lost(transaction, agent)
        agent.mark_all_sent()
        for _ in range(2):
            agent.clock.advance(3 * DAY)
            prune(agent)
            agent.restart()
        agent.clock.advance(2 * DAY)
        agent.clock.reboot()
        agent.restart()
        prune(agent)
        assert count(agent, "actions") == 1  # of the two days before the reboot nobody has kept count
        agent.clock.advance(DAY + 1)
        prune(agent)
        assert (count(agent, "actions"), count(agent, "signals"), count(agent, "outbox")) == (0, 0, 0)

    def test_sent_events_outlive_a_clock_that_is_set_forward(self, agent: Agent) -> None:
        with agent.change() as transaction:
            append_lost(transaction, agent)
        agent.mark_all_sent()
        agent.clock.step(30 * DAY)
        prune(agent)
        assert count(agent, "outbox") == 1

    def test_a_server_that_left_keeps_its_generation_when_the_clock_is_set_forward(self, agent: Agent) -> None:
        """Else what was asked for in its first life would be done in another one."""
        agent.know(SERVER, 1)
        with agent.change() as transaction:
            transaction.remove_known_server(SERVER, Departure.UNDEFINED, agent.clock.now())
        agent.clock.step(30 * DAY)
        with agent.change() as transaction:
            assert transaction.forget_departed(agent.clock.now(), KEEP, 10, except_for=()) == 0
            assert transaction.next_generation(SERVER) == 2
        agent.clock.advance(8 * DAY)
        with agent.change() as transaction:
            assert transaction.forget_departed(agent.clock.now(), KEEP, 10, except_for=()) == 1

    def test_a_dump_that_stands_still_with_its_server_is_protected_for_as_long_as_it_does(self, agent: Agent) -> None:
        server = agent.make_server()
        agent.do(agent.make_request(server, 1))
        with agent.change() as transaction:
            known = transaction.list_known_servers()[server].server
            paused = known.model_copy(update={"power_state": PowerState.PAUSED, "state_at": agent.clock.now()})
            transaction.put_known_server(paused)
        agent.clock.advance(30 * DAY)
        prune(agent)
        assert count(agent, "actions") == 0
        agent.do(agent.make_request(server, 2))
        assert agent.code(make_id(2)) == Code.CRASH_DUMP_IN_PROGRESS

    def test_a_call_that_comes_back_weeks_after_its_action_was_given_up_still_holds_the_next_one_off(self, agent: Agent) -> None:
        server = agent.make_server()

        def hang_for_weeks() -> None:
            agent.clock.advance(30 * DAY)
            agent.actions.end_overdue()
            agent.clock.advance(30 * DAY)
            with agent.change() as transaction:
                at_work = agent.actions.list_at_work()
                transaction.prune(agent.clock.now(), outbox_keep=KEEP, outbox_max_rows=1000, action_keep=KEEP, except_for=at_work)

        agent.hypervisor.behave(server, answer_late(hang_for_weeks))
        agent.do(agent.make_request(server, 1))
        assert agent.code(make_id(1)) == Code.CALL_OVERDUE
        agent.do(agent.make_request(server, 2))
        assert agent.code(make_id(2)) == Code.CRASH_DUMP_IN_PROGRESS
        assert agent.actions.list_at_work() == set()


class TestClearing:
    def test_a_reboot_during_the_call_clears_nothing_though_the_clock_was_set_back_meanwhile(self, agent: Agent) -> None:
        """By the wall clock the reboot came after the signal."""
        server = agent.make_server()

        def reboot_then_set_back() -> None:
            with agent.change() as transaction:
                transaction.clear_signal(server, agent.clock.now())
            agent.clock.advance(3)
            agent.clock.step(-60)

        agent.hypervisor.behave(server, answer_late(reboot_then_set_back))
        agent.do(agent.make_request(server, 1))
        agent.do(agent.make_request(server, 2))
        assert agent.code(make_id(2)) == Code.CRASH_DUMP_IN_PROGRESS
        assert agent.hypervisor.count_signals(server) == 1

    @pytest.mark.parametrize("step", [-3600, 3600])
    def test_a_reboot_after_the_signal_clears_it_whatever_the_date_is(self, agent: Agent, step: float) -> None:
        start(agent, add(agent))
        end(agent, make_id())
        agent.clock.step(step)
        agent.clock.advance(5)
        with agent.change() as transaction:
            transaction.clear_signal(SERVER, agent.clock.now())
            assert transaction.list_uncleared_signals(SERVER) == []
            signal = transaction.find_signal(SERVER)
        assert signal is not None
        assert signal.cleared

    @pytest.mark.parametrize(("seconds", "is_cleared"), [(-1, False), (1, True)])
    def test_of_two_runs_of_the_machine_the_wall_clock_decides(self, agent: Agent, seconds: float, is_cleared: bool) -> None:
        start(agent, add(agent))
        end(agent, make_id())
        sent_at = agent.clock.now()
        agent.clock.advance(60)
        agent.clock.reboot()
        agent.restart()
        with agent.change() as transaction:
            transaction.clear_signal(SERVER, sent_at + timedelta(seconds=seconds))
            assert (transaction.list_uncleared_signals(SERVER) == []) is is_cleared

    def test_a_clock_that_is_set_forward_during_a_pause_does_not_prolong_the_hold_off(self, agent: Agent) -> None:
        server = agent.make_server()
        agent.do(agent.make_request(server, 1))
        paused_at = agent.clock.now()
        agent.clock.advance(60)
        agent.clock.step(30 * DAY)
        with agent.change() as transaction:
            transaction.discount_pause(server, paused_at, agent.clock.now())
        agent.clock.advance(agent.holdoff - 1)
        agent.do(agent.make_request(server, 2))
        assert agent.code(make_id(2)) == Code.CRASH_DUMP_IN_PROGRESS
        agent.clock.advance(1)
        agent.do(agent.make_request(server, 3))
        assert agent.code(make_id(3)) == Code.SIGNAL_DELIVERED


def test_a_machine_that_runs_longer_than_before_its_start_counts_nothing_of_both() -> None:
    clock = FakeClock()
    stored = JournalAge.read(clock, None).to_stored()
    clock.reboot()
    clock.advance(10_000)
    assert JournalAge.read(clock, stored).count() == 0
