"""Confirmed publishing against a link that answers as RabbitMQ does, misbehaviour included."""

import threading
from collections import defaultdict
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
from amqp.exceptions import AccessRefused

from compute_agent.contract.broker import BrokerAddress, list_broker_urls
from compute_agent.contract.notifications import Notification, decode
from compute_agent.contract.publisher import OutboxEntry, OutboxPump, Publisher, PublishFailed


def make_rows(count: int, first: int = 0) -> list[Notification]:
    return [
        Notification(f"m{index}", "server.started", "compute_agent.h1", "info", "2026-01-01 00:00:00.000000", {"index": index})
        for index in range(first, first + count)
    ]


class FakeChannel:
    """The part of a kombu channel that publishing uses; what the broker answers waits in ``answers`` until it is read."""

    def __init__(self) -> None:
        self.events: dict[str, set[Callable[..., None]]] = defaultdict(set)
        self.published: list[SimpleNamespace] = []
        self.answers: list[Callable[[], None]] = []
        self.tag = 0
        self.confirming = False
        self.answer: Callable[[FakeChannel, SimpleNamespace], None] = FakeChannel.acknowledge

    def confirm_select(self) -> None:
        self.confirming = True

    def prepare_message(self, body: bytes, **rest: Any) -> SimpleNamespace:
        return SimpleNamespace(body=body, properties=rest.pop("properties"), **rest)

    def basic_publish(self, message: SimpleNamespace, exchange: str, routing_key: str, mandatory: bool) -> None:
        assert self.confirming
        self.tag += 1
        sent = SimpleNamespace(message=message, exchange=exchange, routing_key=routing_key, mandatory=mandatory, tag=self.tag)
        self.published.append(sent)
        self.answer(self, sent)

    def emit(self, event: str, *arguments: Any) -> None:
        self.answers.append(lambda: [callback(*arguments) for callback in self.events[event]] and None)

    def acknowledge(self, sent: SimpleNamespace) -> None:
        self.emit("basic_ack", sent.tag, False)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name in ("exchange_declare", "queue_declare", "queue_bind", "prepare_queue_arguments", "is_bound"):
            return lambda *_, **keywords: keywords or SimpleNamespace(queue="q")
        raise AttributeError(name)


class FakeLink:
    """One connection. It fails from ``fail_after`` publishes on with the error that a lost socket raises."""

    def __init__(self, answer: Callable[[FakeChannel, SimpleNamespace], None] | None = None) -> None:
        self.client = SimpleNamespace(userid="crashcart")
        self.made = FakeChannel()
        if answer is not None:
            self.made.answer = answer
        self.on_blocked: Callable[[str], None] | None = None
        self.ended = ""
        self.ticks = 0

    def channel(self) -> FakeChannel:
        return self.made

    def drain_events(self, timeout: float) -> None:
        if not self.made.answers:
            raise TimeoutError
        self.made.answers.pop(0)()

    def heartbeat_tick(self) -> None:
        self.ticks += 1

    def collect(self) -> None:
        self.ended = self.ended or "dropped"

    def close(self) -> None:
        self.ended = "closed"


class FakeAddress:
    label = "broker:5672"

    def __init__(self, *links: FakeLink | Exception) -> None:
        self.links = list(links)
        self.opened: list[FakeLink] = []

    def open_link(self, *, on_blocked: Any = None, on_unblocked: Any = None) -> Any:
        link = self.links.pop(0)
        if isinstance(link, Exception):
            raise link
        link.on_blocked, link.on_unblocked = on_blocked, on_unblocked
        self.opened.append(link)
        return link


class ListingChannel(FakeChannel):
    """Notes which queues are declared passively."""

    def __init__(self) -> None:
        super().__init__()
        self.looked_for: list[str] = []

    def queue_declare(self, queue: str, passive: bool) -> None:
        assert passive
        self.looked_for.append(queue)


