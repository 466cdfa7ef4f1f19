"""What one dead host, one slow host and one consumer that never reads do to all the others, and to the memory of every process.

Thousands of crash dumps are posted at the servers of a host whose agent has stopped, and of one whose driver takes seconds, once with the
limit of open actions per host as it is configured, and once with one that lets all of them in. Meanwhile the servers of a third host are
triggered one after the other, as they were before in the calm of the same stack, and once more when nobody posts any longer and what was
posted is still open: the first comparison says what the others feel of so many requests on this machine, the second what they feel of the
two hosts. A queue of its own on the events exchange, which nobody reads, is there from the beginning.
"""

from __future__ import annotations

import itertools
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import kombu
from sqlalchemy import func, select

from api_gateway.store.tables import actions
from compute_agent.contract.broker import BrokerAddress
from compute_agent.contract.notifications import EVENTS_EXCHANGE
from devstack.api_client import ApiClient
from devstack.services import list_children, wait_until
from tests.bench.fake_stack import FakeAgent, FakeStack, running_fake_stack
from tests.bench.figures import Figure
from tests.bench.processes import read_resident_mib

_LIMITS: Mapping[str, int | None] = {"as configured": None, "with room for all": 1_000_000}
_POSTERS = 4
_DEADLINE_SECONDS = 60
_NMI_SECONDS = 2
_TIMEOUT = 60.0
_MOST_SECONDS = 600.0
"""After which no more is posted, on a machine that is too slow or too busy for all of it."""
_TELL_EVERY = 1000
_IGNORED_QUEUE = kombu.Queue(
    "consumer.asleep", EVENTS_EXCHANGE, routing_key="notifications.#", durable=True, queue_arguments={"x-queue-type": "quorum"}
)

_CALM = FakeAgent(20, host="calm", surviving=20)
_DEAD = FakeAgent(50, host="dead", surviving=50)
_SLOW = FakeAgent(
    50,
    host="slow",
    surviving=50,
    program=(sys.executable, "-m", "tests.bench.slow_agent"),
    environment={"NMI_SECONDS": str(_NMI_SECONDS), "PYTHONPATH": str(Path(__file__).parents[2])},
)


@dataclass
class _Flood:
    """What became of the posts: how many of each status, and how many refusals did not say when to come again."""

    statuses: Counter[int] = field(default_factory=Counter)
    without_retry_after: int = 0
    seconds: float = 0.0
    over: threading.Event = field(default_factory=threading.Event)


def measure(runs: int, posts: int) -> list[Figure]:
    """``runs`` actions in the calm and as many as fit while ``posts`` are posted at the dead and the slow host, for each limit.

    :raises StepFailed: a part did not start.
    :raises TimeoutError: an action of the third host was not completed within a minute.
    """
    figures: list[Figure] = []
    for name, limit in _LIMITS.items():
        print(f"limit of open actions per host: {name}", flush=True)
        options = {} if limit is None else {"api": {"max_open_actions_per_host": limit}}
        with running_fake_stack(agents=[_CALM, _DEAD, _SLOW], gateway_options=options) as stack:
            figures += _measure_pressure(stack, name, runs, posts)
    return figures


def _measure_pressure(stack: FakeStack, limit: str, runs: int, posts: int) -> list[Figure]:
    _count_ignored(stack)
    servers = _list_servers(stack)
    turns = itertools.cycle(servers[_CALM.host])
    calm = [_time_action(stack, next(turns)) for _ in range(max(runs, 100))]
    stack.services[_DEAD.service].kill()
    with _watching_memory(stack) as memory:
        flood = _Flood()
        targets = [server for pair in zip(servers[_DEAD.host], servers[_SLOW.host], strict=True) for server in pair]
        poster = threading.Thread(target=_post_all, args=(stack.client, targets, posts, flood))
        poster.start()
        pressed: list[float] = []
        try:
            while not pressed or poster.is_alive():
                pressed.append(_time_action(stack, next(turns)))
        finally:
            flood.over.set()
            poster.join()
        left = _count_open(stack)
        backed_up = [_time_action(stack, next(turns)) for _ in calm]
    ignored = _count_ignored(stack)
    floor = f"action of another host, calm ({limit})"
    return [
        Figure(floor, calm),
        Figure(
            f"action of another host, while {_POSTERS} people post ({limit})",
            pressed,
            floor=floor,
            note=_list_findings(posts, flood, memory, ignored),
        ),
        Figure(f"action of another host, with {left} open ones of the two ({limit})", backed_up, floor=floor),
    ]


