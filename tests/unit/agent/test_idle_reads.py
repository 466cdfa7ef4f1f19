"""What an agent to which nothing happens does not look for, second after second."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from compute_agent.contract.models import Observation
from compute_agent.contract.notifications import Notification
from compute_agent.contract.publisher import PublishFailed
from compute_agent.drivers.fake import NmiEffect
from compute_agent.journal import Journal, JournalTransaction, JournalUnusable
from compute_agent.reporter import Reporter
from tests.unit.agent.action_parts import Agent
from tests.unit.agent.observer_bench import Bench


@pytest.fixture
def labels(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Of each transaction of any journal from now on."""
    found: list[str] = []
    transaction = Journal.transaction

    @contextmanager
    def note(journal: Journal, label: str) -> Iterator[JournalTransaction]:
        found.append(label)
        with transaction(journal, label) as open_transaction:
            yield open_transaction

    monkeypatch.setattr(Journal, "transaction", note)
    return found


def test_the_sweep_reads_the_journal_only_when_something_was_written_or_is_open(tmp_path: Path, labels: list[str]) -> None:
    agent = Agent(tmp_path / "journal.sqlite")
    agent.actions.end_overdue()
    labels.clear()
    agent.actions.end_overdue()
    assert labels == []
    request = agent.make_request(agent.make_server(), seconds=10)
    agent.cast(request)
    for _ in range(2):
        labels.clear()
        agent.actions.end_overdue()
        assert labels
    agent.clock.advance(11)
    agent.actions.end_overdue()
    assert agent.get(request.id).ended_at is not None
    agent.actions.end_overdue()
    labels.clear()
    agent.actions.end_overdue()
    assert labels == []
    agent.journal.close()


def test_timers_are_looked_at_only_when_something_was_written_or_is_watched(tmp_path: Path, labels: list[str]) -> None:
    bench = Bench(tmp_path / "journal.sqlite")
    server = bench.make_server(effect=NmiEffect.SURVIVE)
    bench.wait(5)
    bench.wait(1)
    labels.clear()
    bench.wait(1)
    assert "observation" not in labels
    action = bench.signal(server)
    bench.wait(61)
    assert bench.observe(action) == (Observation.NOTHING_SEEN_YET, False)
    bench.wait(1800)
    assert bench.observe(action) == (Observation.NOTHING_SEEN, True)
    bench.wait(1)
    labels.clear()
    bench.wait(1)
    assert "observation" not in labels


def test_the_outbox_is_read_only_when_something_was_written_or_is_not_sent(tmp_path: Path, labels: list[str]) -> None:
    agent = Agent(tmp_path / "journal.sqlite")
    broker = FlakyBroker()
    reporter = Reporter(agent.journal, broker, agent.clock)
    agent.cast(agent.make_request(agent.make_server()))
    broker.is_away = True
    for _ in range(2):
        with pytest.raises(PublishFailed):
            reporter.step()
    broker.is_away = False
    assert reporter.step() == 1
    labels.clear()
    assert reporter.step() == 0
    assert labels == []
    agent.work()
    assert reporter.step() == 2
    assert [row.event_type for row in broker.taken] == ["action.received", "action.started", "action.ended"]
    agent.journal.close()


def test_more_than_one_batch_is_read_until_nothing_is_left(tmp_path: Path) -> None:
    agent = Agent(tmp_path / "journal.sqlite")
    broker = FlakyBroker()
    reporter = Reporter(agent.journal, broker, agent.clock, batch=2)
    agent.do(agent.make_request(agent.make_server()))
    assert [reporter.step() for _ in range(3)] == [2, 1, 0]
    agent.journal.close()


class FlakyBroker:
    """Takes everything while it is there."""

    def __init__(self) -> None:
        self.is_away = False
        self.taken: list[Notification] = []

    def publish(self, rows: Sequence[Notification]) -> int:
        if self.is_away:
            raise PublishFailed(0, "away")
        self.taken += rows
        return len(rows)


def test_a_journal_that_is_gone_is_noticed_although_nothing_is_read(tmp_path: Path) -> None:
    agent = Agent(tmp_path / "journal.sqlite")
    agent.actions.end_overdue()
    (tmp_path / "journal.sqlite").unlink()
    with pytest.raises(JournalUnusable):
        agent.actions.end_overdue()
    agent.journal.close()
