"""What agents report: in any order, any number of times, with one ending at the end."""

import itertools
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from api_gateway.store import Store, actions, counters, endings
from api_gateway.store.actions import ActionRow
from api_gateway.store.reports import Applied, apply_ended, apply_observed, apply_received, apply_started, reported_actions
from compute_agent.contract.errors import Code, Ending
from compute_agent.contract.events import ActionRevised
from tests.fakes import FakeClock
from tests.unit.gateway.store_parts import SERVER, FakeHost, at, build_action, list_outbox_events

RECEIVED, STARTED, ENDED, OBSERVED = (timedelta(seconds=seconds) for seconds in (1, 2, 3, 4))


class Reporter:
    """Applies reports about one action, each in a transaction of its own."""

    def __init__(self, store: Store, clock: FakeClock, action: ActionRow) -> None:
        self._store = store
        self._clock = clock
        self._begin = clock.now()
        self.action = action

    def _apply(self, apply: Callable[..., Applied], **values: Any) -> Applied:
        with self._store.write() as c, reported_actions(c) as reported:
            return apply(reported, self.action.id, **({"host": "a", "now": self._clock.now()} | values))

    def received(self, **changes: Any) -> Applied:
        known = {"kind": "trigger_crash_dump", "server": SERVER, "epoch": "j1", "project": "demo", "user": "admin"}
        return self._apply(apply_received, **(known | {"deadline": self.action.deadline, "at": self._begin + RECEIVED} | changes))

    def started(self, **changes: Any) -> Applied:
        return self._apply(apply_started, **({"at": self._begin + STARTED} | changes))

    def ended(self, ending: str = "succeeded", code: str = "signal_delivered", **changes: Any) -> Applied:
        moments = {"at": self._begin + ENDED, "started_at": self._begin + STARTED, "signalled_at": self._begin + ENDED}
        return self._apply(apply_ended, **({"epoch": "j1", "ending": ending, "code": code, "reason": "So."} | moments | changes))

    def observed(self, observation: str = "guest_panicked", final: bool = True, seconds: float = 4, **changes: Any) -> Applied:
        seen_at = self._begin + timedelta(seconds=seconds)
        said = {"epoch": "j1", "observation": observation, "final": final, "observed_at": seen_at, "text": "T."}
        return self._apply(apply_observed, **(said | changes))

    def get(self) -> ActionRow:
        with self._store.read() as c:
            return actions.get_action(c, self.action.id)

    def give_up(self) -> None:
        """The gateway has waited for the agent long enough."""
        with self._store.write() as c:
            told = {"ending": Ending.UNKNOWN, "code": Code.NOT_REPORTED, "reason": "Silence.", "at": self._clock.now()}
            assert endings.end_by_gateway(c, self.action.id, **told)  # type: ignore[arg-type]

    def list_events(self, event_type: str) -> list[dict[str, Any]]:
        with self._store.read() as c:
            return [row.payload for row in list_outbox_events(c, event_type)]

    def list_violations(self) -> dict[str, int]:
        with self._store.read() as c:
            return counters.list_violations(c)


def insert(store: Store, clock: FakeClock, **changes: Any) -> Reporter:
    row = build_action(clock, **changes)
    with store.write() as c:
        actions.insert_action(c, row)
    return Reporter(store, clock, row)


@pytest.fixture
def reporter(store: Store, clock: FakeClock) -> Reporter:
    return insert(store, clock)


def test_reports_in_order_move_the_action_forward(reporter: Reporter, clock: FakeClock) -> None:
    begin = clock.now()
    states = []
    for report in (reporter.received, reporter.started, reporter.ended, reporter.observed):
        clock.advance(1)
        assert report() is Applied.CHANGED
        states.append(reporter.get().state)
    assert states == ["received", "started", "ended", "ended"]
    row = reporter.get()
    assert (row.received_at, row.started_at, row.signalled_at, row.ended_at, row.observed_at) == (
        begin + RECEIVED,
        begin + STARTED,
        begin + ENDED,
        begin + ENDED,
        begin + OBSERVED,
    )
    assert (row.ending, row.code, row.decided_by, row.ending_epoch) == ("succeeded", "signal_delivered", "agent", "j1")
    assert (row.recorded_at, row.updated_at) == (begin + timedelta(seconds=3), clock.now())


