"""``crashcart-api`` as a process: it serves, lets waiting requests go when stopped, leaves no worker behind when killed, replaces one."""

import http.client
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from devstack.ports import find_free_port
from devstack.services import list_children
from tests.http.application import create_application
from tests.http.fleet import PENDING_ACTION

START = "import sys; from api_gateway.wsgi import main; sys.exit(main(sys.argv[1:]))"
LONG_POLL = f"/v1/actions/{PENDING_ACTION}?wait=50"


@dataclass
class Server:
    """The running command and how to ask it."""

    process: "subprocess.Popen[bytes]"
    port: int

    def get(self, path: str) -> tuple[int, Any]:
        return self.read(self.ask(path))

    def ask(self, path: str) -> http.client.HTTPConnection:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.request("GET", path)
        return connection

    def read(self, connection: http.client.HTTPConnection) -> tuple[int, Any]:
        try:
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())
        finally:
            connection.close()

    def has_taken(self, connection: http.client.HTTPConnection) -> bool:
        """Whether a process has accepted this connection and read all that was asked over it: the kernel keeps nothing of it for later."""
        ends = [f"{port:04X}" for port in (self.port, connection.sock.getsockname()[1])]
        for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
            _, local, remote, _, queues, _, _, _, _, inode, *_ = line.split()
            if [local.partition(":")[2], remote.partition(":")[2]] == ends:
                return inode != "0" and int(queues.partition(":")[2], 16) == 0
        return False

    def answers(self) -> bool:
        try:
            return self.get("/healthcheck")[0] == 200
        except (OSError, http.client.HTTPException):
            return False


def wait_until(condition: Callable[[], bool], timeout: float = 60.0) -> bool:
    end = time.monotonic() + timeout
    paused = threading.Event()
    while time.monotonic() < end:
        if condition():
            return True
        paused.wait(0.02)
    return False


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    create_application(tmp_path).close()
    port = find_free_port()
    config = tmp_path / "gateway.conf"
    config.write_text(
        f"[database]\nconnection = sqlite:///{tmp_path / 'gateway.sqlite'}\n[api]\nlisten_port = {port}\n"
        f"[dispatcher]\nwake_socket = {tmp_path / 'wake.sock'}\n"
    )
    server = Server(subprocess.Popen([sys.executable, "-c", START, "--config-file", str(config)]), port)
    try:
        assert wait_until(server.answers)
        yield server
    finally:
        server.process.kill()
        server.process.wait()


def test_an_ordered_stop_answers_those_who_wait(server: Server) -> None:
    """A long poll must hold up neither the stop nor its own caller."""
    answers: list[tuple[int, Any]] = []
    connection = server.ask(LONG_POLL)
    assert wait_until(lambda: server.has_taken(connection))
    waiter = threading.Thread(target=lambda: answers.append(server.read(connection)))
    waiter.start()
    assert not wait_until(lambda: bool(answers), timeout=2.0)

    server.process.send_signal(signal.SIGTERM)

    assert server.process.wait(timeout=60) == 0
    waiter.join(60)
    assert answers[0][0] == 200
    assert answers[0][1]["state"] == "accepted"


def test_a_killed_main_process_takes_its_workers_with_it(server: Server) -> None:
    """Nobody else could stop them, and they would go on answering on the port."""
    server.process.kill()
    server.process.wait()

    assert wait_until(lambda: not server.answers(), timeout=60)


def test_a_killed_worker_is_replaced(server: Server) -> None:
    """By a fork of the same main process, whose other threads it must not wait for."""
    (worker,) = list_children(server.process.pid)

    worker.kill()

    assert wait_until(server.answers, timeout=60)
    server.process.send_signal(signal.SIGTERM)
    server.process.wait(timeout=60)


def test_a_worker_begins_without_the_signal_handlers_of_its_main_process() -> None:
    script = (
        "import os, signal; from api_gateway.worker_process import let_forks_end\n"
        "let_forks_end(); signal.signal(signal.SIGTERM, print)\n"
        "os._exit(signal.getsignal(signal.SIGTERM) != signal.SIG_DFL) if not (pid := os.fork()) else None\n"
        "assert os.waitpid(pid, 0)[1] == 0; assert signal.getsignal(signal.SIGTERM) is print"
    )

    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)
