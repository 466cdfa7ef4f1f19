"""Calls that never come back cost their own servers alone."""

import queue
import threading
from pathlib import Path

import pytest

from compute_agent.action_queue import ActionQueue
from compute_agent.drivers.fake_behaviours import Hang
from compute_agent.workers import Workers
from tests.unit.agent.action_parts import Agent

_PATIENCE = 10.0


def test_a_worker_that_hangs_is_made_up_for_when_its_call_is_given_up() -> None:
    actions, ran, release = ActionQueue(), queue.SimpleQueue[str](), threading.Event()

    def run(action_id: str) -> None:
        ran.put(action_id)
        if action_id.startswith("hangs"):
            release.wait(_PATIENCE)

    workers = Workers(actions, run, count=2, on_fatal=pytest.fail)
    workers.start()
    try:
        for name in ("s", "t"):
            actions.add(name, f"hangs-{name}")
            assert ran.get(timeout=_PATIENCE) == f"hangs-{name}"
        actions.add("u", "crash dump")
        for name in ("s", "t"):
            actions.give_up(f"hangs-{name}")
        workers.make_up()
        assert ran.get(timeout=_PATIENCE) == "crash dump"
        before = threading.active_count()
        workers.make_up()
        assert threading.active_count() == before, "one for each of them, however often somebody looks"
    finally:
        release.set()
        workers.stop()
        actions.close()


def test_a_call_that_is_overdue_is_given_up_until_it_comes_back_after_all(tmp_path: Path) -> None:
    agent, hang = Agent(tmp_path / "journal.sqlite"), Hang()
    server = agent.make_server()
    agent.hypervisor.behave(server, hang)
    agent.cast(agent.make_request(server, seconds=30))
    worker = threading.Thread(target=agent.work)
    worker.start()
    try:
        assert hang.entered.wait(_PATIENCE)
        agent.clock.advance(30 + agent.driver.call_bound)
        assert agent.queue.count_given_up() == 0
        agent.actions.end_overdue()
        assert agent.queue.count_given_up() == 1
    finally:
        hang.release()
        worker.join(_PATIENCE)
    assert agent.queue.count_given_up() == 0
    agent.journal.close()
