"""The event stream over real sockets: no gap, no repeat, tickets, bounds, and an ordered end."""

import logging
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import timedelta
from typing import Any

import pytest

from api_gateway.loops import Loop
from api_gateway.native.event_view import HOSTS
from api_gateway.store import Store, StoreUnavailable, events, secrets
from api_gateway.store.event_listing import EventFilters
from api_gateway.stream import application, feed, listener, reader
from api_gateway.stream.listener import StreamListener
from api_gateway.stream.ticket import PATH, Ticket, TicketRefused, read_ticket
from devstack.services import wait_until
from tests.event_stream import EventStream, Refused
from tests.fakes import FakeClock
from tests.unit.gateway.store_parts import SERVER, build_event

KEY = "a key that all processes share"


class Running:
    """A listener on a thread of its own, and what its readers need."""

    def __init__(self, store: Store, clock: FakeClock, **options: Any) -> None:
        self.store = store
        self.clock = clock
        values: dict[str, Any] = {"host": "127.0.0.1", "port": 0, "max_connections": 10, "lifetime": 60.0}
        self.listener = StreamListener(store, clock, **(values | options))
        self._loop = Loop("stream", self.listener.run, wake=self.listener.stop)
        self._loop.start()
        self._count = 0

    def record(self, count: int = 1, event_type: str = "server.started", **payload: Any) -> None:
        values = {"server": SERVER, "host": "a", "epoch": "e"} | payload
        made = [build_event(f"m{self._count + number}", event_type, **values) for number in range(1, count + 1)]
        self._count += count
        with self.store.write() as c:
            events.record_events(c, made, now=self.clock.now())
        self.listener.wake()

    def build_url(
        self, after: int = 0, *, key: str = KEY, seconds: float = 30, withheld: frozenset[str] = frozenset(), **wanted: Any
    ) -> str:
        ticket = Ticket(EventFilters(**wanted), withheld, after, self.clock.now() + timedelta(seconds=seconds))
        return f"http://127.0.0.1:{self.listener.port}{PATH}?ticket={ticket.sign(key)}"

    def open(self, after: int = 0, *, last_id: int | None = None, **wanted: Any) -> EventStream:
        return EventStream(self.build_url(after, **wanted), last_id=last_id)

    def stop(self) -> None:
        self._loop.stop()
        assert self._loop.join(10)
        assert self._loop.failures == 0


@pytest.fixture
def run(store: Store, clock: FakeClock) -> Iterator[Callable[..., Running]]:
    with store.write() as c:
        secrets.get_or_make_secret(c, secrets.STREAM_KEY, lambda: KEY)
    started: list[Running] = []

    def start(**options: Any) -> Running:
        started.append(Running(store, clock, **options))
        return started[-1]

    yield start
    for running in started:
        running.stop()


def list_ids(stream: EventStream, count: int) -> list[int]:
    return [message.id for message in stream.take(count)]


def test_what_was_recorded_and_what_comes_is_told_once_and_in_order(run: Callable[..., Running], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "_PAGE", 3)
    monkeypatch.setattr(feed, "_BACKLOG_PAGE", 3)
    monkeypatch.setattr(feed, "_KEPT", 5)
    stream = run()
    stream.record(8)
    first, behind = stream.open(), stream.open(after=6)
    assert list_ids(first, 8) == list(range(1, 9))
    assert list_ids(behind, 2) == [7, 8]
    for size in (1, 4, 9):
        stream.record(size)
    assert list_ids(first, 14) == list(range(9, 23))
    assert list_ids(behind, 14) == list(range(9, 23))
    first.close()
    stream.record(2)
    assert list_ids(stream.open(last_id=21), 3) == [22, 23, 24], "the header counts more than the ticket, which is older"


def test_a_message_is_the_event_as_the_list_shows_it_less_what_is_withheld(run: Callable[..., Running]) -> None:
    stream = run()
    stream.record(event_type="server.of\ntomorrow", host="compute-1")
    stream.record(host="compute-1")
    admin, member = stream.open(), stream.open(withheld=frozenset({HOSTS}))
    odd, plain = admin.take(2)
    assert (odd.event, odd.data["type"], odd.data["host"]) == ("server.of\\ntomorrow", "server.of\ntomorrow", "compute-1")
    assert (plain.id, plain.event, plain.data["position"], plain.data["id"]) == (2, "server.started", 2, "m2")
    withheld = member.take(2)
    assert withheld[0].data["payload"] is None
    assert "compute-1" not in str(withheld)


