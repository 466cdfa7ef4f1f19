"""The engine's threads: they live on, they stop in order, and none of them needs a broker to begin."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from oslo_config import cfg

from api_gateway import engine as engine_module
from api_gateway.cast_slots import CastThreads
from api_gateway.config import load_config
from api_gateway.dispatcher import Dispatcher
from api_gateway.engine import Engine, main
from api_gateway.engine_options import ROLES
from api_gateway.loops import Loop
from api_gateway.store import Store, StoreBusy
from api_gateway.wake import WakeSender
from compute_agent.contract.clock import SystemClock
from compute_agent.contract.publisher import OutboxPump, PublishFailed
from devstack.services import wait_until
from tests.unit.gateway.engine_parts import AgentVoice, NotingCaster, add_action, add_agent, get_action

_COMMAND = "import sys; from api_gateway.engine import main; sys.exit(main())"
NO_BROKER = "rabbit://nobody:nothing@127.0.0.1:1/"
STOP_TIMEOUT = 60.0
"""Longer than its own, which a machine that stands still uses up."""


@pytest.fixture
def conf(tmp_path: Path) -> cfg.ConfigOpts:
    path = tmp_path / "gateway.conf"
    path.write_text(
        f"[DEFAULT]\ntransport_url = {NO_BROKER}\n[database]\nconnection = sqlite:///{tmp_path / 'gateway.sqlite'}\n"
        f"[dispatcher]\nwake_socket = {tmp_path / 'wake.sock'}\n[stream]\nlisten_port = 0\n"
    )
    return load_config([], config_files=[str(path)])


def test_a_datagram_brings_the_cast_at_once(conf: cfg.ConfigOpts, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It does not wait until the dispatcher looks by itself."""
    monkeypatch.setattr(engine_module, "_IDLE_WAIT", 600.0)
    clock = SystemClock()
    add_agent(store, AgentVoice(clock), clock)
    caster = NotingCaster()
    cast = threading.Event()
    caster.during_cast = lambda request: cast.set()
    engine = Engine(conf, store, roles=["dispatcher"], caster=caster)
    engine.start()
    sender = WakeSender(tmp_path / "wake.sock")
    action = add_action(store, clock)
    sender.wake()
    assert cast.wait(30)
    sender.close()
    assert engine.stop(STOP_TIMEOUT) == []
    assert get_action(store, action).lease_owner is None, "an ordered stop lets the cast's end be recorded"


def test_the_dispatcher_is_told_that_it_was_woken(
    conf: cfg.ConfigOpts, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that it need not look first."""
    told = threading.Event()
    step = Dispatcher.step

    def note(dispatcher: Dispatcher, *, woken: bool = False) -> float | None:
        if woken:
            told.set()
        return step(dispatcher, woken=woken)

    monkeypatch.setattr(Dispatcher, "step", note)
    engine = Engine(conf, store, roles=["dispatcher"], caster=NotingCaster())
    engine.start()
    sender = WakeSender(tmp_path / "wake.sock")
    sender.wake()
    assert told.wait(10)
    sender.close()
    assert engine.stop(STOP_TIMEOUT) == []


def test_every_role_starts_and_stops_while_the_broker_is_away(conf: cfg.ConfigOpts, store: Store) -> None:
    engine = Engine(conf, store)
    engine.start()
    assert engine.find_dead_loop() is None
    assert engine.stop() == []


def test_events_that_wait_for_a_broker_are_said_to_once_in_an_outage(
    conf: cfg.ConfigOpts, store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The broker is tried twice a second, and a log that says so each time is of no use."""
    answers = iter([PublishFailed(0, "away"), PublishFailed(0, "still away"), None, PublishFailed(0, "away again"), None])
    asked_all = threading.Event()

    def step(pump: OutboxPump) -> int:
        answer = next(answers, asked_all)
        if isinstance(answer, PublishFailed):
            raise answer
        if answer is asked_all:
            asked_all.set()
        return 0

    monkeypatch.setattr(OutboxPump, "step", step)
    monkeypatch.setattr("api_gateway.engine._OUTBOX_INTERVAL", 0.001)
    engine = Engine(conf, store, roles=["outbox"])
    with caplog.at_level("INFO"):
        engine.start()
        assert asked_all.wait(10)
        assert engine.stop(STOP_TIMEOUT) == []
    said = [record.getMessage() for record in caplog.records if "own events wait" in record.getMessage()]
    assert [line.removeprefix("the gateway's own events wait: ") for line in said] == [
        "away; trying again until it works",
        "works again",
        "away again; trying again until it works",
        "works again",
    ]


@pytest.mark.parametrize("role", ROLES)
def test_each_role_runs_alone(conf: cfg.ConfigOpts, store: Store, role: str) -> None:
    engine = Engine(conf, store, roles=[role])
    engine.start()
    assert engine.find_dead_loop() is None
    assert engine.stop(STOP_TIMEOUT) == []


def test_a_cast_that_does_not_return_delays_no_stop(conf: cfg.ConfigOpts, store: Store) -> None:
    """A broker in alarm holds a publisher for as long as the alarm lasts."""
    clock = SystemClock()
    add_agent(store, AgentVoice(clock), clock)
    add_action(store, clock)
    caster = NotingCaster()
    held, let_go = threading.Event(), threading.Event()

    def hold(request: object) -> None:
        held.set()
        let_go.wait(30)

    caster.during_cast = hold
    engine = Engine(conf, store, roles=["dispatcher"], caster=caster)
    engine.start()
    assert held.wait(10)
    begun = time.monotonic()
    assert "cast" in engine.stop(2)
    assert time.monotonic() - begun < 20
    let_go.set()


def test_a_schema_that_is_missing_is_said_and_nothing_starts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "gateway.conf"
    path.write_text(f"[DEFAULT]\ntransport_url = {NO_BROKER}\n[database]\nconnection = sqlite:///{tmp_path / 'new.sqlite'}\n")
    assert main(["--config-file", str(path)]) == 1
    assert "crashcart-manage" in capsys.readouterr().err


def test_a_wrong_role_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--only", "everything"])
    assert "everything" in capsys.readouterr().err


def test_sigterm_ends_the_command_within_seconds_with_the_broker_away(conf: cfg.ConfigOpts, store: Store, tmp_path: Path) -> None:
    log = tmp_path / "engine.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [
                sys.executable,
                "-c",
                "import sys; from api_gateway.engine import main; sys.exit(main())",
                "--config-file",
                str(tmp_path / "gateway.conf"),
            ],
            stdout=output,
            stderr=output,
            env=os.environ | {"PYTHONWARNINGS": "ignore"},
        )
    try:
        wait_until(lambda: b"crashcart-engine runs" in log.read_bytes(), 60, "the engine runs")
        process.send_signal(signal.SIGTERM)
        # One that waited for its broker would wait for ever; the machine may be busy.
        assert process.wait(60) == 0, log.read_text()
    finally:
        process.kill()
        process.wait()
    assert b"Traceback" not in log.read_bytes(), log.read_text()


