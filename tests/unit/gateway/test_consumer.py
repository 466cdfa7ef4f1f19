"""The consuming loop against a scripted link: when it acknowledges, and when it lets everything go."""

import fcntl
import resource
import select
import socket
import struct
import threading
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any
from unittest import mock

import kombu
from amqp.transport import TCPTransport

from api_gateway.consumer import QueueConsumer, has_more, read_ahead
from api_gateway.received import Received
from api_gateway.store import StoreUnavailable
from compute_agent.contract.notifications import HEARTBEAT_QUEUE, RECORDER_QUEUES

QUEUE = kombu.Queue("test", durable=True)
SENDER = "agent.host-1"


class ScriptedLink:
    """A link whose queue holds ``bodies``, sent by ``SENDER``; when they are all delivered, ``then`` happens at the next read."""

    def __init__(self, bodies: Sequence[bytes | str], then: Callable[[], None]) -> None:
        self._waiting = [
            SimpleNamespace(body=body, delivery_tag=tag, properties={"user_id": SENDER}) for tag, body in enumerate(bodies, start=1)
        ]
        self._then = then
        self.log: list[Any] = []
        self.transport = SimpleNamespace(_quick_recv=None, _read_buffer=b"")
        self.sock, ours = socket.socketpair()
        ours.close()  # so that there always seems to be something to read

    def channel(self) -> mock.Mock:
        self._channel = mock.Mock(name="channel")
        self._channel.basic_ack.side_effect = lambda tag, multiple: self.log.append(("ack", tag, multiple))
        self._channel.basic_consume.side_effect = self._consume
        self._channel.basic_qos.side_effect = lambda size, count, shared: self.log.append(("prefetch", count))
        return self._channel

    def drain_events(self, timeout: float) -> None:
        self.blocking_read()

    def blocking_read(self) -> None:
        if not self._waiting:
            self._then()
            raise TimeoutError
        self.deliver(self._waiting.pop(0))

    def deliver(self, message: Any) -> None: ...

    def _consume(self, queue: str, callback: Callable[[Any], None]) -> None:
        assert queue == QUEUE.name
        self.deliver = callback  # type: ignore[method-assign]

    def heartbeat_tick(self) -> None: ...

    def close(self) -> None:
        self.log.append("close")

    def collect(self) -> None:
        self.sock.close()
        self.log.append("collect")


def run_consumer(
    links: Sequence[ScriptedLink | Exception],
    record: Callable[[Sequence[Received]], None],
    *,
    try_store: Callable[[], None] = lambda: None,
    batch_size: int = 3,
    gathering: float = 0.0,
    spacing: float = 0.0,
) -> QueueConsumer:
    """A consumer that gets these links, one after the other, each in its turn."""
    opening = iter(links)

    def open_link() -> ScriptedLink:
        link = next(opening)
        if isinstance(link, Exception):
            raise link
        return link

    options: dict[str, Any] = {"try_store": try_store, "batch_size": batch_size, "gathering": gathering, "spacing": spacing}
    consumer = QueueConsumer(open_link, [QUEUE], record, **options)  # type: ignore[arg-type]

    with (
        mock.patch.object(kombu.Queue, "__call__", return_value=mock.Mock()),
        mock.patch("api_gateway.consumer._FIRST_PAUSE", 0.001),
    ):
        thread = threading.Thread(target=consumer.run, daemon=True)
        running.append(consumer)
        thread.start()
        thread.join(10)
        assert not thread.is_alive()
    return consumer


running: list[QueueConsumer] = []


def receive(*bodies: bytes) -> list[Received]:
    return [Received(body, SENDER) for body in bodies]


def stop() -> None:
    running[-1].stop()


def test_a_batch_is_acknowledged_as_a_whole_after_it_was_recorded() -> None:
    log: list[Any] = []
    link = ScriptedLink([b"1", "2", b"3", b"4"], stop)
    link.log = log
    run_consumer([link], lambda messages: log.append(list(messages)))
    assert log == [("prefetch", 6), receive(b"1", b"2", b"3"), ("ack", 3, True), receive(b"4"), ("ack", 4, True), "close", "collect"]


class LateLink(ScriptedLink):
    """After the first message it is quiet, until whoever consumes it waits for more."""

    def __init__(self, bodies: Sequence[bytes | str], then: Callable[[], None]) -> None:
        super().__init__(bodies, then)
        self.sock, self._ours = socket.socketpair()

    def drain_events(self, timeout: float) -> None:
        super().drain_events(timeout)
        threading.Thread(target=self._ours.sendall, args=(b"more",)).start()


def test_what_is_in_no_hurry_waits_for_more_and_is_recorded_with_it() -> None:
    batches: list[list[Received]] = []
    link = LateLink([b"1", b"2", b"3"], stop)
    run_consumer([link], lambda messages: batches.append(list(messages)), gathering=5.0)
    assert batches == [receive(b"1", b"2", b"3")]


def test_after_a_batch_the_next_one_gathers_for_a_while() -> None:
    """A busy fleet's events come from everywhere, and each batch costs a commit."""
    batches: list[list[Received]] = []
    link = LateLink([b"1", b"2", b"3", b"4", b"5", b"6"], stop)
    run_consumer([link], lambda messages: batches.append(list(messages)), spacing=5.0)
    assert [message for batch in batches for message in batch] == receive(b"1", b"2", b"3", b"4", b"5", b"6")
    assert len(batches) <= 3, "the first may have been alone, the others were not"


