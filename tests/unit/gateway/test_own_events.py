"""The gateway's own events reach the record, whatever an operator purges on their way."""

from datetime import timedelta

import pytest

from api_gateway.cast_slots import ImmediateCasts
from api_gateway.received import Received
from api_gateway.recorder import Recorder
from api_gateway.store import Store, events, outbox
from api_gateway.sweep import Sweep
from compute_agent.contract.notifications import Notification, encode, format_timestamp
from tests.fakes import FakeClock
from tests.unit.gateway.engine_parts import JOURNAL, NotingCaster

SILENT = {"release": "2026.2.0", "journal_id": JOURNAL, "incarnation": 1, "reason": "silent"}


@pytest.fixture
def recorder(store: Store, caster: NotingCaster, clock: FakeClock) -> Recorder:
    return Recorder(store, caster, clock, slots=ImmediateCasts())


@pytest.fixture
def sweep(store: Store, caster: NotingCaster, clock: FakeClock) -> Sweep:
    return Sweep(store, caster, clock, slots=ImmediateCasts())


def lose_one_of_two_published(store: Store, clock: FakeClock, recorder: Recorder) -> str:
    """Two agents' ends are told and confirmed, and only the second comes to the recorder; the message id of the first."""
    with store.write() as c:
        for host in ("h1", "h2"):
            outbox.append_event(c, "agent.down", server=None, host=host, occurred_at=clock.now(), body=SILENT)
        lost, kept = outbox.list_unsent(c)
        outbox.mark_sent(c, [lost.sequence, kept.sequence], at=clock.now())
    recorder.record([Received(encode(build_notification(kept)), None)])
    return lost.message_id


def build_notification(row: outbox.OutboxRow) -> Notification:
    return Notification(row.message_id, row.event_type, "gateway", row.severity, format_timestamp(row.occurred_at), row.payload)


def list_unsent_ids(store: Store) -> list[str]:
    with store.read() as c:
        return [row.message_id for row in outbox.list_unsent(c)]


def test_an_own_event_that_an_operator_purged_is_published_again(store: Store, recorder: Recorder, clock: FakeClock, sweep: Sweep) -> None:
    lost = lose_one_of_two_published(store, clock, recorder)
    clock.advance(59)
    sweep.publish_lost_again()
    assert list_unsent_ids(store) == [], "it may still be on its way"
    clock.advance(30)
    sweep.publish_lost_again()
    assert list_unsent_ids(store) == [lost]


def test_an_own_event_that_never_arrives_is_waited_for_ever_longer(
    store: Store, recorder: Recorder, clock: FakeClock, sweep: Sweep
) -> None:
    lose_one_of_two_published(store, clock, recorder)
    published = []
    for minute in range(40):
        clock.advance(60)
        sweep.publish_lost_again()
        with store.write() as c:
            for row in outbox.list_unsent(c):
                published.append(minute + 1)
                outbox.mark_sent(c, [row.sequence], at=clock.now())
    assert published == [1, 2, 4, 8, 16, 32]


def test_an_own_event_whose_record_was_forgotten_is_not_published_again(
    store: Store, caster: NotingCaster, recorder: Recorder, clock: FakeClock
) -> None:
    """It would be recorded again."""
    lose_one_of_two_published(store, clock, recorder)
    for _ in range(3):
        clock.advance(40_000)
        sweep = Sweep(store, caster, clock, slots=ImmediateCasts(), outbox_keep=10 * 86_400, events_keep=1)
        clock.advance(601)
        sweep.prune()
    sweep.publish_lost_again()
    with store.read() as c:
        assert events.list_events(c) == []
    assert list_unsent_ids(store) == []


def test_many_own_events_are_looked_through_page_after_page(
    store: Store, recorder: Recorder, clock: FakeClock, sweep: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An outage or a restored backup leaves thousands: one page at each step, not one each half minute; what waits at the front holds up
    nothing behind it."""
    monkeypatch.setattr("api_gateway.sweep._BATCH", 2)
    with store.write() as c:
        for _ in range(5):
            outbox.append_event(c, "agent.down", server=None, host="h1", occurred_at=clock.now(), body=SILENT)
        first, *others = outbox.list_unsent(c)
        outbox.mark_sent(c, [row.sequence for row in others], at=clock.now())
    clock.advance(61)
    with store.write() as c:
        outbox.mark_sent(c, [first.sequence], at=clock.now())
    reopened = []
    for _ in range(4):
        sweep.publish_lost_again()
        reopened.append(len(list_unsent_ids(store)))
    assert reopened == [1, 3, 4, 4]
    recorder.record([Received(encode(build_notification(first)), None)])
    with store.write() as c:
        outbox.mark_sent(c, [row.sequence for row in others], at=clock.now())
    clock.advance(61)
    for _ in range(3):
        sweep.publish_lost_again()
    assert list_unsent_ids(store) == [row.message_id for row in others]


def test_what_is_recorded_is_looked_at_once(store: Store, recorder: Recorder, clock: FakeClock) -> None:
    with store.write() as c:
        for _ in range(3):
            outbox.append_event(c, "agent.down", server=None, host="h1", occurred_at=clock.now(), body=SILENT)
        rows = outbox.list_unsent(c)
        outbox.mark_sent(c, [row.sequence for row in rows], at=clock.now())
    recorder.record([Received(encode(build_notification(row)), None) for row in rows])
    with store.read() as c:
        found = outbox.find_unrecorded(c, after=0, now=clock.now(), patience=timedelta(seconds=60))
        assert found == outbox.Unrecorded(until=rows[-1].sequence, lost=())
        later = outbox.find_unrecorded(c, after=found.until, now=clock.now(), patience=timedelta(seconds=60))
    assert later == found
