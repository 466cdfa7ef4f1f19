"""Transactions: what is kept, what is undone, who waits for whom, and in which words it fails."""

import multiprocessing
import os
import sqlite3
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from sqlalchemy import text

from api_gateway.store import (
    SchemaOutdated,
    Store,
    StoreBusy,
    StoreError,
    StoreRejected,
    StoreUnavailable,
    UnsafeLocation,
    engine,
    location,
)
from api_gateway.store import actions as stored_actions
from api_gateway.store import counters as stored_counters
from tests.databases import PATIENT
from tests.fakes import FakeClock
from tests.unit.gateway.store_parts import build_action


def read_count(store: Store, name: str) -> int:
    with store.read() as c:
        return stored_counters.list_violations(c).get(name, 0)


def test_a_block_that_raises_leaves_nothing_behind(store: Store) -> None:
    def fail() -> None:
        with store.write() as c:
            stored_counters.count_violation(c, "x")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert read_count(store, "x") == 0


def test_what_a_block_wrote_is_there_for_everybody_after_it(store: Store, database: Path) -> None:
    with store.write() as c:
        stored_counters.count_violation(c, "x")
    other = Store(f"sqlite:///{database}")
    assert read_count(other, "x") == 1
    other.dispose()


def test_a_commit_is_on_the_disk_and_readers_do_not_wait(store: Store) -> None:
    with store.read() as c:
        assert c.execute(text("PRAGMA journal_mode")).scalar_one() == "wal"
        assert c.execute(text("PRAGMA synchronous")).scalar_one() == 2  # FULL
        assert c.execute(text("PRAGMA foreign_keys")).scalar_one() == 1


def test_a_reader_keeps_its_snapshot_while_another_process_writes(store: Store, database: Path) -> None:
    other = Store(f"sqlite:///{database}")
    with store.read() as c:
        before = stored_counters.list_violations(c)
        with other.write() as writer:
            stored_counters.count_violation(writer, "x")
        assert stored_counters.list_violations(c) == before
    assert read_count(store, "x") == 1
    other.dispose()


def test_a_writer_that_does_not_get_its_turn_says_busy(store: Store, database: Path) -> None:
    holder = sqlite3.connect(database, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreBusy), store.write():
        pytest.fail("two writers at once")
    holder.execute("ROLLBACK")
    with store.write() as c:
        stored_counters.count_violation(c, "x")
    holder.close()


