"""The threads that an agent's RPC servers work on."""

import queue
import threading
from types import SimpleNamespace

import pytest

from compute_agent.rpc_servers import CastThreads, WorkThreads

PATIENCE = 5.0


def test_work_is_done_by_as_few_threads_as_it_takes_and_no_more_than_allowed() -> None:
    threads = WorkThreads(max_workers=2)
    done = threading.Semaphore(0)
    seen: set[str] = set()

    def work() -> None:
        seen.add(threading.current_thread().name)
        done.release()

    for _ in range(5):
        threads.submit(work)
        assert done.acquire(timeout=PATIENCE)
    together = threading.Barrier(3)
    for _ in range(2):
        threads.submit(together.wait, PATIENCE)
    together.wait(PATIENCE)
    threads.submit(work)
    threads.shutdown(wait=True)
    assert done.acquire(timeout=0)
    assert len(seen) <= 2


def submit_and_name(threads: WorkThreads, method: str, reply_q: str | None = None) -> str:
    """The name of the thread that works on a message."""
    names: queue.SimpleQueue[str] = queue.SimpleQueue()
    incoming = SimpleNamespace(message={"method": method}, reply_q=reply_q)
    threads.submit(lambda _: names.put(threading.current_thread().name), [incoming])
    return names.get(timeout=PATIENCE)


def test_a_cast_is_taken_in_by_the_thread_that_read_it() -> None:
    """To wake another one costs as much as what is to be done."""
    threads = CastThreads(max_workers=1)
    assert submit_and_name(threads, "trigger_crash_dump") == threading.current_thread().name
    threads.shutdown(wait=True)


@pytest.mark.parametrize(("method", "reply_q"), [("get_diagnostics", None), ("trigger_crash_dump", "where somebody waits")])
def test_what_may_take_long_holds_up_no_cast_that_comes_after_it(method: str, reply_q: str | None) -> None:
    threads = CastThreads(max_workers=1)
    assert submit_and_name(threads, method, reply_q) != threading.current_thread().name
    threads.shutdown(wait=True)


def test_a_cast_that_fails_does_not_end_the_reading_of_the_next() -> None:
    threads = CastThreads(max_workers=1)
    threads.submit(lambda incoming: int("none"), [SimpleNamespace(message={}, reply_q=None)])
    threads.shutdown(wait=True)


def test_a_thread_lives_on_after_work_that_fails() -> None:
    threads = WorkThreads(max_workers=1)
    done = threading.Event()
    threads.submit(int, "none")
    threads.submit(done.set)
    assert done.wait(PATIENCE)
    threads.shutdown(wait=True)
