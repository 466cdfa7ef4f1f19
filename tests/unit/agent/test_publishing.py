"""The publishing threads: when they send, what they wait for, and that one that hangs is left with its connection."""

import queue
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from api_gateway.engine_options import DISPATCHER_OPTIONS
from compute_agent import journal_outbox, publishing
from compute_agent.contract.models import Heartbeat
from compute_agent.contract.notifications import Notification
from compute_agent.contract.publisher import PublishFailed
from compute_agent.drivers.fake import FakeHypervisor
from compute_agent.inventory import Inventory
from compute_agent.journal import Journal, JournalFull
from compute_agent.publishing import Publishing
from compute_agent.reporter import Heartbeats, Reporter
from tests.fakes import Counter, FakeClock
from tests.unit.agent.action_parts import make_id
from tests.unit.agent.journal_parts import SERVER

PATIENCE = 10.0
SHORT = 0.01
LONG = 3600.0


class FakePublisher:
    """A broker that takes everything, except what the next ``failures`` tries bring, and nothing while it is ``frozen``."""

    def __init__(self) -> None:
        self.sent: queue.SimpleQueue[Notification] = queue.SimpleQueue()
        self.failures = 0
        self.failed = threading.Event()
        self.is_connected = True
        self.frozen = False
        self.entered = threading.Event()
        self.aborted = threading.Event()
        self.closed = False

    def publish(self, rows: Sequence[Notification]) -> int:
        self.entered.set()
        if self.frozen:
            self.aborted.wait(PATIENCE)
            raise PublishFailed(0, "aborted")
        if self.failures:
            self.failures -= 1
            self.failed.set()
            raise PublishFailed(0, "away")
        for row in rows:
            self.sent.put(row)
        return len(rows)

    def publish_heartbeat(self, heartbeat: Notification) -> None:
        self.publish([heartbeat])

    def keep_alive(self) -> bool:
        return self.is_connected

    def abort(self) -> None:
        self.aborted.set()

    def close(self) -> None:
        self.closed = True

    def take(self) -> Notification:
        return self.sent.get(timeout=PATIENCE)


class Bench:
    def __init__(self, path: Path) -> None:
        self.clock = FakeClock()
        self.journal = Journal.open(path, host="h1", clock=self.clock, new_id=Counter("m"))
        self.events, self.heartbeats = FakePublisher(), FakePublisher()
        self.may_beat = threading.Event()
        self.may_beat.set()
        self.asked = threading.Event()
        self.fatal: list[str] = []
        inventory = Inventory(self.journal, FakeHypervisor(self.clock).driver, self.clock)
        self.reporter = Reporter(self.journal, self.events, self.clock)
        self.publishing = Publishing(
            "h1",
            self.reporter,
            self.events,
            Heartbeats(inventory, self.heartbeats, on_missed=lambda servers: None, on_all_told=self.reporter.repeat_last),
            self.heartbeats,
            heartbeat_interval=LONG,
            may_beat=self.ask,
            on_fatal=self.fatal.append,
        )
        self.journal.on_new_events(self.publishing.want_report)

    def ask(self) -> bool:
        answer = self.may_beat.is_set()
        self.asked.set()
        return answer

    def append(self) -> None:
        body = {"release": "0.1", "journal_id": self.journal.journal_id, "incarnation": 1, "reason": "test"}
        with self.journal.transaction("test") as transaction:
            transaction.append_event("agent.up", server=None, occurred_at=self.clock.now(), body=body)


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    """Pauses after a failure are short; nothing but what a test does ends any other pause in time."""
    monkeypatch.setattr(publishing, "_RETRY_INTERVAL", SHORT)
    monkeypatch.setattr(publishing, "_HEARTBEAT_GAP", SHORT)
    monkeypatch.setattr(publishing, "_KEEP_ALIVE_INTERVAL", LONG)
    bench = Bench(tmp_path / "journal.sqlite")
    yield bench
    bench.publishing.abort()
    assert bench.publishing.stop(PATIENCE)
    assert bench.fatal == []
    bench.journal.close()


def test_an_event_is_sent_as_soon_as_it_is_committed(bench: Bench) -> None:
    bench.publishing.start()
    for sequence in (1, 2):
        bench.append()
        assert bench.events.take().payload["sequence"] == sequence


BOX = {"black_box_id": "0" * 32, "cause": "server.panicked", "parts": ()}


