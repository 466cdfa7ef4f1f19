"""How a server is: read now, or the last reading with its age; over RPC and as an action."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from compute_agent.contract.diagnostics import DiagnosticsReply
from compute_agent.contract.errors import Code
from compute_agent.contract.events import EVENT_TYPES
from compute_agent.contract.models import ActionKind, PowerState
from compute_agent.drivers.errors import BackendUnavailable
from compute_agent.drivers.fake_behaviours import Hang, break_down, refuse
from compute_agent.drivers.fake_diagnostics import OCTETS_PER_SECOND, UTILISATION
from compute_agent.drivers.fake_server import Call
from compute_agent.journal import ActionState
from compute_agent.sampler import Sampler
from tests.unit.agent.action_parts import SHORT_COLLECTION_LIMIT, Agent, make_id

ELSEWHERE = "22222222-2222-4222-8222-222222222222"


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Agent]:
    agent = Agent(tmp_path / "journal.sqlite")
    yield agent
    agent.journal.close()


def ask(agent: Agent, server: str, *, history: bool = False) -> DiagnosticsReply:
    return DiagnosticsReply.from_wire(agent.endpoint.get_diagnostics({}, server, history))


class TestAnswer:
    def test_a_server_is_read_when_it_is_asked_for(self, agent: Agent) -> None:
        server = agent.make_server()
        agent.sampler.step()
        agent.clock.advance(30)
        report = ask(agent, server).report
        assert report is not None
        assert (report.server, report.stale, report.age) == (server, False, 0.0)
        assert report.diagnostics.uptime == 30
        assert report.diagnostics.cpu_details[0].utilisation == UTILISATION
        assert report.diagnostics.nic_details[0].rx_rate == OCTETS_PER_SECOND

    @pytest.mark.parametrize("power_state", list(PowerState))
    def test_a_server_in_any_state_is_answered_for(self, agent: Agent, power_state: PowerState) -> None:
        report = ask(agent, agent.make_server(power_state=power_state)).report
        assert report is not None
        assert report.diagnostics.state is power_state

    def test_while_the_hypervisor_hangs_the_last_sample_is_the_answer_with_its_age(
        self, agent: Agent, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(agent.collector._calls, "_limit", SHORT_COLLECTION_LIMIT)
        server, hang = agent.make_server(), Hang()
        agent.sampler.step()
        agent.clock.advance(12)
        agent.hypervisor.behave(server, hang, call=Call.COLLECT_DIAGNOSTICS)
        try:
            for _ in range(3):
                report = ask(agent, server).report
                assert report is not None
                assert (report.stale, report.age) == (True, 12.0)
                assert "collection" in report.errors
        finally:
            hang.release()

    def test_a_reading_that_was_asked_for_is_kept_where_sampling_is_off(self, agent: Agent) -> None:
        server = agent.make_server()
        ask(agent, server)
        agent.clock.advance(5)
        agent.hypervisor.lose_backend()
        report = ask(agent, server).report
        assert report is not None
        assert (report.stale, report.age) == (True, 5.0)

    @pytest.mark.parametrize("error", [refuse(BackendUnavailable(None, "away")), break_down(ZeroDivisionError())])
    def test_without_any_reading_it_is_refused(self, agent: Agent, error: object) -> None:
        server = agent.make_server()
        agent.hypervisor.behave(server, error, call=Call.COLLECT_DIAGNOSTICS)  # type: ignore[arg-type]
        reply = ask(agent, server)
        assert (reply.report, reply.code) == (None, Code.BACKEND_UNAVAILABLE)

    def test_a_server_that_is_not_here_is_refused_even_if_it_was(self, agent: Agent) -> None:
        server = agent.make_server()
        ask(agent, server)
        agent.hypervisor.remove(server)
        assert ask(agent, server).code is Code.SERVER_NOT_FOUND
        assert ask(agent, ELSEWHERE).code is Code.SERVER_NOT_FOUND

    def test_a_driver_without_diagnostics_says_so(self, agent: Agent) -> None:
        server = agent.make_server()
        agent.use_driver(replace(agent.driver, diagnostics=None))
        reply = ask(agent, server)
        assert reply.code is Code.NOT_SUPPORTED
        assert "NMI" not in str(reply.reason)

    @pytest.mark.parametrize("server", [None, 7, {}, "../../etc/passwd"])
    def test_what_is_no_server_id_is_refused(self, agent: Agent, server: object) -> None:
        assert DiagnosticsReply.from_wire(agent.endpoint.get_diagnostics({}, server)).code is Code.INVALID_REQUEST

    def test_the_history_is_what_was_sampled_oldest_first(self, agent: Agent) -> None:
        server = agent.make_server()
        for _ in range(25):
            agent.sampler.step()
            agent.clock.advance(30)
        history = ask(agent, server, history=True).history
        assert len(history) == 20
        assert [report.age for report in history[-2:]] == [60.0, 30.0]
        assert history[0].diagnostics.cpu_details[0].utilisation is None
        assert history[1].diagnostics.cpu_details[0].utilisation == UTILISATION
        assert ask(agent, server).history == ()


class TestSampler:
    def test_a_server_that_is_gone_is_forgotten(self, agent: Agent) -> None:
        server = agent.make_server()
        agent.sampler.step()
        ask(agent, server)
        agent.hypervisor.remove(server)
        with agent.change() as transaction:
            transaction.execute("DELETE FROM servers")
        agent.sampler.step()
        assert agent.sampler.list_readings(server) == []

    def test_a_crashed_server_keeps_the_samples_of_its_life(self, agent: Agent) -> None:
        server = agent.make_server()
        agent.sampler.step()
        agent.clock.advance(30)
        agent.hypervisor.panic(server)
        agent.clock.advance(30)
        agent.sampler.step()
        agent.collector.get_report(server)
        states = [reading.power_state for reading in agent.sampler.list_readings(server)]
        assert (states[0], states[-1]) == (PowerState.RUNNING, PowerState.CRASHED)

    def test_a_backend_that_is_away_costs_nothing_but_the_sample(self, agent: Agent) -> None:
        server = agent.make_server()
        agent.sampler.step()
        agent.hypervisor.lose_backend()
        assert agent.sampler.step() == 0
        assert len(agent.sampler.list_samples(server)) == 1

    def test_a_driver_without_diagnostics_is_not_sampled(self, agent: Agent) -> None:
        assert Sampler(None, agent.clock, list_servers=list).step() == 0

    def test_a_server_that_is_busy_is_left_out_and_keeps_its_last_sample(self, agent: Agent) -> None:
        server = agent.make_server()
        agent.sampler.step()
        agent.hypervisor.set_busy(server, True)
        assert agent.sampler.step() == 0
        assert len(agent.sampler.list_samples(server)) == 1


class TestAction:
    def test_the_report_comes_as_an_event_with_the_ending(self, agent: Agent) -> None:
        server = agent.make_server()
        action = agent.do(agent.make_request(server, kind=ActionKind.COLLECT_DIAGNOSTICS))
        assert action.result is not None
        assert action.result.code is Code.DIAGNOSTICS_COLLECTED
        assert agent.list_event_types() == ["action.received", "action.started", "server.diagnostics", "action.ended"]
        [row] = agent.list_events("server.diagnostics")
        payload = EVENT_TYPES["server.diagnostics"].payload.from_wire(row.payload)
        assert (payload.action_id, payload.report.server) == (make_id(), server)  # type: ignore[attr-defined]
        assert agent.hypervisor.count_signals(server) == 0

    def test_it_is_neither_held_off_nor_holds_off_nor_observed(self, agent: Agent) -> None:
        server = agent.make_server()
        agent.do(agent.make_request(server, 1, kind=ActionKind.COLLECT_DIAGNOSTICS))
        agent.do(agent.make_request(server, 2))
        agent.do(agent.make_request(server, 3, kind=ActionKind.COLLECT_DIAGNOSTICS))
        assert [agent.code(make_id(number)) for number in (1, 2, 3)] == [
            *(Code.DIAGNOSTICS_COLLECTED, Code.SIGNAL_DELIVERED, Code.DIAGNOSTICS_COLLECTED),
        ]
        with agent.change() as transaction:
            assert [action.request.id for action in transaction.list_awaiting_observation()] == [make_id(2)]

    def test_it_succeeds_with_the_last_sample_and_says_so(self, agent: Agent) -> None:
        server = agent.make_server()
        agent.sampler.step()
        agent.hypervisor.behave(server, refuse(BackendUnavailable(server, "away")), call=Call.COLLECT_DIAGNOSTICS)
        action = agent.do(agent.make_request(server, kind=ActionKind.COLLECT_DIAGNOSTICS))
        assert action.result is not None
        assert "last reading" in action.result.reason
        assert agent.list_events("server.diagnostics")[0].payload["report"]["stale"]

    def test_one_that_a_dead_agent_had_begun_is_done_again(self, agent: Agent) -> None:
        server = agent.make_server()
        agent.cast(agent.make_request(server, kind=ActionKind.COLLECT_DIAGNOSTICS))
        with agent.change() as transaction:
            transaction.start_action(make_id(), agent.clock.now())
        assert agent.restart() == [make_id()]
        assert agent.get(make_id()).state is ActionState.RECEIVED
        agent.actions.run(make_id())
        assert agent.code(make_id()) == Code.DIAGNOSTICS_COLLECTED
        assert len(agent.list_events("server.diagnostics")) == 1

    def test_after_the_deadline_it_is_not_done(self, agent: Agent) -> None:
        server = agent.make_server()
        agent.cast(agent.make_request(server, kind=ActionKind.COLLECT_DIAGNOSTICS, seconds=5))
        agent.clock.advance(5)
        agent.work()
        assert agent.code(make_id()) == Code.DEADLINE_PASSED

    def test_a_server_of_another_generation_or_elsewhere_is_refused(self, agent: Agent) -> None:
        agent.do(agent.make_request(agent.make_server(), 1, kind=ActionKind.COLLECT_DIAGNOSTICS, server_generation=2))
        agent.do(agent.make_request(ELSEWHERE, 2, kind=ActionKind.COLLECT_DIAGNOSTICS))
        assert (agent.code(make_id(1)), agent.code(make_id(2))) == (Code.SERVER_MOVED, Code.SERVER_MOVED)

    def test_a_request_of_one_kind_that_came_as_another_is_refused(self, agent: Agent) -> None:
        server = agent.make_server()
        agent.endpoint.trigger_crash_dump({}, agent.make_request(server, kind=ActionKind.COLLECT_DIAGNOSTICS).to_wire())
        agent.work()
        [row] = agent.list_events()
        assert (row.payload["code"], row.payload["kind"]) == ("invalid_request", "trigger_crash_dump")
        assert agent.hypervisor.count_signals(server) == 0
