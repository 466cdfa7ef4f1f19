"""HTTP requests from many clients at once, out of a process of its own, so that its processor time stands apart.

``python -m tests.bench.load`` reads a :class:`Plan` from standard input and writes a :class:`Load` to standard output, both as JSON. Each
client has one connection that it keeps. Without a rate a client sends its next request as soon as it has the answer; with one, requests
are due at fixed moments whether or not the server keeps up, and the time that one waits for a free client counts (else a slow server would
be asked less and look better than it is).
"""

from __future__ import annotations

import json
import selectors
import socket
import subprocess
import sys
import time
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

_TIMEOUT = 60.0
_END_OF_HEAD = b"\r\n\r\n"


@dataclass(frozen=True)
class Plan:
    """What is to be sent, in this order, each request once.

    :param requests: method, path and JSON body (empty: none) of each
    :param rate: requests per second; None: as fast as the answers come
    """

    port: int
    requests: Sequence[tuple[str, str, str]]
    clients: int = 1
    rate: float | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Load:
    """What became of it: milliseconds of each request, answers by status, seconds from the first request to the last answer, and the
    generator's own processor time in seconds."""

    latencies: list[float]
    statuses: dict[str, int]
    seconds: float
    processor_seconds: float

    @property
    def per_second(self) -> float:
        return len(self.latencies) / self.seconds


def generate_load(plan: Plan, *, expected: int) -> Load:
    """Send it from another process; returns when all is answered.

    :raises RuntimeError: an answer had another status than ``expected``, or the server did not answer; the text says what.
    """
    done = subprocess.run(  # our own interpreter and module
        [sys.executable, "-m", "tests.bench.load"],
        input=json.dumps(asdict(plan)),
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"the load generator failed: {done.stderr}")
    load = Load(**json.loads(done.stdout))
    if set(load.statuses) != {str(expected)}:
        raise RuntimeError(f"expected {expected} to each request, but the server answered {load.statuses}")
    return load


class _Client:
    """One connection, with one request under way at most."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=_TIMEOUT)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.due = 0.0
        self._received = b""

    def send(self, request: bytes, due: float) -> None:
        self.due = due
        self.socket.sendall(request)

    def receive(self) -> int | None:
        """The answer's status once all of it is here.

        :raises ConnectionError: the server hung up.
        """
        piece = self.socket.recv(1 << 18)
        if not piece:
            raise ConnectionError(f"the server hung up after {self._received!r}")
        self._received += piece
        head, end, body = self._received.partition(_END_OF_HEAD)
        if not end or len(body) < _find_length(head):
            return None
        self._received = b""
        return int(head[9:12])


def _find_length(head: bytes) -> int:
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
    return 0


def _encode(method: str, path: str, body: str, headers: Mapping[str, str]) -> bytes:
    content = body.encode()
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    if content:
        lines += ["Content-Type: application/json", f"Content-Length: {len(content)}"]
    return "\r\n".join(lines).encode() + _END_OF_HEAD + content


def _run(plan: Plan) -> Load:
    headers = {"Host": f"127.0.0.1:{plan.port}", **plan.headers}
    waiting = deque(_encode(*request, headers) for request in plan.requests)
    count = len(waiting)
    selector = selectors.DefaultSelector()
    free: deque[_Client] = deque()
    for _ in range(plan.clients):
        client = _Client(plan.port)
        selector.register(client.socket, selectors.EVENT_READ, client)
        free.append(client)
    latencies: list[float] = []
    statuses: Counter[str] = Counter()
    processor_began, began = time.process_time(), time.perf_counter()
    while len(latencies) < count:
        next_due = _send_due(plan.rate, waiting, free, count, began)
        timeout = _TIMEOUT if next_due is None else max(0.0, next_due - time.perf_counter())
        ready = selector.select(timeout)
        if not ready and next_due is None:
            raise TimeoutError(f"no answer for {_TIMEOUT:g} s; {len(latencies)} of {count} requests were answered")
        for key, _ in ready:
            client = key.data
            status = client.receive()
            if status is not None:
                latencies.append((time.perf_counter() - client.due) * 1000)
                statuses[str(status)] += 1
                free.append(client)
    return Load(latencies, dict(statuses), time.perf_counter() - began, time.process_time() - processor_began)


def _send_due(rate: float | None, waiting: deque[bytes], free: deque[_Client], count: int, began: float) -> float | None:
    """Let each free client send what is due; returns when the next request is, None when there is none or nobody is free for it."""
    while waiting and free:
        now = time.perf_counter()
        due = now if rate is None else began + (count - len(waiting)) / rate
        if due > now:
            return due
        free.popleft().send(waiting.popleft(), due)
    return None


if __name__ == "__main__":
    json.dump(asdict(_run(Plan(**json.load(sys.stdin)))), sys.stdout)
