"""What real guests counted is judged so that each rule can fail, and fails for nothing that a guest cannot know."""

from typing import Any

import pytest

from tests.chaos.guest_checks import FIRED, check_guests
from tests.chaos.history import What
from tests.chaos.record import Record
from tests.chaos.stories import ACTION, SERVER, Story


@pytest.fixture
def story() -> Story:
    """One crash dump, signalled at 101; the guest counted it."""
    story = Story()
    story.change(What.ROW, signalled_at=101.0)
    story.add(What.COUNTED, 101.2, server=SERVER, panicked=False)
    story.add(What.GUEST, 200.0, server=SERVER, signals=1)
    return story


def judge(story: Story) -> list[int]:
    return [violation.invariant for violation in check_guests(Record.read(story.lines))]


def add_firing(story: Story, at: float, action: str = "none", *, told: bool = True, **fields: Any) -> None:
    story.add(What.FIRED, at, server=SERVER, action=action)
    if told:
        story.add_event(FIRED, at + 0.1, **fields)


def test_what_was_told_and_counted_breaks_nothing(story: Story) -> None:
    assert judge(story) == []


def test_a_signal_that_nobody_told_of_is_a_violation(story: Story) -> None:
    story.change(What.GUEST, signals=2)
    assert judge(story) == [3]


def test_a_signal_that_never_came_is_a_violation(story: Story) -> None:
    story.change(What.GUEST, signals=0)
    assert judge(story) == [4]


def test_what_was_sent_to_a_guest_between_two_lives_need_not_be_counted(story: Story) -> None:
    story.change(What.GUEST, signals=0)
    story.add(What.RESET, 102.0, server=SERVER)
    story.add(What.BOOTED, 108.0, server=SERVER)
    assert judge(story) == []


def test_what_was_sent_before_its_last_words_is_counted(story: Story) -> None:
    story.change(What.GUEST, signals=0)
    story.add(What.RESET, 110.0, server=SERVER)
    story.add(What.BOOTED, 118.0, server=SERVER)
    assert judge(story) == [4]


@pytest.mark.parametrize(("dumps", "broken"), [(True, []), (False, [4])])
def test_what_was_sent_before_a_crash_kernel_was_there_to_say_so_need_not_be_counted(story: Story, dumps: bool, broken: list[int]) -> None:
    story.change(What.GUEST, signals=0, panics=True, dumps=dumps)
    story.drop(What.COUNTED)
    story.add(What.RESET, 115.0, server=SERVER)
    story.add(What.BOOTED, 118.0, server=SERVER)
    assert judge(story) == broken


def test_a_guest_that_panicked_counts_nothing_until_it_boots(story: Story) -> None:
    story.change(What.COUNTED, panicked=True)
    story.add_action("req-2", 111.0, signalled_at=112.0)
    assert judge(story) == []
    story.add(What.BOOTED, 106.0, server=SERVER)
    assert judge(story) == [4]


def test_a_guest_that_panics_counts_one_signal_in_a_life(story: Story) -> None:
    story.change(What.GUEST, panics=True)
    story.change(What.COUNTED, at=130.0, panicked=True)
    story.add_action("req-2", 111.0, signalled_at=112.0)
    assert judge(story) == []
    story.add(What.BOOTED, 108.0, server=SERVER)
    assert judge(story) == [4]


def test_what_its_watchdog_injects_is_counted_as_well(story: Story) -> None:
    add_firing(story, 120.0, "inject-nmi")
    assert judge(story) == [4]
    story.change(What.GUEST, signals=2)
    assert judge(story) == []


def test_a_second_count_within_the_hold_off_is_a_violation(story: Story) -> None:
    story.change(What.GUEST, signals=2)
    story.add_action("req-2", 103.0, signalled_at=104.0)
    story.add(What.COUNTED, 104.0, server=SERVER, panicked=False)
    assert judge(story) == [3]


@pytest.mark.parametrize("what", [What.RESET, What.BOOTED])
def test_a_reset_ends_a_hold_off(story: Story, what: What) -> None:
    story.change(What.GUEST, signals=2)
    story.add_action("req-2", 103.0, signalled_at=104.0)
    story.add(What.COUNTED, 104.0, server=SERVER, panicked=False)
    story.add(what, 103.0, server=SERVER)
    assert judge(story) == []


def test_what_came_while_it_booted_began_no_hold_off_when_it_was_counted(story: Story) -> None:
    story.change(What.GUEST, signals=2)
    story.add_action("req-2", 103.0, signalled_at=104.0)
    story.add(What.COUNTED, 104.0, server=SERVER, panicked=False)
    story.add(What.BOOTED, 101.0, server=SERVER)
    assert judge(story) == []


def test_a_watchdog_that_does_nothing_ends_no_hold_off(story: Story) -> None:
    story.change(What.GUEST, signals=2)
    story.add_action("req-2", 103.0, signalled_at=104.0)
    story.add(What.COUNTED, 104.0, server=SERVER, panicked=False)
    add_firing(story, 103.0)
    assert judge(story) == [3]


def test_a_watchdog_asks_no_hold_off(story: Story) -> None:
    story.change(What.GUEST, signals=2)
    add_firing(story, 103.0, "inject-nmi")
    story.add(What.COUNTED, 103.5, server=SERVER, panicked=False)
    assert judge(story) == []


def test_a_firing_that_is_not_told_is_a_violation(story: Story) -> None:
    add_firing(story, 120.0, told=False)
    assert judge(story) == [5]


@pytest.mark.parametrize(("name", "is_excused"), [("kill -9", True), ("partition", False)])
def test_a_firing_may_be_missed_while_the_agent_was_away_and_not_while_its_messages_waited(
    story: Story, name: str, is_excused: bool
) -> None:
    add_firing(story, 120.0, told=False)
    story.add_fault(name, 118.0, 121.0, parts=("agent:host-1",))
    assert judge(story) == ([] if is_excused else [5])


def test_a_firing_that_never_was_is_a_violation(story: Story) -> None:
    add_firing(story, 120.0)
    story.add_event(FIRED, 121.0)
    assert judge(story) == [5]


def test_an_unknown_ending_may_have_been_a_signal_or_none(story: Story) -> None:
    story.add_action("req-2", 130.0, signalled=False, ending="unknown", code="agent_restarted", signalled_at=None)
    assert judge(story) == []
    story.change(What.GUEST, signals=2)
    assert judge(story) == []


def test_an_action_that_nobody_can_know_of_may_have_been_a_signal(story: Story) -> None:
    story.change(What.GUEST, signals=2)
    story.change(What.JOURNALLED_ACTION, id="req-gone", destroyed=True)
    assert judge(story) == [3]
    story.add(What.RESTORED, 110.0, taken_at=95.0)
    assert judge(story) == []
    assert ACTION in Record.read(story.lines).rows
