"""The threads that an agent's RPC servers work on."""

import threading

from compute_agent.rpc_servers import WorkThreads

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


def test_a_thread_lives_on_after_work_that_fails() -> None:
    threads = WorkThreads(max_workers=1)
    done = threading.Event()
    threads.submit(int, "none")
    threads.submit(done.set)
    assert done.wait(PATIENCE)
    threads.shutdown(wait=True)
