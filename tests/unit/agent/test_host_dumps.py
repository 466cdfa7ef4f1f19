"""A server's memory in a file: asked for or after a panic, within bounds, and never half of it under a whole one's name."""

import logging
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from compute_agent.contract.errors import Code, Ending
from compute_agent.contract.models import ActionKind, PowerState
from compute_agent.drivers.base import HostDump
from compute_agent.drivers.errors import BackendUnavailable, DriverError, OutcomeUnknown, ServerUnsupported
from compute_agent.drivers.fake import NmiEffect
from compute_agent.drivers.fake_behaviours import Hang, break_down, refuse
from compute_agent.drivers.fake_server import Call
from compute_agent.dumps_after_panic import DumpsAfterPanic
from compute_agent.host_dumps import DumpPlace
from compute_agent.journal import JournalledAction
from compute_agent.observations import Crash
from tests.unit.agent.action_parts import Agent, make_id

MIB = 1 << 20
PATIENCE = 10.0


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Agent]:
    agent = Agent(tmp_path / "journal.sqlite")
    agent.use_place(DumpPlace(tmp_path / "dumps"))
    yield agent
    agent.journal.close()


@pytest.fixture
def directory(agent: Agent, tmp_path: Path) -> Path:
    return tmp_path / "dumps"


def dump(agent: Agent, server: str, number: int = 1, **fields: object) -> JournalledAction:
    return agent.do(agent.make_request(server, number, kind=ActionKind.TAKE_HOST_DUMP, **fields))


def list_files(directory: Path) -> list[str]:
    return sorted(file.name for file in directory.glob("*"))


class WritingHostDump(HostDump):
    """Writes ``content`` with a mode of its own, and fails with ``error`` when that is done."""

    def __init__(self, content: bytes = b"KDUMP   ", error: Exception | None = None, mode: int = 0o644) -> None:
        self.content, self.error, self.mode = content, error, mode
        self.at_once = self.most_at_once = 0

    def take_host_dump(self, server: str, path: str, on_progress: Callable[[int, int], None]) -> None:
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, self.mode), "wb") as file:
            file.write(self.content)
        for percent in range(0, 101, 2):
            on_progress(percent, 100)
        self.at_once -= 1
        if self.error is not None:
            raise self.error


class TestAsked:
    def test_its_file_is_whole_named_and_for_nobody_else_and_its_event_comes_with_the_ending(self, agent: Agent, directory: Path) -> None:
        server = agent.make_server()
        action = dump(agent, server)
        assert action.result is not None
        assert (action.result.ending, action.result.code) == (Ending.SUCCEEDED, Code.HOST_DUMP_TAKEN)
        path = directory / f"{server}-{make_id()}.kdump"
        assert list_files(directory) == [path.name]
        assert (path.stat().st_mode & 0o777, directory.stat().st_mode & 0o777) == (0o600, 0o700)
        assert agent.list_event_types() == ["action.received", "action.started", "server.host_dump", "action.ended"]
        payload = agent.list_events("server.host_dump")[0].payload
        assert (payload["action_id"], payload["path"], payload["bytes"]) == (make_id(), str(path), path.stat().st_size)

    def test_a_file_that_the_hypervisor_made_readable_for_others_is_not(self, agent: Agent, directory: Path) -> None:
        agent.use_driver(replace(agent.driver, host_dump=WritingHostDump(mode=0o644)))
        dump(agent, agent.make_server())
        [path] = directory.glob("*.kdump")
        assert path.stat().st_mode & 0o777 == 0o600

    @pytest.mark.parametrize("power_state", [PowerState.PAUSED, PowerState.CRASHED])
    def test_a_server_that_stands_still_has_a_memory_too(self, agent: Agent, directory: Path, power_state: PowerState) -> None:
        dump(agent, agent.make_server(power_state=power_state))
        assert agent.code(make_id()) == Code.HOST_DUMP_TAKEN

    def test_a_server_that_is_off_has_none(self, agent: Agent, directory: Path) -> None:
        dump(agent, agent.make_server(power_state=PowerState.SHUTDOWN))
        assert agent.code(make_id()) == Code.SERVER_NOT_RUNNING

    def test_it_is_off_unless_an_operator_says_where_to(self, agent: Agent) -> None:
        agent.use_place(DumpPlace())
        action = dump(agent, agent.make_server())
        assert action.result is not None
        assert action.result.code is Code.NOT_SUPPORTED
        assert "[host_dump] directory" in action.result.reason
        assert "action.started" not in agent.list_event_types()

    def test_a_driver_that_cannot_says_so(self, agent: Agent) -> None:
        agent.use_driver(replace(agent.driver, host_dump=None))
        dump(agent, agent.make_server())
        assert agent.code(make_id()) == Code.NOT_SUPPORTED

    def test_its_progress_is_in_the_log(self, agent: Agent, caplog: pytest.LogCaptureFixture) -> None:
        agent.use_driver(replace(agent.driver, host_dump=WritingHostDump()))
        with caplog.at_level(logging.INFO):
            dump(agent, agent.make_server())
        assert sum("of its memory are written" in line for line in caplog.messages) == 11

    def test_after_its_deadline_it_is_not_begun(self, agent: Agent, directory: Path) -> None:
        server = agent.make_server()
        request = agent.make_request(server, kind=ActionKind.TAKE_HOST_DUMP, seconds=30)
        agent.cast(request)
        agent.journal.on_new_events(lambda patience: agent.clock.advance(30))  # runs right after a commit with events
        agent.work()
        assert agent.code(make_id()) == Code.DEADLINE_PASSED
        assert list_files(directory) == []


