"""The composition root's parts that need no broker: the lock's rules, the loops, and what main() says when it cannot start."""

import queue
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from compute_agent import intake, loops
from compute_agent.contract.clock import SystemClock
from compute_agent.host_lock import HostTaken
from compute_agent.intake import Intake
from compute_agent.journal import Journal, JournalFull, JournalUnusable
from compute_agent.loops import Backoff, Loop, run_bounded
from compute_agent.service import main

ANSWER_TIME = 10.0


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before what failed is tried again. How long they are is asserted nowhere here, that they end is."""
    monkeypatch.setattr(intake, "_RETRY_INTERVAL", 0.02)
    monkeypatch.setattr(loops, "_PAUSE_AFTER_FAULT", 0.02)


class FakeLock:
    """Each acquire and keep takes the next of its outcomes: None, or what it raises; after the last one all is well."""

    def __init__(self, acquires: list[Exception | None] | None = None, keeps: list[Exception | None] | None = None) -> None:
        self.acquires = acquires or []
        self.keeps = keeps or []
        self.held = threading.Event()
        self.acquired = 0

    def acquire(self) -> None:
        self._take(self.acquires)
        self.acquired += 1
        self.held.set()

    def keep(self, timeout: float) -> None:
        if not self.keeps:
            threading.Event().wait(0.01)
        self._take(self.keeps)

    def drop(self) -> None:
        self.held.clear()

    def _take(self, outcomes: list[Exception | None]) -> None:
        outcome = outcomes.pop(0) if outcomes else None
        if outcome is not None:
            raise outcome


class FakeServer:
    """All servers that the intake makes. ``faults``: what its next starts raise."""

    def __init__(self, lock: FakeLock, faults: Sequence[Exception] = ()) -> None:
        self.faults = list(faults)
        self.started = threading.Event()
        self.restarted = threading.Event()
        self.calls: list[str] = []
        self.lock_was_held: list[bool] = []
        self._lock = lock

    def start(self) -> None:
        self._note("start")
        if self.faults:
            raise self.faults.pop()
        if self.started.is_set():
            self.restarted.set()
        self.started.set()

    def stop(self) -> None:
        self._note("stop")

    def wait(self) -> None:
        self._note("wait")

    def _note(self, call: str) -> None:
        self.calls.append(call)
        self.lock_was_held.append(self._lock.held.is_set())


class Bench:
    def __init__(self, lock: FakeLock, server_faults: Sequence[Exception] = (), **patience: float) -> None:
        self.lock = lock
        self.server = FakeServer(lock, server_faults)
        self.held_faults: list[Exception] = []
        self.order: list[str] = []
        self.fatal: list[str] = []
        self.failed = threading.Event()
        self.intake = Intake(
            lock,  # type: ignore[arg-type]
            self.create_server,
            on_held=self.open,
            on_fatal=self.fail,
            **patience,
        )

    def open(self) -> None:
        if self.held_faults:
            raise self.held_faults.pop()
        self.order.append("open for business")

    def create_server(self) -> FakeServer:
        assert self.lock.held.is_set(), "the RPC server must not exist before the lock is held"
        self.order.append("server")
        return self.server

    def fail(self, reason: str) -> None:
        self.fatal.append(reason)
        self.failed.set()

    def end(self) -> None:
        self.intake.stop()
        self.intake.release()


@pytest.fixture
def make_bench() -> Any:
    benches: list[Bench] = []

    def make(lock: FakeLock, server_faults: Sequence[Exception] = (), **patience: float) -> Bench:
        bench = Bench(lock, server_faults, **patience)
        benches.append(bench)
        bench.intake.start()
        return bench

    yield make
    for bench in benches:
        bench.end()


def test_intake_begins_only_after_the_lock_is_held(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench(FakeLock())
    assert bench.server.started.wait(ANSWER_TIME)
    assert bench.order == ["open for business", "server"]
    assert bench.intake.is_held


def test_a_broker_that_is_away_is_waited_for(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench(FakeLock([ConnectionRefusedError("away")]))
    assert bench.server.started.wait(ANSWER_TIME)
    assert bench.fatal == []


def test_a_second_agent_of_a_name_is_refused_and_takes_nothing_in(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench(FakeLock([HostTaken("another agent serves host 'h1'")]), first_patience=0.0)
    assert bench.failed.wait(ANSWER_TIME)
    assert "another agent" in bench.fatal[0]
    assert bench.order == []


def test_the_ghost_of_a_killed_predecessor_is_waited_for(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench(FakeLock([HostTaken("taken")]), first_patience=60.0)
    assert bench.server.started.wait(ANSWER_TIME)
    assert bench.fatal == []


def test_nothing_is_taken_in_while_the_lock_is_lost_and_a_new_server_begins_when_it_is_held_again(make_bench: Callable[..., Bench]) -> None:
    """Another agent may hold the lock by then: what this one took in would be refused, being bound to the other one's journal."""
    lock = FakeLock(keeps=[ConnectionResetError("lost")])
    bench = make_bench(lock)
    assert bench.server.started.wait(ANSWER_TIME)
    assert bench.server.restarted.wait(ANSWER_TIME)
    assert bench.order == ["open for business", "server", "server"]
    assert bench.server.calls == ["start", "stop", "wait", "start"]
    assert bench.server.lock_was_held == [True, False, False, True]
    assert bench.fatal == []


