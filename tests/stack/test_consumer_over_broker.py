"""The consumer against a real broker: order, acknowledgement after the commit, and both ends going away."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import kombu
import pytest

from api_gateway.cast_slots import ImmediateCasts
from api_gateway.consumer import QueueConsumer
from api_gateway.received import Received
from api_gateway.recorder import Recorder
from api_gateway.store import Store, StoreBusy, events
from compute_agent.contract.broker import Link
from compute_agent.contract.clock import SystemClock
from compute_agent.contract.notifications import DEAD_LETTER_QUEUE, RECORDER_QUEUES
from devstack.rabbitmq import PrivateRabbitMQ
from devstack.services import PATIENCE, wait_until
from tests.stack.broker_events import (
    build_events,
    count_messages,
    create_address,
    create_queue,
    get_sequence,
    open_quiet_link,
    publish,
    settle,
)


class Notebook:
    """Takes batches as the recorder does, and can be told to refuse them."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.refuse: Exception | None = None
        self.on_batch: Callable[[], object] = lambda: None
        self.changed = threading.Condition()

    def record(self, messages: Sequence[Received]) -> None:
        with self.changed:
            if self.refuse is not None:
                raise self.refuse
            self.batches.append([get_sequence(message.body) for message in messages])
            self.changed.notify_all()
        self.on_batch()

    def try_store(self) -> None:
        if self.refuse is not None:
            raise self.refuse

    @property
    def sequences(self) -> list[int]:
        return [sequence for batch in self.batches for sequence in batch]

    @property
    def first_seen(self) -> list[int]:
        """Without what came again, as what was recorded and not yet acknowledged may when a connection breaks."""
        return list(dict.fromkeys(self.sequences))

    def wait_for(self, count: int, timeout: float = 30) -> None:
        with self.changed:
            came = self.changed.wait_for(lambda: len(self.first_seen) >= count, timeout * PATIENCE)
            assert came, f"{len(self.first_seen)} of {count} came"


@contextmanager
def running(broker: PrivateRabbitMQ, queue: kombu.Queue, notebook: Notebook, batch_size: int = 100) -> Iterator[QueueConsumer]:
    consumer = QueueConsumer(
        create_address(broker).open_link, [queue], notebook.record, try_store=notebook.try_store, batch_size=batch_size
    )
    thread = threading.Thread(target=consumer.run)
    thread.start()
    try:
        yield consumer
    finally:
        consumer.stop()
        thread.join(10 * PATIENCE)
        assert not thread.is_alive(), "the consumer did not stop"


@pytest.fixture
def queue() -> kombu.Queue:
    return create_queue("test.recorder")


@pytest.fixture
def notebook() -> Notebook:
    return Notebook()


@pytest.fixture
def put(broker: PrivateRabbitMQ, queue: kombu.Queue) -> Iterator[Callable[[list[bytes]], None]]:
    def put(bodies: list[bytes]) -> None:
        link = open_quiet_link(broker)
        publish(link, queue, bodies)
        link.close()

    return put


def assert_empty(broker: PrivateRabbitMQ, queue: kombu.Queue) -> None:
    link = open_quiet_link(broker)
    wait_until(lambda: count_messages(link, queue) == 0, 10, "everything is acknowledged")
    link.close()


def test_what_waits_comes_in_batches_in_order_and_is_acknowledged(
    broker: PrivateRabbitMQ, queue: kombu.Queue, notebook: Notebook, put: Callable[[list[bytes]], None]
) -> None:
    put(build_events(250))
    with running(broker, queue, notebook):
        notebook.wait_for(250)
    assert notebook.sequences == list(range(1, 251))
    assert max(len(batch) for batch in notebook.batches) <= 100
    assert len(notebook.batches) < 250
    assert_empty(broker, queue)


def test_what_claims_to_be_compressed_or_encoded_comes_as_it_was_sent_and_keeps_nothing_back(
    broker: PrivateRabbitMQ, queue: kombu.Queue, notebook: Notebook, put: Callable[[list[bytes]], None]
) -> None:
    """Who may publish events could else stop the recorder with one message."""
    link = open_quiet_link(broker)
    publish(link, queue, [])
    channel = link.channel()
    channel.confirm_select()
    claims = [({"compression": "application/x-gzip"}, "utf-8"), ({"compression": "none-such"}, "none-such"), ({}, "binary")]
    for body, (headers, encoding) in zip(build_events(3), claims, strict=True):
        message = channel.prepare_message(body, content_type="application/x-none-such", content_encoding=encoding, headers=headers)
        channel.basic_publish_confirm(message, exchange="", routing_key=queue.name)
    link.close()
    put(build_events(2, first=4))
    with running(broker, queue, notebook):
        notebook.wait_for(5)
    assert notebook.sequences == [1, 2, 3, 4, 5]
    assert_empty(broker, queue)


