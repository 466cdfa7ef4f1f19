"""A backend that hangs: nobody waits longer than the limit, and threads do not grow."""

import threading

import pytest

from compute_agent.bounded_calls import BoundedCalls, NoAnswer

LIMIT = 0.05
PATIENCE = 10.0


@pytest.fixture
def release() -> threading.Event:
    return threading.Event()


def make_calls(threads: int = 2, limit: float = LIMIT) -> BoundedCalls[int]:
    return BoundedCalls("test", threads=threads, limit=limit)


def test_the_result_is_given_back() -> None:
    assert make_calls(limit=PATIENCE).call("a", lambda: 7) == 7


def test_an_error_is_raised_in_who_waits() -> None:
    with pytest.raises(ZeroDivisionError):
        make_calls(limit=PATIENCE).call("a", lambda: 1 // 0)


def test_a_call_that_hangs_is_given_up_and_not_made_again_while_it_hangs(release: threading.Event) -> None:
    calls, made = make_calls(), []
    begun = threading.Event()

    def hang() -> int:
        made.append(1)
        begun.set()
        release.wait(PATIENCE)
        return 1

    for _ in range(5):
        with pytest.raises(NoAnswer):
            calls.call("a", hang)
    assert begun.wait(PATIENCE)
    assert (len(made), calls.count_running()) == (1, 1)
    release.set()
    with calls._condition:
        assert calls._condition.wait_for(lambda: not calls._running, PATIENCE)
    assert make_calls(limit=PATIENCE).call("a", lambda: 2) == 2


def test_when_all_threads_are_stuck_nobody_waits_and_none_is_added(release: threading.Event) -> None:
    calls = make_calls(threads=2)
    before = threading.active_count()
    for key in "abcdefgh":
        with pytest.raises(NoAnswer):
            calls.call(key, lambda: release.wait(PATIENCE) and 1)
    assert threading.active_count() - before <= 2
    release.set()


def test_who_asks_the_same_meanwhile_gets_the_same_answer(release: threading.Event) -> None:
    calls, made, answers = make_calls(threads=1, limit=PATIENCE), [], []

    def work() -> int:
        made.append(1)
        release.wait(PATIENCE)
        return len(made)

    callers = [threading.Thread(target=lambda: answers.append(calls.call("a", work))) for _ in range(3)]
    for caller in callers:
        caller.start()
    release.set()
    for caller in callers:
        caller.join(PATIENCE)
    assert sorted(answers)[0] == 1
    assert len(answers) == 3


def test_who_finds_all_threads_busy_waits_for_one(release: threading.Event) -> None:
    calls, answers = make_calls(threads=1, limit=PATIENCE), []
    begun = threading.Event()

    def work() -> int:
        begun.set()
        release.wait(PATIENCE)
        return 1

    first = threading.Thread(target=lambda: answers.append(calls.call("a", work)))
    first.start()
    assert begun.wait(PATIENCE)
    second = threading.Thread(target=lambda: answers.append(calls.call("b", lambda: 2)))
    second.start()
    release.set()
    first.join(PATIENCE)
    second.join(PATIENCE)
    assert sorted(answers) == [1, 2]


def test_a_thread_is_kept_for_the_next_call() -> None:
    """To start one costs more than most calls do."""
    calls = make_calls(limit=PATIENCE)
    assert calls.call("a", threading.get_ident) == calls.call("b", threading.get_ident)
