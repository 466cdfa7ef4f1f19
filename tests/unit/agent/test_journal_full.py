"""A full disk under the journal: nothing that cannot be written is taken up or sent, nothing seen is forgotten, all goes on by itself."""

import errno
import logging
import os
import sqlite3
import tempfile
import threading
from contextlib import suppress
from pathlib import Path
from unittest import mock

import pytest

from compute_agent.contract.errors import Code
from compute_agent.contract.models import Observation
from compute_agent.contract.notifications import Notification
from compute_agent.drivers.fake_behaviours import answer_late
from compute_agent.drivers.fake_server import NmiEffect
from compute_agent.inventory import Inventory
from compute_agent.journal import ActionState, Journal, JournalFull, JournalUnusable
from compute_agent.journal_schema import explain
from compute_agent.loops import Loop
from compute_agent.reporter import Heartbeats, Reporter
from tests.unit.agent.action_parts import Agent, make_id
from tests.unit.agent.observer_bench import Bench


def fill_disk(journal: Journal) -> None:
    """To the last byte: SQLite gets no page more for it, and none that it has takes another event."""
    with journal.transaction("test") as transaction:
        pages = transaction.execute("PRAGMA page_count").fetchone()[0]
        transaction.execute(f"PRAGMA max_page_count = {pages}")
    for size in (3000, 500, 100, 20):
        with suppress(JournalFull):
            while True:
                with journal.transaction("test") as transaction:
                    transaction.execute(
                        "INSERT INTO outbox (message_id, event_type, severity, payload, occurred_at, sent_at)"
                        " VALUES (hex(randomblob(8)), 'agent.up', 'info', ?, 0, 0)",
                        '{"filler": "' + "x" * size + '"}',
                    )


def free_disk(journal: Journal) -> None:
    with journal.transaction("test") as transaction:
        transaction.execute("PRAGMA max_page_count = 1000000")


class HeartbeatPublisher:
    def __init__(self) -> None:
        self.sent: list[Notification] = []

    def publish_heartbeat(self, heartbeat: Notification) -> None:
        self.sent.append(heartbeat)


@pytest.fixture
def agent(tmp_path: Path) -> Agent:
    return Agent(tmp_path / "journal.sqlite")


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path / "journal.sqlite")


class TestActions:
    def test_what_finds_no_room_is_not_taken_up_and_is_when_it_is_cast_again(self, agent: Agent) -> None:
        request = agent.make_request(agent.make_server())
        fill_disk(agent.journal)
        agent.cast(request)
        assert agent.queue.take(0) is None
        free_disk(agent.journal)
        assert agent.do(request).state is ActionState.ENDED
        assert agent.hypervisor.count_signals(request.server) == 1

    def test_what_cannot_be_read_is_refused_when_there_is_room(self, agent: Agent) -> None:
        unreadable = agent.make_request(agent.make_server()).to_wire() | {"deadline": "soon"}
        fill_disk(agent.journal)
        agent.endpoint.trigger_crash_dump({}, unreadable)
        free_disk(agent.journal)
        agent.endpoint.trigger_crash_dump({}, unreadable)
        assert [event.payload["code"] for event in agent.list_events("action.ended")] == [Code.INVALID_REQUEST]

    def test_what_was_taken_up_is_not_sent_before_its_start_found_room(self, agent: Agent) -> None:
        request = agent.make_request(agent.make_server())
        agent.cast(request)
        fill_disk(agent.journal)
        with pytest.raises(JournalFull):
            agent.work()
        assert agent.get(request.id).state is ActionState.RECEIVED
        assert agent.hypervisor.count_signals(request.server) == 0
        free_disk(agent.journal)
        agent.clock.advance(2)
        assert agent.actions.list_due() == [request.id]
        agent.actions.run(request.id)
        assert agent.code(request.id) == Code.SIGNAL_DELIVERED
        assert agent.hypervisor.count_signals(request.server) == 1

    def test_an_ending_that_found_no_room_is_written_later_and_nothing_is_sent_again(self, agent: Agent) -> None:
        request = agent.make_request(agent.make_server())
        agent.cast(request)
        agent.hypervisor.behave(request.server, answer_late(lambda: fill_disk(agent.journal)))
        with pytest.raises(JournalFull):
            agent.work()
        for write in (agent.actions.end_overdue, lambda: agent.actions.run(request.id)):
            with pytest.raises(JournalFull):
                write()
        free_disk(agent.journal)
        agent.actions.end_overdue()
        assert agent.code(request.id) == Code.SIGNAL_DELIVERED
        assert agent.hypervisor.count_signals(request.server) == 1

    def test_a_refusal_that_found_no_room_is_decided_anew_by_what_is_true_then(self, agent: Agent) -> None:
        """Else an action that was started meanwhile would be told as failed although its signal went out."""
        server = agent.make_server()
        agent.hypervisor.stop(server)
        agent.cast(agent.make_request(server))
        fill_disk(agent.journal)
        with pytest.raises(JournalFull):
            agent.work()
        agent.hypervisor.start(server)
        free_disk(agent.journal)
        agent.actions.end_overdue()
        assert agent.get(make_id()).state is ActionState.RECEIVED
        agent.actions.run(make_id())
        assert agent.code(make_id()) == Code.SIGNAL_DELIVERED

    def test_what_waited_for_room_past_its_deadline_expires_unsent(self, agent: Agent) -> None:
        request = agent.make_request(agent.make_server(), seconds=30)
        agent.cast(request)
        fill_disk(agent.journal)
        agent.clock.advance(31)
        with pytest.raises(JournalFull):
            agent.actions.end_overdue()
        free_disk(agent.journal)
        agent.actions.end_overdue()
        assert agent.code(request.id) == Code.DEADLINE_PASSED
        assert agent.hypervisor.count_signals(request.server) == 0


