"""The invariants of events can fail: as in ``test_validator``, for 5 and 6."""

import pytest

from compute_agent.contract.models import OPEN_END
from tests.chaos.history import What
from tests.chaos.record import Violation
from tests.chaos.stories import EPOCH, Story
from tests.chaos.validator import validate


@pytest.fixture
def story() -> Story:
    return Story()


def judge(story: Story) -> list[Violation]:
    return validate(story.lines)


def numbers(story: Story) -> set[int]:
    return {violation.invariant for violation in judge(story)}


def test_a_committed_event_that_is_not_in_the_store_is_a_violation(story: Story) -> None:
    story.add_event("server.paused", 120.0, stored=False)
    assert [violation.invariant for violation in judge(story)] == [5]


@pytest.mark.parametrize(("sent", "broken"), [(False, set()), (True, {5})])
def test_what_a_second_agent_saw_and_never_told_may_be_missing(story: Story, sent: bool, broken: set[int]) -> None:
    story.add_event("server.panicked", 150.0, stored=False)
    story.change(What.JOURNALLED_EVENT, -1, second=True, sent=sent)
    assert numbers(story) == broken


def test_an_event_in_a_named_range_may_be_missing_when_a_queue_was_purged(story: Story) -> None:
    story.add_event("server.paused", 120.0, stored=False)
    story.add(What.PURGED, 121.0, queue="crashcart.recorder")
    story.add_event("events.lost", 130.0, lost_epoch=EPOCH, first=2, last=OPEN_END)
    assert judge(story) == []


def test_what_only_a_destroyed_journal_had_may_be_missing_and_is_named_if_anybody_knows_of_it(story: Story) -> None:
    story.add_event("server.paused", 120.0, stored=False)
    story.change(What.JOURNALLED_EVENT, 1, destroyed=True, sent=False)
    assert judge(story) == []
    story.add_event("events.lost", 130.0, lost_epoch=EPOCH, first=2, last=2)
    assert judge(story) == []


def test_what_the_broker_had_confirmed_is_not_gone_with_a_destroyed_journal(story: Story) -> None:
    story.add_event("server.paused", 120.0, stored=False)
    story.change(What.JOURNALLED_EVENT, 1, destroyed=True)
    story.add(What.PURGED, 110.0, queue="crashcart.recorder")
    assert [violation.invariant for violation in judge(story)] == [5]


@pytest.mark.parametrize("what", [What.PURGED, What.RESTORED])
def test_what_was_destroyed_twice_is_gone(story: Story, what: What) -> None:
    story.add_event("server.paused", 120.0, stored=False)
    story.change(What.JOURNALLED_EVENT, 1, destroyed=True)
    story.add(what, 121.0, queue="crashcart.recorder", taken_at=119.0)
    assert judge(story) == []


def test_a_named_range_without_a_purge_is_a_violation(story: Story) -> None:
    story.add_event("server.paused", 120.0, stored=False)
    story.add_event("events.lost", 130.0, lost_epoch=EPOCH, first=2, last=2)
    assert [violation.invariant for violation in judge(story)] == [5]


@pytest.mark.parametrize(("queue", "at"), [("compute_agent.host-1", 121.0), ("crashcart.recorder", 140.0), ("crashcart.recorder", 110.0)])
def test_a_purge_explains_no_loss_in_another_queue_nor_an_earlier_or_later_one(story: Story, queue: str, at: float) -> None:
    story.add_event("server.paused", 120.0, stored=False)
    story.add(What.PURGED, at, queue=queue)
    story.add_event("events.lost", 130.0, lost_epoch=EPOCH, first=2, last=2)
    assert [violation.invariant for violation in judge(story)] == [5]


def test_the_gateways_own_event_may_have_lost_its_outbox_to_a_restoration_and_to_nothing_else(story: Story) -> None:
    story.add(What.OUTBOX, 200.0, message_id="message-2", type="agent.down", sent=True)
    for at in (105.0, 120.0):
        story.add_event("agent.down", at, epoch="gateway", server=None)
    story.drop(What.JOURNALLED_EVENT, type="agent.down")
    story.add(What.RESTORED, 122.0, taken_at=115.0)
    assert judge(story) == []
    story.change(What.EVENT, -1, occurred_at=110.0)
    assert [violation.invariant for violation in judge(story)] == [5]


def test_an_event_that_is_recorded_twice_is_a_violation(story: Story) -> None:
    event = story.add_event("server.paused", 120.0)
    story.lines.append({**event, "recorded_at": 121.0})
    assert {violation.invariant for violation in judge(story)} == {5}


def test_an_event_that_was_never_committed_is_a_violation(story: Story) -> None:
    story.add_event("server.paused", 120.0)
    story.drop(What.JOURNALLED_EVENT, type="server.paused")
    assert [violation.invariant for violation in judge(story)] == [5]


def test_an_event_of_the_gateways_own_must_be_recorded(story: Story) -> None:
    story.add(What.OUTBOX, 200.0, message_id="message-9", type="agent.down", sent=True)
    assert [violation.invariant for violation in judge(story)] == [5]


def test_an_event_that_is_recorded_after_a_later_one_is_a_violation(story: Story) -> None:
    earlier, later = story.add_event("server.paused", 120.0), story.add_event("server.resumed", 121.0)
    story.lines.remove(earlier)
    earlier["recorded_at"] = later["recorded_at"] + 1
    story.lines.append(earlier)
    assert [violation.invariant for violation in judge(story)] == [5]


def test_an_event_that_was_destroyed_may_be_recorded_after_later_ones(story: Story) -> None:
    earlier = story.add_event("server.paused", 120.0)
    story.add_event("server.resumed", 121.0)
    story.lines.remove(earlier)
    earlier["recorded_at"] = 125.0
    story.lines.append(earlier)
    story.add(What.PURGED, 120.5, queue="crashcart.recorder")
    assert judge(story) == []


# 6


def test_an_event_that_the_second_consumer_never_heard_is_a_violation(story: Story) -> None:
    story.add_event("server.paused", 120.0, heard=False)
    assert [violation.invariant for violation in judge(story)] == [6]
