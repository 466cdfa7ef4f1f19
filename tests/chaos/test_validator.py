"""Each invariant can fail: a history that breaks it is made by hand, beside one that looks like it and breaks nothing."""

import pytest

from tests.chaos.history import What
from tests.chaos.record import Violation
from tests.chaos.stories import ACTION, HOST, OTHER_SERVER, SERVER, Story
from tests.chaos.validator import validate


@pytest.fixture
def story() -> Story:
    return Story()


def judge(story: Story) -> list[Violation]:
    return validate(story.lines)


def numbers(story: Story) -> set[int]:
    return {violation.invariant for violation in judge(story)}


def test_a_run_in_which_everything_went_well_breaks_nothing(story: Story) -> None:
    assert judge(story) == []


# 1


def test_an_accepted_action_without_a_row_is_a_violation(story: Story) -> None:
    story.drop(What.ROW)
    assert 1 in numbers(story)


def test_an_action_newer_than_a_restored_backup_may_be_gone_if_no_agent_has_it(story: Story) -> None:
    story = Story()
    story.lines = [line for line in story.lines if line["what"] in (What.SETUP, What.ANSWER)]
    story.add(What.RESTORED, 110.0, taken_at=95.0)
    assert judge(story) == []


def test_an_action_newer_than_a_restored_backup_comes_back_from_the_agent_that_has_it(story: Story) -> None:
    story.drop(What.ROW)
    story.add(What.RESTORED, 110.0, taken_at=95.0)
    assert [violation.invariant for violation in judge(story) if "did not come back" in violation.text] == [1]


def test_an_action_whose_journal_was_destroyed_as_well_may_be_gone() -> None:
    story = Story()
    story.drop(What.ROW)
    story.change(What.JOURNALLED_ACTION, destroyed=True)
    story.add(What.RESTORED, 110.0, taken_at=95.0)
    assert judge(story) == []


def test_an_action_older_than_a_restored_backup_must_be_there(story: Story) -> None:
    story.drop(What.ROW)
    story.drop(What.JOURNALLED_ACTION)
    story.add(What.RESTORED, 120.0, taken_at=110.0)
    assert 1 in numbers(story)


def test_a_row_that_is_not_what_was_asked_for_is_a_violation(story: Story) -> None:
    story.change(What.ROW, kind="resume")
    assert [violation.invariant for violation in judge(story)] == [1]


def test_a_row_for_which_nobody_asked_is_a_violation(story: Story) -> None:
    story.drop(What.ANSWER)
    assert [violation.invariant for violation in judge(story)] == [1]


@pytest.mark.parametrize(("asked_at", "broken"), [(99.0, []), (101.0, [1])])
def test_a_row_may_be_what_was_asked_for_without_an_answer(story: Story, asked_at: float, broken: list[int]) -> None:
    story.change(What.ANSWER, action=None, status=None, asked_at=asked_at)
    assert [violation.invariant for violation in judge(story)] == broken


def test_one_key_for_two_actions_is_a_violation(story: Story) -> None:
    story.add_action("req-2", 150.0)
    for number in (0, 1):
        story.change(What.ANSWER, number, key="key")
    assert [violation.invariant for violation in judge(story)] == [1]


def test_a_key_that_went_with_a_restored_store_may_be_used_again(story: Story) -> None:
    story.add_action("req-2", 150.0)
    for number in (0, 1):
        story.change(What.ANSWER, number, key="key")
    story.add(What.RESTORED, 140.0, taken_at=99.95)
    assert judge(story) == []


# 2


def test_an_action_that_is_still_open_at_the_end_is_a_violation(story: Story) -> None:
    story.change(What.ROW, state="started", ending=None, code=None, recorded_at=None)
    assert 2 in numbers(story)


def test_an_ending_with_the_code_of_another_one_is_a_violation(story: Story) -> None:
    story.change(What.ROW, code="deadline_passed")
    assert 2 in numbers(story)


def test_an_ending_that_is_not_the_agents_own_is_a_violation(story: Story) -> None:
    story.change(What.JOURNALLED_ACTION, ending="unknown", code="answer_lost")
    assert [violation.invariant for violation in judge(story)] == [2]