def test_an_rpc_server_that_does_not_start_is_made_anew_under_the_lock(make_bench: Callable[..., Bench]) -> None:
    """An agent that holds the lock and takes nothing in would look healthy and be deaf."""
    bench = make_bench(FakeLock(), server_faults=[RuntimeError("406 PRECONDITION_FAILED")])
    assert bench.server.started.wait(ANSWER_TIME)
    assert bench.server.calls == ["start", "start"]
    assert bench.order == ["open for business", "server", "server"]
    assert bench.fatal == []


@pytest.mark.parametrize(("fault", "acquired"), [(JournalFull("no room"), 1), (RuntimeError("odd"), 2)])
def test_an_agent_that_cannot_say_that_it_is_up_tries_again_and_lets_go_of_the_lock_only_for_a_fault(
    fault: Exception, acquired: int
) -> None:
    """While the disk is full nobody is served by one agent more that takes the lock each second; until then nothing is taken in."""
    bench = Bench(FakeLock())
    bench.held_faults = [fault]
    bench.intake.start()
    assert bench.server.started.wait(ANSWER_TIME)
    assert bench.lock.acquired == acquired
    assert bench.order == ["open for business", "server"]
    assert bench.fatal == []
    bench.end()


def test_a_lock_that_somebody_else_took_meanwhile_ends_this_agent(make_bench: Callable[..., Bench]) -> None:
    lock = FakeLock([None, HostTaken("another agent serves host 'h1'")], keeps=[ConnectionResetError("lost")])
    bench = make_bench(lock, ghost_patience=0.0)
    assert bench.failed.wait(ANSWER_TIME)
    assert not bench.intake.is_held
    assert bench.server.calls == ["start", "stop", "wait"]


def test_stop_drains_the_rpc_server_and_keeps_the_lock_until_the_end(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench(FakeLock())
    assert bench.server.started.wait(ANSWER_TIME)
    bench.intake.stop()
    assert bench.server.calls == ["start", "stop", "wait"]
    assert bench.lock.held.is_set()
    bench.intake.release()
    assert not bench.lock.held.is_set()


def test_no_server_begins_after_the_stop(make_bench: Callable[..., Bench]) -> None:
    bench = Bench(FakeLock())
    bench.intake.stop()
    bench.intake.start()
    assert bench.lock.held.wait(ANSWER_TIME)
    bench.intake.release()
    assert bench.server.calls == []


def test_a_fault_in_one_step_does_not_end_a_loop() -> None:
    calls, enough = [], threading.Event()

    def body() -> None:
        calls.append(1)
        if len(calls) == 1:
            raise RuntimeError("odd event")
        enough.set()

    loop = Loop("test", body, on_fatal=lambda reason: None)
    loop.start()
    assert enough.wait(ANSWER_TIME)
    assert loop.stop(ANSWER_TIME)
    assert loop.faults == 1


def test_a_journal_that_cannot_be_written_ends_the_agent() -> None:
    told: queue.SimpleQueue[str] = queue.SimpleQueue()

    def body() -> None:
        raise JournalUnusable("the journal was deleted")

    Loop("reporter", body, on_fatal=told.put).start()
    assert told.get(timeout=ANSWER_TIME) == "reporter: the journal was deleted"


def test_pauses_grow_to_a_limit_until_it_works_again() -> None:
    backoff = Backoff(1.0, 10.0)
    assert [backoff.take() for _ in range(6)] == [1, 2, 4, 8, 10, 10]
    backoff.reset()
    assert backoff.take() == 1


def test_work_without_a_bound_of_its_own_is_left_behind() -> None:
    release = threading.Event()
    assert run_bounded("quick", lambda: None, ANSWER_TIME)
    assert not run_bounded("stuck", release.wait, 0.01)
    release.set()


def write_config(tmp_path: Path, *, driver: str = "fake", url: str = "rabbit://u:p@127.0.0.1:1/", host: str = "h1") -> list[str]:
    path = tmp_path / "agent.conf"
    path.write_text(f"[DEFAULT]\nhost = {host}\ntransport_url = {url}\n[agent]\ndriver = {driver}\nstate_path = {tmp_path / 'state'}\n")
    return ["--config-file", str(path)]


def test_help_is_answered(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["--help"])
    assert exit_.value.code == 0
    assert "--config-file" in capsys.readouterr().out


def test_a_driver_that_is_not_installed_ends_it_at_the_start(tmp_path: Path) -> None:
    assert main(write_config(tmp_path, driver="no-such-driver")) == 1


@pytest.mark.parametrize("url", ["rabbit://", "ftp://nowhere/"])
def test_a_transport_url_that_names_no_rabbitmq_ends_it_at_the_start(tmp_path: Path, url: str) -> None:
    assert main(write_config(tmp_path, url=url)) == 1


def test_a_journal_that_another_process_holds_ends_it_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    held = Journal.open(tmp_path / "state" / "journal.sqlite", host="h1", clock=SystemClock())
    try:
        assert main(write_config(tmp_path)) == 1
    finally:
        held.close()


def test_a_host_name_that_cannot_name_a_queue_ends_it_at_the_start(tmp_path: Path) -> None:
    assert main(write_config(tmp_path, host="no/queue")) == 1


def test_a_missing_configuration_file_is_wrong_usage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--config-file", str(tmp_path / "none.conf")]) == 2
    assert "none.conf" in capsys.readouterr().err