class TestWhatIsSeen:
    def test_an_event_that_found_no_room_is_told_when_there_is(self, bench: Bench) -> None:
        server = bench.make_server()
        fill_disk(bench.journal)
        bench.hypervisor.reboot(server)
        bench.hypervisor.stop(server)
        for _ in range(2):
            with pytest.raises(JournalFull):
                bench.observer.step(0)
        free_disk(bench.journal)
        bench.drain()
        assert [event.type for event in bench.events("server.") if event.server == server] == ["server.rebooted", "server.stopped"]

    def test_what_nobody_watched_is_not_called_silence_because_a_first_try_to_say_so_found_no_room(self, bench: Bench) -> None:
        action = bench.signal(bench.make_server(effect=NmiEffect.SURVIVE))
        bench.drain()
        bench.restart(away=60)
        fill_disk(bench.journal)
        bench.clock.advance(1800)
        for _ in range(2):
            with pytest.raises(JournalFull):
                bench.observer.check_timers()
        free_disk(bench.journal)
        bench.observer.check_timers()
        assert bench.observe(action) == (Observation.NOT_OBSERVED, True)

    def test_a_host_with_a_full_disk_still_says_that_it_is_there(self, agent: Agent) -> None:
        publisher = HeartbeatPublisher()
        reporter = Reporter(agent.journal, mock.Mock(), agent.clock)  # nothing is published
        inventory = Inventory(agent.journal, agent.driver, agent.clock)
        heartbeats = Heartbeats(inventory, publisher, on_missed=lambda servers: None, on_all_told=reporter.repeat_last)
        fill_disk(agent.journal)
        for _ in range(20):
            agent.hypervisor.make_server()
        heartbeats.step()
        free_disk(agent.journal)
        heartbeats.step()
        assert [len(sent.payload["inventory"]["servers"]) for sent in publisher.sent] == [0, 20]


class TestLoops:
    def test_a_thread_goes_on_when_there_is_room_again(self) -> None:
        steps = iter([JournalFull("no room"), JournalFull("no room"), None])
        fatal: list[str] = []
        done = threading.Event()

        def body() -> None:
            step = next(steps, None)
            if step is not None:
                raise step
            done.set()

        loop = Loop("writer", body, on_fatal=fatal.append)
        loop.stopping.wait = lambda timeout=None: False  # type: ignore[method-assign]
        loop.start()
        assert done.wait(10)
        assert loop.stop(10)
        assert fatal == []

    def test_a_journal_that_fails_otherwise_still_ends_the_agent(self) -> None:
        fatal: list[str] = []

        def body() -> None:
            raise JournalUnusable("disk I/O error")

        loop = Loop("writer", body, on_fatal=fatal.append)
        loop.start()
        loop.stop(10)
        assert fatal == ["writer: disk I/O error"]


def test_a_full_disk_is_said_once_and_so_is_its_end(agent: Agent, caplog: pytest.LogCaptureFixture) -> None:
    requests = [agent.make_request(agent.make_server(), number) for number in range(1, 4)]
    with caplog.at_level(logging.INFO, "compute_agent.contract.outage"):
        fill_disk(agent.journal)
        for request in requests:
            agent.cast(request)
        free_disk(agent.journal)
        agent.cast(requests[0])
    said = [record.message for record in caplog.records if record.name == "compute_agent.contract.outage"]
    assert [text.partition(": ")[2].partition(":")[0] for text in said] == ["nothing is taken up that cannot be written"] * len(said)
    assert said[-1].endswith("works again")


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (sqlite3.SQLITE_FULL, JournalFull),
        (sqlite3.SQLITE_IOERR_SHMSIZE, JournalFull),
        (sqlite3.SQLITE_IOERR_FSYNC, JournalUnusable),
        (sqlite3.SQLITE_IOERR_WRITE, JournalUnusable),
        (sqlite3.SQLITE_CORRUPT, JournalUnusable),
    ],
)
def test_only_what_may_be_tried_again_counts_as_a_full_disk(code: int, kind: type[JournalUnusable], tmp_path: Path) -> None:
    """After a failed fsync nobody knows what is on the disk."""
    assert type(explain(make_error(code), "journal", tmp_path / "journal.sqlite")) is kind


@pytest.mark.parametrize(
    ("number", "kind"),
    [(errno.EDQUOT, JournalFull), (errno.ENOSPC, JournalFull), (errno.EIO, JournalUnusable), (errno.EROFS, JournalUnusable)],
)
def test_a_quota_that_is_used_up_is_a_full_disk_and_a_broken_disk_is_none(
    number: int, kind: type[JournalUnusable], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite has one word for both."""

    def refuse(**options: object) -> None:
        assert options == {"dir": tmp_path}, "the journal's own disk is asked"
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    assert type(explain(make_error(sqlite3.SQLITE_IOERR_WRITE), "journal", tmp_path / "journal.sqlite")) is kind


def test_a_quota_that_is_used_up_is_a_full_disk_at_the_opening_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def connect(*arguments: object, **options: object) -> None:
        raise make_error(sqlite3.SQLITE_IOERR_WRITE)

    def refuse(**options: object) -> None:
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    monkeypatch.setattr(sqlite3, "connect", connect)
    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    with pytest.raises(JournalFull, match="as SQLite says it"):
        Agent(tmp_path / "made" / "anew" / "journal.sqlite")


def make_error(code: int) -> sqlite3.OperationalError:
    error = sqlite3.OperationalError("as SQLite says it")
    error.sqlite_errorcode = code
    return error
