"""Who follows the record, by pages or by the stream, misses nothing and gets nothing twice while engines take over from each other."""

import http.client
import itertools
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from api_gateway.store import Store, events
from compute_agent.contract.notifications import DEAD_LETTER_QUEUE, HEARTBEAT_QUEUE, RECORDER_QUEUES
from devstack.api_client import ApiClient
from devstack.ports import find_free_base
from devstack.rabbitmq import PrivateRabbitMQ
from devstack.services import PATIENCE, Service, wait_until
from tests.event_stream import EventStream, Message, Refused
from tests.stack.broker_events import build_events, open_quiet_link, publish

_ENGINE = "import sys; from api_gateway.engine import main; sys.exit(main())"
_API = "import sys; from api_gateway.wsgi import main; sys.exit(main())"
_COUNT = 3000
_BATCH = 20


class System:
    """A store, an API and two engines over one broker. Nothing runs yet."""

    def __init__(self, directory: Path, broker: PrivateRabbitMQ) -> None:
        base = find_free_base()
        (directory / "gateway.conf").write_text(
            f"[DEFAULT]\ntransport_url = {broker.transport_url}\n"
            f"[database]\nconnection = sqlite:///{directory / 'gateway.sqlite'}\nbusy_timeout = 10\n"
            f"[api]\nlisten_port = {base}\n[stream]\nlisten_port = {base + 5}\n"
            f"[dispatcher]\nwake_socket = {directory / 'wake.sock'}\n"
        )
        self.store = Store(f"sqlite:///{directory / 'gateway.sqlite'}", busy_timeout=15)
        self.store.upgrade_schema()
        self._directory = directory
        self.url = f"http://127.0.0.1:{base}"
        self.api = self._make("api", _API)
        self.engines = (self._make("engine-1", _ENGINE), self._make("engine-2", _ENGINE))

    def _make(self, name: str, program: str) -> Service:
        environment = dict(os.environ) | {"PYTHONWARNINGS": "ignore"}
        argv = [sys.executable, "-c", program, "--config-file", str(self._directory / "gateway.conf")]
        return Service(name, argv, environment, self._directory / f"{name}.log")

    def read_log(self, name: str) -> str:
        return (self._directory / f"{name}.log").read_text()

    def get_last(self) -> int:
        with self.store.read() as c:
            return events.get_last_position(c)

    def stop(self) -> None:
        for service in (*self.engines, self.api):
            service.stop()
        self.store.dispose()


@pytest.fixture
def system(tmp_path: Path, broker: PrivateRabbitMQ) -> Iterator[System]:
    link = open_quiet_link(broker)
    channel = link.channel()
    # Heartbeats, too: an agent of a test before this one would be called down in the middle of what is counted here.
    for queue in (*RECORDER_QUEUES, DEAD_LETTER_QUEUE, HEARTBEAT_QUEUE):
        queue(channel).declare()
        channel.queue_purge(queue.name)
    link.close()
    system = System(tmp_path, broker)
    system.api.start()
    wait_until(ApiClient(system.url).is_healthy, 30, "the API answers")
    yield system
    system.stop()


class Follower(threading.Thread):
    """Reads on behind the last position that it has, whatever happens to whom it reads from."""

    def __init__(self, read: Callable[[int], Iterator[int]]) -> None:
        super().__init__(daemon=True)
        self.positions: list[int] = []
        self.broken_off = 0
        self._read = read
        self._ending = threading.Event()

    def run(self) -> None:
        while not self._ending.is_set():
            try:
                for position in self._read(self.positions[-1] if self.positions else 0):
                    self.positions.append(position)
                    if self._ending.is_set():
                        return
            except (OSError, http.client.HTTPException, Refused):
                self.broken_off += 1
                self._ending.wait(0.05)

    def end(self) -> None:
        self._ending.set()
        self.join(30)
        assert not self.is_alive()


def read_stream(url: str) -> Callable[[int], Iterator[int]]:
    def read(after: int) -> Iterator[int]:
        # The first time it begins with the record, afterwards where it was.
        stream = EventStream(f"{url}/v1/events/stream?after=0", last_id=after or None, timeout=5)
        try:
            yield from (message.id for message in stream)
        finally:
            stream.close()

    return read


