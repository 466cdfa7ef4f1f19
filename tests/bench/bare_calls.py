"""oslo.messaging calls with nothing around them: the floor of what is asked of agents through RPC, in two processes of its own.

``python -m tests.bench.bare_calls serve`` answers each call with the same body from as many threads as an agent has for its calls, says
``ready``, and ends with its standard input; ``... call`` makes calls from some threads of one process and writes a :class:`Calls`. Each
reads a plan from standard input as one line of JSON; both have the options that crashcart gives oslo.messaging.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from oslo_config import cfg

from compute_agent.contract.transport import create_rpc_transport, oslo_messaging, register_messaging_options
from compute_agent.rpc_servers import CALL_THREADS

_TOPIC, _SERVER = "bench_floor", "bench"
_TIMEOUT = 10.0
_ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Calls:
    """Milliseconds of each call, the seconds that all took, and the client's own processor time in seconds."""

    latencies: list[float]
    seconds: float
    processor_seconds: float

    @property
    def per_second(self) -> float:
        return len(self.latencies) / self.seconds


class _Endpoint:
    """Answers at once."""

    target = oslo_messaging.Target(version="1.0")

    def __init__(self, body: Mapping[str, Any]) -> None:
        self._body = body

    def ask(self, _context: Mapping[str, Any], server: str, history: bool) -> Mapping[str, Any]:
        return self._body


@contextmanager
def running_bare_server(transport_url: str, body: Mapping[str, Any]) -> Iterator[int]:
    """Its process id, for as long as the block lasts.

    :raises RuntimeError: it did not start.
    """
    process = _start("serve")
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(json.dumps({"transport_url": transport_url, "body": body}) + "\n")
        process.stdin.flush()
        if process.stdout.readline() != "ready\n":
            raise RuntimeError("the bare RPC server did not start")
        yield process.pid
    finally:
        process.stdin.close()
        process.wait()


def call_bare(transport_url: str, *, threads: int, calls: int) -> Calls:
    """So many calls, by so many threads of another process.

    :raises RuntimeError: it failed.
    """
    process = _start("call")
    output, _ = process.communicate(json.dumps({"transport_url": transport_url, "threads": threads, "calls": calls}) + "\n")
    if process.returncode:
        raise RuntimeError("the bare RPC client failed")
    return Calls(**json.loads(output))


def _start(role: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-W", "ignore", "-m", "tests.bench.bare_calls", role]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=_ROOT)


def _create_transport(transport_url: str) -> oslo_messaging.Transport:
    conf = cfg.ConfigOpts()
    register_messaging_options(conf)
    conf([], default_config_files=[])
    conf.set_override("transport_url", transport_url)
    return create_rpc_transport(conf)


def _serve(plan: Mapping[str, Any]) -> None:
    server = oslo_messaging.get_rpc_server(
        _create_transport(plan["transport_url"]),
        oslo_messaging.Target(topic=_TOPIC, server=_SERVER),
        [_Endpoint(plan["body"])],
        access_policy=oslo_messaging.DefaultRPCAccessPolicy,
    )
    server.start(override_pool_size=CALL_THREADS)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.read()
    server.stop()


def _call(plan: Mapping[str, Any]) -> Calls:
    client = oslo_messaging.get_rpc_client(_create_transport(plan["transport_url"]), oslo_messaging.Target(topic=_TOPIC, version="1.0"))
    context = client.prepare(server=_SERVER, timeout=_TIMEOUT, retry=0)
    server_id = "a" * 36
    gate = threading.Barrier(plan["threads"])

    def call(_number: int) -> float:
        began = time.perf_counter()
        context.call({}, "ask", server=server_id, history=False)
        return (time.perf_counter() - began) * 1000

    def warm_up(_number: int) -> None:
        gate.wait()
        call(0)
        gate.wait()

    with ThreadPoolExecutor(plan["threads"]) as pool:
        list(pool.map(warm_up, range(plan["threads"])))
        processor_began, began = time.process_time(), time.perf_counter()
        latencies = list(pool.map(call, range(plan["calls"])))
        return Calls(latencies, time.perf_counter() - began, time.process_time() - processor_began)


def main() -> None:
    """Take the role that the command line names."""
    plan = json.loads(sys.stdin.readline())
    if sys.argv[1] == "serve":
        _serve(plan)
    else:
        sys.stdout.write(json.dumps(asdict(_call(plan))))


if __name__ == "__main__":
    main()