def test_a_store_that_is_away_gets_everything_in_order_when_it_is_back(
    broker: PrivateRabbitMQ, queue: kombu.Queue, notebook: Notebook, put: Callable[[list[bytes]], None]
) -> None:
    put(build_events(30))
    with running(broker, queue, notebook, batch_size=10) as consumer:
        notebook.wait_for(30)
        notebook.refuse = StoreBusy("held by somebody")
        put(build_events(60, first=31))
        wait_until(lambda: not consumer.is_listening, 10, "it stops consuming")
        notebook.refuse = None
        notebook.wait_for(90)
    assert notebook.sequences == list(range(1, 91))


def test_a_stopped_consumer_leaves_the_rest_to_the_next_one_in_order(
    broker: PrivateRabbitMQ, queue: kombu.Queue, notebook: Notebook, put: Callable[[list[bytes]], None]
) -> None:
    put([])
    with running(broker, queue, notebook, batch_size=5) as consumer:
        notebook.on_batch = consumer.stop
        put(build_events(200))
        notebook.wait_for(1)
    first_part = len(notebook.sequences)
    notebook.on_batch = lambda: None
    with running(broker, queue, notebook, batch_size=5):
        notebook.wait_for(200)
    assert first_part < 200
    assert notebook.sequences == list(range(1, 201))


def test_a_broker_restart_in_the_middle_loses_nothing_and_keeps_the_order(
    broker: PrivateRabbitMQ, queue: kombu.Queue, notebook: Notebook, put: Callable[[list[bytes]], None]
) -> None:
    """What was recorded and not yet acknowledged may come again; whatever comes is in order."""
    put(build_events(300))
    settle(broker)
    with running(broker, queue, notebook, batch_size=3):
        notebook.wait_for(3)
        broker.kill()
        broker.start()
        put(build_events(50, first=301))
        notebook.wait_for(350, timeout=60)
    assert notebook.first_seen == list(range(1, 351))
    assert_empty(broker, queue)


def test_a_consumer_starts_before_its_broker(
    broker: PrivateRabbitMQ, queue: kombu.Queue, notebook: Notebook, put: Callable[[list[bytes]], None]
) -> None:
    broker.stop()
    try:
        with running(broker, queue, notebook) as consumer:
            assert not consumer.is_listening
            broker.start()
            put(build_events(3))
            notebook.wait_for(3)
            assert consumer.is_listening
    finally:
        if not broker.is_running:
            broker.start()


def test_a_frozen_broker_is_noticed_and_left(
    broker: PrivateRabbitMQ, queue: kombu.Queue, notebook: Notebook, put: Callable[[list[bytes]], None]
) -> None:
    """By the AMQP heartbeat, within two of its intervals; the next broker node or the thawed one goes on."""
    put(build_events(3))
    with running(broker, queue, notebook) as consumer:
        notebook.wait_for(3)
        broker.freeze()
        try:
            wait_until(lambda: not consumer.is_listening, 40, "the consumer notices")
        finally:
            broker.thaw()
        put(build_events(3, first=4))
        notebook.wait_for(6)
    assert notebook.first_seen == [1, 2, 3, 4, 5, 6]


def test_of_two_consumers_one_is_active_and_the_other_takes_over(
    broker: PrivateRabbitMQ, queue: kombu.Queue, notebook: Notebook, put: Callable[[list[bytes]], None]
) -> None:
    waiting = Notebook()
    put([])
    with running(broker, queue, notebook) as active:
        wait_until(lambda: active.is_listening, 10, "the first consumes")
        put(build_events(1))
        notebook.wait_for(1)
        with running(broker, queue, waiting) as other:
            wait_until(lambda: other.is_listening, 10, "the second waits for its turn")
            put(build_events(20, first=2))
            notebook.wait_for(21)
            active.stop()
            wait_until(lambda: not active.is_listening, 10, "the first left")
            put(build_events(5, first=22))
            waiting.wait_for(5)
    assert (notebook.sequences, waiting.sequences) == (list(range(1, 22)), list(range(22, 27)))