def test_a_loop_lives_on_when_its_step_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("api_gateway.loops._PAUSE_AFTER_FAILURE", 0.001)
    errors = [StoreBusy("held"), ValueError("a fault of ours")]
    recovered = threading.Event()

    def step() -> None:
        if errors:
            raise errors.pop()
        recovered.set()
        loop.pause(10)

    loop = Loop("test", step)
    loop.start()
    assert recovered.wait(10)
    assert loop.failures == 2
    loop.stop()
    assert loop.join(5), "pause ends when the loop is stopped"


def test_cast_threads_run_jobs_beside_each_other_and_count_what_is_free() -> None:
    pool = CastThreads("test", 2)
    meet = threading.Barrier(3)
    for _ in range(2):
        pool.start(lambda: meet.wait(10) and None)
    assert pool.count_free() == 0
    meet.wait(10)
    pool.stop()
    assert pool.join(5) == 0
    assert pool.count_free() == 2


def test_who_is_woken_by_a_slot_that_is_free_again_finds_it_free() -> None:
    seen: list[int] = []
    woken = threading.Event()

    def look() -> None:
        seen.append(pool.count_free())
        woken.set()

    pool = CastThreads("test", 1, on_free=look)
    pool.start(lambda: None)
    assert woken.wait(10)
    assert seen == [1]
    pool.stop()
    assert pool.join(5) == 0


def test_more_casts_than_slots_follow_each_other_without_waiting_for_the_next_look(
    conf: cfg.ConfigOpts, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full pool that was seen as still full cost each of them the second after which the dispatcher looks by itself."""
    monkeypatch.setattr(engine_module, "_IDLE_WAIT", 600.0)
    clock = SystemClock()
    conf.set_override("workers", 1, group="dispatcher")
    for number in range(4):
        add_agent(store, AgentVoice(clock, f"host-{number}", f"journal-{number}"), clock)
        add_action(store, clock, host=f"host-{number}")
    caster = NotingCaster()
    done = threading.Event()
    caster.during_cast = lambda request: done.set() if len(caster.requests) == 4 else None
    engine = Engine(conf, store, roles=["dispatcher"], caster=caster)
    engine.start()
    assert done.wait(30)
    assert engine.stop(STOP_TIMEOUT) == []


def test_a_job_that_fails_leaves_its_thread_for_the_next_one() -> None:
    pool = CastThreads("test", 1)
    ran = threading.Event()

    def fail() -> None:
        raise ValueError("a fault of ours")

    pool.start(fail)
    pool.start(ran.set)
    assert ran.wait(10)
    pool.stop()
    assert pool.join(5) == 0