def test_what_the_agent_of_another_journal_says_is_not_the_actions_ending(story: Story) -> None:
    story.change(What.JOURNALLED_ACTION, epoch="journal-2", ending="unknown", code="journal_lost")
    assert judge(story) == []


def test_two_endings_out_of_one_journal_are_a_violation(story: Story) -> None:
    story.add_event("action.ended", 103.0, action=ACTION, ending="unknown", code="answer_lost")
    assert [violation.invariant for violation in judge(story)] == [2]


def test_one_ending_that_is_told_twice_is_a_violation(story: Story) -> None:
    story.add_event("action.ended", 103.0, action=ACTION, ending="succeeded", code="signal_delivered")
    assert [violation.invariant for violation in judge(story)] == [2]


def test_an_ending_that_was_assumed_too_late_is_a_violation_though_it_was_revised(story: Story) -> None:
    story.change(What.ROW, recorded_at=140.0, revised_at=140.0)
    assumed = story.add_event(
        "action.ended", 114.0, action=ACTION, epoch="gateway", ending="unknown", code="not_reported", decided_by="gateway"
    )
    story.change(What.JOURNALLED_EVENT, -1, epoch="gateway")
    assert judge(story) == []
    assumed["occurred_at"] = 125.0
    assert [violation.invariant for violation in judge(story)] == [2]


def test_two_revisions_are_a_violation(story: Story) -> None:
    for at in (104.0, 105.0):
        story.add_event("action.revised", at, action=ACTION, ending="succeeded", code="signal_delivered")
    assert [violation.invariant for violation in judge(story)] == [2]


SHOWN_UNKNOWN = {"state": "ended", "ending": "unknown", "code": "not_reported", "decided_by": "gateway"}
SHOWN_SUCCEEDED = {"state": "ended", "ending": "succeeded", "code": "signal_delivered", "decided_by": "agent"}


def test_what_the_gateway_assumed_may_be_shown_otherwise_later(story: Story) -> None:
    story.add(What.SEEN, 110.0, action=ACTION, **SHOWN_UNKNOWN)
    story.add(What.SEEN, 111.0, action=ACTION, **SHOWN_SUCCEEDED)
    assert judge(story) == []


def test_a_final_ending_that_is_shown_otherwise_later_is_a_violation(story: Story) -> None:
    story.add(What.SEEN, 110.0, action=ACTION, **SHOWN_SUCCEEDED)
    story.add(What.SEEN, 111.0, action=ACTION, **SHOWN_UNKNOWN)
    assert [violation.invariant for violation in judge(story)] == [2]


def test_an_ending_that_went_with_a_restored_store_may_be_shown_as_open_again(story: Story) -> None:
    story.add(What.SEEN, 103.0, action=ACTION, **SHOWN_SUCCEEDED)
    story.add(What.RESTORED, 104.0, taken_at=100.5)
    story.add(What.SEEN, 105.0, action=ACTION, state="accepted", ending=None, code=None, decided_by=None)
    assert judge(story) == []


def test_an_ending_that_is_visible_long_after_deadline_and_grace_is_a_violation(story: Story) -> None:
    story.change(What.ROW, recorded_at=100.0 + 10 + 2 + 3 + 9.5)
    assert [violation.invariant for violation in judge(story)] == [2]


def test_an_ending_may_be_visible_late_while_there_was_no_engine(story: Story) -> None:
    story.change(What.ROW, recorded_at=130.0)
    story.add_fault("kill -9", 105.0, 125.0, parts=("engine",))
    assert judge(story) == []


def test_an_ending_may_be_visible_late_when_the_machine_stood_still(story: Story) -> None:
    story.change(What.ROW, recorded_at=125.0)
    story.add(What.STOOD_STILL, 120.0, seconds=8.0)
    assert judge(story) == []


def test_a_fault_of_an_agent_excuses_no_late_ending(story: Story) -> None:
    story.change(What.ROW, recorded_at=130.0)
    story.add_fault("kill -9", 105.0, 125.0, parts=("agent:host-1",))
    assert [violation.invariant for violation in judge(story)] == [2]