def test_only_what_the_ticket_names_is_told_also_of_what_comes(run: Callable[..., Running]) -> None:
    stream = run()
    stream.record(3)
    stream.record(event_type="agent.up", server=None)
    narrow = stream.open(types=("agent.*",))
    assert list_ids(narrow, 1) == [4]
    stream.record(2)
    stream.record(event_type="agent.down", server=None)
    assert list_ids(narrow, 1) == [7]
    assert list_ids(stream.open(since=stream.clock.now(), server=SERVER), 3) == [1, 2, 3]


def test_another_process_is_heard_without_a_wake_up(run: Callable[..., Running]) -> None:
    stream = run()
    opened = stream.open()
    stream.listener.wake = lambda: None  # type: ignore[method-assign]
    stream.record()
    assert list_ids(opened, 1) == [1]


def test_without_a_good_ticket_nothing_is_told(run: Callable[..., Running], caplog: pytest.LogCaptureFixture) -> None:
    stream = run()
    good = stream.build_url()
    bad = (
        good.partition("?")[0],
        good + "x",
        good.replace("ticket=", "ticket=e"),
        good + "&" + good.partition("?")[2],
        stream.build_url(key="another key"),
        stream.build_url(seconds=-1),
    )
    with caplog.at_level(logging.DEBUG):
        for url in bad:
            with pytest.raises(Refused, match=r"^403: .*forbidden"):
                EventStream(url)
        with pytest.raises(Refused, match=r"^404"):
            EventStream(good.replace(PATH, "/v1/events"))
        EventStream(good).close()
    assert good.partition("ticket=")[2][:20] not in caplog.text, "whoever reads the log could use it"


def test_a_ticket_carries_every_filter(clock: FakeClock) -> None:
    filters = EventFilters("s", "h", "req-1", "demo", ("a.*", "b"), "warn", clock.now(), clock.now() + timedelta(days=1))
    ticket = Ticket(filters, frozenset({HOSTS}), 7, clock.now() + timedelta(seconds=30))
    assert read_ticket(ticket.sign(KEY), KEY, clock.now()) == ticket
    with pytest.raises(TicketRefused, match="expired"):
        read_ticket(ticket.sign(KEY), KEY, clock.now() + timedelta(seconds=30))


def test_one_reader_too_many_is_asked_to_come_again(run: Callable[..., Running]) -> None:
    stream = run(max_connections=2)
    opened = [stream.open(), stream.open()]
    with pytest.raises(Refused) as refused:
        stream.open()
    assert refused.value.status == 503
    assert int(refused.value.headers["retry-after"]) > 0
    opened[0].close()
    retry(stream.open)


def retry(body: Callable[[], EventStream]) -> EventStream:
    """What has ended is noticed a moment later."""
    for _ in range(500):
        try:
            return body()
        except Refused:
            threading.Event().wait(0.01)
    return body()