@pytest.mark.parametrize("order", list(itertools.permutations(["received", "started", "ended", "observed"])), ids="-".join)
def test_any_order_any_number_of_times_comes_to_the_same(store: Store, clock: FakeClock, order: tuple[str, ...]) -> None:
    reference, shuffled = insert(store, clock), insert(store, clock)
    for name in ("received", "started", "ended", "observed"):
        getattr(reference, name)()
    for name in (*order, *order):
        getattr(shuffled, name)()
    for name in order:
        assert getattr(shuffled, name)() is Applied.UNCHANGED
    expected, row = reference.get(), shuffled.get()
    assert {**vars(row), "id": ""} == {**vars(expected), "id": ""}
    assert shuffled.list_violations() == {}


def test_an_action_that_the_gateway_never_accepted_is_made_from_its_receipt(store: Store, clock: FakeClock) -> None:
    """Somebody asked the agent directly; what it told before the receipt came is applied then."""
    host = FakeHost(store, clock, "a")
    host.put(generation=7)
    host.beat(full=True)
    reporter = Reporter(store, clock, build_action(clock))
    assert [reporter.started(), reporter.ended(), reporter.observed()] == [Applied.NO_ACTION] * 3
    assert reporter.received() is Applied.MADE
    row = reporter.get()
    assert (row.state, row.server, row.server_generation, row.journal_id) == ("received", SERVER, 7, "j1")
    assert (row.project, row.user, row.deadline, row.received_at) == ("demo", "admin", reporter.action.deadline, row.accepted_at)
    assert reporter.received() is Applied.UNCHANGED
    assert reporter.ended() is Applied.CHANGED


def test_no_agent_can_forbid_actions_on_a_server_that_it_never_had(store: Store, clock: FakeClock) -> None:
    """An action of its own making would be open, and an open one forbids others."""
    owner = FakeHost(store, clock, "a")
    owner.put()
    owner.beat(full=True)
    stranger = Reporter(store, clock, build_action(clock))
    assert stranger.received(host="b") is Applied.FOREIGN
    with store.read() as c:
        assert actions.find_action(c, stranger.action.id) is None
    assert stranger.received(host="a", deadline=at(clock, 86_400 * 365)) is Applied.MADE
    assert stranger.get().deadline == clock.now() + timedelta(days=1)


def test_an_agents_ending_replaces_a_gateways_unknown_exactly_once(reporter: Reporter, clock: FakeClock) -> None:
    reporter.received()
    reporter.give_up()
    clock.advance(5)
    assert reporter.ended() is Applied.CHANGED
    row = reporter.get()
    assert (row.ending, row.code, row.decided_by, row.revised_at) == ("succeeded", "signal_delivered", "agent", clock.now())
    clock.advance(5)
    assert reporter.ended() is Applied.UNCHANGED
    assert reporter.ended("failed", "driver_fault") is Applied.VIOLATION
    assert reporter.get() == row
    (event,) = reporter.list_events("action.revised")
    told = ActionRevised.from_wire(event)
    assert (told.ending, told.previous_ending, told.previous_code) == ("succeeded", "unknown", "not_reported")
    assert reporter.list_violations() == {"second_ending": 1}


def test_an_agents_unknown_replaces_the_gateways_too(reporter: Reporter) -> None:
    reporter.give_up()
    assert reporter.ended("unknown", "agent_restarted") is Applied.CHANGED
    assert len(reporter.list_events("action.revised")) == 1
    assert reporter.get().decided_by == "agent"


def test_words_of_a_newer_release_are_kept_and_told_as_they_came(reporter: Reporter) -> None:
    reporter.give_up()
    reporter.ended("succeeded", "a_code_of_tomorrow")
    assert reporter.get().code == "a_code_of_tomorrow"
    assert reporter.list_events("action.revised")[0]["code"] == "a_code_of_tomorrow"
    reporter.observed("an_observation_of_tomorrow")
    assert reporter.get().observation == "an_observation_of_tomorrow"


def test_a_second_different_ending_of_one_journal_is_counted_and_the_first_stays(reporter: Reporter) -> None:
    reporter.ended()
    row = reporter.get()
    assert reporter.ended("unknown", "answer_lost") is Applied.VIOLATION
    assert reporter.ended("succeeded", "signal_delivered") is Applied.UNCHANGED
    assert reporter.get() == row
    assert reporter.list_violations() == {"second_ending": 1}


def test_another_journals_ending_leaves_the_first_and_is_nobodys_fault(reporter: Reporter) -> None:
    reporter.ended()
    row = reporter.get()
    assert reporter.ended("unknown", "journal_lost", epoch="j2") is Applied.UNCHANGED
    assert reporter.get() == row
    assert reporter.list_violations() == {}


