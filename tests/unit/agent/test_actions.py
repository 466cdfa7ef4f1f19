"""From the journal to one ending: what is refused, what is sent, and what is never sent."""

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from compute_agent.actions import Actions
from compute_agent.contract.errors import CODES, Code, Ending
from compute_agent.contract.models import ActionKind, Departure, Observation, PowerState
from compute_agent.drivers.base import Servers
from compute_agent.drivers.errors import (
    BackendUnavailable,
    CapabilityUnsupported,
    NothingSent,
    OutcomeUnknown,
    ServerNotFound,
    ServerNotRunning,
    ServerUnsupported,
)
from compute_agent.drivers.fake import NmiEffect
from compute_agent.drivers.fake_behaviours import Hang, answer_late, break_down, lose_answer, lose_request, refuse
from compute_agent.drivers.models import DriverServer
from compute_agent.journal import ActionState, JournalUnusable
from tests.unit.agent.action_parts import HOLDOFF, MAX_CLOCK_SKEW, Agent, make_id


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Agent]:
    agent = Agent(tmp_path / "journal.sqlite")
    yield agent
    agent.journal.close()


class UnreadableServers(Servers):
    """Reading one server fails; ``meanwhile`` happens first."""

    def __init__(self, agent: Agent, error: Exception | None = None, meanwhile: Callable[[], object] = lambda: None) -> None:
        self._servers = agent.driver.servers
        self._error = error
        self._meanwhile = meanwhile

    def list_servers(self) -> list[DriverServer]:
        return list(self._servers.list_servers())

    def get_server(self, server: str) -> DriverServer:
        self._meanwhile()
        if self._error is not None:
            raise self._error
        return self._servers.get_server(server)