class TestGuestsOwnDump:
    def test_a_server_that_may_be_writing_its_own_dump_is_left_alone_unless_forced(self, agent: Agent) -> None:
        server = agent.make_server(NmiEffect.SURVIVE)
        agent.do(agent.make_request(server, 1))
        action = dump(agent, server, 2)
        assert action.result is not None
        assert action.result.code is Code.CRASH_DUMP_IN_PROGRESS
        assert make_id(1) in action.result.reason
        dump(agent, server, 3, force=True)
        assert agent.code(make_id(3)) == Code.HOST_DUMP_TAKEN

    def test_one_that_has_crashed_after_the_signal_writes_nothing_any_more(self, agent: Agent) -> None:
        server = agent.make_server(NmiEffect.PANIC)
        agent.do(agent.make_request(server, 1))
        dump(agent, server, 2)
        assert agent.code(make_id(2)) == Code.HOST_DUMP_TAKEN

    def test_a_host_dump_holds_no_crash_dump_off_and_is_not_observed(self, agent: Agent) -> None:
        server = agent.make_server()
        dump(agent, server, 1)
        agent.do(agent.make_request(server, 2))
        assert agent.code(make_id(2)) == Code.SIGNAL_DELIVERED
        with agent.change() as transaction:
            assert [action.request.id for action in transaction.list_awaiting_observation()] == [make_id(2)]