@pytest.mark.parametrize(
    ("event_type", "body"),
    [("action.started", {"action_id": make_id(1), "kind": "trigger_crash_dump"}), ("server.black_box", BOX)],
)
def test_what_another_event_will_follow_waits_for_it_a_moment(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, event_type: str, body: dict[str, Any]
) -> None:
    """Each batch is confirmed and recorded by itself: an action's three events should be one."""
    monkeypatch.setattr(publishing, "_LOOK_INTERVAL", LONG)
    batches: list[int] = []
    publish = bench.events.publish

    def count(rows: Sequence[Notification]) -> int:
        batches.append(len(rows))
        return publish(rows)

    monkeypatch.setattr(bench.events, "publish", count)
    bench.publishing.start()
    with bench.journal.transaction("test") as transaction:
        transaction.append_event(event_type, server=SERVER, occurred_at=bench.clock.now(), body=body)
    bench.append()
    assert [bench.events.take().event_type for _ in range(2)] == [event_type, "agent.up"]
    assert batches == [2]


def test_what_nothing_follows_is_sent_all_the_same(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publishing, "_LOOK_INTERVAL", SHORT)
    bench.publishing.start()
    body = {"action_id": make_id(1), "kind": "trigger_crash_dump"}
    with bench.journal.transaction("test") as transaction:
        transaction.append_event("action.started", server=SERVER, occurred_at=bench.clock.now(), body=body)
    assert bench.events.take().event_type == "action.started"


def test_what_could_not_be_sent_is_tried_again_without_being_asked(bench: Bench) -> None:
    bench.events.failures = bench.heartbeats.failures = 2
    bench.publishing.start()
    bench.append()
    assert bench.events.take().payload["sequence"] == 1
    assert bench.heartbeats.take()
    assert bench.events.failures == bench.heartbeats.failures == 0


def test_the_broker_still_hears_of_an_agent_that_has_no_room_to_mark_what_was_sent(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would close the connection, and the next ending would have to open another one first."""
    alive = threading.Event()

    def hear() -> bool:
        alive.set()
        return True

    def find_no_room() -> int:
        raise JournalFull("no room")

    monkeypatch.setattr(bench.events, "keep_alive", hear)
    monkeypatch.setattr(bench.reporter, "step", find_no_room)
    bench.publishing.start()
    bench.append()
    assert alive.wait(PATIENCE)
    assert bench.heartbeats.take()


def test_no_heartbeat_is_sent_while_another_agent_may_speak_for_the_host(bench: Bench) -> None:
    bench.may_beat.clear()
    bench.publishing.start()
    assert bench.asked.wait(PATIENCE)
    assert not bench.heartbeats.entered.is_set()
    bench.may_beat.set()
    assert bench.heartbeats.take()


def test_a_change_is_told_before_the_next_heartbeat_is_due(bench: Bench) -> None:
    bench.publishing.start()
    bench.heartbeats.take()
    bench.publishing.want_heartbeat()
    assert bench.heartbeats.take()


def test_a_lost_connection_is_followed_by_a_heartbeat_at_once(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publishing, "_KEEP_ALIVE_INTERVAL", SHORT)
    answers = iter([True, True, False])
    monkeypatch.setattr(bench.heartbeats, "keep_alive", lambda: next(answers, False))
    bench.publishing.start()
    bench.heartbeats.take()
    assert bench.heartbeats.take()


def test_a_publish_that_waits_for_the_broker_is_left_alone_until_it_is_aborted(bench: Bench) -> None:
    bench.events.frozen = True
    bench.publishing.start()
    bench.append()
    assert bench.events.entered.wait(PATIENCE)
    assert not bench.publishing.stop(SHORT)
    bench.publishing.abort()
    assert bench.publishing.stop(PATIENCE)


def test_the_last_things_sent_are_the_outbox_and_a_heartbeat_that_says_so(bench: Bench) -> None:
    bench.append()
    bench.publishing.send_last()
    assert bench.events.take().payload["sequence"] == 1
    assert Heartbeat.from_wire(bench.heartbeats.take().payload).stopping
    bench.publishing.close()
    assert bench.events.closed
    assert bench.heartbeats.closed


def test_word_that_an_action_came_leaves_long_before_it_would_be_cast_again() -> None:
    """Else the gateway would cast each one twice whose driver takes its time."""
    [received_timeout] = (option.default for option in DISPATCHER_OPTIONS if option.name == "received_timeout")
    assert journal_outbox.PATIENCE["action.received"] + publishing._LOOK_INTERVAL < received_timeout / 2
