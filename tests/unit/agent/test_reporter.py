"""The journal's events on their way out, ranges asked for again, and heartbeats."""

import logging
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import pytest

from compute_agent.contract.models import OPEN_END, EventRange, Heartbeat
from compute_agent.contract.notifications import HEARTBEAT_TYPE, Notification
from compute_agent.contract.publisher import PublishFailed
from compute_agent.drivers.fake import FakeHypervisor
from compute_agent.inventory import Inventory
from compute_agent.journal import Journal
from compute_agent.reporter import Heartbeats, Reporter
from tests.fakes import Counter, FakeClock


class RecordingPublisher:
    """Takes everything, or only the next ``limit`` rows before it fails once."""

    def __init__(self) -> None:
        self.sent: list[Notification] = []
        self.limit: int | None = None

    def publish(self, rows: Sequence[Notification]) -> int:
        if self.limit is not None:
            confirmed, self.limit = min(self.limit, len(rows)), None
            self.sent += rows[:confirmed]
            raise PublishFailed(confirmed, "away")
        self.sent += rows
        return len(rows)

    def publish_heartbeat(self, heartbeat: Notification) -> None:
        if self.limit is not None:
            self.limit = None
            raise PublishFailed(0, "away")
        self.sent.append(heartbeat)


class Bench:
    def __init__(self, path: Path) -> None:
        self.clock = FakeClock()
        self.journal = Journal.open(path, host="h1", clock=self.clock, new_id=Counter("m"))
        self.publisher = RecordingPublisher()
        self.reporter = Reporter(self.journal, self.publisher, self.clock, batch=2)

    def append(self, count: int) -> None:
        body = {"release": "0.1", "journal_id": self.journal.journal_id, "incarnation": 1, "reason": "test"}
        for _ in range(count):
            with self.journal.transaction("test") as transaction:
                transaction.append_event("agent.up", server=None, occurred_at=self.clock.now(), body=body)

    def pump(self) -> list[int]:
        counts = []
        while count := self.reporter.step():
            counts.append(count)
        return counts

    def ask(self, first: int, last: int, epoch: str | None = None) -> None:
        self.reporter.resend(EventRange(epoch=epoch or self.journal.journal_id, first=first, last=last))

    def prune_all(self) -> None:
        self.clock.advance(10)
        with self.journal.transaction("test") as transaction:
            keep = timedelta(seconds=1)
            transaction.prune(self.clock.now(), outbox_keep=keep, outbox_max_rows=100, action_keep=keep)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path / "journal.sqlite")


def list_sequences(rows: Sequence[Notification]) -> list[int]:
    return [row.payload["sequence"] for row in rows]


def test_events_go_out_in_order_and_once(bench: Bench) -> None:
    bench.append(5)
    assert bench.pump() == [2, 2, 1]
    assert list_sequences(bench.publisher.sent) == [1, 2, 3, 4, 5]
    first = bench.publisher.sent[0]
    assert (first.event_type, first.publisher_id, first.severity) == ("agent.up", "compute_agent.h1", "info")
    assert first.timestamp == "2026-01-01 00:00:00.000000"
    assert bench.pump() == []


def test_only_confirmed_events_are_marked_sent(bench: Bench) -> None:
    bench.append(2)
    bench.publisher.limit = 1
    with pytest.raises(PublishFailed):
        bench.reporter.step()
    assert bench.pump() == [1]
    assert list_sequences(bench.publisher.sent) == [1, 2]


def test_a_range_goes_out_again_under_the_same_message_ids(bench: Bench) -> None:
    bench.append(4)
    bench.pump()
    before = bench.publisher.sent[1:3]
    bench.publisher.sent = []
    bench.ask(2, 3)
    bench.pump()
    assert [row.message_id for row in bench.publisher.sent] == [row.message_id for row in before]
    assert len({row.message_id for row in before if row.message_id}) == 2


def test_what_is_gone_is_named_as_lost_in_the_same_epoch(bench: Bench) -> None:
    bench.append(3)
    bench.pump()
    bench.prune_all()
    bench.append(1)
    bench.publisher.sent = []
    bench.ask(2, 4)
    bench.pump()
    assert list_sequences(bench.publisher.sent) == [4, 5]
    lost = bench.publisher.sent[1]
    assert lost.event_type == "events.lost"
    assert lost.payload["epoch"] == lost.payload["lost_epoch"] == bench.journal.journal_id
    assert (lost.payload["first"], lost.payload["last"]) == (2, 3)


def test_only_what_is_gone_is_named_as_lost_and_what_lies_between_is_sent_again(bench: Bench) -> None:
    bench.append(7)
    bench.pump()
    with bench.journal.transaction("test") as transaction:
        transaction.execute("DELETE FROM outbox WHERE sequence IN (2, 3, 5)")
    bench.publisher.sent = []
    bench.ask(1, 6)
    bench.pump()
    assert list_sequences(bench.publisher.sent) == [1, 4, 6, 8, 9]
    assert [(row.payload["first"], row.payload["last"]) for row in bench.publisher.sent[-2:]] == [(2, 3), (5, 5)]