def read_pages(url: str, query: str = "") -> Callable[[int], Iterator[int]]:
    def read(after: int) -> Iterator[int]:
        answer = ApiClient(url).get(f"/v1/events?limit=100&after={after}{query}")
        assert answer.status in (200, 503), answer.text
        yield from (event["position"] for event in (answer.body["events"] if answer.status == 200 else []))

    return read


def test_two_readers_see_every_event_once_while_recorders_are_killed_and_take_over(system: System, broker: PrivateRabbitMQ) -> None:
    first, second = system.engines
    first.start()
    wait_until(lambda: "consuming" in system.read_log("engine-1"), 30, "an engine consumes")
    second.start()
    followers = [Follower(read_stream(system.url)) for _ in range(3)] + [Follower(read_pages(system.url))]
    for follower in followers:
        follower.start()
    publishing = threading.Thread(target=_publish_slowly, args=(broker,), daemon=True)
    publishing.start()
    for engine, share in zip(itertools.cycle(system.engines), (0.2, 0.4, 0.6, 0.8), strict=False):
        wait_until(lambda share=share: system.get_last() >= share * _COUNT, 60, "it records", 0.01)  # type: ignore[misc]
        engine.kill()
        engine.start()
    publishing.join(60)
    wait_until(lambda: system.get_last() >= _COUNT, 60, "all are recorded")
    for follower in followers:
        wait_until(lambda follower=follower: follower.positions[-1:] == [_COUNT], 30, "it has them all")  # type: ignore[misc]
        follower.end()
        assert follower.positions == list(range(1, _COUNT + 1))
    with system.store.read() as c:
        assert [event.sequence for event in events.list_events(c, limit=_COUNT)] == list(range(1, _COUNT + 1))
    assert all(follower.broken_off for follower in followers[:3]), "no reader was ever cut off"
    logs = system.read_log("engine-1") + system.read_log("engine-2")
    assert "ticket=" not in logs
    assert "Traceback" not in logs, logs


def _publish_slowly(broker: PrivateRabbitMQ) -> None:
    """Well over as long as the engines need to start four times."""
    link = open_quiet_link(broker)
    bodies = build_events(_COUNT)
    for begin in range(0, _COUNT, _BATCH):
        publish(link, RECORDER_QUEUES[0], bodies[begin : begin + _BATCH])
        threading.Event().wait(0.05)
    link.close()


def test_an_event_is_told_as_soon_as_it_is_recorded(system: System, broker: PrivateRabbitMQ) -> None:
    system.engines[0].start()
    wait_until(lambda: "consuming" in system.read_log("engine-1"), 30, "the engine consumes")
    stream = wait_until(lambda: _try_opening(system.url), 20, "the stream is open")
    link = open_quiet_link(broker)
    waits: list[float] = []
    for number, body in enumerate(build_events(20), 1):
        begun = time.monotonic()
        publish(link, RECORDER_QUEUES[0], [body])
        [told] = stream.take(1)
        waits.append(time.monotonic() - begun)
        assert told == Message(number, "test.counted", told.data)
    link.close()
    stream.close()
    print(f"from publishing to the reader: median {1000 * sorted(waits)[10]:.0f} ms, longest {1000 * max(waits):.0f} ms")
    assert sorted(waits)[10] < 0.2 * PATIENCE


def _try_opening(url: str) -> EventStream | None:
    try:
        return EventStream(f"{url}/v1/events/stream")
    except (OSError, Refused):
        return None


def test_an_ordered_stop_of_the_engine_ends_the_streams_at_once(system: System) -> None:
    engine = system.engines[0]
    engine.start()
    streams = [wait_until(lambda: _try_opening(system.url), 20, "the stream is open") for _ in range(20)]
    begun = time.monotonic()
    assert engine.stop(10)
    assert time.monotonic() - begun < 5 * PATIENCE
    assert [list(stream) for stream in streams] == [[]] * 20
