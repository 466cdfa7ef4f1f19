"""Programs of consumers as processes of their own, with a consumer's account: what they print, line by line."""

import json
import os
import queue
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path

from compute_agent.contract.accounts import build_consumer_account
from compute_agent.contract.broker_definitions import build_definitions
from devstack.rabbitmq import PrivateRabbitMQ
from devstack.services import PATIENCE

_PASSWORD = "consumers-read-only"


class ConsumerAccount:
    """A consumer's account, with the exchanges of events and its own, as ``crashcart-manage broker-definitions`` makes them."""

    def __init__(self, broker: PrivateRabbitMQ) -> None:
        consumer = f"tests-{uuid.uuid4().hex[:8]}"
        self.name = build_consumer_account(consumer)
        self._port = broker.ports.amqp
        definitions = broker.state_dir / f"{self.name}.json"
        definitions.write_text(json.dumps(build_definitions({}, {}, {consumer: _PASSWORD})))
        broker.ctl("import_definitions", str(definitions))

    def build_url(self, scheme: str = "rabbit", vhost: str = "", password: str = _PASSWORD) -> str:
        return f"{scheme}://{self.name}:{password}@127.0.0.1:{self._port}/{vhost}"


class Program:
    """A Python program and the lines of its standard output so far."""

    def __init__(self, arguments: Sequence[str | Path], environment: dict[str, str] | None = None) -> None:
        self.lines: list[str] = []
        self.errors: list[str] = []
        self._arrivals: queue.SimpleQueue[None] = queue.SimpleQueue()
        self.process = subprocess.Popen(
            [sys.executable, *map(str, arguments)],
            env=os.environ | (environment or {}),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        self._readers = [
            threading.Thread(target=self._read, args=(stream, lines))
            for stream, lines in ((self.process.stdout, self.lines), (self.process.stderr, self.errors))
        ]
        for reader in self._readers:
            reader.start()

    def wait_for(self, condition: Callable[["Program"], object], what: str, timeout: float = 60) -> None:
        """Until what it has printed is as wanted."""
        end = time.monotonic() + timeout * PATIENCE
        while not condition(self):
            try:
                self._arrivals.get(timeout=max(0.0, end - time.monotonic()))
            except queue.Empty:
                raise AssertionError(f"waited for {what}; it said {self.lines} and {self.errors}") from None

    def wait_for_line(self, text: str) -> None:
        self.wait_for(lambda program: any(text in line for line in program.lines + program.errors), text)

    def stop(self) -> int:
        """SIGTERM; the exit status."""
        self.process.terminate()
        return self.join()

    def join(self, timeout: float = 30) -> int:
        """Its exit status, with all that it said read."""
        status = self.process.wait(timeout * PATIENCE)
        for reader in self._readers:
            reader.join(timeout)
        return status

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.join()

    def _read(self, stream: object, lines: list[str]) -> None:
        for line in stream:  # type: ignore[attr-defined]
            lines.append(line.rstrip("\n"))
            self._arrivals.put(None)