class TestRoom:
    def test_a_disk_without_room_is_not_filled(self, agent: Agent, directory: Path) -> None:
        agent.use_place(DumpPlace(directory, min_free=1 << 60))
        action = dump(agent, agent.make_server())
        assert action.result is not None
        assert (action.result.ending, action.result.code) == (Ending.FAILED, Code.NO_SPACE)
        assert "min_free_mib" in action.result.reason
        assert list_files(directory) == []

    def test_the_quota_counts_what_is_there_and_the_whole_memory(self, agent: Agent, directory: Path) -> None:
        agent.use_place(DumpPlace(directory, quota=256 * MIB))
        first = agent.make_server()
        dump(agent, first, 1)
        assert agent.code(make_id(1)) == Code.HOST_DUMP_TAKEN
        with (directory / "older.kdump").open("wb") as older:
            older.truncate(200 * MIB)
        action = dump(agent, first, 2)
        assert action.result is not None
        assert action.result.code is Code.NO_SPACE
        assert "quota_mib is 256" in action.result.reason
        assert len(list_files(directory)) == 2, "dumps are never removed to make room"

    def test_a_directory_that_cannot_be_made_fails_the_action_and_not_the_agent(self, agent: Agent, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        agent.use_place(DumpPlace(tmp_path / "file" / "dumps"))
        dump(agent, agent.make_server())
        assert agent.code(make_id()) == Code.HOST_DUMP_FAILED


class TestFailures:
    @pytest.mark.parametrize(
        ("error", "ending", "code"),
        [
            (BackendUnavailable(None, "no space left on device", Code.HOST_DUMP_FAILED), Ending.FAILED, Code.HOST_DUMP_FAILED),
            (BackendUnavailable(None, "away"), Ending.FAILED, Code.BACKEND_UNAVAILABLE),
            (ServerUnsupported(None, "an old machine type"), Ending.FAILED, Code.NOT_SUPPORTED),
            (OutcomeUnknown(None, "connection lost"), Ending.UNKNOWN, Code.ANSWER_LOST),
            (ZeroDivisionError(), Ending.UNKNOWN, Code.DRIVER_FAULT),
        ],
    )
    def test_no_file_is_left_of_one_that_failed(self, agent: Agent, directory: Path, error: Exception, ending: Ending, code: Code) -> None:
        agent.use_driver(replace(agent.driver, host_dump=WritingHostDump(error=error)))
        action = dump(agent, agent.make_server())
        assert action.result is not None
        assert (action.result.ending, action.result.code) == (ending, code)
        assert "NMI" not in action.result.reason
        assert list_files(directory) == []
        assert agent.list_events("server.host_dump") == []

    def test_an_empty_file_is_no_dump(self, agent: Agent, directory: Path) -> None:
        agent.use_driver(replace(agent.driver, host_dump=WritingHostDump(content=b"")))
        dump(agent, agent.make_server())
        assert agent.code(make_id()) == Code.HOST_DUMP_FAILED
        assert list_files(directory) == []

    def test_one_whose_agent_was_killed_is_unknown_and_its_unfinished_file_removed(self, agent: Agent, directory: Path) -> None:
        server = agent.make_server()
        agent.cast(agent.make_request(server, kind=ActionKind.TAKE_HOST_DUMP))
        with agent.change() as transaction:
            transaction.start_action(make_id(), agent.clock.now())
        directory.mkdir()
        (directory / f"{server}-{make_id()}.kdump.part").write_bytes(b"half")
        (directory / "somebody-elses.kdump.part").write_bytes(b"half")
        agent.restart()
        agent.dumps.remove_unfinished()
        action = agent.get(make_id())
        assert action.result is not None
        assert (action.result.code, "NMI" in action.result.reason) == (Code.AGENT_RESTARTED, False)
        assert list_files(directory) == ["somebody-elses.kdump.part"]
        with agent.change() as transaction:
            assert transaction.find_signal(server) is None

    def test_one_that_takes_long_is_not_given_up_with_the_drivers_bound_and_is_told_when_it_comes_late(
        self, agent: Agent, directory: Path
    ) -> None:
        server, hang = agent.make_server(), Hang()
        agent.hypervisor.behave(server, hang, call=Call.TAKE_HOST_DUMP)
        agent.cast(agent.make_request(server, kind=ActionKind.TAKE_HOST_DUMP, seconds=30))
        worker = threading.Thread(target=agent.work)
        worker.start()
        try:
            assert hang.entered.wait(PATIENCE)
            agent.clock.advance(30 + agent.driver.call_bound + 1)
            agent.actions.end_overdue()
            assert agent.get(make_id()).result is None
            agent.clock.advance(agent.dump_limit)
            agent.actions.end_overdue()
            assert agent.code(make_id()) == Code.CALL_OVERDUE
        finally:
            hang.release()
            worker.join(PATIENCE)
        assert len(agent.list_events("server.host_dump")) == 1
        assert len(agent.list_events("action.ended")) == 1

    def test_two_servers_memories_are_written_one_after_the_other(self, agent: Agent, directory: Path) -> None:
        writing = WritingHostDump()
        agent.use_driver(replace(agent.driver, host_dump=writing))
        for number in (1, 2, 3):
            agent.cast(agent.make_request(agent.make_server(), number, kind=ActionKind.TAKE_HOST_DUMP))
        workers = [threading.Thread(target=agent.work) for _ in range(3)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(PATIENCE)
        agent.work()
        assert len(list(directory.glob("*.kdump"))) == 3
        assert writing.most_at_once == 1


class TestAfterPanic:
    def take(self, agent: Agent, server: str, event_type: str = "server.panicked", *, by_default: bool = True) -> None:
        dumps = DumpsAfterPanic(agent.journal, agent.driver, agent.clock, agent.dumps, by_default=by_default)
        dumps.crashed(Crash(server, event_type, agent.clock.now()))
        while dumps.step(0):
            pass

    def test_a_guest_that_panicked_and_is_preserved_is_dumped(self, agent: Agent, directory: Path) -> None:
        server = agent.make_server()
        agent.hypervisor.panic(server)
        self.take(agent, server)
        [path] = directory.glob("*.kdump")
        payload = agent.list_events("server.host_dump")[0].payload
        assert (payload["path"], payload["action_id"], payload["server"]) == (str(path), None, server)

    @pytest.mark.parametrize(("by_default", "own", "dumps"), [(False, None, 0), (False, True, 1), (True, False, 0), (True, None, 1)])
    def test_a_servers_own_word_goes_before_the_hosts(
        self, agent: Agent, directory: Path, by_default: bool, own: bool | None, dumps: int
    ) -> None:
        server = agent.make_server()
        agent.hypervisor.panic(server)
        agent.hypervisor.change(server, host_dump_after_panic=own)
        self.take(agent, server, by_default=by_default)
        assert len(list(directory.glob("*.kdump"))) == dumps

    def test_one_whose_crash_kernel_started_is_left_alone(self, agent: Agent, directory: Path) -> None:
        server = agent.make_server()
        self.take(agent, server, "server.crash_kernel_started")
        assert list_files(directory) == []

    def test_one_whose_crash_kernel_started_before_it_panicked_is_left_alone(self, agent: Agent, directory: Path) -> None:
        server = agent.make_server()
        agent.hypervisor.panic(server)
        self._append(agent, server, "server.crash_kernel_started")
        self.take(agent, server)
        assert list_files(directory) == []
        self._append(agent, server, "server.rebooted")
        self.take(agent, server)
        assert len(list_files(directory)) == 1

    def test_one_that_was_not_preserved_has_nothing_to_be_dumped(self, agent: Agent, directory: Path) -> None:
        gone, back = agent.make_server(), agent.make_server()
        agent.hypervisor.remove(gone)
        for server in (gone, back):
            self.take(agent, server)
        assert list_files(directory) == []
        assert agent.list_events("server.host_dump_failed") == []

    @pytest.mark.parametrize(
        ("error", "code"),
        [
            (BackendUnavailable(None, "no space", Code.HOST_DUMP_FAILED), Code.HOST_DUMP_FAILED),
            (OutcomeUnknown(None, "connection lost"), Code.ANSWER_LOST),
        ],
    )
    def test_a_failure_is_told(self, agent: Agent, directory: Path, error: DriverError, code: Code) -> None:
        server = agent.make_server()
        agent.hypervisor.panic(server)
        agent.use_driver(replace(agent.driver, host_dump=WritingHostDump(error=error)))
        self.take(agent, server)
        [row] = agent.list_events("server.host_dump_failed")
        assert (row.payload["code"], row.payload["reason"]) == (code, error.reason)
        assert list_files(directory) == []

    def test_a_fault_of_the_driver_and_a_full_disk_are_told_too(self, agent: Agent, directory: Path) -> None:
        server = agent.make_server()
        agent.hypervisor.panic(server)
        agent.hypervisor.behave(server, break_down(ZeroDivisionError()), refuse(BackendUnavailable(None, "away")), call=Call.TAKE_HOST_DUMP)
        self.take(agent, server)
        self.take(agent, server)
        agent.use_place(DumpPlace(directory, min_free=1 << 60))
        self.take(agent, server)
        codes = [row.payload["code"] for row in agent.list_events("server.host_dump_failed")]
        assert codes == [Code.DRIVER_FAULT, Code.BACKEND_UNAVAILABLE, Code.NO_SPACE]

    def _append(self, agent: Agent, server: str, event_type: str) -> None:
        body = {"power_state": PowerState.RUNNING, "reason": "test"}
        with agent.change() as transaction:
            transaction.append_event(event_type, server=server, occurred_at=agent.clock.now(), body=body)
