"""Calling an action off: ended at once where no agent can have it, told to the agent otherwise, and never called what it was not."""

from collections.abc import Callable

import pytest

from api_gateway.cancellation import NotCancellable, cancel_action
from api_gateway.dispatcher import Dispatcher
from api_gateway.identity import Identity
from api_gateway.native.action_view import view_action
from api_gateway.rpc_versions import AgentTooOld, Speech
from api_gateway.store import Store, actions, heartbeats, reports, restoring
from api_gateway.store.actions import ActionRow
from api_gateway.sweep import Sweep
from compute_agent.contract.events import ActionEnded
from compute_agent.contract.rpcapi import Unroutable, VersionTooLow
from tests.fakes import FakeClock
from tests.unit.gateway.engine_parts import HOST, JOURNAL, AgentVoice, HeldCasts, NotingCaster, add_action, add_agent, get_action
from tests.unit.gateway.store_parts import list_outbox_events

GRACE = 2.0 + 20.0

Cancel = Callable[[ActionRow], ActionRow]


@pytest.fixture
def cancel(store: Store, clock: FakeClock) -> Cancel:
    def cancel(action: ActionRow) -> ActionRow:
        with store.write() as c:
            return cancel_action(c, action.id, user="ann", now=clock.now(), speech=Speech())

    return cancel


def report_received(store: Store, clock: FakeClock, action: ActionRow) -> None:
    with store.write() as c, reports.reported_actions(c) as reported:
        reports.apply_received(
            reported, action.id, kind=action.kind, server=action.server, host=HOST, epoch=JOURNAL,
            project=action.project, user=action.user, deadline=action.deadline, at=clock.now(), now=clock.now(),
        )  # fmt: skip


def report_started(store: Store, clock: FakeClock, action: ActionRow) -> None:
    with store.write() as c, reports.reported_actions(c) as reported:
        reports.apply_started(reported, action.id, host=HOST, at=clock.now(), now=clock.now())


def report_ended(store: Store, clock: FakeClock, action: ActionRow, ending: str, code: str) -> None:
    with store.write() as c, reports.reported_actions(c) as reported:
        reports.apply_ended(
            reported, action.id, host=HOST, epoch=JOURNAL, ending=ending, code=code, reason="So.", at=clock.now(), now=clock.now()
        )  # fmt: skip


class TestAsking:
    def test_what_was_never_cast_ends_at_once_and_is_told_and_never_cast(
        self, store: Store, clock: FakeClock, caster: NotingCaster, dispatcher: Dispatcher, cancel: Cancel
    ) -> None:
        action = cancel(add_action(store, clock))
        assert (action.state, action.ending, action.code, action.decided_by) == ("ended", "failed", "cancelled", "gateway")
        assert (action.cancel_requested_at, action.cancel_requested_by) == (clock.now(), "ann")
        with store.read() as c:
            (event,) = list_outbox_events(c)
        assert ActionEnded.from_wire(event.payload).code == "cancelled"
        dispatcher.step()
        assert (caster.requests, caster.cancelled) == ([], [])

    def test_what_the_broker_always_returned_ends_at_once(
        self, store: Store, clock: FakeClock, caster: NotingCaster, dispatcher: Dispatcher, cancel: Cancel
    ) -> None:
        action = add_action(store, clock)
        caster.error = Unroutable("no queue")
        dispatcher.step()
        assert cancel(action).code == "cancelled"

    def test_what_was_perhaps_delivered_stays_open_until_its_agent_says_what_became_of_it(
        self, store: Store, clock: FakeClock, dispatcher: Dispatcher, cancel: Cancel
    ) -> None:
        action = add_action(store, clock)
        dispatcher.step()
        clock.advance(0.1)
        noted = cancel(action)
        assert (noted.state, noted.cancel_requested_at, noted.updated_at) == ("accepted", clock.now(), clock.now())
        report_ended(store, clock, action, "failed", "cancelled")
        assert (get_action(store, action).ending, get_action(store, action).decided_by) == ("failed", "agent")

    def test_once_more_changes_nothing_before_and_after_the_ending(
        self, store: Store, clock: FakeClock, dispatcher: Dispatcher, cancel: Cancel
    ) -> None:
        action = add_action(store, clock)
        dispatcher.step()
        first = cancel(action)
        clock.advance(1)
        assert cancel(action) == first
        report_ended(store, clock, action, "failed", "cancelled")
        assert cancel(action) == get_action(store, action)

    def test_what_has_begun_or_ended_otherwise_is_refused_and_unchanged(
        self, store: Store, clock: FakeClock, dispatcher: Dispatcher, cancel: Cancel
    ) -> None:
        action = add_action(store, clock)
        dispatcher.step()
        report_started(store, clock, action)
        before = get_action(store, action)
        with pytest.raises(NotCancellable, match="has begun already"):
            cancel(action)
        assert get_action(store, action) == before
        report_ended(store, clock, action, "succeeded", "signal_delivered")
        with pytest.raises(NotCancellable, match="has ended already: succeeded"):
            cancel(action)

    def test_an_ending_that_came_in_spite_of_it_is_no_success_of_the_cancellation(
        self, store: Store, clock: FakeClock, dispatcher: Dispatcher, cancel: Cancel
    ) -> None:
        action = add_action(store, clock)
        dispatcher.step()
        cancel(action)
        report_ended(store, clock, action, "succeeded", "signal_delivered")
        with pytest.raises(NotCancellable, match="succeeded"):
            cancel(action)

    def test_an_agent_that_does_not_know_how_is_named_and_nothing_is_written(
        self, store: Store, clock: FakeClock, dispatcher: Dispatcher, cancel: Cancel, voice: AgentVoice
    ) -> None:
        action = add_action(store, clock)
        dispatcher.step()
        before = get_action(store, action)
        with store.write() as c:
            heartbeats.apply_heartbeats(
                c, [voice.build_heartbeat().model_copy(update={"rpc_version": "1.3", "release": "1.0"})], clock.now()
            )
        with pytest.raises(AgentTooOld, match=r"agent on host-1 \(release 1.0\) does not support this: cancel_action"):
            cancel(action)
        assert get_action(store, action) == before

    def test_what_only_its_agents_report_tells_of_is_called_off_at_the_agent(self, store: Store, clock: FakeClock, cancel: Cancel) -> None:
        """Its request has more than the report says: told by us, it would be another action under the same id."""
        action = add_action(store, clock)
        unasked = f"req-00000000{action.id[12:]}"
        with store.write() as c, reports.reported_actions(c) as reported:
            reports.apply_received(
                reported, unasked, kind=action.kind, server=action.server, host=HOST, epoch=JOURNAL, project=action.project,
                user=action.user, deadline=action.deadline, at=clock.now(), now=clock.now(),
            )  # fmt: skip
            made = actions.get_action(c, unasked)
        moments = view_action(made, Identity.nobody(), None)["timeline"]
        assert "answered 202" not in moments[0]["text"]
        with pytest.raises(NotCancellable, match="was asked of its agent"):
            cancel(made)

    def test_there_is_no_cancelling_what_there_is_not(self, store: Store, clock: FakeClock, cancel: Cancel) -> None:
        with pytest.raises(LookupError):
            cancel(ActionRow(**{**vars(add_action(store, clock)), "id": "req-none"}))