class TestSuccess:
    def test_one_action_is_one_signal_and_succeeds(self, agent: Agent) -> None:
        server = agent.make_server(NmiEffect.PANIC)
        action = agent.do(agent.make_request(server))
        assert agent.hypervisor.count_signals(server) == 1
        assert action.result is not None
        assert (action.result.ending, action.result.code) == (Ending.SUCCEEDED, Code.SIGNAL_DELIVERED)
        assert action.signalled_at == agent.clock.now()
        assert agent.ended == [action.request.id]
        assert agent.list_event_types() == ["action.received", "action.started", "action.ended"]

    def test_running_it_again_does_nothing(self, agent: Agent) -> None:
        server = agent.make_server()
        action = agent.do(agent.make_request(server))
        agent.actions.run(action.request.id)
        agent.actions.run(make_id(99))
        assert agent.hypervisor.count_signals(server) == 1
        assert agent.ended == [action.request.id]

    def test_many_workers_on_one_action_send_one_signal(self, agent: Agent) -> None:
        server = agent.make_server()
        agent.cast(agent.make_request(server))
        barrier = threading.Barrier(6)

        def work() -> None:
            barrier.wait()
            agent.actions.run(make_id())

        threads = [threading.Thread(target=work) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert agent.hypervisor.count_signals(server) == 1
        assert agent.code(make_id()) == Code.SIGNAL_DELIVERED

    @pytest.mark.parametrize("error", [None, BackendUnavailable(None, "away")])
    def test_a_refusal_that_comes_late_does_not_end_what_another_worker_has_begun(self, agent: Agent, error: Exception | None) -> None:
        server = agent.make_server()
        agent.cast(agent.make_request(server))

        def begin() -> None:
            with agent.change() as transaction:
                transaction.start_action(make_id(), agent.clock.now())

        agent.use_driver(replace(agent.driver, servers=UnreadableServers(agent, error, meanwhile=begin)))
        agent.actions.run(make_id())
        assert agent.get(make_id()).state is ActionState.STARTED
        assert agent.hypervisor.count_signals(server) == 0

    def test_a_paused_server_is_signalled_and_pending_until_it_resumes(self, agent: Agent) -> None:
        server = agent.make_server(power_state=PowerState.PAUSED)
        action = agent.do(agent.make_request(server))
        assert action.result is not None
        assert action.result.ending is Ending.SUCCEEDED
        assert "resumes" in action.result.reason
        assert (action.observation, action.observation_final) == (Observation.PENDING_UNTIL_RESUME, False)
        assert agent.list_event_types()[-2:] == ["action.ended", "action.observed"]


class TestRefusals:
    @pytest.mark.parametrize(
        ("error", "code"),
        [
            (CapabilityUnsupported("s", "never"), Code.NOT_SUPPORTED),
            (ServerUnsupported("s", "not this one"), Code.NOT_SUPPORTED),
            (ServerNotFound("s", "gone"), Code.SERVER_NOT_FOUND),
            (ServerNotRunning("s", "just crashed"), Code.SERVER_NOT_RUNNING),
            (BackendUnavailable("s", "away"), Code.BACKEND_UNAVAILABLE),
            (BackendUnavailable("s", "not for you", Code.FORBIDDEN), Code.FORBIDDEN),
        ],
    )
    def test_each_no_of_a_driver_has_its_code_and_sends_nothing(self, agent: Agent, error: NothingSent, code: Code) -> None:
        server = agent.make_server()
        agent.hypervisor.behave(server, refuse(error))
        action = agent.do(agent.make_request(server))
        assert action.result is not None
        assert (action.result.ending, action.result.code, action.result.reason) == (Ending.FAILED, code, error.reason)
        assert action.signalled_at is None
        with agent.change() as transaction:
            assert transaction.find_signal(server) is None

    @pytest.mark.parametrize("power_state", [PowerState.SHUTDOWN, PowerState.CRASHED])
    def test_a_server_that_is_off_or_crashed_is_not_signalled(self, agent: Agent, power_state: PowerState) -> None:
        server = agent.make_server(power_state=power_state)
        agent.do(agent.make_request(server))
        assert agent.code(make_id()) == Code.SERVER_NOT_RUNNING
        assert "action.started" not in agent.list_event_types()

    def test_a_driver_without_the_capability_ends_not_supported(self, agent: Agent) -> None:
        server = agent.make_server()
        agent.use_driver(replace(agent.driver, nmi=None))
        agent.do(agent.make_request(server))
        assert agent.code(make_id()) == Code.NOT_SUPPORTED

    def test_a_server_that_never_was_here_is_not_found(self, agent: Agent) -> None:
        agent.do(agent.make_request("22222222-2222-4222-8222-222222222222"))
        assert agent.code(make_id()) == Code.SERVER_NOT_FOUND

    def test_a_server_that_left_is_moved(self, agent: Agent) -> None:
        server = agent.make_server()
        agent.hypervisor.remove(server)
        agent.do(agent.make_request(server))
        assert agent.code(make_id()) == Code.SERVER_MOVED

    def test_a_server_of_another_generation_is_moved(self, agent: Agent) -> None:
        server = agent.make_server()
        agent.know(server, generation=2)
        agent.do(agent.make_request(server, server_generation=1))
        assert agent.code(make_id()) == Code.SERVER_MOVED
        assert agent.hypervisor.count_signals(server) == 0

    def test_a_server_that_the_inventory_has_given_up_is_moved(self, agent: Agent) -> None:
        server = agent.make_server()
        with agent.change() as transaction:
            transaction.remove_known_server(server, Departure.MIGRATED, agent.clock.now())
        agent.do(agent.make_request(server))
        assert agent.code(make_id()) == Code.SERVER_MOVED

    def test_a_server_that_is_still_arriving_is_not_ours(self, agent: Agent) -> None:
        server = agent.make_server()
        agent.hypervisor.change(server, arriving=True)
        agent.do(agent.make_request(server))
        assert agent.code(make_id()) == Code.SERVER_MOVED

    @pytest.mark.parametrize(
        ("error", "code"),
        [
            (BackendUnavailable(None, "away"), Code.BACKEND_UNAVAILABLE),
            (OutcomeUnknown(None, "no answer to a question"), Code.BACKEND_UNAVAILABLE),
            (ZeroDivisionError(), Code.BACKEND_UNAVAILABLE),
        ],
    )
    def test_a_server_that_cannot_be_read_is_not_signalled(self, agent: Agent, error: Exception, code: Code) -> None:
        server = agent.make_server()
        agent.use_driver(replace(agent.driver, servers=UnreadableServers(agent, error)))
        agent.do(agent.make_request(server))
        assert agent.code(make_id()) == code
        assert agent.hypervisor.count_signals(server) == 0

    def test_a_request_from_the_future_is_clock_skew(self, agent: Agent) -> None:
        server = agent.make_server()
        agent.do(agent.make_request(server, sent_at=agent.clock.now() + timedelta(seconds=MAX_CLOCK_SKEW + 0.1)))
        assert agent.code(make_id()) == Code.CLOCK_SKEW

    def test_waiting_in_the_queue_does_not_hide_clock_skew(self, agent: Agent) -> None:
        server = agent.make_server()
        agent.cast(agent.make_request(server, sent_at=agent.clock.now() + timedelta(seconds=10)))
        agent.clock.advance(10)
        agent.work()
        assert agent.code(make_id()) == Code.CLOCK_SKEW

    def test_a_request_from_the_near_future_is_taken(self, agent: Agent) -> None:
        server = agent.make_server()
        agent.do(agent.make_request(server, sent_at=agent.clock.now() + timedelta(seconds=MAX_CLOCK_SKEW)))
        assert agent.code(make_id()) == Code.SIGNAL_DELIVERED


class TestDeadline:
    @pytest.mark.parametrize("pass_time", ["advance", "step"])
    def test_one_that_waited_past_it_expires(self, agent: Agent, pass_time: str) -> None:
        server = agent.make_server()
        agent.cast(agent.make_request(server, seconds=30))
        getattr(agent.clock, pass_time)(30)
        agent.work()
        assert agent.code(make_id()) == Code.DEADLINE_PASSED
        assert agent.hypervisor.count_signals(server) == 0

    def test_a_wall_clock_set_back_gives_no_more_time(self, agent: Agent) -> None:
        server = agent.make_server()
        agent.cast(agent.make_request(server, seconds=30))
        agent.clock.advance(30)
        agent.clock.step(-3600)
        agent.work()
        assert agent.code(make_id()) == Code.DEADLINE_PASSED

    def test_it_is_looked_at_again_after_started_was_committed(self, agent: Agent) -> None:
        """A slow disk, or a process frozen between the commit and the call."""
        server = agent.make_server()
        request = agent.make_request(server, seconds=30)
        agent.cast(request)
        agent.journal.on_new_events(lambda patience: agent.clock.advance(30))  # runs right after a commit with events
        agent.work()
        action = agent.get(request.id)
        assert action.started_at is not None
        assert agent.code(request.id) == Code.DEADLINE_PASSED
        assert agent.hypervisor.count_signals(server) == 0
        with agent.change() as transaction:
            assert transaction.find_signal(server) is None

    def test_it_is_looked_at_again_after_a_slow_read_of_the_server(self, agent: Agent) -> None:
        server = agent.make_server()
        agent.use_driver(replace(agent.driver, servers=UnreadableServers(agent, meanwhile=lambda: agent.clock.advance(31))))
        agent.do(agent.make_request(server, seconds=30))
        assert agent.code(make_id()) == Code.DEADLINE_PASSED
        assert agent.hypervisor.count_signals(server) == 0

    def test_a_restart_begins_a_new_countdown_to_the_same_deadline(self, agent: Agent) -> None:
        server = agent.make_server()
        agent.cast(agent.make_request(server, seconds=30))
        agent.clock.advance(20)
        assert agent.restart() == [make_id()]
        agent.clock.advance(10)
        agent.clock.step(-60)
        agent.actions.run(make_id())
        assert agent.code(make_id()) == Code.DEADLINE_PASSED

    def test_the_sweep_expires_what_still_waits(self, agent: Agent) -> None:
        server = agent.make_server()
        agent.cast(agent.make_request(server, seconds=30))
        agent.clock.advance(29)
        agent.actions.end_overdue()
        assert agent.get(make_id()).state is ActionState.RECEIVED
        agent.clock.advance(1)
        agent.actions.end_overdue()
        assert agent.code(make_id()) == Code.DEADLINE_PASSED
        agent.work()
        assert agent.hypervisor.count_signals(server) == 0
        assert len(agent.list_events("action.ended")) == 1


class TestPerhaps:
    @pytest.mark.parametrize(
        ("behaviour", "code", "signals"),
        [
            (lose_answer(), Code.ANSWER_LOST, 1),
            (lose_request(), Code.ANSWER_LOST, 0),
            (break_down(ZeroDivisionError(), delivered=True), Code.DRIVER_FAULT, 1),
            (break_down(ZeroDivisionError()), Code.DRIVER_FAULT, 0),
        ],
    )
    def test_a_call_without_a_clear_answer_is_unknown_and_holds_off(
        self, agent: Agent, behaviour: Callable[[Callable[[], None]], None], code: Code, signals: int
    ) -> None:
        server = agent.make_server()
        agent.hypervisor.behave(server, behaviour)
        action = agent.do(agent.make_request(server))
        assert action.result is not None
        assert (action.result.ending, action.result.code) == (Ending.UNKNOWN, code)
        assert action.signalled_at is None
        agent.do(agent.make_request(server, 2))
        assert agent.code(make_id(2)) == Code.CRASH_DUMP_IN_PROGRESS
        assert agent.hypervisor.count_signals(server) == signals

    def test_what_was_begun_when_the_agent_died_is_unknown_and_never_run_again(self, agent: Agent) -> None:
        server = agent.make_server()
        agent.cast(agent.make_request(server))
        with agent.change() as transaction:
            transaction.start_action(make_id(), agent.clock.now())
        assert agent.restart() == []
        assert agent.code(make_id()) == Code.AGENT_RESTARTED
        assert agent.ended == [make_id()]
        agent.actions.run(make_id())
        assert agent.hypervisor.count_signals(server) == 0
        agent.do(agent.make_request(server, 2))
        assert agent.code(make_id(2)) == Code.CRASH_DUMP_IN_PROGRESS

    def test_what_is_not_repeatable_is_not_run_again_even_if_its_ending_was_not_written(
        self, agent: Agent, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The guard behind the guard: of what a dead agent had begun only what is repeatable is given out."""
        server = agent.make_server()
        agent.cast(agent.make_request(server, 1))
        agent.cast(agent.make_request(server, 2, kind=ActionKind.COLLECT_DIAGNOSTICS))
        with agent.change() as transaction:
            for number in (1, 2):
                transaction.start_action(make_id(number), agent.clock.now())
        with monkeypatch.context() as patch:
            patch.setattr(Actions, "_end", lambda self, *arguments: None)
            assert agent.restart() == [make_id(2)]
        assert agent.get(make_id(1)).state is ActionState.STARTED
        agent.actions.run(make_id(1))
        assert agent.hypervisor.count_signals(server) == 0
        agent.clock.advance(30 + agent.driver.call_bound)
        agent.actions.end_overdue()
        assert agent.code(make_id(1)) == Code.CALL_OVERDUE

    def test_a_call_that_hangs_is_unknown_and_its_late_answer_changes_nothing(self, agent: Agent) -> None:
        server, hang = agent.make_server(), Hang()
        agent.hypervisor.behave(server, hang)
        agent.cast(agent.make_request(server, seconds=30))
        worker = threading.Thread(target=agent.work)
        worker.start()
        try:
            assert hang.entered.wait(10)
            agent.clock.advance(30 + agent.driver.call_bound - 0.1)
            agent.actions.end_overdue()
            assert agent.get(make_id()).state is ActionState.STARTED
            agent.clock.advance(0.1)
            agent.actions.end_overdue()
            assert agent.code(make_id()) == Code.CALL_OVERDUE
            agent.clock.advance(100)
        finally:
            hang.release()
            worker.join(10)
        assert agent.code(make_id()) == Code.CALL_OVERDUE
        assert agent.actions.late_returns == 1
        assert len(agent.list_events("action.ended")) == 1
        with agent.change() as transaction:
            signal = transaction.find_signal(server)
        assert signal is not None
        assert signal.at == agent.clock.now(), "the hold-off counts from when it may have gone out"

    def test_while_a_call_hangs_the_next_action_of_that_server_waits_and_others_go_on(self, agent: Agent) -> None:
        stuck, other, hang = agent.make_server(), agent.make_server(), Hang()
        agent.hypervisor.behave(stuck, hang)
        agent.cast(agent.make_request(stuck, 1))
        worker = threading.Thread(target=agent.work)
        worker.start()
        try:
            assert hang.entered.wait(10)
            agent.cast(agent.make_request(stuck, 2, force=True))
            agent.cast(agent.make_request(other, 3))
            agent.work()
            assert agent.code(make_id(3)) == Code.SIGNAL_DELIVERED
            assert agent.get(make_id(2)).state is ActionState.RECEIVED
        finally:
            hang.release()
            worker.join(10)
        assert agent.code(make_id(2)) == Code.SIGNAL_DELIVERED

    def test_a_wall_clock_set_forward_does_not_give_up_a_call_that_just_began(self, agent: Agent) -> None:
        agent.cast(agent.make_request(agent.make_server()))
        with agent.change() as transaction:
            transaction.start_action(make_id(), agent.clock.now())
        agent.clock.step(3600)
        agent.actions.end_overdue()
        assert agent.get(make_id()).state is ActionState.STARTED

    def test_an_ending_that_could_not_be_written_is_written_by_the_sweep(self, agent: Agent) -> None:
        server = agent.make_server()
        agent.cast(agent.make_request(server))
        moved = agent.path.with_suffix(".aside")
        agent.hypervisor.behave(server, answer_late(lambda: agent.path.rename(moved)))
        with pytest.raises(JournalUnusable):
            agent.work()
        with pytest.raises(JournalUnusable):
            agent.actions.end_overdue()
        moved.rename(agent.path)
        agent.actions.end_overdue()
        assert agent.code(make_id()) == Code.SIGNAL_DELIVERED
        assert agent.ended == [make_id()]

    def test_without_a_journal_nothing_is_sent(self, agent: Agent) -> None:
        server = agent.make_server()
        agent.cast(agent.make_request(server))
        agent.use_driver(replace(agent.driver, servers=UnreadableServers(agent, meanwhile=agent.path.unlink)))
        with pytest.raises(JournalUnusable):
            agent.actions.run(make_id())
        assert agent.hypervisor.count_signals(server) == 0


class TestHoldOff:
    def test_a_second_crash_dump_is_refused_naming_the_first(self, agent: Agent) -> None:
        server = agent.make_server()
        agent.do(agent.make_request(server, 1))
        agent.clock.advance(HOLDOFF - 1)
        action = agent.do(agent.make_request(server, 2))
        assert action.result is not None
        assert action.result.code is Code.CRASH_DUMP_IN_PROGRESS
        assert make_id(1) in action.result.reason
        assert agent.hypervisor.count_signals(server) == 1

    def test_it_is_over_after_its_time(self, agent: Agent) -> None:
        server = agent.make_server()
        agent.do(agent.make_request(server, 1))
        agent.clock.advance(HOLDOFF)
        agent.do(agent.make_request(server, 2))
        assert agent.hypervisor.count_signals(server) == 2

    def test_it_survives_a_restart(self, agent: Agent) -> None:
        server = agent.make_server()
        agent.do(agent.make_request(server, 1))
        agent.restart()
        agent.do(agent.make_request(server, 2))
        assert agent.code(make_id(2)) == Code.CRASH_DUMP_IN_PROGRESS

    def test_a_reboot_or_stop_clears_it(self, agent: Agent) -> None:
        server = agent.make_server()
        agent.do(agent.make_request(server, 1))
        agent.clock.advance(1)
        with agent.change() as transaction:
            transaction.clear_signal(server, agent.clock.now())
        agent.do(agent.make_request(server, 2))
        assert agent.hypervisor.count_signals(server) == 2

    @pytest.mark.parametrize("restarted", [False, True])
    def test_a_clock_that_is_set_forward_does_not_shorten_it(self, agent: Agent, restarted: bool) -> None:
        server = agent.make_server()
        agent.do(agent.make_request(server, 1))
        agent.clock.step(10 * HOLDOFF)
        if restarted:
            agent.restart()
        agent.clock.advance(HOLDOFF - 1)
        agent.do(agent.make_request(server, 2))
        assert agent.code(make_id(2)) == Code.CRASH_DUMP_IN_PROGRESS
        agent.clock.advance(1)
        agent.do(agent.make_request(server, 3))
        assert agent.code(make_id(3)) == Code.SIGNAL_DELIVERED

    def test_a_clock_that_is_set_back_makes_it_longer_at_most(self, agent: Agent) -> None:
        server = agent.make_server()
        agent.do(agent.make_request(server, 1))
        agent.clock.step(-60)
        agent.clock.advance(HOLDOFF)
        agent.do(agent.make_request(server, 2))
        assert agent.code(make_id(2)) == Code.CRASH_DUMP_IN_PROGRESS

    @pytest.mark.parametrize("is_over", [True, False])
    def test_one_before_the_clock_was_set_back_does_not_hide_the_one_after_it(self, agent: Agent, is_over: bool) -> None:
        """By the wall clock the earlier signal is the later one."""
        server = agent.make_server()
        agent.do(agent.make_request(server, 1))
        agent.clock.advance(HOLDOFF)
        if is_over:
            with agent.journal.transaction("test") as transaction:
                transaction.clear_signal(server, agent.clock.now())
        agent.clock.step(-2 * HOLDOFF)
        agent.do(agent.make_request(server, 2, force=not is_over))
        assert agent.code(make_id(2)) == Code.SIGNAL_DELIVERED
        agent.clock.step(0 if is_over else 2 * HOLDOFF)
        agent.do(agent.make_request(server, 3))
        assert agent.code(make_id(3)) == Code.CRASH_DUMP_IN_PROGRESS

    def test_a_clock_that_is_set_weeks_forward_lets_no_signal_be_forgotten(self, agent: Agent) -> None:
        server = agent.make_server()
        agent.do(agent.make_request(server, 1))
        agent.clock.step(30 * 86_400)
        for is_kept in (True, False):
            with agent.journal.transaction("test") as transaction:
                keep = timedelta(days=7)
                transaction.prune(agent.clock.now(), outbox_keep=keep, outbox_max_rows=1000, action_keep=keep)
                assert (transaction.list_uncleared_signals(server) != []) is is_kept
            agent.clock.advance(8 * 86_400)

    def test_after_the_machine_itself_was_started_anew_the_wall_clock_alone_counts(self, agent: Agent) -> None:
        server = agent.make_server()
        agent.do(agent.make_request(server, 1))
        agent.clock.reboot()
        agent.restart()
        agent.clock.step(HOLDOFF)
        agent.do(agent.make_request(server, 2))
        assert agent.code(make_id(2)) == Code.SIGNAL_DELIVERED

    def test_it_holds_only_its_own_server(self, agent: Agent) -> None:
        agent.do(agent.make_request(agent.make_server(), 1))
        agent.do(agent.make_request(agent.make_server(), 2))
        assert agent.code(make_id(2)) == Code.SIGNAL_DELIVERED

    def test_it_can_be_off(self, agent: Agent) -> None:
        agent.holdoff = 0.0
        agent.restart()
        server = agent.make_server()
        agent.do(agent.make_request(server, 1))
        agent.do(agent.make_request(server, 2))
        assert agent.hypervisor.count_signals(server) == 2

    def test_what_sent_nothing_holds_nothing_off(self, agent: Agent) -> None:
        server = agent.make_server()
        agent.hypervisor.behave(server, refuse(BackendUnavailable(server, "away")))
        agent.do(agent.make_request(server, 1))
        agent.do(agent.make_request(server, 2))
        assert agent.code(make_id(2)) == Code.SIGNAL_DELIVERED

    def test_a_forced_action_that_sent_nothing_does_not_end_the_hold_off_before_it(self, agent: Agent) -> None:
        server = agent.make_server()
        agent.do(agent.make_request(server, 1))
        agent.hypervisor.behave(server, refuse(BackendUnavailable(server, "away")))
        agent.do(agent.make_request(server, 2, force=True))
        agent.do(agent.make_request(server, 3))
        assert agent.code(make_id(3)) == Code.CRASH_DUMP_IN_PROGRESS

    def test_an_nmi_that_waits_in_a_paused_server_holds_off_for_as_long_as_it_waits(self, agent: Agent) -> None:
        server = agent.make_server(power_state=PowerState.PAUSED)
        agent.do(agent.make_request(server, 1))
        agent.clock.advance(10 * HOLDOFF)
        agent.do(agent.make_request(server, 2))
        assert agent.code(make_id(2)) == Code.CRASH_DUMP_IN_PROGRESS

    def test_force_skips_the_hold_off(self, agent: Agent) -> None:
        server = agent.make_server()
        agent.do(agent.make_request(server, 1))
        agent.do(agent.make_request(server, 2, force=True))
        assert agent.hypervisor.count_signals(server) == 2

    def test_force_skips_nothing_else(self, agent: Agent) -> None:
        server, off = agent.make_server(), agent.make_server(power_state=PowerState.SHUTDOWN)
        requests = {
            Code.SERVER_MOVED: agent.make_request(server, 1, server_generation=7, force=True),
            Code.SERVER_NOT_RUNNING: agent.make_request(off, 2, force=True),
            Code.DEADLINE_PASSED: agent.make_request(server, 3, seconds=0, force=True),
            Code.JOURNAL_LOST: agent.make_request(server, 4, journal_id="another", force=True),
            Code.CLOCK_SKEW: agent.make_request(server, 5, sent_at=agent.clock.now() + timedelta(seconds=5), force=True),
        }
        for code, request in requests.items():
            agent.do(request)
            assert agent.code(request.id) == code
        assert agent.hypervisor.count_signals(server) == 0


def test_every_code_has_the_ending_that_the_table_gives_it(agent: Agent) -> None:
    server = agent.make_server()
    agent.do(agent.make_request(server, 1))
    agent.do(agent.make_request(server, 2))
    for event in agent.list_events("action.ended"):
        assert CODES[Code(event.payload["code"])].ending == event.payload["ending"]
