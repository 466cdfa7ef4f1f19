"""What several threads ask for at the same time is done in one go, by one of them."""

import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from api_gateway.together import Together
from devstack.services import wait_until

_PATIENCE = 10.0


class Doubler:
    """Answers with the double, once it may go on; ``goes`` are the questions of each go."""

    def __init__(self) -> None:
        self.goes: list[list[int]] = []
        self.may_go_on = threading.Event()

    def answer(self, questions: Sequence[int]) -> list[int]:
        self.goes.append(list(questions))
        assert self.may_go_on.wait(_PATIENCE)
        if 13 in questions:
            raise ValueError("13")
        return [2 * question for question in questions]


def ask_meanwhile(pool: ThreadPoolExecutor, together: Together[int, int], doubler: Doubler, questions: Sequence[int]) -> list[Future[int]]:
    """The first one is being answered when the others come; all of them have come before it is."""
    asked = [pool.submit(together.ask, questions[0])]
    wait_until(lambda: doubler.goes, _PATIENCE, "the first go")
    asked += [pool.submit(together.ask, question) for question in questions[1:]]
    wait_until(lambda: together.count_waiting() == len(questions) - 1, _PATIENCE, "the others")
    doubler.may_go_on.set()
    return asked


def test_who_asks_alone_is_answered_at_once() -> None:
    doubler = Doubler()
    doubler.may_go_on.set()
    together: Together[int, int] = Together(doubler.answer, most=8)
    assert [together.ask(1), together.ask(2)] == [2, 4]
    assert doubler.goes == [[1], [2]]


def test_who_comes_while_one_go_lasts_shares_the_next_and_each_gets_its_own_answer() -> None:
    doubler = Doubler()
    together: Together[int, int] = Together(doubler.answer, most=8)
    with ThreadPoolExecutor(5) as pool:
        asked = ask_meanwhile(pool, together, doubler, [1, 2, 3, 4, 5])
        assert [one.result(_PATIENCE) for one in asked] == [2, 4, 6, 8, 10]
    assert doubler.goes[0] == [1]
    assert sorted(doubler.goes[1]) == [2, 3, 4, 5]


def test_a_go_has_no_more_questions_than_it_may_and_nobody_is_left_behind() -> None:
    doubler = Doubler()
    together: Together[int, int] = Together(doubler.answer, most=2)
    with ThreadPoolExecutor(6) as pool:
        asked = ask_meanwhile(pool, together, doubler, range(6))
        assert [one.result(_PATIENCE) for one in asked] == [0, 2, 4, 6, 8, 10]
    assert [len(go) for go in doubler.goes] == [1, 2, 2, 1]


def test_what_a_go_raises_all_of_it_get_and_the_next_goes_well() -> None:
    doubler = Doubler()
    together: Together[int, int] = Together(doubler.answer, most=8)
    with ThreadPoolExecutor(3) as pool:
        asked = ask_meanwhile(pool, together, doubler, [1, 13, 2])
        assert asked[0].result(_PATIENCE) == 2
        for one in asked[1:]:
            with pytest.raises(ValueError, match="13"):
                one.result(_PATIENCE)
    assert together.ask(4) == 8