class TestCasting:
    def test_its_agent_is_told_at_once_with_the_same_request_and_no_more_of_the_action(
        self, store: Store, clock: FakeClock, caster: NotingCaster, dispatcher: Dispatcher, cancel: Cancel
    ) -> None:
        action = add_action(store, clock)
        dispatcher.step()
        clock.advance(0.1)
        cancel(action)
        assert dispatcher.step() == pytest.approx(5.0)
        ((asked,), (told,)) = caster.requests, caster.cancelled
        assert told.fingerprint() == asked.fingerprint()
        clock.advance(5.1)
        dispatcher.step()
        assert (len(caster.requests), len(caster.cancelled)) == (1, 2)

    def test_its_agent_is_told_before_what_came_after_it_is_cast(
        self, store: Store, clock: FakeClock, caster: NotingCaster, dispatcher: Dispatcher, cancel: Cancel
    ) -> None:
        """It may begin at any moment, and a busy host may have hundreds to be cast."""
        action = add_action(store, clock)
        dispatcher.step()
        clock.advance(0.1)
        cancel(action)
        clock.advance(0.1)
        add_action(store, clock)
        dispatcher.step()
        assert (len(caster.requests), len(caster.cancelled)) == (1, 1)

    def test_an_agent_that_has_it_already_is_told_until_it_says_that_it_ended_or_began(
        self, store: Store, clock: FakeClock, caster: NotingCaster, dispatcher: Dispatcher, cancel: Cancel
    ) -> None:
        action = add_action(store, clock)
        dispatcher.step()
        report_received(store, clock, action)
        assert dispatcher.step() is None
        cancel(action)
        for casts in (1, 2):
            dispatcher.step()
            assert len(caster.cancelled) == casts
            clock.advance(5.1)
        report_started(store, clock, action)
        assert dispatcher.step() is None
        assert len(caster.cancelled) == 2

    def test_a_cast_in_flight_comes_first_and_the_cancellation_right_after_it(
        self, store: Store, clock: FakeClock, caster: NotingCaster, voice: AgentVoice, cancel: Cancel
    ) -> None:
        slots = HeldCasts()
        dispatcher = Dispatcher(store, caster, clock, owner="one", slots=slots)
        action = add_action(store, clock)
        dispatcher.step()
        assert cancel(action).state == "accepted", "it is perhaps delivered"
        dispatcher.step()
        assert len(slots.jobs) == 1
        slots.finish()
        dispatcher.step()
        slots.finish()
        assert (len(caster.requests), len(caster.cancelled)) == (1, 1)

    def test_when_the_cast_in_flight_comes_back_undelivered_the_gateway_ends_it(
        self, store: Store, clock: FakeClock, caster: NotingCaster, voice: AgentVoice, cancel: Cancel
    ) -> None:
        slots = HeldCasts()
        dispatcher = Dispatcher(store, caster, clock, owner="one", slots=slots)
        action = add_action(store, clock)
        dispatcher.step()
        cancel(action)
        caster.error = Unroutable("no queue")
        slots.finish()
        dispatcher.step()
        ended = get_action(store, action)
        assert (ended.ending, ended.code, ended.decided_by) == ("failed", "cancelled", "gateway")
        assert (slots.jobs, caster.cancelled) == ([], [])

    def test_a_cancellation_that_was_returned_proves_nothing_of_the_action(
        self, store: Store, clock: FakeClock, caster: NotingCaster, dispatcher: Dispatcher, cancel: Cancel
    ) -> None:
        action = add_action(store, clock)
        dispatcher.step()
        cancel(action)
        caster.error = Unroutable("no queue")
        dispatcher.step()
        assert get_action(store, action).perhaps_delivered

    def test_what_may_not_be_told_now_is_not_taken_for_told_nor_for_an_outage(
        self, store: Store, clock: FakeClock, caster: NotingCaster, dispatcher: Dispatcher, cancel: Cancel
    ) -> None:
        """Its agent was taken back to an older release meanwhile, say: others are cast to, and it is tried again."""
        action = add_action(store, clock)
        dispatcher.step()
        cancel(action)
        before = get_action(store, action)
        caster.error = VersionTooLow("host may be told no more than RPC version 1.3")
        assert dispatcher.step() == pytest.approx(5.0)
        after = get_action(store, action)
        assert after.cast_count - after.unroutable_count == before.cast_count - before.unroutable_count
        caster.error = None
        clock.advance(5.1)
        dispatcher.step()
        assert len(caster.cancelled) == 2

    def test_a_new_incarnation_is_told_at_once_and_another_journal_that_it_is_not_the_one(
        self, store: Store, clock: FakeClock, caster: NotingCaster, dispatcher: Dispatcher, cancel: Cancel, voice: AgentVoice
    ) -> None:
        action = add_action(store, clock)
        dispatcher.step()
        cancel(action)
        dispatcher.step()
        clock.advance(1)
        voice.incarnation, voice.journal = 2, "journal-2"
        add_agent(store, voice, clock)
        dispatcher.step()
        assert [request.journal_id for request in caster.cancelled] == [JOURNAL, JOURNAL]

    def test_nothing_is_told_past_the_deadline(
        self, store: Store, clock: FakeClock, caster: NotingCaster, dispatcher: Dispatcher, cancel: Cancel
    ) -> None:
        action = add_action(store, clock, deadline=3.0)
        dispatcher.step()
        cancel(action)
        clock.advance(3.0)
        assert dispatcher.step() is None
        assert caster.cancelled == []

    def test_after_a_backup_was_restored_its_agent_is_told_too(
        self, store: Store, clock: FakeClock, caster: NotingCaster, dispatcher: Dispatcher, cancel: Cancel
    ) -> None:
        """Nothing was cast as far as the backup knows; what was since, nobody does."""
        action = add_action(store, clock)
        with store.write() as c:
            restoring.mark_restored(c, now=clock.now())
        assert cancel(action).state == "accepted"
        dispatcher.step()
        assert (caster.requests, [request.id for request in caster.cancelled]) == ([], [action.id])


