"""The threads that an agent's RPC servers work on."""

import queue
import threading
from collections.abc import Iterator

import pytest
from oslo_config import cfg

from compute_agent import rpc_servers
from compute_agent.contract.transport import RPC_EXCHANGE, RPC_TOPIC, create_rpc_transport, oslo_messaging, register_messaging_options
from compute_agent.rpc_servers import RpcServers, WorkThreads

PATIENCE = 30.0


def test_work_is_done_by_as_few_threads_as_it_takes_and_no_more_than_allowed() -> None:
    threads = WorkThreads(max_workers=2)
    done = threading.Semaphore(0)
    seen: set[str] = set()

    def work() -> None:
        seen.add(threading.current_thread().name)
        done.release()

    for _ in range(5):
        threads.submit(work)
        assert done.acquire(timeout=PATIENCE)
    together = threading.Barrier(3)
    for _ in range(2):
        threads.submit(together.wait, PATIENCE)
    together.wait(PATIENCE)
    threads.submit(work)
    threads.shutdown(wait=True)
    assert done.acquire(timeout=0)
    assert len(seen) <= 2


class Noting:
    """An endpoint that notes which thread it is called on."""

    target = oslo_messaging.Target(version="1.9")

    def __init__(self) -> None:
        self.calls: queue.SimpleQueue[tuple[int, str]] = queue.SimpleQueue()

    def trigger_crash_dump(self, ctxt: object, action: int) -> None:
        self.calls.put((action, threading.current_thread().name))

    def get_diagnostics(self, ctxt: object, action: int) -> None:
        self.trigger_crash_dump(ctxt, action)


class Bus:
    """oslo.messaging's driver for RabbitMQ over a broker in memory, and an agent's servers on it."""

    def __init__(self) -> None:
        conf = cfg.ConfigOpts()
        conf([], default_config_files=[])
        register_messaging_options(conf)
        conf.set_override("transport_url", "kombu+memory:////")
        for option in ("rabbit_quorum_queue", "rabbit_transient_quorum_queue"):
            conf.set_override(option, False, group="oslo_messaging_rabbit")
        self._transport = create_rpc_transport(conf)
        self.endpoint = Noting()
        self.servers = RpcServers(self._transport, "host-1", self.endpoint)  # type: ignore[arg-type]
        target = oslo_messaging.Target(topic=RPC_TOPIC, server="host-1", version="1.0")
        self.client = oslo_messaging.get_rpc_client(self._transport, target, timeout=PATIENCE)

    def send(self, message: dict[str, object]) -> None:
        """Whatever anybody may publish."""
        from oslo_messaging._drivers import amqp, common  # once their thread backend is chosen

        driver = self._transport._driver
        amqp._add_unique_id(message)
        with driver._get_connection(common.PURPOSE_SEND) as connection:
            connection.topic_send(RPC_EXCHANGE, f"{RPC_TOPIC}.host-1", common.serialize_msg(message))

    def close(self) -> None:
        self.servers.stop()
        self.servers.wait()
        self._transport.cleanup()


@pytest.fixture
def bus() -> Iterator[Bus]:
    bus = Bus()
    bus.servers.start()
    yield bus
    bus.close()


def test_a_cast_is_taken_in_by_the_thread_that_reads_them(bus: Bus) -> None:
    """To wake another one costs as much as what is to be done."""
    for action in range(2):
        bus.client.cast({}, "trigger_crash_dump", action=action)
    (_, first), (_, second) = bus.endpoint.calls.get(timeout=PATIENCE), bus.endpoint.calls.get(timeout=PATIENCE)
    assert first == second
    assert not first.startswith("rpc-")


def test_what_is_asked_is_not(bus: Bus) -> None:
    bus.client.call({}, "trigger_crash_dump", action=1)
    assert bus.endpoint.calls.get(timeout=PATIENCE)[1].startswith("rpc-")
    bus.client.cast({}, "get_diagnostics", action=1)
    assert bus.endpoint.calls.get(timeout=PATIENCE)[1].startswith("rpc-")


@pytest.mark.parametrize(
    "stray",
    [
        {"method": ["trigger_crash_dump"], "args": {}},
        {"args": {}},
        {"method": "nothing we know", "args": {}, "_msg_id": "0f"},
        {"method": "trigger_crash_dump", "args": {"action": 0}, "_msg_id": "0f"},
        {"method": "trigger_crash_dump", "args": {"action": 0}, "_msg_id": "0f", "_reply_q": "that never was"},
        {"method": "trigger_crash_dump", "args": {"action": 0}, "_timeout": 60},
    ],
    ids=["no text", "none", "unknown, no queue", "no queue", "no such queue", "watched"],
)
def test_a_stray_message_is_no_plain_cast(bus: Bus, stray: dict[str, object], monkeypatch: pytest.MonkeyPatch) -> None:
    """oslo.messaging may wait for something before it is done with it: on a thread that no cast needs."""
    seen: list[bool] = []
    judge = rpc_servers._is_plain_cast

    def note(arguments: tuple[object, ...]) -> bool:
        seen.append(judge(arguments))
        return seen[-1]

    monkeypatch.setattr(rpc_servers, "_is_plain_cast", note)
    bus.send(stray)
    bus.client.cast({}, "trigger_crash_dump", action=7)
    while bus.endpoint.calls.get(timeout=PATIENCE)[0] != 7:
        pass
    assert seen == [False, True]


def test_a_cast_that_fails_does_not_end_the_reading_of_the_next(bus: Bus) -> None:
    bus.client.cast({}, "trigger_crash_dump", nonsense=1)
    bus.client.cast({}, "trigger_crash_dump", action=2)
    assert bus.endpoint.calls.get(timeout=PATIENCE)[0] == 2


def test_a_thread_lives_on_after_work_that_fails() -> None:
    threads = WorkThreads(max_workers=1)
    done = threading.Event()
    threads.submit(int, "none")
    threads.submit(done.set)
    assert done.wait(PATIENCE)
    threads.shutdown(wait=True)