# 3


def test_two_signals_for_one_action_are_a_violation(story: Story) -> None:
    story.add_call(ACTION, 115.0)
    assert {violation.invariant for violation in judge(story)} == {3}
    assert any("2 signals" in violation.text for violation in judge(story))


def test_a_second_driver_call_for_one_action_is_a_violation_even_without_a_signal(story: Story) -> None:
    story.add_call(ACTION, 104.0, phases=("begins",))
    assert [violation.invariant for violation in judge(story)] == [3]


def test_a_signal_that_another_server_took_is_a_violation(story: Story) -> None:
    story.drop(What.CALL)
    story.add_call(ACTION, 101.0, server=OTHER_SERVER)
    assert numbers(story) == {3}


def test_a_signal_for_no_action_is_a_violation(story: Story) -> None:
    story.add_call(None, 150.0)
    assert 3 in numbers(story)


def test_a_signal_in_the_hold_off_of_an_earlier_one_is_a_violation(story: Story) -> None:
    story.add_action("req-2", 105.0)
    assert [violation.invariant for violation in judge(story)] == [3]


def test_a_signal_behind_a_hold_off_is_none(story: Story) -> None:
    story.add_action("req-2", 111.0)
    assert judge(story) == []


def test_a_signal_after_a_reset_is_none(story: Story) -> None:
    story.add_action("req-2", 105.0)
    story.add(What.RESET, 103.0, server=SERVER, host=HOST)
    assert judge(story) == []


def test_a_journal_that_an_operator_deleted_knows_of_no_hold_off(story: Story) -> None:
    story.add_action("req-2", 104.0)
    story.add_fault("journal deleted", 102.0, 103.0, parts=(f"agent:{HOST}",))
    assert judge(story) == []


def test_a_reset_of_another_server_ends_no_hold_off(story: Story) -> None:
    story.add_action("req-2", 105.0)
    story.add(What.RESET, 103.0, server=OTHER_SERVER, host=HOST)
    assert [violation.invariant for violation in judge(story)] == [3]


def test_a_forced_signal_is_none(story: Story) -> None:
    story.add_action("req-2", 105.0, force=True)
    assert judge(story) == []


def test_a_hold_off_is_no_shorter_when_the_clock_is_set(story: Story) -> None:
    story.add_action("req-2", 105.0)
    story.add_fault("clock ahead", 102.0, 107.0, offset=7.0)
    assert numbers(story) == {3}


def test_a_call_that_begins_past_its_deadline_is_a_violation(story: Story) -> None:
    story.change(What.ROW, deadline=100.5)
    assert [violation.invariant for violation in judge(story)] == [3]


@pytest.mark.parametrize(("noted_at", "deadline", "broken"), [(101.0, 99.6, []), (101.0, 98.0, [3]), (99.5, 99.6, [3]), (103.0, 99.6, [3])])
def test_a_call_may_begin_past_its_deadline_by_as_long_as_the_machine_stood_still(
    story: Story, noted_at: float, deadline: float, broken: list[int]
) -> None:
    story.change(What.ROW, deadline=deadline)
    story.add(What.STOOD_STILL, noted_at, seconds=1.2)
    assert [violation.invariant for violation in judge(story)] == broken


# 4


def test_a_success_without_a_signal_is_a_violation(story: Story) -> None:
    story.drop(What.CALL, phase="signal")
    assert [violation.invariant for violation in judge(story)] == [4]


@pytest.mark.parametrize(("ending", "code"), [("failed", "backend_unavailable"), ("expired", "deadline_passed")])
def test_a_failure_with_a_signal_is_a_violation(story: Story, ending: str, code: str) -> None:
    story.change(What.ROW, ending=ending, code=code)
    story.change(What.JOURNALLED_ACTION, ending=ending, code=code)
    assert [violation.invariant for violation in judge(story)] == [4]


def test_an_unknown_ending_may_have_a_signal_or_none(story: Story) -> None:
    story.add_action("req-2", 150.0, signalled=False, ending="unknown", code="answer_lost")
    story.add_action("req-3", 170.0, ending="unknown", code="answer_lost")
    assert judge(story) == []


