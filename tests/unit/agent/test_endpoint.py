"""What comes over RPC: taken up once, refused aloud, answered again when it comes again."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from compute_agent.contract.errors import Code
from compute_agent.contract.models import BlackBoxChunk, Observation, PingReply
from compute_agent.contract.versions import RPC_API_VERSION, RPC_HISTORY
from compute_agent.endpoint import Endpoint
from compute_agent.journal import ActionState, JournalUnusable
from tests.unit.agent.action_parts import HOST, Agent, make_id


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Agent]:
    agent = Agent(tmp_path / "journal.sqlite")
    yield agent
    agent.journal.close()


def test_it_serves_every_method_of_its_rpc_version() -> None:
    assert Endpoint.target.version == RPC_API_VERSION
    for version in RPC_HISTORY:
        for method in version.methods:
            assert callable(getattr(Endpoint, method))


def test_an_action_is_journalled_before_it_is_queued(agent: Agent) -> None:
    request = agent.make_request(agent.make_server())
    agent.cast(request)
    assert agent.get(request.id).request == request
    assert agent.queue.take(0) == request.id
    payload = agent.list_events("action.received")[0].payload
    assert (payload["action_id"], payload["project"], payload["user"], payload["kind"]) == (
        request.id,
        "demo",
        "ann",
        "trigger_crash_dump",
    )


def test_the_callers_own_request_id_is_in_what_is_told_of_its_action(agent: Agent) -> None:
    """Whoever follows a request through several services finds it by this id."""
    global_id = "req-1c9e2f4b-6b7e-4d2f-8e3c-405b6c7d8e9f"
    agent.cast(agent.make_request(agent.make_server(), global_request_id=global_id))
    agent.work()
    told = [agent.list_events(event_type)[0].payload["global_request_id"] for event_type in ("action.received", "action.ended")]
    assert told == [global_id, global_id]


def test_what_cannot_be_journalled_is_not_taken_up(agent: Agent) -> None:
    """The exception leaves no answer; the gateway casts again."""
    request = agent.make_request(agent.make_server())
    agent.path.unlink()
    with pytest.raises(JournalUnusable):
        agent.cast(request)
    assert agent.queue.take(0) is None


def test_a_newer_gateways_additions_are_ignored(agent: Agent) -> None:
    request = agent.make_request(agent.make_server())
    agent.endpoint.trigger_crash_dump({}, {**request.to_wire(), "colour": "blue"})
    assert agent.get(request.id).request == request


@pytest.mark.parametrize("method", ["trigger_crash_dump", "cancel_action", "resend_events", "report_inventory"])
def test_without_the_lock_of_its_host_it_answers_nothing(agent: Agent, method: str) -> None:
    """An action bound to another agent's journal would end unknown here, and that agent's events would be reported as lost."""
    told: list[Any] = []
    endpoint = Endpoint(
        agent.journal,
        agent.queue,
        agent.clock,
        HOST,
        get_diagnostics=lambda server, history: told.append(server),
        get_black_box=lambda black_box_id, part, offset: BlackBoxChunk(total=None),
        on_resend=told.append,
        on_report_inventory=lambda: told.append(None),
        is_host_ours=lambda: False,
    )
    action = agent.make_request(agent.make_server(), journal_id="another").to_wire()
    bodies: dict[str, dict[str, Any]] = {
        "trigger_crash_dump": {"action": action},
        "cancel_action": {"action": action},
        "resend_events": {"events": {"epoch": "another", "first": 1, "last": 2}},
        "report_inventory": {},
    }
    getattr(endpoint, method)({}, **bodies[method])
    assert (told, agent.queue.take(0), agent.list_events("action.received"), agent.list_events("action.ended")) == ([], None, [], [])


class TestDuplicates:
    def test_one_that_comes_again_before_it_ran_runs_once(self, agent: Agent) -> None:
        server = agent.make_server()
        request = agent.make_request(server)
        agent.cast(request)
        agent.clock.advance(1)
        agent.cast(request.model_copy(update={"sent_at": agent.clock.now()}))
        agent.work()
        agent.work()
        assert agent.hypervisor.count_signals(server) == 1
        assert len(agent.list_events("action.received")) == 1

    def test_one_that_the_queue_lost_is_queued_again(self, agent: Agent) -> None:
        request = agent.make_request(agent.make_server())
        agent.cast(request)
        agent.restart()
        agent.cast(request)
        assert agent.queue.take(0) == request.id

    def test_of_an_ended_one_the_ending_is_published_again_as_the_same_message(self, agent: Agent) -> None:
        server = agent.make_server()
        request = agent.make_request(server)
        agent.do(request)
        with agent.change() as transaction:
            transaction.observe(request.id, Observation.GUEST_REBOOTED, agent.clock.now(), True, "text")
        before = [row for row in agent.list_events() if row.event_type in ("action.ended", "action.observed")]
        agent.mark_all_sent()
        agent.cast(request)
        agent.work()
        assert agent.list_unsent() == before
        assert agent.hypervisor.count_signals(server) == 1

    def test_other_content_under_a_known_id_is_refused_aloud(self, agent: Agent) -> None:
        server, other = agent.make_server(), agent.make_server()
        agent.do(agent.make_request(server, 1))
        agent.cast(agent.make_request(other, 1))
        agent.work()
        conflict = agent.list_events("action.id_conflict")
        assert [(row.payload["action_id"], row.severity) for row in conflict] == [(make_id(1), "error")]
        assert agent.hypervisor.count_signals(other) == 0
        assert agent.get(make_id(1)).request.server == server

    @pytest.mark.parametrize("change", [{"force": True}, {"user": "eve"}, {"deadline": "2026-01-01T09:00:00Z"}])
    def test_a_longer_deadline_or_force_is_other_content(self, agent: Agent, change: dict[str, Any]) -> None:
        request = agent.make_request(agent.make_server())
        agent.cast(request)
        agent.endpoint.trigger_crash_dump({}, {**request.to_wire(), **change})
        assert len(agent.list_events("action.id_conflict")) == 1
        assert agent.get(request.id).request == request


class TestBinding:
    def test_an_action_bound_to_another_journal_is_unknown_and_not_run(self, agent: Agent) -> None:
        server = agent.make_server()
        request = agent.make_request(server, journal_id="the-lost-one")
        agent.cast(request)
        agent.work()
        assert agent.code(request.id) == Code.JOURNAL_LOST
        assert agent.list_event_types() == ["action.received", "action.ended"]
        assert agent.ended == [request.id]
        assert agent.hypervisor.count_signals(server) == 0

    def test_it_holds_off_others_because_it_was_perhaps_sent(self, agent: Agent) -> None:
        server = agent.make_server()
        agent.cast(agent.make_request(server, 1, journal_id="the-lost-one"))
        agent.do(agent.make_request(server, 2))
        assert agent.code(make_id(2)) == Code.CRASH_DUMP_IN_PROGRESS

    def test_a_journal_deleted_between_two_casts_means_no_second_signal(self, agent: Agent) -> None:
        server = agent.make_server()
        request = agent.make_request(server)
        agent.do(request)
        agent.journal.close()
        agent.path.unlink()
        agent.start()
        agent.know(server)
        agent.do(request)
        assert agent.code(request.id) == Code.JOURNAL_LOST
        assert agent.hypervisor.count_signals(server) == 1

    def test_a_request_for_another_host_is_refused(self, agent: Agent) -> None:
        server = agent.make_server()
        agent.do(agent.make_request(server, host="host-2"))
        assert agent.code(make_id()) == Code.INVALID_REQUEST
        assert agent.hypervisor.count_signals(server) == 0


class TestUnreadable:
    def test_with_a_readable_id_it_is_ended_as_invalid(self, agent: Agent) -> None:
        server = agent.make_server()
        body = agent.make_request(server).to_wire()
        del body["deadline"]
        agent.endpoint.trigger_crash_dump({}, body)
        [row] = agent.list_events()
        assert row.event_type == "action.ended"
        assert (row.payload["ending"], row.payload["code"], row.payload["server"]) == ("failed", "invalid_request", server)
        assert "deadline" in row.payload["reason"]

    def test_its_ending_holds_whatever_comes_under_its_id_later(self, agent: Agent) -> None:
        server = agent.make_server()
        request = agent.make_request(server)
        for body in ({"id": request.id}, {"id": request.id}, request.to_wire()):
            agent.mark_all_sent()
            agent.endpoint.trigger_crash_dump({}, body)
            assert [row.event_type for row in agent.list_unsent()] == ["action.ended"]
        agent.work()
        assert len(agent.list_events()) == 1
        assert agent.hypervisor.count_signals(server) == 0

    def test_under_a_known_id_it_is_a_conflict(self, agent: Agent) -> None:
        request = agent.make_request(agent.make_server())
        agent.cast(request)
        agent.endpoint.trigger_crash_dump({}, {"id": request.id})
        assert agent.list_event_types() == ["action.received", "action.id_conflict"]
        assert agent.get(request.id).state is ActionState.RECEIVED

    @pytest.mark.parametrize("body", [None, "text", 7, [], {}, {"id": 7}, {"id": "req-x"}, {"id": None, "server": {}}])
    def test_without_a_readable_id_it_is_logged_and_dropped(self, agent: Agent, body: object, caplog: pytest.LogCaptureFixture) -> None:
        agent.endpoint.trigger_crash_dump({}, body)
        assert agent.list_events() == []
        assert "unreadable action" in caplog.text

    def test_what_was_sent_is_not_echoed_into_the_log(self, agent: Agent, caplog: pytest.LogCaptureFixture) -> None:
        agent.endpoint.trigger_crash_dump({}, {"id": make_id(), "user": {"secret": "hunter2"}})
        assert "hunter2" not in caplog.text


class TestOtherVerbs:
    def test_a_wanted_range_is_passed_on(self, agent: Agent) -> None:
        agent.endpoint.resend_events({}, {"epoch": agent.journal.journal_id, "first": 3, "last": 5})
        assert [(wanted.first, wanted.last) for wanted in agent.resend] == [(3, 5)]

    @pytest.mark.parametrize("events", [None, {}, {"epoch": "e", "first": 0, "last": 5}])
    def test_an_unreadable_range_is_dropped(self, agent: Agent, events: object) -> None:
        agent.endpoint.resend_events({}, events)
        assert agent.resend == []

    def test_a_wanted_inventory_is_passed_on(self, agent: Agent) -> None:
        agent.endpoint.report_inventory({})
        assert agent.inventory_reports == 1

    def test_ping_says_who_answers(self, agent: Agent) -> None:
        reply = PingReply.from_wire(agent.endpoint.ping({}))
        assert (reply.host, reply.journal_id, reply.incarnation) == (HOST, agent.journal.journal_id, 1)