@pytest.fixture(autouse=True)
def queues_are_declared_elsewhere(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Declaring is kombu's own business; note that it was asked for."""
    declared: list[str] = []
    monkeypatch.setattr("kombu.entity.Queue.declare", lambda self, **_: declared.append(self.name))
    monkeypatch.setattr("kombu.entity.Queue.__call__", lambda self, channel: self)
    return declared


def test_all_rows_go_out_persistent_mandatory_and_under_the_users_name(queues_are_declared_elsewhere: list[str]) -> None:
    link = FakeLink()
    assert Publisher(FakeAddress(link)).publish(make_rows(3)) == 3
    assert [decode(sent.message.body).message_id for sent in link.made.published] == ["m0", "m1", "m2"]
    for sent in link.made.published:
        assert sent.mandatory
        assert sent.message.properties["delivery_mode"] == 2
        assert sent.message.properties["user_id"] == "crashcart"
        assert (sent.exchange, sent.routing_key) == ("crashcart.events", "notifications.info")
    assert {"crashcart.recorder", "crashcart.heartbeats", "crashcart.recorder.dead"} <= set(queues_are_declared_elsewhere)


def test_one_confirm_may_settle_many_rows() -> None:
    def confirm_the_last(channel: FakeChannel, sent: SimpleNamespace) -> None:
        if sent.tag == 3:
            channel.emit("basic_ack", 3, True)

    assert Publisher(FakeAddress(FakeLink(confirm_the_last))).publish(make_rows(3)) == 3


def test_a_lost_connection_tells_which_prefix_is_certain() -> None:
    def die_at_the_third(channel: FakeChannel, sent: SimpleNamespace) -> None:
        if sent.tag == 3:
            channel.answers.append(lambda: (_ for _ in ()).throw(ConnectionResetError(104, "reset")))
        else:
            channel.acknowledge(sent)

    link = FakeLink(die_at_the_third)
    with pytest.raises(PublishFailed) as failure:
        Publisher(FakeAddress(link)).publish(make_rows(4))
    assert failure.value.confirmed == 2
    assert link.ended == "dropped"


def test_an_unroutable_row_is_not_confirmed_although_the_broker_acknowledges_it() -> None:
    def return_the_second(channel: FakeChannel, sent: SimpleNamespace) -> None:
        if sent.tag == 2:
            channel.emit("basic_return", RuntimeError("NO_ROUTE"), sent.exchange, sent.routing_key, sent.message)
        channel.acknowledge(sent)

    address = FakeAddress(FakeLink(return_the_second), FakeLink())
    publisher = Publisher(address)
    with pytest.raises(PublishFailed, match="NO_ROUTE") as failure:
        publisher.publish(make_rows(3))
    assert failure.value.confirmed == 1
    assert publisher.publish(make_rows(2, 1)) == 2
    assert len(address.opened) == 2, "the next try begins on a fresh connection, which declares the queues again"


def test_a_nacked_row_is_not_confirmed() -> None:
    def refuse_the_first(channel: FakeChannel, sent: SimpleNamespace) -> None:
        channel.emit("basic_nack" if sent.tag == 1 else "basic_ack", sent.tag, False)

    with pytest.raises(PublishFailed, match="nack") as failure:
        Publisher(FakeAddress(FakeLink(refuse_the_first))).publish(make_rows(2))
    assert failure.value.confirmed == 0


def test_no_confirm_at_all_gives_the_connection_up() -> None:
    link = FakeLink(lambda channel, sent: None)
    with pytest.raises(PublishFailed, match="no confirm") as failure:
        Publisher(FakeAddress(link), confirm_timeout=0.01).publish(make_rows(1))
    assert failure.value.confirmed == 0
    assert link.ended == "dropped"


def test_abort_ends_a_publish_that_a_broker_in_alarm_holds() -> None:
    """The wait has no bound of its own: an alarm lasts as long as it lasts."""
    link = FakeLink(lambda channel, sent: channel.answers.append(lambda: link.on_blocked("low on memory")))
    publisher = Publisher(FakeAddress(link), confirm_timeout=0.0)
    failures: list[PublishFailed] = []

    def publish() -> None:
        try:
            publisher.publish(make_rows(1))
        except PublishFailed as failure:
            failures.append(failure)

    original, waiting = link.heartbeat_tick, threading.Event()
    link.heartbeat_tick = lambda: (original(), link.ticks > 3 and waiting.set())  # type: ignore[method-assign, func-returns-value]
    thread = threading.Thread(target=publish)
    thread.start()
    assert waiting.wait(60)
    publisher.abort()
    thread.join(60)
    assert not thread.is_alive()
    assert failures[0].confirmed == 0
    with pytest.raises(PublishFailed, match="stopped"):
        publisher.publish(make_rows(1))


def test_a_broker_that_is_away_is_a_publish_failed() -> None:
    with pytest.raises(PublishFailed) as failure:
        Publisher(FakeAddress(ConnectionRefusedError(111, "refused"))).publish(make_rows(1))
    assert failure.value.confirmed == 0


def test_a_heartbeat_is_neither_persistent_nor_waited_for() -> None:
    link = FakeLink(lambda channel, sent: None)
    publisher = Publisher(FakeAddress(link))
    publisher.publish_heartbeat(make_rows(1)[0])
    (sent,) = link.made.published
    assert (sent.routing_key, sent.mandatory, sent.message.properties["delivery_mode"]) == ("heartbeats", False, 1)


def test_confirms_of_heartbeats_are_not_taken_for_those_of_rows() -> None:
    link = FakeLink()
    publisher = Publisher(FakeAddress(link))
    publisher.publish_heartbeat(make_rows(1)[0])
    link.made.answer = lambda channel, sent: channel.acknowledge(sent) if sent.tag != 3 else None
    publisher._confirm_timeout = 0.3
    with pytest.raises(PublishFailed) as failure:
        publisher.publish(make_rows(3, 1))
    assert failure.value.confirmed == 1


def test_no_heartbeat_is_sent_into_an_alarm() -> None:
    link = FakeLink()
    publisher = Publisher(FakeAddress(link))
    publisher.publish_heartbeat(make_rows(1)[0])
    link.made.answers = [lambda: link.on_blocked("disk")]
    with pytest.raises(PublishFailed, match="alarm"):
        publisher.publish_heartbeat(make_rows(1)[0])
    assert len(link.made.published) == 1


def test_an_idle_connection_answers_heartbeats_and_forgets_a_lost_one() -> None:
    link = FakeLink()
    publisher = Publisher(FakeAddress(link))
    assert publisher.keep_alive() is False
    publisher.publish(make_rows(1))
    assert publisher.keep_alive() is True
    link.made.answers = [lambda: (_ for _ in ()).throw(ConnectionResetError(104, "reset"))]
    assert publisher.keep_alive() is False
    publisher.close()


def test_close_says_goodbye_when_the_broker_listens() -> None:
    link = FakeLink()
    publisher = Publisher(FakeAddress(link))
    publisher.publish(make_rows(1))
    publisher.close()
    assert link.ended == "closed"


class Outbox:
    def __init__(self, count: int) -> None:
        self.entries = [OutboxEntry(index + 1, row) for index, row in enumerate(make_rows(count))]
        self.sent: list[int] = []

    def list_unsent(self, limit: int) -> list[OutboxEntry]:
        return [entry for entry in self.entries if entry.sequence not in self.sent][:limit]

    def mark_sent(self, sequences: list[int]) -> None:
        self.sent += sequences


def test_the_pump_marks_rows_only_after_their_confirm() -> None:
    class Flaky:
        limits = [1, 0]  # noqa: RUF012

        def publish(self, rows: list[Notification]) -> int:
            if self.limits:
                raise PublishFailed(self.limits.pop(0), "away")
            return len(rows)

    outbox = Outbox(5)
    pump = OutboxPump(outbox, Flaky(), batch=3)
    with pytest.raises(PublishFailed):
        pump.step()
    assert outbox.sent == [1]
    with pytest.raises(PublishFailed):
        pump.step()
    assert outbox.sent == [1]
    assert [pump.step(), pump.step(), pump.step()] == [3, 1, 0]
    assert outbox.sent == [1, 2, 3, 4, 5]


class Taking:
    """Takes all that it is given."""

    def __init__(self) -> None:
        self.taken: list[str] = []

    def publish(self, rows: list[Notification]) -> int:
        self.taken += [row.message_id for row in rows]
        return len(rows)


def test_what_came_meanwhile_is_sent_before_what_was_sent_is_marked() -> None:
    """The commit that marks an action's start as sent must not delay its ending."""
    outbox, broker = Outbox(3), Taking()
    later = [outbox.entries.pop(), outbox.entries.pop()]
    pump = OutboxPump(outbox, broker, batch=10)
    assert pump.step() == 1
    outbox.entries.append(later.pop())
    assert pump.step() == 1
    assert outbox.sent == []
    outbox.entries.append(later.pop())
    assert [pump.step(), pump.step()] == [1, 0]
    assert outbox.sent == [1, 2, 3]
    assert len(broker.taken) == len(set(broker.taken)) == 3


def test_a_mark_that_fails_is_made_up_for_without_sending_again() -> None:
    outbox, broker = Outbox(2), Taking()
    pump = OutboxPump(outbox, broker, batch=10)
    pump.step()
    mark_sent, outbox.mark_sent = outbox.mark_sent, mock.Mock(side_effect=OSError("no space"))  # type: ignore[method-assign]
    with pytest.raises(OSError, match="no space"):
        pump.step()
    outbox.mark_sent = mark_sent  # type: ignore[method-assign]
    assert pump.step() == 0
    assert outbox.sent == [1, 2]
    assert len(broker.taken) == 2


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("rabbit://u:p@a:5672/", ("amqp://u:p@a:5672/",)),
        ("rabbit://u:p@a:1,u:p@b:2/vhost", ("amqp://u:p@a:1/vhost", "amqp://u:p@b:2/vhost")),
        ("rabbit://u:p@a:1/v?heartbeat=3", ("amqp://u:p@a:1/v",)),
    ],
)
def test_every_broker_node_of_a_transport_url_is_tried(url: str, expected: tuple[str, ...]) -> None:
    assert list_broker_urls(url) == expected


