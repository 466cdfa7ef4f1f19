"""Processes of the development stack are found, stopped and never confused with others."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from devstack.services import ProcessId, Service, iterate_command_lines, wait_until
from devstack.steps import StepFailed

SLEEPER = [sys.executable, "-c", "import signal; print('ready', flush=True); signal.pause()"]
STUBBORN = [
    sys.executable,
    "-c",
    "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready', flush=True)\nwhile True: signal.pause()",
]


def make_service(tmp_path: Path, argv: list[str]) -> Service:
    return Service("sleeper", argv, log=tmp_path / "log", record=tmp_path / "pid")


def start_ready(service: Service) -> None:
    service.start()
    service.wait_ready(lambda: "ready" in service.log.read_text(), 10, "it says ready")  # type: ignore[union-attr]


def test_a_later_command_finds_and_stops_what_an_earlier_one_started(tmp_path: Path) -> None:
    first = make_service(tmp_path, SLEEPER)
    start_ready(first)
    second = make_service(tmp_path, SLEEPER)
    assert second.pid == first.pid
    assert second.stop() is True
    assert not first.is_running
    assert not (tmp_path / "pid").exists()


def test_a_process_that_ignores_sigterm_is_killed_after_the_grace(tmp_path: Path) -> None:
    service = make_service(tmp_path, STUBBORN)
    start_ready(service)
    assert service.stop(grace=0.05) is False
    assert not service.is_running


def test_a_frozen_process_can_be_stopped(tmp_path: Path) -> None:
    service = make_service(tmp_path, SLEEPER)
    start_ready(service)
    service.freeze()
    assert service.stop() is True


def test_a_pid_that_now_belongs_to_another_process_is_never_signalled(tmp_path: Path) -> None:
    """The record names this very test process, with the start time of an earlier one."""
    own = ProcessId.find_running(os.getpid())
    assert own is not None
    record = tmp_path / "pid"
    record.write_text(json.dumps({"pid": own.pid, "start_ticks": own.start_ticks - 1, "boot_id": own.boot_id}))
    service = make_service(tmp_path, SLEEPER)
    assert not service.is_running
    service.kill()
    assert ProcessId(own.pid, own.start_ticks - 1, own.boot_id).send(9) is False


def test_every_other_process_is_found_by_its_command_line(tmp_path: Path) -> None:
    service = make_service(tmp_path, SLEEPER)
    start_ready(service)
    try:
        found = dict(iterate_command_lines())
        assert found[service.pid].split(b"\0")[:2] == [sys.executable.encode(), b"-c"]
        assert os.getpid() not in found
    finally:
        service.stop()


def test_a_zombie_counts_as_gone() -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    try:
        wait_until(lambda: ProcessId.find_running(child.pid) is None, 10, "the child to end")
    finally:
        child.wait()


def test_a_service_that_ends_before_it_is_ready_is_reported_with_its_log(tmp_path: Path) -> None:
    service = make_service(tmp_path, [sys.executable, "-c", "print('no such broker')"])
    service.start()
    with pytest.raises(StepFailed) as failure:
        service.wait_ready(lambda: False, 10, "it is ready", advice="start the broker")
    explained = failure.value.explain()
    assert "no such broker" in explained
    assert str(tmp_path / "log") in explained
    assert "start the broker" in explained


def test_wait_until_says_what_it_waited_for() -> None:
    with pytest.raises(TimeoutError, match="the moon to rise"):
        wait_until(lambda: None, 0.01, "the moon to rise")