def test_a_writer_that_waits_for_another_process_looks_again_soon(database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However long it has waited: else who comes later would get its turn before it."""
    store = Store(f"sqlite:///{database}", busy_timeout=30)
    holder = sqlite3.connect(database, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    waited: list[float] = []

    def wait(seconds: float) -> None:
        waited.append(seconds)
        if len(waited) == 20:
            holder.execute("ROLLBACK")

    monkeypatch.setattr(engine, "time", SimpleNamespace(monotonic=time.monotonic, sleep=wait))
    with store.write() as c:
        stored_counters.count_violation(c, "x")
    assert waited == [0.001] * 20
    holder.close()
    store.dispose()


def test_who_writes_next_is_not_held_up_by_what_went_wrong_before(store: Store, database: Path) -> None:
    """Neither in this process nor in another one: not by a commit that left its transaction open, nor by half an answer."""
    kept: list[object] = []

    def fail() -> None:
        with store.write() as c:
            c.exec_driver_sql("CREATE TABLE late (id INTEGER PRIMARY KEY, other INTEGER REFERENCES late DEFERRABLE INITIALLY DEFERRED)")
            c.exec_driver_sql("INSERT INTO late VALUES (1, 2)")
            kept.append(c.exec_driver_sql("SELECT name FROM sqlite_master"))

    with pytest.raises(StoreRejected):
        fail()
    other = Store(f"sqlite:///{database}", busy_timeout=30)
    for one in (other, store):
        with one.write() as c:
            stored_counters.count_violation(c, "x")
    assert read_count(store, "x") == 2
    other.dispose()


def test_a_store_is_closed_when_its_writer_is_done(store: Store) -> None:
    begun, disposed = threading.Event(), threading.Event()

    def close() -> None:
        begun.set()
        store.dispose()
        disposed.set()

    thread = threading.Thread(target=close)
    with store.write() as c:
        thread.start()
        begun.wait()
        assert not disposed.wait(0.05)
        stored_counters.count_violation(c, "x")
    thread.join()
    assert read_count(store, "x") == 1


def test_a_thread_that_does_not_get_its_turn_says_busy(store: Store) -> None:
    raised: list[Exception] = []

    def write() -> None:
        try:
            with store.write():
                pass
        except StoreError as error:
            raised.append(error)

    with store.write():
        thread = threading.Thread(target=write)
        thread.start()
        thread.join()
    assert [type(error) for error in raised] == [StoreBusy]


def test_a_write_inside_a_write_is_refused_at_once(store: Store) -> None:
    with pytest.raises(RuntimeError, match="inside a write"), store.write(), store.write():
        pass


def test_a_second_row_of_the_same_id_is_rejected(store: Store, clock: FakeClock) -> None:
    action = build_action(clock)
    with store.write() as c:
        stored_actions.insert_action(c, action)
    with pytest.raises(StoreRejected), store.write() as c:
        stored_actions.insert_action(c, action)


@pytest.mark.parametrize("changes", [{"reason": "\ud800"}, {"server_generation": 2**70}])
def test_a_value_that_no_column_can_hold_is_rejected(store: Store, clock: FakeClock, changes: dict[str, object]) -> None:
    with pytest.raises(StoreRejected), store.write() as c:
        stored_actions.insert_action(c, build_action(clock, **changes))


def test_a_database_that_cannot_be_opened_is_unavailable_and_named(tmp_path: Path) -> None:
    (tmp_path / "gateway.sqlite").mkdir()
    store = Store(f"sqlite:///{tmp_path}/gateway.sqlite")
    with pytest.raises(StoreUnavailable, match=r"gateway\.sqlite"), store.read() as c:
        c.execute(text("SELECT 1"))


def test_a_database_file_that_is_not_there_is_made_by_an_upgrade_alone(tmp_path: Path) -> None:
    path = tmp_path / "mistyped.sqlite"
    store = Store(f"sqlite:///{path}")
    with pytest.raises(SchemaOutdated, match=r"no database .*mistyped\.sqlite: run crashcart-manage db upgrade, or mend"):
        store.check_schema()
    assert not path.exists()
    with pytest.raises(StoreUnavailable, match="cannot be written"):
        Store(f"sqlite:///{tmp_path}/nowhere/gateway.sqlite").upgrade_schema()


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:", "no url at all"])
def test_a_url_that_cannot_be_shared_is_refused(url: str) -> None:
    with pytest.raises(StoreError, match="connection"):
        Store(url)


@pytest.mark.parametrize("kind", [0x6969, 0x517B, 0xFF534D42, 0xFE534D42, 0x65735546])
def test_a_file_on_a_network_or_fuse_file_system_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: int) -> None:
    monkeypatch.setattr(location, "find_file_system_type", lambda path: kind)
    with pytest.raises(UnsafeLocation, match="local disk"):
        Store(f"sqlite:///{tmp_path}/gateway.sqlite")


def test_the_file_system_of_a_file_that_is_still_to_be_made_is_its_directorys(tmp_path: Path) -> None:
    assert location.find_file_system_type(tmp_path / "not" / "there") == location.find_file_system_type(tmp_path)
    assert location.find_file_system_type(Path("/proc/self")) == 0x9FA0


def test_a_database_without_tables_is_outdated(tmp_path: Path) -> None:
    store = Store(f"sqlite:///{tmp_path}/gateway.sqlite")
    with pytest.raises(SchemaOutdated, match="crashcart-manage db upgrade"):
        store.check_schema()


def test_a_newer_schema_serves_this_release_too(store: Store) -> None:
    with store.write() as c:
        c.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    store.check_schema()


def test_upgrading_twice_changes_nothing(store: Store) -> None:
    store_id = store.store_id
    store.upgrade_schema()
    store.check_schema()
    assert store.store_id == store_id


def test_the_data_version_moves_with_commits_of_this_and_of_other_processes(store: Store, database: Path) -> None:
    versions = [store.data_version()]
    assert store.data_version() == versions[0]
    other = Store(f"sqlite:///{database}")
    for writer in (store, other):
        with writer.write() as c:
            stored_counters.count_violation(c, "x")
        versions.append(store.data_version())
    assert len(set(versions)) == 3
    other.dispose()


def test_a_forked_process_opens_connections_of_its_own(store: Store) -> None:
    """Also when the parent was writing at that moment: its locks are not the child's."""
    with store.write():
        child = os.fork()
        if child == 0:
            status = 1
            try:
                with store.read() as c:
                    status = 0 if stored_counters.list_violations(c) == {} else 2
            finally:
                os._exit(status)
        _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0


def _write_for_a_while(database: Path, name: str, seconds: float) -> int:
    """Runs in a process of its own: two threads that write as fast as they can, each once at least, however late the process begins. How
    many commits there were; 0 if one of them waited in vain."""
    store = Store(f"sqlite:///{database}", busy_timeout=PATIENT)
    until = time.monotonic() + seconds
    commits = [0, 0]

    def write(thread: int) -> None:
        while time.monotonic() < until or not commits[thread]:
            with store.write() as c:
                stored_counters.count_violation(c, name)
            commits[thread] += 1

    threads = [threading.Thread(target=write, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    store.dispose()
    return sum(commits) if all(commits) else 0


def test_processes_and_threads_that_write_at_the_same_time_all_get_their_turn(database: Path) -> None:
    """No "database is locked", and every commit is there afterwards."""
    with multiprocessing.get_context("fork").Pool(4) as pool:
        results = pool.starmap(_write_for_a_while, [(database, f"writer{number}", 0.4) for number in range(4)])
    store = Store(f"sqlite:///{database}")
    assert [read_count(store, f"writer{number}") for number in range(4)] == results
    assert all(results)
    store.dispose()
