"""The report: what is counted, and what a recovery is measured by."""

from tests.chaos.history import What
from tests.chaos.record import Record, Violation
from tests.chaos.report import count_figures, format_report
from tests.chaos.stories import Story
from tests.chaos.validator import validate


def test_a_recovery_is_the_time_until_an_action_of_a_struck_host_is_completed() -> None:
    story = Story()
    story.add_fault("kill -9", 95.0, 101.6)
    figures = count_figures(Record.read(story.lines), [])
    assert [round(seconds, 3) for seconds in figures.faults["kill -9, agent"].recoveries] == [0.5]


def test_what_had_ended_before_the_fault_was_over_is_no_recovery() -> None:
    story = Story()
    story.change(What.ROW, ended_at=99.0)
    story.add_fault("kill -9", 95.0, 101.6)
    assert count_figures(Record.read(story.lines), []).faults["kill -9, agent"].recoveries == []


def test_nothing_is_said_of_a_recovery_while_another_fault_keeps_the_host_back() -> None:
    story = Story()
    story.add_fault("kill -9", 95.0, 101.6)
    story.add_fault("partition", 96.0, 103.0, number=2)
    figures = count_figures(Record.read(story.lines), [])
    assert figures.faults["kill -9, agent"].recoveries == []
    assert figures.combined == 2


def test_a_violation_is_laid_to_the_faults_during_and_shortly_before_it() -> None:
    story = Story()
    story.add_fault("kill -9", 95.0, 101.0)
    story.add_fault("memory alarm", 10.0, 20.0, number=2)
    faults = count_figures(Record.read(story.lines), [Violation(3, "two", 110.0)]).faults
    assert (faults["kill -9, agent"].violations, faults["memory alarm, agent"].violations) == (1, 0)


def test_the_report_names_actions_faults_and_violations() -> None:
    story = Story()
    story.add_fault("kill -9", 95.0, 101.6)
    story.drop(What.CALL, phase="signal")
    violations = validate(story.lines)
    text = format_report(count_figures(Record.read(story.lines), violations), violations)
    assert all(words in text for words in ("1 actions accepted", "kill -9, agent", "1 violations", "(4) req-1"))


def test_the_report_names_faults_that_never_struck() -> None:
    story = Story()
    story.change(What.SETUP, faults=["kill -9", "memory alarm"])
    story.add_fault("kill -9", 95.0, 101.6)
    assert "no time was left for: memory alarm" in format_report(count_figures(Record.read(story.lines), []), [])