def test_an_ending_of_an_action_that_the_gateway_knew_to_be_undelivered_is_a_violation(store: Store, clock: FakeClock) -> None:
    reporter = insert(store, clock)
    with store.write() as c:
        told = {"ending": Ending.EXPIRED, "code": Code.DEADLINE_PASSED, "reason": "Late.", "at": clock.now()}
        assert endings.end_by_gateway(c, reporter.action.id, **told)  # type: ignore[arg-type]
    assert reporter.ended() is Applied.VIOLATION
    assert reporter.ended("expired", "deadline_passed") is Applied.UNCHANGED
    assert reporter.get().decided_by == "gateway"


def test_a_host_cannot_report_on_another_hosts_action(reporter: Reporter) -> None:
    before = reporter.get()
    reports = (reporter.received, reporter.started, reporter.ended, reporter.observed)
    assert [report(host="b") for report in reports] == [Applied.FOREIGN] * 4
    assert reporter.get() == before
    assert reporter.list_violations() == {"foreign_host": 4}


def test_a_final_observation_stays_and_of_others_the_later_one_holds(reporter: Reporter) -> None:
    assert reporter.observed("nothing_seen_yet", final=False, seconds=60) is Applied.CHANGED
    assert reporter.observed("pending_until_resume", final=False, seconds=1) is Applied.UNCHANGED
    assert reporter.observed("guest_rebooted", seconds=30) is Applied.CHANGED, "a final one holds whenever it was seen"
    assert reporter.observed("nothing_seen_yet", final=False, seconds=90) is Applied.UNCHANGED
    assert reporter.observed("guest_rebooted", seconds=30) is Applied.UNCHANGED
    assert reporter.observed("nothing_seen", seconds=99) is Applied.VIOLATION
    row = reporter.get()
    assert (row.observation, row.observation_final) == ("guest_rebooted", True)
    assert reporter.list_violations() == {"second_observation": 1}


def test_what_the_first_journal_saw_last_stays_when_the_ending_comes_out_of_the_next(store: Store, clock: FakeClock) -> None:
    """The ending itself went with the first journal."""
    reporter = insert(store, clock, journal_id="j1")
    assert reporter.observed("guest_rebooted") is Applied.CHANGED
    reporter.ended("unknown", "journal_lost", epoch="j2")
    assert reporter.observed("guest_stopped", epoch="j2", seconds=99) is Applied.UNCHANGED
    assert reporter.get().observation == "guest_rebooted"
    assert reporter.list_violations() == {}


def test_an_observation_out_of_another_journal_than_the_endings_changes_nothing(reporter: Reporter) -> None:
    """The agent of a lost journal watches what it must call unknown, also when the first journal had told the outcome already."""
    reporter.ended()
    assert reporter.observed("guest_rebooted") is Applied.CHANGED
    assert reporter.observed("not_observed", epoch="j2") is Applied.UNCHANGED
    assert reporter.get().observation == "guest_rebooted"
    assert reporter.list_violations() == {}


@pytest.mark.parametrize("ending", ["failed", "expired"])
def test_nothing_is_observed_after_an_action_of_which_nothing_was_sent(reporter: Reporter, ending: str) -> None:
    reporter.ended(ending, "crash_dump_in_progress" if ending == "failed" else "deadline_passed")
    assert reporter.observed("guest_rebooted", epoch="j2") is Applied.UNCHANGED
    assert reporter.get().observation is None


@pytest.mark.parametrize("ending", ["failed", "expired"])
def test_what_the_next_journals_agent_saw_goes_when_the_first_one_says_that_nothing_was_sent(reporter: Reporter, ending: str) -> None:
    """What comes out of the two journals may be heard in any order."""
    reporter.give_up()
    assert reporter.observed("guest_rebooted", epoch="j2") is Applied.CHANGED
    assert reporter.ended(ending, "backend_unavailable" if ending == "failed" else "deadline_passed", signalled_at=None) is Applied.CHANGED
    row = reporter.get()
    assert (row.ending, row.observation, row.observation_final, row.observed_at, row.observation_text) == (ending, None, False, None, None)


def test_what_followed_an_action_that_was_given_up_is_told_before_its_ending_comes(reporter: Reporter) -> None:
    reporter.give_up()
    assert reporter.observed("guest_rebooted") is Applied.CHANGED


def test_a_report_and_its_violation_are_one_transaction(store: Store, reporter: Reporter, clock: FakeClock) -> None:
    def fail() -> None:
        with store.write() as c, reported_actions(c) as reported:
            apply_started(reported, reporter.action.id, host="b", at=at(clock, 1), now=clock.now())
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert reporter.list_violations() == {}