def test_a_reader_that_takes_nothing_is_cut_off_and_goes_on_where_it_was(
    run: Callable[..., Running], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its patience is short; that of the quick one is as usual, for it may be held up by the machine."""
    tell = application.tell
    monkeypatch.setattr(
        application, "tell", lambda feed, ticket, write, patience: tell(feed, ticket, write, patience=0.2 if ticket.after else patience)
    )
    stream = run()
    stream.record(60, text="x" * 100_000)
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.settimeout(10)
    connection.connect(("127.0.0.1", stream.listener.port))
    path = stream.build_url(after=1).partition(str(stream.listener.port))[2]
    connection.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    quick = stream.open()
    assert list_ids(quick, 60) == list(range(1, 61)), "nobody waits for it"
    threading.Event().wait(0.5)
    with connection:
        received = read_to_end(connection)
    last = max(int(line.removeprefix(b"id: ")) for line in received.split(b"\n")[:-1] if line.startswith(b"id: "))
    assert last < 60


def read_to_end(connection: socket.socket) -> bytes:
    """Until the other side has closed or reset it."""
    received = b""
    with suppress(ConnectionResetError):
        while some := connection.recv(65536):
            received += some
    return received


def test_a_connection_that_asks_for_nothing_is_dropped(run: Callable[..., Running], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "_REQUEST_TIMEOUT", 0.05)
    with socket.create_connection(("127.0.0.1", run().listener.port), timeout=10) as connection:
        connection.sendall(b"GET / HT")
        assert read_to_end(connection) == b""


def test_so_is_each_beyond_what_answers_can_be_given_to(run: Callable[..., Running], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "SPARE_CONNECTIONS", 1)
    port = run(max_connections=1).listener.port
    with socket.create_connection(("127.0.0.1", port)), socket.create_connection(("127.0.0.1", port), timeout=10) as second:
        assert read_to_end(second) == b""


def test_silence_is_filled_with_comments(run: Callable[..., Running], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "_KEEP_ALIVE_INTERVAL", 0.02)
    stream = run()
    opened = stream.open()

    def record() -> None:
        wait_until(lambda: ": still here" in opened.comments, 30, "a comment")
        stream.record()

    threading.Thread(target=record).start()
    assert list_ids(opened, 1) == [1]


def test_a_reader_to_whom_nothing_was_told_knows_where_to_go_on(run: Callable[..., Running], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "_KEEP_ALIVE_INTERVAL", 0.02)
    stream = run()
    stream.record(3)
    opened = stream.open(after=3, types=("agent.*",))
    opened.read_up_to(3)
    stream.record(2)
    opened.read_up_to(5)
    opened.close()
    stream.record(event_type="agent.up", server=None)
    again = stream.open(after=6, last_id=opened.last_id, types=("agent.*",))
    assert list_ids(again, 1) == [6], "what the API would begin with by now is behind it"


def test_a_stream_ends_when_its_time_is_over(run: Callable[..., Running]) -> None:
    stream = run(lifetime=0.5)
    stream.record()
    # One that the machine held up may be over before it has told anything.
    wait_until(lambda: [message.id for message in stream.open()] == [1], 60, "a stream to tell what there is, and to end")


def test_an_ordered_stop_ends_every_stream(run: Callable[..., Running]) -> None:
    stream = run()
    stream.record()
    opened = [stream.open() for _ in range(3)]
    for one in opened:
        assert list_ids(one, 1) == [1]
    stream.stop()
    assert [list(one) for one in opened] == [[], [], []]


def test_while_the_store_is_away_the_stream_waits(run: Callable[..., Running], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "_PAUSE_AFTER_FAILURE", 0.01)
    stream = run()
    opened = stream.open()
    read, failures, has_failed = stream.store.read, iter(range(5)), threading.Event()

    def fail() -> Any:
        has_failed.set()
        if next(failures, None) is None:
            return read()
        raise StoreUnavailable("gone")

    stream.store.read = fail  # type: ignore[method-assign]
    assert has_failed.wait(60), "a look that began before would see what is recorded now"
    stream.record()
    assert list_ids(opened, 1) == [1]
    assert next(failures, None) is None


def test_of_two_on_one_address_the_second_takes_over(run: Callable[..., Running], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "_TAKEN_INTERVAL", 0.01)
    first = run()
    second = run(port=first.listener.port)
    first.record(2)
    opened = first.open()
    assert list_ids(opened, 2) == [1, 2]
    first.stop()
    first.record()
    assert list_ids(retry(lambda: retry_connecting(lambda: second.open(last_id=2))), 1) == [3]


def retry_connecting(body: Callable[[], EventStream]) -> EventStream:
    for _ in range(500):
        try:
            return body()
        except OSError:
            threading.Event().wait(0.01)
    return body()


def test_an_address_that_there_is_not_is_said_at_the_start(store: Store, clock: FakeClock) -> None:
    with pytest.raises(OSError, match=r"192\.0\.2\.1 port 1:"):
        StreamListener(store, clock, host="192.0.2.1", port=1, max_connections=1, lifetime=1)


def test_whoever_needs_the_key_first_makes_it(store: Store) -> None:
    with store.write() as c:
        assert secrets.find_secret(c, "new") is None
        made = secrets.get_or_make_secret(c, "new")
    with store.write() as c:
        assert secrets.get_or_make_secret(c, "new") == secrets.find_secret(c, "new") == made
    assert len(made) >= 43
