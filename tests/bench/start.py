"""Seconds from the start of each command until it is of use, beside what Python and the libraries alone need to load.

Ready are: an agent when it says that it takes actions in (it holds its host's lock and its queue is consumed), the API when it answers
``GET /healthcheck``, the engine when it says that its parts run. Broker and database are there, the files are in the page cache.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from devstack.services import Service, wait_until
from tests.bench.fake_stack import FakeAgent, FakeStack, running_fake_stack
from tests.bench.figures import Figure, Goal, Unit

_COMMANDS = ("crashcart-agent", "crashcart-api", "crashcart-engine", "crashcart-manage", "crashcart-notifications")
_PYTHON = "python -c pass"
_LIBRARIES = {
    "crashcart-agent": "oslo_config.cfg oslo_log.log oslo_messaging kombu pydantic sqlite3 cryptography.hazmat.primitives.serialization",
    "crashcart-api": "oslo_config.cfg oslo_log.log oslo_policy.policy falcon granian pydantic sqlalchemy",
    "crashcart-engine": "oslo_config.cfg oslo_log.log oslo_messaging kombu pydantic sqlalchemy uvicorn urllib3",
}
"""What each service cannot do without; it loads more than that, and its own modules."""
_SERVICE_GOAL = Goal(median=1.5)
_HELP_GOAL = Goal(median=0.4)
_TIMEOUT = 30.0
_POLL = 0.002
"""Seconds between two looks, which the figures may be too long by."""


def measure(runs: int) -> list[Figure]:
    """``runs`` starts of each, in turn, so that a machine that slows down slows all of them.

    :raises StepFailed: the stack did not come up.
    :raises TimeoutError: a service was not ready within half a minute.
    """
    with running_fake_stack(agents=[FakeAgent(10)]) as stack:
        starts = _list_starts(stack)
        samples: dict[str, list[float]] = {name: [] for name in starts}
        for _ in range(runs):
            for name, start in starts.items():
                samples[name].append(start())
    return [_make_figure(name, taken) for name, taken in samples.items()]


def _make_figure(name: str, samples: list[float]) -> Figure:
    command, _, what = name.partition(", ")
    if what == "ready" and command in _LIBRARIES:
        goal = None if command == "crashcart-engine" else _SERVICE_GOAL
        return Figure(name, samples, floor=_name_floor(command), unit=Unit.SECONDS, goal=goal)
    if command in _COMMANDS and what == "--help":
        return Figure(name, samples, floor=_PYTHON, unit=Unit.SECONDS, goal=_HELP_GOAL)
    return Figure(name, samples, unit=Unit.SECONDS)


def _list_starts(stack: FakeStack) -> dict[str, Callable[[], float]]:
    starts: dict[str, Callable[[], float]] = {_PYTHON: lambda: _run([sys.executable, "-c", "pass"])}
    for command, modules in _LIBRARIES.items():
        code = f"import {modules.replace(' ', ', ')}"
        starts[_name_floor(command)] = lambda code=code: _run([sys.executable, "-W", "ignore", "-c", code])  # type: ignore[misc]
    readiness: dict[str, Callable[[Service, int], bool]] = {
        "crashcart-agent": lambda service, offset: _has_said(service, offset, b"actions are taken in"),
        "crashcart-api": lambda _service, _offset: stack.client.is_healthy(),
        "crashcart-engine": lambda service, offset: _has_said(service, offset, b"crashcart-engine runs"),
    }
    for command, is_ready in readiness.items():
        service = stack.services[command]
        starts[f"{command}, ready"] = lambda service=service, is_ready=is_ready: _restart(service, is_ready)  # type: ignore[misc]
    for command in _COMMANDS:
        path = str(Path(sys.executable).parent / command)
        starts[f"{command}, --help"] = lambda path=path: _run([path, "--help"])  # type: ignore[misc]
    return starts


def _name_floor(command: str) -> str:
    return f"Python with the libraries of {command}"


def _run(command: list[str]) -> float:
    """:raises CalledProcessError: it failed."""
    began = time.perf_counter()
    subprocess.run(command, stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL, check=True)
    return time.perf_counter() - began


def _restart(service: Service, is_ready: Callable[[Service, int], bool]) -> float:
    service.stop()
    assert service.log is not None
    offset = service.log.stat().st_size
    began = time.perf_counter()
    service.start()
    wait_until(lambda: is_ready(service, offset), _TIMEOUT, f"{service.name} to be ready", interval=_POLL)
    return time.perf_counter() - began


def _has_said(service: Service, offset: int, sentence: bytes) -> bool:
    assert service.log is not None
    with service.log.open("rb") as log:
        log.seek(offset)
        return sentence in log.read()
