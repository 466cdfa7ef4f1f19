"""The journal as a file, and what one transaction may and may not do."""

import contextlib
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
from datetime import timedelta
from itertools import repeat
from pathlib import Path

import pydantic
import pytest

from compute_agent.actions import make_result
from compute_agent.contract.errors import Code
from compute_agent.contract.models import Departure, Observation
from compute_agent.journal import ActionState, Journal, JournalInUse, JournalTransaction, JournalUnusable
from tests.fakes import FakeClock
from tests.unit.agent.action_parts import HOST, Agent, Crash, make_id

SERVER = "11111111-1111-4111-8111-111111111111"
LOST = {"lost_epoch": "e", "first": 1, "last": 2, "reason": "r"}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "journal.sqlite"


@pytest.fixture
def agent(path: Path) -> Agent:
    return Agent(path)


def open_journal(path: Path, host: str = HOST) -> Journal:
    return Journal.open(path, host=host, clock=FakeClock())


def run_python(code: str, path: Path) -> int:
    """The exit code of another process that runs ``code`` with the journal's path as its argument."""
    return subprocess.run([sys.executable, "-c", code, str(path)], check=False, cwd=Path(__file__).parents[3]).returncode


def append_lost(transaction: JournalTransaction, agent: Agent) -> int:
    return transaction.append_event("events.lost", server=None, occurred_at=agent.clock.now(), body=LOST)


def add(agent: Agent, number: int = 1) -> str:
    with agent.change() as transaction:
        return transaction.add_action(agent.make_request(SERVER, number), agent.clock.now()).request.id


def start(agent: Agent, action_id: str) -> bool:
    with agent.change() as transaction:
        return transaction.start_action(action_id, agent.clock.now())


def end(agent: Agent, action_id: str, code: Code = Code.SIGNAL_DELIVERED) -> bool:
    now = agent.clock.now()
    with agent.change() as transaction:
        return transaction.end_action(action_id, make_result(code), now, now if code is Code.SIGNAL_DELIVERED else None)


def observe(agent: Agent, action_id: str, observation: Observation, final: bool = True) -> bool:
    with agent.change() as transaction:
        return transaction.observe(action_id, observation, agent.clock.now(), final, "text")


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
        code = (
            "import sys\nfrom pathlib import Path\nfrom compute_agent.contract.clock import SystemClock\n"
            "from compute_agent.journal import Journal, JournalInUse\n"
            "try: Journal.open(Path(sys.argv[1]), host='host-1', clock=SystemClock())\n"
            "except JournalInUse: sys.exit(7)"
        )
        assert run_python(code, path) == 7
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

    def test_a_newer_releases_journal_is_refused(self, path: Path) -> None:
        open_journal(path).close()
        with sqlite3.connect(path) as newer:
            newer.execute("PRAGMA user_version = 99")
        with pytest.raises(JournalUnusable, match="newer release"):
            open_journal(path)

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
        code = (
            "import os, sys\nfrom pathlib import Path\nfrom tests.unit.agent.action_parts import Agent\n"
            "from tests.unit.agent.test_journal import add\nagent = Agent(Path(sys.argv[1]))\nadd(agent, 1)\n"
            "with agent.change() as transaction:\n"
            "    transaction.add_action(agent.make_request('11111111-1111-4111-8111-111111111111', 2), agent.clock.now())\n"
            "    os._exit(9)"
        )
        assert run_python(code, path) == 9
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
        agent.journal.on_new_events(lambda: unsent.append(len(agent.list_unsent())))
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