def give_back(link: Link, queue: kombu.Queue, times: int, timeout: float) -> int:
    """Take the one message that lies in the queue and give it back, so often or until it does not come any more; how often it came."""
    channel = link.channel()
    came: list[kombu.Message] = []
    consumer = kombu.Consumer(channel, [queue], on_message=came.append, auto_declare=False)
    consumer.consume()
    try:
        while len(came) < times:
            count = len(came)
            while len(came) == count:
                link.drain_events(timeout=timeout * PATIENCE)
            came[-1].requeue()
        return len(came)  # before the consumer is cancelled: meanwhile it may come once more
    except TimeoutError:
        return len(came)
    finally:
        consumer.cancel()


def test_no_event_is_lost_by_being_delivered_again_and_again(broker: PrivateRabbitMQ) -> None:
    """RabbitMQ 4 drops from a quorum queue what came back 20 times, unless the queue says otherwise; the third queue shows how."""
    link = open_quiet_link(broker)
    channel = link.channel()
    limited = kombu.Queue("test.limited", durable=True, queue_arguments={"x-queue-type": "quorum", "x-delivery-limit": 20})
    delivered = []
    for queue in (RECORDER_QUEUES[0], DEAD_LETTER_QUEUE, limited):
        queue(channel).declare()
        channel.queue_purge(queue.name)
        publish(link, queue, build_events(1))
        delivered.append(give_back(link, queue, 50, timeout=2 if queue is limited else 30))
    assert delivered[:2] == [50, 50]
    assert 1 < delivered[2] <= 21
    link.close()


def test_what_a_policy_takes_out_of_the_recorders_queue_waits_on_the_dead_letter_queue(broker: PrivateRabbitMQ) -> None:
    link = open_quiet_link(broker)
    channel = link.channel()
    for queue in (*RECORDER_QUEUES, DEAD_LETTER_QUEUE):
        queue(channel).declare()
        channel.queue_purge(queue.name)
    broker.ctl("set_policy", "test-age", r"^crashcart\.recorder$", '{"message-ttl": 1}', "--apply-to", "queues")
    try:
        publish(link, RECORDER_QUEUES[0], build_events(3))
        wait_until(lambda: count_messages(link, DEAD_LETTER_QUEUE) == 3, 20, "they are dead-lettered")
    finally:
        broker.ctl("clear_policy", "test-age")
        channel.queue_purge(DEAD_LETTER_QUEUE.name)
    link.close()


_KILLED_BEFORE_THE_ACKNOWLEDGEMENT = """
import os, signal, sys
from api_gateway.cast_slots import ImmediateCasts
from api_gateway.consumer import QueueConsumer
from api_gateway.recorder import Recorder
from api_gateway.store import Store
from compute_agent.contract.broker import BrokerAddress
from compute_agent.contract.clock import SystemClock
import kombu
store_url, queue_name = sys.argv[1:]
store = Store(store_url)
recorder = Recorder(store, None, SystemClock(), slots=ImmediateCasts())
def record(messages):
    recorder.record(messages)
    os.kill(os.getpid(), signal.SIGKILL)
queue = kombu.Queue(
    queue_name, durable=True, queue_arguments={"x-queue-type": "quorum", "x-single-active-consumer": True}
)
address = BrokerAddress(os.environ["TRANSPORT_URL"], name="killed")
QueueConsumer(address.open_link, [queue], record, try_store=lambda: None, batch_size=10).run()
"""


def test_kill_9_between_commit_and_acknowledgement_records_nothing_twice(
    broker: PrivateRabbitMQ, queue: kombu.Queue, put: Callable[[list[bytes]], None], tmp_path: Path
) -> None:
    url = f"sqlite:///{tmp_path / 'gateway.sqlite'}"
    store = Store(url)
    store.upgrade_schema()
    put(build_events(40))
    killed = subprocess.run(
        [sys.executable, "-c", _KILLED_BEFORE_THE_ACKNOWLEDGEMENT, url, queue.name],
        env=os.environ | {"TRANSPORT_URL": broker.transport_url},
        timeout=60,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL
    with store.read() as c:
        recorded = len(events.list_events(c))
    assert 0 < recorded <= 10
    recorder = Recorder(store, None, SystemClock(), slots=ImmediateCasts())  # type: ignore[arg-type]
    notebook = Notebook()

    def record(messages: Sequence[Received]) -> None:
        recorder.record(messages)
        notebook.record(messages)

    consumer = QueueConsumer(create_address(broker).open_link, [queue], record, try_store=lambda: None)
    thread = threading.Thread(target=consumer.run)
    thread.start()
    notebook.wait_for(40)
    consumer.stop()
    thread.join(10 * PATIENCE)
    assert notebook.sequences == list(range(1, 41)), "the broker gave back everything, in order"
    with store.read() as c:
        assert [event.sequence for event in events.list_events(c)] == list(range(1, 41))
    store.dispose()