@pytest.mark.parametrize("url", ["fake://", "amqps://u:p@a:1//"])
def test_a_transport_url_of_another_kind_is_refused(url: str) -> None:
    """amqps:// too: oslo.messaging does not know it, and TLS without a CA file would verify nobody's name."""
    with pytest.raises(ValueError, match="rabbit://"):
        list_broker_urls(url)


def test_no_password_is_in_the_text_for_logs() -> None:
    assert BrokerAddress("rabbit://u:secret@a:1,u:secret@b:2/", name="x").label == "a:1,b:2"


def test_an_account_that_may_not_declare_the_queues_looks_whether_they_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Any, **_: Any) -> None:
        raise AccessRefused("configure access refused", (50, 10), reply_code=403)

    monkeypatch.setattr("kombu.entity.Queue.declare", refuse)
    link = FakeLink()
    refused, channel = link.made, ListingChannel()
    channels = [refused, channel]
    link.channel = lambda: channels.pop(0)  # type: ignore[method-assign]
    link.made = channel
    assert Publisher(FakeAddress(link)).publish(make_rows(2)) == 2
    assert channel.looked_for == ["crashcart.recorder", "crashcart.heartbeats", "crashcart.recorder.dead"]
    assert (len(refused.published), len(channel.published)) == (0, 2)
