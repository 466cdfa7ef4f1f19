"""One action at a time per server, many servers in parallel."""

import threading

import pytest

from compute_agent.action_queue import ActionQueue, Turn


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


def test_one_that_was_given_up_keeps_its_server_and_nobody_elses_turn(queue: ActionQueue) -> None:
    queue.add("s", "slow-1", Turn.SLOW)
    queue.take(0)
    queue.give_up("slow-1")
    assert queue.count_given_up() == 1
    assert queue.wait_idle(0), "an ordered stop does not wait for it"
    queue.add("s", "quick")
    queue.add("t", "slow-2", Turn.SLOW)
    assert [queue.take(0), queue.take(0)] == ["slow-2", None]
    queue.done("slow-1")
    assert queue.count_given_up() == 0
    assert queue.take(0) == "quick"


def test_what_nobody_has_taken_cannot_be_given_up(queue: ActionQueue) -> None:
    queue.add("s", "1")
    queue.give_up("1")
    assert queue.count_given_up() == 0


def test_few_slow_ones_run_at_a_time_and_quick_ones_of_other_servers_pass_them(queue: ActionQueue) -> None:
    queue.add("s", "slow-1", Turn.SLOW)
    queue.add("t", "slow-2", Turn.SLOW)
    queue.add("u", "quick")
    assert [queue.take(0), queue.take(0), queue.take(0)] == ["quick", "slow-1", None]
    queue.done("slow-1")
    assert queue.take(0) == "slow-2"


def test_a_quick_one_overtakes_the_slow_ones_of_its_server_that_wait(queue: ActionQueue) -> None:
    queue.add("s", "slow-1", Turn.SLOW)
    assert queue.take(0) == "slow-1"
    queue.add("t", "slow-2", Turn.SLOW)
    queue.add("t", "quick-1")
    queue.add("t", "quick-2")
    assert [queue.take(0), queue.take(0)] == ["quick-1", None]
    queue.done("quick-1")
    assert queue.take(0) == "quick-2"


def test_an_urgent_one_comes_before_all_readings_that_wait(queue: ActionQueue) -> None:
    for number in range(3):
        queue.add("s", f"read-s{number}", Turn.READ)
        queue.add("t", f"read-t{number}", Turn.READ)
    queue.add("s", "dump-s")
    queue.add("u", "dump-u")
    assert [queue.take(0) for _ in range(3)] == ["dump-s", "dump-u", "read-t0"]
    queue.done("dump-s")
    assert queue.take(0) == "read-s0"


def test_changes_never_keep_all_workers_from_a_crash_dump() -> None:
    """Four guests that do not let go of a device, say; a fifth server hangs."""
    queue = ActionQueue(changes_at_once=2)
    for number in range(4):
        queue.add(f"s{number}", f"change{number}", Turn.CHANGE)
    assert [queue.take(0) for _ in range(3)] == ["change0", "change1", None]
    queue.add("t", "crash dump", Turn.ACT)
    assert queue.take(0) == "crash dump"
    queue.done("change0")
    assert [queue.take(0), queue.take(0)] == ["change2", None]