def test_what_has_arrived_is_read_at_once_and_none_of_it_is_waited_for_again() -> None:
    """As this py-amqp reads, which has no option for it."""
    ours, theirs = socket.socketpair()
    transport = TCPTransport("localhost")
    transport.sock = theirs
    transport._setup_transport()
    link: Any = SimpleNamespace(transport=transport, sock=theirs)
    read_ahead(link)
    bodies = [b"one", b"two", b"three"]
    with ours, theirs:
        ours.sendall(b"".join(struct.pack(">BHI", 3, 1, len(body)) + body + b"\xce" for body in bodies))
        for number, body in enumerate(bodies):
            assert has_more(link, 0.0)
            assert transport.read_frame() == (3, 1, body)
            assert select.select([theirs], [], [], 0) == ([], [], []), f"{number} was not all that was read"
        assert not has_more(link, 0.0)


def test_a_link_is_read_however_many_files_the_process_has_open() -> None:
    """An engine with a thousand readers of its stream that connects to the broker anew: ``select`` knows descriptors up to 1023 only."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert hard == resource.RLIM_INFINITY or hard > 1024
    link = ScriptedLink([b"1", b"2"], stop)
    recorded: list[Sequence[Received]] = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 1025), hard))
    try:
        with link.sock as low:
            link.sock = socket.socket(fileno=fcntl.fcntl(low.fileno(), fcntl.F_DUPFD_CLOEXEC, 1024))
        run_consumer([link], recorded.append)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert recorded == [receive(b"1", b"2")]
    assert link.log[-2:] == ["close", "collect"]


def test_what_the_store_does_not_take_is_not_acknowledged_and_comes_again_over_a_new_link() -> None:
    refusals = [StoreUnavailable("disk full")]
    first, second = ScriptedLink([b"1", b"2"], stop), ScriptedLink([b"1", b"2"], stop)
    recorded: list[list[Received]] = []

    def record(messages: Sequence[Received]) -> None:
        if refusals:
            raise refusals.pop()
        recorded.append(list(messages))

    run_consumer([first, second], record, batch_size=2)
    assert recorded == [receive(b"1", b"2")]
    assert first.log == [("prefetch", 4), "collect"]
    assert ("ack", 2, True) in second.log


def test_a_store_that_seems_to_be_well_and_takes_nothing_is_tried_ever_more_slowly() -> None:
    """On a full disk an empty transaction succeeds: to fetch again at once would redeliver the same messages hundreds of times a second."""
    refusals = [StoreUnavailable("database or disk is full")] * 6
    links = [ScriptedLink([b"1"], stop) for _ in range(7)]
    pauses: list[float] = []

    def record(messages: Sequence[Received]) -> None:
        if refusals:
            raise refusals.pop()

    def wait(timeout: float) -> bool:
        pauses.append(timeout)
        return consumer._stop.is_set()

    def consume() -> None:
        link = next(opening)
        if refusals:
            record([])
        link.collect()
        consumer.stop()

    consumer = QueueConsumer(lambda: None, [QUEUE], record, try_store=lambda: None)  # type: ignore[arg-type, return-value]
    opening = iter(links)
    with mock.patch.object(consumer._stop, "wait", wait), mock.patch.object(consumer, "_consume", consume):
        consumer.run()
    assert pauses == [0.1, 0.2, 0.4, 0.8, 1.6, 2.0]


def test_nothing_is_fetched_while_the_store_cannot_be_written() -> None:
    """Each link that fails would cost its messages one redelivery, of which the broker counts twenty."""
    refusals = [StoreUnavailable("away")] * 5
    link = ScriptedLink([b"1"], stop)
    tries = 0

    def try_store() -> None:
        nonlocal tries
        tries += 1
        if refusals:
            assert link.log == []
            raise refusals.pop()

    run_consumer([link], lambda messages: None, try_store=try_store)
    assert tries == 6
    assert ("ack", 1, True) in link.log


def test_a_broker_that_is_away_is_tried_again() -> None:
    link = ScriptedLink([b"1"], stop)
    run_consumer([ConnectionRefusedError(), TimeoutError(), link], lambda messages: None)
    assert ("ack", 1, True) in link.log


def test_a_link_that_breaks_is_let_go_without_a_farewell() -> None:
    def break_off() -> None:
        raise ConnectionResetError

    broken, following = ScriptedLink([b"1"], break_off), ScriptedLink([], stop)
    run_consumer([broken, following], lambda messages: None)
    assert broken.log[-1] == "collect"
    assert "close" not in broken.log


def test_is_listening_says_whether_it_listens() -> None:
    seen: list[Any] = []

    def look() -> None:
        seen.append(running[-1].is_listening)
        stop()

    consumer = run_consumer([ScriptedLink([], look)], lambda messages: None)
    assert seen == [True]
    assert not consumer.is_listening


def test_every_queue_whose_order_is_relied_upon_has_one_reader_at_a_time() -> None:
    """An echo proves that what came before it was read only if nobody else may hold it back."""
    for queue in (*RECORDER_QUEUES, HEARTBEAT_QUEUE):
        assert queue.queue_arguments["x-single-active-consumer"], queue.name