def _list_findings(posts: int, flood: _Flood, memory: Mapping[str, _Memory], ignored: int) -> str:
    """What was asked, each with its answer on a line of its own."""
    answers = ", ".join(f"{count} with {status}" for status, count in sorted(flood.statuses.items()))
    grown = ", ".join(f"{name} {each.before:.0f} to {each.most:.0f}" for name, each in memory.items())
    most = max(each.most - each.before for each in memory.values())
    findings = {
        f"{sum(flood.statuses.values())} of {posts} posts in {flood.seconds:.0f} s were answered": answers,
        "refusals (429, 503) without Retry-After": str(flood.without_retry_after),
        "resident memory in MiB, before and at most": f"{grown}; the most that one grew by: {most:.0f}",
        "messages in the queue that nobody reads": str(ignored),
    }
    return "".join(f"\n  - {what}: {found}" for what, found in findings.items())


def _count_ignored(stack: FakeStack) -> int:
    """How many messages the queue has that nobody reads; it is made when there is none."""
    link = BrokerAddress(stack.broker.transport_url, name="bench").open_link(heartbeat=0)
    queue = _IGNORED_QUEUE(link.channel())
    queue.declare()
    count = int(queue.queue_declare(passive=True).message_count)
    link.close()
    return count


def _count_open(stack: FakeStack) -> int:
    with stack.store.read() as c:
        return c.execute(select(func.count()).where(actions.c.ending.is_(None))).scalar_one()


def _list_servers(stack: FakeStack) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {agent.host: [] for agent in (_CALM, _DEAD, _SLOW)}
    for server in stack.client.list_servers():
        found[server["OS-EXT-SRV-ATTR:host"]].append(server["id"])
    return found


def _time_action(stack: FakeStack, server: str) -> float:
    """Milliseconds from the POST until the API shows the ending.

    :raises RuntimeError: it is not what it should be.
    """
    began = time.perf_counter()
    answer = stack.client.trigger_crash_dump(server, timeout=_TIMEOUT)
    if answer.status != 202:
        raise RuntimeError(f"POST answered {answer.status}: {answer.message}")
    action = wait_until(lambda: _find_ended(stack.client, answer.request_id), _TIMEOUT, "the action to be completed", interval=0.005)
    taken = (time.perf_counter() - began) * 1000
    if action["ending"] != "succeeded":
        raise RuntimeError(f"expected an action that succeeded: {action}")
    return taken


def _find_ended(client: ApiClient, action: str) -> dict[str, object] | None:
    found = client.get_action(action)
    return found if found["ending"] is not None else None


def _post_all(client: ApiClient, servers: Sequence[str], posts: int, flood: _Flood) -> None:
    """So many crash dumps, by a few people at once who do not care about Retry-After."""
    body = {"kind": "trigger_crash_dump", "force": True, "deadline_seconds": _DEADLINE_SECONDS}
    lock = threading.Lock()
    began = time.monotonic()

    def post(server: str) -> None:
        if flood.over.is_set() or time.monotonic() - began > _MOST_SECONDS:
            return
        answer = client.post(f"/v1/servers/{server}/actions", body, timeout=_TIMEOUT)
        with lock:
            flood.statuses[answer.status] += 1
            if answer.status in (429, 503) and "retry-after" not in answer.headers:
                flood.without_retry_after += 1
            flood.seconds = time.monotonic() - began
            answered = sum(flood.statuses.values())
        if answered % _TELL_EVERY == 0:
            print(f"[{flood.seconds:7.1f} s] {answered} of {posts} posts answered", flush=True)

    with ThreadPoolExecutor(_POSTERS) as pool:
        list(pool.map(post, itertools.islice(itertools.cycle(servers), posts)))


@dataclass
class _Memory:
    before: float
    most: float


@contextmanager
def _watching_memory(stack: FakeStack) -> Iterator[dict[str, _Memory]]:
    """Resident MiB of each process that runs, looked at ten times a second."""
    readers: dict[str, Callable[[], float]] = {
        name: (lambda pid=service.pid: sum(map(read_resident_mib, _list_family(pid))))  # type: ignore[misc]
        for name, service in stack.services.items()
        if service.is_running
    }
    broker = stack.broker.pid
    readers["RabbitMQ"] = lambda: read_resident_mib(broker)
    memory = {name: _Memory(now := read(), now) for name, read in readers.items()}
    stopping = threading.Event()

    def watch() -> None:
        while not stopping.wait(0.1):
            for name, read in readers.items():
                memory[name].most = max(memory[name].most, read())

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield memory
    finally:
        stopping.set()
        thread.join()


def _list_family(pid: int) -> list[int]:
    return [pid, *(child.pid for child in list_children(pid))]