def test_a_signal_that_the_store_does_not_know_is_a_violation(story: Story) -> None:
    story.add_call("req-2", 150.0)
    assert [violation.invariant for violation in judge(story)] == [4]


@pytest.mark.parametrize(("counted", "broken"), [(0, 4), (1, None), (2, None), (3, 3)])
def test_a_guest_counts_what_was_told_and_at_most_what_was_perhaps_sent(story: Story, counted: int, broken: int | None) -> None:
    story.add_action("req-2", 150.0, signalled=False, ending="unknown", code="answer_lost")
    story.add(What.GUEST, 200.0, server=SERVER, signals=counted)
    assert [violation.invariant for violation in judge(story)] == ([] if broken is None else [broken])


# 7


def test_a_foreign_server_that_is_shown_is_a_violation(story: Story) -> None:
    story.add(What.SHOWN, 120.0, project="red", path="/v1/servers", status=200, servers=[SERVER, OTHER_SERVER], projects=["red"])
    assert [violation.invariant for violation in judge(story)] == [7]


def test_the_name_of_a_foreign_project_that_is_shown_is_a_violation(story: Story) -> None:
    story.add(What.SHOWN, 120.0, project="red", path="/v1/events", status=200, servers=[], projects=["blue", "red"])
    assert [violation.invariant for violation in judge(story)] == [7]


def test_a_refusal_may_name_what_was_asked_for(story: Story) -> None:
    story.add(What.SHOWN, 120.0, project="red", path=f"/v1/servers/{OTHER_SERVER}", status=404, servers=[OTHER_SERVER], projects=[])
    assert judge(story) == []


def test_a_refusal_that_names_what_was_not_asked_for_is_a_violation(story: Story) -> None:
    story.add(What.SHOWN, 120.0, project="red", path=f"/v1/servers/{SERVER}", status=409, servers=[OTHER_SERVER], projects=[])
    assert [violation.invariant for violation in judge(story)] == [7]


# 0


def test_an_answer_that_says_the_server_is_broken_is_a_violation(story: Story) -> None:
    story.add(What.ANSWER, 150.0, asked_at=149.0, status=500, action=None, key=None, force=False, server=SERVER, kind="resume", error="odd")
    assert numbers(story) == {0}


def test_what_does_not_become_quiet_is_a_violation(story: Story) -> None:
    story.add(What.UNSETTLED, 190.0, text="2 actions are open")
    assert numbers(story) == {0}


def test_what_the_gateway_itself_calls_a_violation_is_one(story: Story) -> None:
    story.add(What.COUNTER, 200.0, name="violations.two_endings", value=1)
    story.add(What.COUNTER, 200.0, name="position", value=17)
    assert [violation.invariant for violation in judge(story)] == [0]


def test_a_dead_letter_is_a_violation_unless_it_was_poison(story: Story) -> None:
    story.add(What.DEAD_LETTER, 200.0, digest="a", source="crashcart.recorder", reason="no envelope")
    story.add(What.POISON, 120.0, queue="crashcart.recorder", digest="a")
    assert judge(story) == []
    story.add(What.DEAD_LETTER, 200.0, digest="b", source="crashcart.recorder", reason="no envelope")
    assert numbers(story) == {0}


def test_a_part_may_end_by_itself_only_for_want_of_room(story: Story) -> None:
    story.add(What.REVIVED, 130.0, part="engine", text="crashcart-engine: sqlite:///gateway.sqlite: disk I/O error")
    assert judge(story) == []
    story.add(What.REVIVED, 140.0, part="engine", text="Segmentation fault")
    assert numbers(story) == {0}


def test_a_fault_that_could_not_be_made_proves_nothing(story: Story) -> None:
    story.add(What.FAULT, 120.0, id=1, phase="begins", name="kill -9", target="api", hosts=[HOST], parts=["api"])
    story.add(What.FAULT, 121.0, id=1, phase="failed", name="kill -9", target="api", hosts=[HOST], parts=["api"], text="no")
    assert numbers(story) == {0}
