"""One action at a time per server, many servers in parallel."""

import threading

import pytest

from compute_agent.actions import ActionQueue


@pytest.fixture
def queue() -> ActionQueue:
    return ActionQueue()


def test_a_servers_actions_come_one_after_the_other(queue: ActionQueue) -> None:
    for server, action_id in [("s", "1"), ("s", "2"), ("t", "3")]:
        queue.add(server, action_id)
    assert [queue.take(0), queue.take(0), queue.take(0)] == ["1", "3", None]
    queue.done("1")
    assert queue.take(0) == "2"


def test_what_waits_or_runs_is_not_queued_twice(queue: ActionQueue) -> None:
    queue.add("s", "1")
    queue.add("s", "1")
    assert queue.take(0) == "1"
    queue.add("s", "1")
    queue.done("1")
    assert queue.take(0) is None


def test_what_is_done_may_come_again(queue: ActionQueue) -> None:
    queue.add("s", "1")
    queue.take(0)
    queue.done("1")
    queue.add("s", "1")
    assert queue.take(0) == "1"


def test_a_waiting_worker_gets_what_is_added(queue: ActionQueue) -> None:
    taken: list[str | None] = []
    worker = threading.Thread(target=lambda: taken.append(queue.take(None)))
    worker.start()
    queue.add("s", "1")
    worker.join(10)
    assert taken == ["1"]


def test_closing_sends_waiting_workers_home_and_gives_out_nothing_more(queue: ActionQueue) -> None:
    taken: list[str | None] = []
    worker = threading.Thread(target=lambda: taken.append(queue.take(None)))
    worker.start()
    queue.close()
    worker.join(10)
    assert taken == [None]
    queue.add("s", "1")
    assert queue.take(0) is None


def test_idle_means_that_nothing_taken_is_running(queue: ActionQueue) -> None:
    queue.add("s", "1")
    assert queue.wait_idle(0)
    queue.take(0)
    assert not queue.wait_idle(0)
    queue.done("1")
    assert queue.wait_idle(0)


def test_few_slow_ones_run_at_a_time_and_quick_ones_of_other_servers_pass_them(queue: ActionQueue) -> None:
    queue.add("s", "slow-1", slow=True)
    queue.add("t", "slow-2", slow=True)
    queue.add("u", "quick")
    assert [queue.take(0), queue.take(0), queue.take(0)] == ["slow-1", "quick", None]
    queue.done("slow-1")
    assert queue.take(0) == "slow-2"


def test_a_quick_one_overtakes_the_slow_ones_of_its_server_that_wait(queue: ActionQueue) -> None:
    queue.add("s", "slow-1", slow=True)
    assert queue.take(0) == "slow-1"
    queue.add("t", "slow-2", slow=True)
    queue.add("t", "quick-1")
    queue.add("t", "quick-2")
    assert [queue.take(0), queue.take(0)] == ["quick-1", None]
    queue.done("quick-1")
    assert queue.take(0) == "quick-2"
