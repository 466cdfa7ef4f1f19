"""Tracebacks in the logs: each is found by itself, and is a violation unless a fault of the run explains it."""

from datetime import datetime
from pathlib import Path

import pytest

from tests.chaos.history import What
from tests.chaos.record import Violation
from tests.chaos.stories import HOST, Story
from tests.chaos.tracebacks import list_tracebacks, list_unexpected
from tests.chaos.validator import validate

AGENT = f"crashcart-agent-{HOST}"
QUEUE = f"compute_agent.{HOST}"
SKIPPED = "ERROR oslo.messaging._drivers.impl_rabbit [-] Failed to process message ... skipping it.: JSONDecodeError: Expecting value"
SAYS = "JSONDecodeError: Expecting value"


@pytest.fixture
def story() -> Story:
    return Story()


def judge(story: Story) -> list[Violation]:
    return validate(story.lines)


def log(story: Story, text: str, at: float, part: str = AGENT) -> None:
    story.add(What.TRACEBACK, 200.0, part=part, text=f"{text}\nTraceback (most recent call last):\nJSONDecodeError", logged_at=at)


def poison(story: Story, at: float, queue: str = QUEUE) -> None:
    story.add(What.POISON, at, queue=queue, digest="a", message_id=None, says=SAYS)


def test_an_unexpected_traceback_is_a_violation(story: Story) -> None:
    log(story, "ERROR compute_agent.actions [-] KeyError", 150.0)
    assert [violation.invariant for violation in judge(story)] == [0]


def test_what_is_said_of_poison_is_no_violation_however_late_its_reader_comes_to_it(story: Story) -> None:
    poison(story, 110.0)
    story.add_fault("SIGSTOP", 109.0, 180.0, parts=(f"agent:{HOST}",))
    log(story, SKIPPED, 181.0)
    assert judge(story) == []


def test_a_message_that_nobody_can_read_is_a_violation_where_no_poison_was_put(story: Story) -> None:
    log(story, SKIPPED, 150.0)
    assert [violation.invariant for violation in judge(story)] == [0]


def test_poison_explains_nothing_that_was_said_before(story: Story) -> None:
    poison(story, 160.0)
    log(story, SKIPPED, 150.0)
    assert [violation.invariant for violation in judge(story)] == [0]


@pytest.mark.parametrize("queue", ["compute_agent.host-2", "crashcart.recorder"])
def test_poison_in_a_queue_of_others_explains_nothing(story: Story, queue: str) -> None:
    poison(story, 140.0, queue)
    log(story, SKIPPED, 150.0)
    assert [violation.invariant for violation in judge(story)] == [0]


def test_poison_explains_nothing_else_that_is_said_of_a_message(story: Story) -> None:
    poison(story, 140.0)
    log(story, SKIPPED.replace("JSONDecodeError", "KeyError"), 150.0)
    assert [violation.invariant for violation in judge(story)] == [0]


def test_each_traceback_needs_poison_of_its_own(story: Story) -> None:
    poison(story, 140.0)
    log(story, SKIPPED, 141.0)
    assert judge(story) == []
    log(story, SKIPPED, 142.0)
    assert [violation.invariant for violation in judge(story)] == [0]


def test_poison_that_a_broken_connection_gave_back_may_be_told_of_again(story: Story) -> None:
    poison(story, 140.0)
    story.add_fault("partition", 141.0, 142.0, parts=(f"agent:{HOST}",))
    for at in (141.0, 143.0):
        log(story, SKIPPED, at)
    assert judge(story) == []


def test_what_a_second_agent_says_of_poison_is_expected_as_well(story: Story) -> None:
    poison(story, 140.0)
    log(story, SKIPPED, 141.0, part=f"second-1-{HOST}")
    assert judge(story) == []


def test_words_of_poison_within_another_traceback_explain_it_not(story: Story) -> None:
    poison(story, 140.0)
    log(story, f"Exception in thread Thread-1:\n{SKIPPED}", 150.0)
    assert [violation.invariant for violation in judge(story)] == [0]


def test_what_a_pool_logs_of_a_lost_connection_is_expected_after_the_database_was_struck(story: Story) -> None:
    log(story, "ERROR sqlalchemy.pool.impl.QueuePool [-] Exception during reset or similar", 150.0, part="crashcart-engine")
    assert [violation.invariant for violation in judge(story)] == [0]
    story.add_fault("kill -9", 140.0, 141.0, parts=("database",), target="database")
    assert judge(story) == []
    story.change(What.TRACEBACK, logged_at=130.0)
    assert [violation.invariant for violation in judge(story)] == [0]


# In the log

TIME = "2026-11-21 19:45:15.157"
PREFIX = f"{TIME} 26949 ERROR oslo.messaging._drivers.impl_rabbit "
CHAINED = [
    f"{PREFIX}[-] skipping it",
    *(f"{PREFIX}{line}" for line in ("Traceback (most recent call last):", '  File "a.py", line 1, in f', "ValueError: 1", "")),
    *(f"{PREFIX}{line}" for line in ("During handling of the above exception, another exception occurred:", "")),
    *(f"{PREFIX}{line}" for line in ("Traceback (most recent call last):", '  File "a.py", line 2, in f', "KeyError: 2", "")),
]
BARE = ["Exception in thread Thread-271:", "Traceback (most recent call last):", '  File "b.py", line 3, in g', "OSError: 3"]
OTHER = f"{TIME} 26949 INFO compute_agent.watch [-] all is well"


def test_a_traceback_and_that_of_its_cause_are_one_with_what_was_said_of_it() -> None:
    (found,) = list_tracebacks([OTHER, *CHAINED, OTHER])
    assert found.text.startswith(CHAINED[0])
    assert found.text.endswith("KeyError: 2")
    assert found.logged_at == datetime(2026, 11, 21, 19, 45, 15, 157000).astimezone().timestamp()


def test_two_of_the_same_millisecond_are_two() -> None:
    assert [found.text.partition("\n")[0] for found in list_tracebacks([*CHAINED, *CHAINED])] == [CHAINED[0]] * 2


def test_one_that_nobody_logged_hides_none_that_comes_after_it() -> None:
    first, second, third = list_tracebacks([OTHER, *BARE, OTHER, *CHAINED, *BARE])
    assert first.text == third.text == "\n".join(BARE)
    assert second.text.startswith(CHAINED[0])


def test_a_line_of_another_record_is_not_what_was_said_of_a_bare_one() -> None:
    (found,) = list_tracebacks([CHAINED[0], *BARE[1:]])
    assert found.text.startswith("\nTraceback")
    assert found.logged_at is None


@pytest.mark.parametrize(
    ("last", "is_expected"), [("tests.chaos.hypervisor.LibraryBroke: it", True), ("KeyError: 'LibraryBroke: it'", False)]
)
def test_only_what_a_fake_driver_itself_raised_is_expected(tmp_path: Path, last: str, is_expected: bool) -> None:
    log_file = tmp_path / "agent.log"
    log_file.write_text("\n".join([*BARE[:-1], last, OTHER, ""]))
    assert bool(list(list_unexpected(log_file))) is not is_expected