class TestActions:
    def test_an_action_moves_forward_once_and_each_step_has_its_event(self, agent: Agent) -> None:
        action_id = add(agent)
        assert start(agent, action_id)
        assert not start(agent, action_id)
        assert end(agent, action_id)
        assert not end(agent, action_id, Code.ANSWER_LOST)
        assert not start(agent, action_id)
        assert agent.get(action_id).state is ActionState.ENDED
        assert agent.list_event_types() == ["action.received", "action.started", "action.ended"]

    def test_ending_and_event_are_there_together_or_not_at_all(self, agent: Agent) -> None:
        action_id = add(agent)
        agent.journal.crash_at = agent.journal.commits
        with pytest.raises(Crash):
            end(agent, action_id)
        agent.restart()
        assert agent.get(action_id).state is ActionState.RECEIVED
        assert agent.list_event_types() == ["action.received"]

    def test_of_many_that_end_an_action_at_once_exactly_one_does(self, agent: Agent) -> None:
        action_id = add(agent)
        start(agent, action_id)
        barrier, won = threading.Barrier(8), []

        def race() -> None:
            barrier.wait()
            if end(agent, action_id, Code.CALL_OVERDUE):
                won.append(True)

        threads = [threading.Thread(target=race) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert won == [True]
        assert len(agent.list_events("action.ended")) == 1

    def test_the_same_id_is_not_added_twice(self, agent: Agent) -> None:
        add(agent)
        with pytest.raises(sqlite3.IntegrityError):
            add(agent)

    def test_the_ending_event_says_everything_about_the_ending(self, agent: Agent) -> None:
        action_id = add(agent)
        agent.clock.advance(1)
        start(agent, action_id)
        agent.clock.advance(1)
        end(agent, action_id)
        payload = agent.list_events("action.ended")[0].payload
        assert payload["epoch"] == agent.journal.journal_id
        assert payload["sequence"] == 3
        assert (payload["host"], payload["server"], payload["action_id"]) == (HOST, SERVER, action_id)
        assert (payload["ending"], payload["code"], payload["decided_by"]) == ("succeeded", "signal_delivered", "agent")
        assert (payload["started_at"], payload["signalled_at"]) == ("2026-01-01T00:00:01Z", "2026-01-01T00:00:02Z")

    def test_times_are_kept_to_the_microsecond(self, agent: Agent) -> None:
        agent.clock.advance(0.123457)
        assert agent.get(add(agent)).received_at == agent.clock.now()


class TestObservations:
    def test_one_seen_before_the_ending_follows_it(self, agent: Agent) -> None:
        action_id = add(agent)
        start(agent, action_id)
        assert observe(agent, action_id, Observation.GUEST_PANICKED)
        assert "action.observed" not in agent.list_event_types()
        end(agent, action_id)
        assert agent.list_event_types()[-2:] == ["action.ended", "action.observed"]

    def test_one_seen_before_an_ending_with_nothing_sent_is_dropped(self, agent: Agent) -> None:
        action_id = add(agent)
        start(agent, action_id)
        observe(agent, action_id, Observation.GUEST_REBOOTED)
        end(agent, action_id, Code.BACKEND_UNAVAILABLE)
        assert agent.observation(action_id) is None
        assert "action.observed" not in agent.list_event_types()
        assert not observe(agent, action_id, Observation.GUEST_REBOOTED)

    def test_none_follows_a_final_one(self, agent: Agent) -> None:
        action_id = add(agent)
        start(agent, action_id)
        end(agent, action_id)
        assert observe(agent, action_id, Observation.NOTHING_SEEN_YET, final=False)
        assert not observe(agent, action_id, Observation.NOTHING_SEEN_YET, final=False)
        assert observe(agent, action_id, Observation.GUEST_REBOOTED)
        assert not observe(agent, action_id, Observation.NOTHING_SEEN)
        assert agent.observation(action_id) is Observation.GUEST_REBOOTED
        assert len(agent.list_events("action.observed")) == 2

    def test_none_is_kept_of_an_action_that_has_not_started(self, agent: Agent) -> None:
        assert not observe(agent, add(agent), Observation.GUEST_REBOOTED)

    @pytest.mark.parametrize(
        ("code", "awaited"), [(Code.SIGNAL_DELIVERED, True), (Code.ANSWER_LOST, True), (Code.SERVER_NOT_RUNNING, False)]
    )
    def test_one_is_awaited_after_every_signal_that_was_perhaps_sent(self, agent: Agent, code: Code, awaited: bool) -> None:
        action_id = add(agent)

        def list_awaiting() -> list[str]:
            with agent.change() as transaction:
                return [action.request.id for action in transaction.list_awaiting_observation(SERVER)]

        assert list_awaiting() == []
        start(agent, action_id)
        assert list_awaiting() == [action_id]
        end(agent, action_id, code)
        assert list_awaiting() == ([action_id] if awaited else [])
        observe(agent, action_id, Observation.NOTHING_SEEN)
        assert list_awaiting() == []


class TestSignals:
    def test_the_latest_signal_counts_and_survives_a_restart(self, agent: Agent) -> None:
        for number in (1, 2):
            start(agent, add(agent, number))
            agent.clock.advance(5)
            end(agent, make_id(number))
        agent.restart()
        with agent.change() as transaction:
            signal = transaction.find_signal(SERVER)
        assert signal is not None
        assert (signal.action_id, signal.at, signal.cleared) == (make_id(2), agent.clock.now(), False)

    def test_an_action_that_sent_nothing_gives_back_the_signal_before_it(self, agent: Agent) -> None:
        start(agent, add(agent, 1))
        end(agent, make_id(1))
        start(agent, add(agent, 2))
        end(agent, make_id(2), Code.BACKEND_UNAVAILABLE)
        with agent.change() as transaction:
            signal = transaction.find_signal(SERVER)
        assert signal is not None
        assert signal.action_id == make_id(1)

    @pytest.mark.parametrize(("seconds", "cleared"), [(-1, False), (0, True), (1, True)])
    def test_only_a_reboot_after_the_signal_clears_it(self, agent: Agent, seconds: float, cleared: bool) -> None:
        start(agent, add(agent))
        agent.clock.advance(10)
        end(agent, make_id())
        with agent.change() as transaction:
            transaction.clear_signal(SERVER, agent.clock.now() + timedelta(seconds=seconds))
            signal = transaction.find_signal(SERVER)
        assert signal is not None
        assert signal.cleared is cleared

    def test_a_reboot_during_the_call_clears_nothing_once_the_call_came_back(self, agent: Agent) -> None:
        start(agent, add(agent))
        with agent.change() as transaction:
            transaction.clear_signal(SERVER, agent.clock.now())
        agent.clock.advance(3)
        end(agent, make_id())
        with agent.change() as transaction:
            signal = transaction.find_signal(SERVER)
        assert signal is not None
        assert not signal.cleared


class TestOutbox:
    def test_events_are_numbered_without_gaps_and_sent_in_order(self, agent: Agent) -> None:
        for _ in range(3):
            with agent.change() as transaction:
                append_lost(transaction, agent)
        with agent.change() as transaction:
            assert [row.sequence for row in transaction.list_unsent(2)] == [1, 2]
            transaction.mark_sent([1], agent.clock.now())
            assert [row.sequence for row in transaction.list_unsent(9)] == [2, 3]
            assert transaction.get_last_sequence() == 3

    def test_an_unknown_type_or_a_body_that_does_not_fit_is_refused(self, agent: Agent) -> None:
        with pytest.raises(KeyError), agent.change() as transaction:
            transaction.append_event("action.invented", server=None, occurred_at=agent.clock.now(), body={})
        with pytest.raises(pydantic.ValidationError), agent.change() as transaction:
            transaction.append_event("events.lost", server=None, occurred_at=agent.clock.now(), body={**LOST, "more": 1})

    def test_an_ending_is_sent_again_as_the_same_message(self, agent: Agent) -> None:
        action_id = add(agent)
        start(agent, action_id)
        end(agent, action_id)
        observe(agent, action_id, Observation.GUEST_REBOOTED)
        before = agent.list_events()
        agent.mark_all_sent()
        with agent.change() as transaction:
            assert transaction.resend_ending(action_id)
        assert agent.list_unsent() == before[2:]

    def test_what_has_not_ended_has_no_ending_to_send_again(self, agent: Agent) -> None:
        action_id = add(agent)
        with agent.change() as transaction:
            assert not transaction.resend_ending(action_id)

    def test_a_range_is_sent_again_as_far_as_it_is_here(self, agent: Agent) -> None:
        add(agent, 1)
        add(agent, 2)
        agent.mark_all_sent()
        with agent.change() as transaction:
            assert transaction.mark_range_unsent(2, 9) == 1
        assert [row.sequence for row in agent.list_unsent()] == [2]

    def test_pruning_takes_old_sent_events_only_and_never_lowers_the_sequence(self, agent: Agent) -> None:
        for _ in range(3):
            with agent.change() as transaction:
                append_lost(transaction, agent)
        with agent.change() as transaction:
            transaction.mark_sent([1, 2], agent.clock.now())
        agent.clock.advance(100)
        with agent.change() as transaction:
            transaction.mark_sent([2], agent.clock.now())
        prune(agent, outbox_keep=50)
        assert [row.sequence for row in agent.list_events()] == [2, 3]
        agent.mark_all_sent()
        prune(agent, outbox_max_rows=1)
        assert [row.sequence for row in agent.list_events()] == [3]
        agent.clock.advance(100)
        prune(agent, outbox_keep=50)
        with agent.change() as transaction:
            assert append_lost(transaction, agent) == 4

    def test_an_ending_stays_as_long_as_its_action_may_be_asked_for(self, agent: Agent) -> None:
        action_id = add(agent)
        start(agent, action_id)
        end(agent, action_id)
        agent.mark_all_sent()
        agent.clock.advance(3600)
        prune(agent, outbox_keep=50, outbox_max_rows=0)
        assert agent.list_event_types() == ["action.ended"]
        prune(agent, outbox_keep=50, action_keep=60)
        assert agent.list_events() == []
        with agent.change() as transaction:
            assert transaction.find_action(action_id) is None

    def test_pruning_never_takes_an_open_action(self, agent: Agent) -> None:
        action_id = add(agent)
        agent.clock.advance(3600)
        prune(agent, action_keep=60)
        assert agent.get(action_id).state is ActionState.RECEIVED


class TestKnownServers:
    def test_a_uuid_that_comes_back_is_another_generation(self, agent: Agent) -> None:
        with agent.change() as transaction:
            assert transaction.next_generation(SERVER) == 1
        agent.know(SERVER, 1)
        with agent.change() as transaction:
            transaction.remove_known_server(SERVER, Departure.UNDEFINED, agent.clock.now())
            assert transaction.list_known_servers() == {}
            known = transaction.find_known_server(SERVER)
            assert known is not None
            assert (known.departure, known.removed_at) == (Departure.UNDEFINED, agent.clock.now())
            assert transaction.next_generation(SERVER) == 2
        agent.know(SERVER, 2)
        agent.restart()
        with agent.change() as transaction:
            known = transaction.list_known_servers()[SERVER]
        assert (known.server.generation, known.removed_at) == (2, None)


def prune(agent: Agent, *, outbox_keep: float = 10**6, outbox_max_rows: int = 10**6, action_keep: float = 10**6) -> None:
    with agent.change() as transaction:
        transaction.prune(
            agent.clock.now(),
            outbox_keep=timedelta(seconds=outbox_keep),
            outbox_max_rows=outbox_max_rows,
            action_keep=timedelta(seconds=action_keep),
        )
