"""The journal as a file: whose it is, who may open it, what survives, and what a transaction of it is."""

import contextlib
import json
import os
import shutil
import sqlite3
from itertools import repeat
from pathlib import Path

import pytest

from compute_agent import journal_schema
from compute_agent.contract.models import ActionKind, ActionRequest
from compute_agent.journal import Journal, JournalInUse, JournalUnusable
from tests.fakes import FakeClock
from tests.forks import run_in_fork
from tests.unit.agent.action_parts import HOST, Agent, make_id
from tests.unit.agent.journal_parts import SERVER, add, append_lost


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "journal.sqlite"


@pytest.fixture
def agent(path: Path) -> Agent:
    return Agent(path)


def open_journal(path: Path, host: str = HOST) -> Journal:
    return Journal.open(path, host=host, clock=FakeClock())


def test_a_journal_of_the_release_before_is_taken_over_with_its_crash_dumps(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as old:
        old.setattr(journal_schema, "MIGRATIONS", journal_schema.MIGRATIONS[:1])
        old.setattr(journal_schema, "SCHEMA_VERSION", 1)
        journal = open_journal(path)
        now = FakeClock().now()
        request = ActionRequest(
            id=make_id(),
            kind=ActionKind.TRIGGER_CRASH_DUMP,
            server=SERVER,
            server_generation=1,
            host=HOST,
            sent_at=now,
            deadline=now,
            journal_id=journal.journal_id,
        )
        with journal.transaction("test") as transaction:
            transaction.execute(
                "INSERT INTO actions (id, server, state, request, deadline, received_at, incarnation, monotonic_limit)"
                " VALUES (?, ?, 'started', ?, 0, 0, 1, 0)",
                *(request.id, request.server, json.dumps(request.to_wire())),
            )
        journal.close()
    journal = open_journal(path)
    with journal.transaction("test") as transaction:
        assert [action.request for action in transaction.list_awaiting_observation()] == [request]
    journal.close()


def set_schema_version(path: Path, version: int, *, oldest_reader: int) -> None:
    """As a newer release would leave the file."""
    with sqlite3.connect(path) as newer:
        newer.execute(f"PRAGMA user_version = {version}")
        newer.execute("UPDATE facts SET value = ? WHERE key = 'oldest_reader'", (str(oldest_reader),))


class TestFile:
    def test_a_journal_keeps_its_id_and_counts_its_openings(self, path: Path) -> None:
        first = open_journal(path)
        first.close()
        second = open_journal(path)
        assert second.journal_id == first.journal_id
        assert (first.incarnation, second.incarnation) == (1, 2)

    def test_only_its_owner_may_read_it(self, path: Path) -> None:
        open_journal(path)
        assert path.stat().st_mode & 0o077 == 0

    def test_a_second_agent_is_refused_while_the_first_holds_it(self, path: Path) -> None:
        first = open_journal(path)
        with pytest.raises(JournalInUse):
            open_journal(path)
        first.close()
        open_journal(path)

    def test_another_process_is_refused_too(self, path: Path) -> None:
        journal = open_journal(path)

        def open_it_too() -> None:
            with pytest.raises(JournalInUse):
                open_journal(path)

        assert run_in_fork(open_it_too) == 0
        journal.close()

    @pytest.mark.parametrize("content", [b"not a database at all, but long enough to be looked at " * 40, b"\x00" * 8192])
    def test_a_file_that_is_no_journal_is_refused_and_left_alone(self, path: Path, content: bytes) -> None:
        path.parent.mkdir()
        path.write_bytes(content)
        with pytest.raises(JournalUnusable):
            open_journal(path)
        assert path.read_bytes() == content

    def test_another_programs_database_is_refused(self, path: Path) -> None:
        path.parent.mkdir()
        with sqlite3.connect(path) as other:
            other.execute("CREATE TABLE theirs (x)")
        with pytest.raises(JournalUnusable, match="not a journal"):
            open_journal(path)

    def test_a_newer_releases_journal_that_this_one_would_misread_is_refused(self, path: Path) -> None:
        open_journal(path).close()
        set_schema_version(path, 99, oldest_reader=98)
        with pytest.raises(JournalUnusable, match="newer release"):
            open_journal(path)

    def test_a_host_that_was_taken_back_to_this_release_goes_on_with_its_journal_and_the_newer_one_with_it_again(self, path: Path) -> None:
        first = open_journal(path)
        journal_id, incarnation = first.journal_id, first.incarnation
        first.close()
        set_schema_version(path, 99, oldest_reader=journal_schema.SCHEMA_VERSION)
        back = open_journal(path)
        assert (back.journal_id, back.incarnation) == (journal_id, incarnation + 1)
        back.close()
        with sqlite3.connect(path) as file:
            assert file.execute("PRAGMA user_version").fetchone() == (99,)

    def test_another_hosts_journal_is_refused(self, path: Path) -> None:
        open_journal(path).close()
        with pytest.raises(JournalUnusable, match="belongs to host host-1"):
            open_journal(path, host="host-2")

    def test_a_copy_is_refused_because_it_may_have_forgotten_signals(self, path: Path) -> None:
        open_journal(path).close()
        shutil.copy(path, path.with_suffix(".copy"))
        with pytest.raises(JournalUnusable, match="copy"):
            open_journal(path.with_suffix(".copy"))

    def test_a_damaged_journal_is_refused(self, agent: Agent, path: Path) -> None:
        for number in range(40):
            add(agent, number)
        agent.journal.close()
        with path.open("r+b") as file:
            file.seek(4096 * 3)
            file.write(os.urandom(4096 * 6))
        with pytest.raises(JournalUnusable):
            open_journal(path)

    def test_a_refused_journal_is_not_held(self, path: Path) -> None:
        open_journal(path).close()
        with pytest.raises(JournalUnusable):
            open_journal(path, host="host-2")
        open_journal(path)

    def test_a_directory_that_cannot_be_made_is_said(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(JournalUnusable, match="file"):
            open_journal(tmp_path / "file" / "journal.sqlite")

    def test_deleted_under_a_running_agent_nothing_more_is_journalled(self, agent: Agent, path: Path) -> None:
        path.unlink()
        with pytest.raises(JournalUnusable, match="deleted or replaced"):
            add(agent)

    def test_replaced_under_a_running_agent_nothing_more_is_journalled(self, agent: Agent, path: Path) -> None:
        shutil.copy(path, path.with_suffix(".copy"))
        path.with_suffix(".copy").replace(path)
        with pytest.raises(JournalUnusable, match="deleted or replaced"):
            add(agent)

    def test_a_deleted_journal_begins_anew_and_forgets_the_old_ones_log(self, agent: Agent, path: Path) -> None:
        """SQLite would replay a write-ahead log that was left behind into the new file."""
        add(agent)
        wal = Path(f"{path}-wal").read_bytes()
        old_id = agent.journal.journal_id
        agent.journal.close()
        path.unlink()
        Path(f"{path}-wal").write_bytes(wal)
        agent.start()
        assert agent.journal.journal_id != old_id
        assert agent.journal.incarnation == 1
        assert agent.list_events() == []

    def test_what_was_committed_survives_a_process_that_just_dies(self, path: Path) -> None:
        def die_in_a_transaction() -> None:
            agent = Agent(path)
            add(agent, 1)
            with agent.change() as transaction:
                transaction.add_action(agent.make_request(SERVER, 2), agent.clock.now())
                os._exit(9)

        assert run_in_fork(die_in_a_transaction) == 9
        agent = Agent(path)
        with agent.change() as transaction:
            assert [action.request.id for action in transaction.list_actions()] == [make_id(1)]
        assert agent.list_event_types() == ["action.received"]


class TestTransaction:
    def test_a_block_that_raises_leaves_nothing_behind(self, agent: Agent) -> None:
        with contextlib.suppress(LookupError), agent.change() as transaction:
            append_lost(transaction, agent)
            raise LookupError
        assert agent.list_events() == []
        with agent.change() as transaction:
            assert append_lost(transaction, agent) == 1

    def test_transactions_do_not_nest(self, agent: Agent) -> None:
        with pytest.raises(RuntimeError, match="inside another"), agent.change(), agent.change():
            pass
        add(agent)

    def test_a_transaction_cannot_be_used_after_its_block(self, agent: Agent) -> None:
        with agent.change() as transaction:
            pass
        with pytest.raises(RuntimeError, match="over"):
            transaction.list_actions()

    def test_a_closed_journal_says_so(self, agent: Agent) -> None:
        agent.journal.close()
        with pytest.raises(JournalUnusable, match="closed"):
            add(agent)

    def test_new_events_are_announced_after_their_commit_and_only_then(self, agent: Agent) -> None:
        unsent: list[int] = []
        agent.journal.on_new_events(lambda patience: unsent.append(len(agent.list_unsent())))
        with agent.change() as transaction:
            append_lost(transaction, agent)
            assert unsent == []
        assert unsent == [1]
        with agent.change() as transaction:
            transaction.list_actions()
        assert unsent == [1]

    def test_a_failing_disk_is_said_and_nothing_is_kept(self, agent: Agent) -> None:
        with agent.change() as transaction:
            pages = transaction.execute("PRAGMA page_count").fetchone()[0]
            transaction.execute(f"PRAGMA max_page_count = {pages}")
        requests = [agent.make_request(SERVER, number) for number in range(200)]
        with pytest.raises(JournalUnusable, match="full"), agent.change() as transaction:
            list(map(transaction.add_action, requests, repeat(agent.clock.now())))
        with agent.change() as transaction:
            assert transaction.list_actions() == []