def test_who_sends_is_woken_when_a_range_is_asked_for_and_not_for_nothing(bench: Bench) -> None:
    woken: list[bool] = []
    bench.append(2)
    bench.pump()
    bench.journal.on_new_events(lambda patience: woken.append(True))
    bench.ask(5, 9)
    assert woken == []
    bench.ask(1, 1)
    assert woken == [True]


def test_a_range_of_another_journal_is_lost(bench: Bench) -> None:
    bench.ask(1, 9, epoch="an-older-journal")
    bench.pump()
    (lost,) = bench.publisher.sent
    assert (lost.payload["lost_epoch"], lost.payload["first"], lost.payload["last"]) == ("an-older-journal", 1, 9)


def test_a_range_that_was_never_written_is_not_called_lost(bench: Bench) -> None:
    bench.append(1)
    bench.pump()
    bench.publisher.sent = []
    bench.ask(5, 9)
    assert bench.pump() == []


def make_heartbeats(bench: Bench, missed: list[frozenset[str]]) -> tuple[Heartbeats, FakeHypervisor]:
    hypervisor = FakeHypervisor(bench.clock)
    inventory = Inventory(bench.journal, hypervisor.driver, bench.clock)
    return Heartbeats(inventory, bench.publisher, on_missed=missed.append, on_all_told=bench.reporter.repeat_last), hypervisor


def test_a_heartbeat_is_a_notification_that_can_be_read(bench: Bench) -> None:
    heartbeats, hypervisor = make_heartbeats(bench, [])
    server = hypervisor.make_server()
    heartbeats.step()
    (sent,) = bench.publisher.sent
    assert (sent.event_type, sent.publisher_id, sent.severity) == (HEARTBEAT_TYPE, "compute_agent.h1", "info")
    assert (len(sent.message_id), sent.timestamp) == (32, "2026-01-01 00:00:00.000000")
    heartbeat = Heartbeat.from_wire(sent.payload)
    assert [entry.id for entry in heartbeat.inventory.servers] == [server]


def test_after_a_heartbeat_that_was_not_sent_the_next_one_carries_everything(bench: Bench) -> None:
    heartbeats, hypervisor = make_heartbeats(bench, [])
    heartbeats.step()
    hypervisor.make_server()
    bench.publisher.limit = 0
    with pytest.raises(PublishFailed):
        heartbeats.step()
    heartbeats.step()
    report = Heartbeat.from_wire(bench.publisher.sent[-1].payload).inventory
    assert report.full
    assert len(report.servers) == 1


def test_the_last_heartbeat_does_not_ask_a_driver_that_is_closed(bench: Bench) -> None:
    heartbeats, hypervisor = make_heartbeats(bench, [])
    heartbeats.step()
    hypervisor.lose_backend()
    heartbeats.step(stopping=True)
    last = Heartbeat.from_wire(bench.publisher.sent[-1].payload)
    assert last.stopping
    assert last.inventory.readable


def test_changes_that_no_event_told_are_handed_on(bench: Bench) -> None:
    missed: list[frozenset[str]] = []
    heartbeats, hypervisor = make_heartbeats(bench, missed)
    server = hypervisor.make_server()
    heartbeats.step()
    bench.clock.advance(1)
    hypervisor.stop(server)
    bench.clock.advance(1)
    heartbeats.step()
    heartbeats.step()
    assert missed == [frozenset({server})]


def test_who_asks_for_all_that_follows_gets_it_and_nothing_else(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    bench.append(3)
    bench.pump()
    caplog.set_level(logging.INFO)
    bench.ask(4, OPEN_END)
    assert (bench.pump(), caplog.messages) == ([], [])
    bench.ask(3, OPEN_END)
    bench.pump()
    assert list_sequences(bench.publisher.sent) == [1, 2, 3, 3]


def test_a_range_that_is_gone_to_its_end_is_named_as_lost_to_its_end(bench: Bench) -> None:
    bench.append(3)
    bench.pump()
    bench.prune_all()
    bench.publisher.sent = []
    bench.ask(2, 3)
    bench.pump()
    assert [(row.payload["first"], row.payload["last"]) for row in bench.publisher.sent] == [(2, 3)]


def test_the_newest_event_is_told_again_with_each_full_inventory_so_that_a_purged_queue_shows(bench: Bench) -> None:
    heartbeats, _ = make_heartbeats(bench, [])
    bench.append(2)
    bench.pump()
    bench.clock.advance(29)
    heartbeats.step()
    assert bench.pump() == [], "it may be on its way"
    bench.clock.advance(600)
    bench.publisher.sent = []
    heartbeats.step()
    heartbeats.step()
    assert bench.pump() == [1]
    assert [row.payload["sequence"] for row in bench.publisher.sent if row.event_type == "agent.up"] == [2]
    bench.clock.advance(30)
    heartbeats.step()
    assert bench.pump() == [], "heartbeats with what changed are many"


def test_of_a_backlog_what_was_sent_is_written_down_on_the_way(bench: Bench) -> None:
    """Else each look at the rest would pass over all of it, and a crash would send all of it again."""
    bench.append(602)
    bench.pump()
    with bench.journal.transaction("test") as transaction:
        written = transaction.execute("SELECT count(*) FROM outbox WHERE sent_at IS NOT NULL").fetchone()[0]
    assert 500 <= written < 602