class TestTime:
    def test_at_the_deadline_what_was_never_delivered_is_cancelled_and_not_expired(
        self, store: Store, clock: FakeClock, caster: NotingCaster, sweep: Sweep, voice: AgentVoice, cancel: Cancel
    ) -> None:
        """Its cast came back while no dispatcher was there to see it."""
        slots = HeldCasts()
        Dispatcher(store, caster, clock, owner="one", slots=slots).step()
        action = add_action(store, clock, deadline=3.0)
        dispatcher = Dispatcher(store, caster, clock, owner="one", slots=slots)
        dispatcher.step()
        cancel(action)
        caster.error = Unroutable("no queue")
        slots.finish()
        dispatcher.finish()
        clock.advance(3.1)
        sweep.step()
        assert (get_action(store, action).ending, get_action(store, action).code) == ("failed", "cancelled")

    def test_what_was_perhaps_delivered_and_is_not_reported_is_unknown(
        self, store: Store, clock: FakeClock, dispatcher: Dispatcher, sweep: Sweep, cancel: Cancel
    ) -> None:
        action = add_action(store, clock, deadline=3.0)
        dispatcher.step()
        cancel(action)
        clock.advance(3.1)
        sweep.step()
        assert get_action(store, action).state == "accepted"
        clock.advance(GRACE)
        sweep.step()
        assert (get_action(store, action).ending, get_action(store, action).code) == ("unknown", "not_reported")
        report_ended(store, clock, action, "failed", "cancelled")
        revised = get_action(store, action)
        assert (revised.ending, revised.code, revised.revised_at) == ("failed", "cancelled", clock.now())
