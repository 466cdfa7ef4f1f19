"""What is kept of a server that crashed: whole boxes, under a quota, and nothing of anything else when somebody asks for a path."""

import base64
import hashlib
import json
import logging
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compute_agent.black_box import SETTLING, BlackBoxes
from compute_agent.black_box_files import LONGEST_CHUNK, PARTS, BlackBoxFiles, NoRoom
from compute_agent.contract.models import BlackBoxChunk, PowerState
from compute_agent.drivers.base import Inspection
from compute_agent.drivers.errors import BackendUnavailable
from compute_agent.drivers.fake import NmiEffect
from compute_agent.drivers.fake_behaviours import lose_answer, refuse
from compute_agent.drivers.fake_server import Call
from compute_agent.drivers.models import InspectedServer, VcpuState
from compute_agent.observations import Crash
from tests.fakes import Counter
from tests.unit.agent.action_parts import BOXES_QUOTA, Agent, make_id

ID = "0123456789abcdef0123456789abcdef"
OTHER = "f" * 32


class Inspecting(Inspection):
    """Says what it is told to."""

    def __init__(self, console: bytes | None = None, configuration: str | None = "<domain/>", error: Exception | None = None) -> None:
        self.console, self.configuration, self.error = console, configuration, error
        self.asked_for_console = 0

    def inspect_server(self, server: str) -> InspectedServer:
        if self.error is not None:
            raise self.error
        return InspectedServer(PowerState.CRASHED, "panicked", (VcpuState(0, "running", 5, 3),), self.configuration)

    def read_console_tail(self, server: str, limit: int) -> bytes | None:
        self.asked_for_console += 1
        if self.error is not None:
            raise self.error
        return self.console


class Bench:
    """An agent whose crashes are kept."""

    def __init__(self, path: Path, *, console_tail: int = 0) -> None:
        self.agent = Agent(path / "journal.sqlite")
        self.console_tail = console_tail
        self.inspection = Inspecting()
        self.use(self.inspection)

    def use(self, inspection: Inspection | None) -> None:
        agent = self.agent
        agent.use_driver(replace(agent.driver, inspection=inspection))
        new_id = Counter()
        self.boxes = BlackBoxes(
            agent.journal,
            agent.driver,
            agent.clock,
            agent.files,
            agent.sampler,
            agent.collector,
            console_tail=self.console_tail,
            new_id=lambda: hashlib.md5(new_id().encode(), usedforsecurity=False).hexdigest(),
        )

    def crash(self, server: str, event_type: str = "server.panicked", action_id: str | None = None) -> None:
        self.boxes.crashed(Crash(server, event_type, self.agent.clock.now(), action_id))

    def fill(self) -> list[dict[str, Any]]:
        """The events of the boxes that are due by now."""
        self.agent.clock.advance(SETTLING)
        while self.boxes.step(0):
            pass
        return [row.payload for row in self.agent.list_events("server.black_box")]

    def read(self, event: dict[str, Any], part: str) -> bytes:
        """A part over RPC, piece by piece, checked against its digest."""
        content = b""
        while True:
            chunk = BlackBoxChunk.from_wire(self.agent.endpoint.get_black_box({}, event["black_box_id"], part, len(content)))
            assert chunk.total is not None
            content += base64.b64decode(chunk.content)
            if len(content) == chunk.total:
                break
        [told] = [kept for kept in event["parts"] if kept["name"] == part]
        assert (told["bytes"], told["sha256"]) == (len(content), hashlib.sha256(content).hexdigest())
        return content

    def read_json(self, event: dict[str, Any], part: str) -> Any:
        return json.loads(self.read(event, part))


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path)
    yield bench
    bench.agent.journal.close()


def list_parts(event: dict[str, Any]) -> set[str]:
    return {part["name"] for part in event["parts"]}


class TestBox:
    def test_a_crash_dump_keeps_what_was_before_it_and_what_is_after_it(self, bench: Bench) -> None:
        agent = bench.agent
        server = agent.make_server(NmiEffect.PANIC)
        agent.sampler.step()
        agent.clock.advance(12)
        agent.do(agent.make_request(server))
        bench.boxes.action_ended(agent.get(make_id()))
        bench.crash(server, action_id=make_id())
        [event] = bench.fill()
        assert (event["cause"], event["action_id"], event["server"]) == ("trigger_crash_dump", make_id(), server)
        assert list_parts(event) == {"sample-before.json", "diagnostics-after.json", "state.json", "domain.xml"}
        before = bench.read_json(event, "sample-before.json")
        assert (before["age"], before["diagnostics"]["state"]) == (12.0, "running")
        assert bench.read_json(event, "diagnostics-after.json")["diagnostics"]["state"] == "crashed"
        state = bench.read_json(event, "state.json")
        assert (state["power_state"], state["state_reason"], state["problems"]) == ("crashed", "panicked", {})
        assert state["vcpus"] == [{"number": 0, "state": "running", "cpu_time": 5, "host_cpu": 3}]
        assert bench.read(event, "domain.xml") == b"<domain/>"

    def test_a_panic_that_was_told_before_its_action_ended_makes_one_box_with_it(self, bench: Bench) -> None:
        agent = bench.agent
        server = agent.make_server(NmiEffect.PANIC)
        agent.cast(agent.make_request(server))
        agent.clock.advance(1)
        agent.work()
        agent.clock.advance(0.01)
        bench.crash(server, action_id=make_id())
        bench.boxes.action_ended(agent.get(make_id()))
        [event] = bench.fill()
        assert (event["cause"], event["action_id"]) == ("trigger_crash_dump", make_id())

    @pytest.mark.parametrize("event_type", ["server.panicked", "server.crash_kernel_started"])
    def test_a_guest_that_crashes_by_itself_has_a_box_too(self, bench: Bench, event_type: str) -> None:
        bench.crash(bench.agent.make_server(), event_type)
        [event] = bench.fill()
        assert (event["cause"], event["action_id"]) == (event_type, None)

    def test_what_comes_later_is_another_crash(self, bench: Bench) -> None:
        server = bench.agent.make_server()
        bench.crash(server)
        assert len(bench.fill()) == 1
        bench.crash(server)
        assert len(bench.fill()) == 2

    def test_nothing_is_read_before_it_has_settled(self, bench: Bench) -> None:
        bench.crash(bench.agent.make_server())
        assert not bench.boxes.step(0)

    def test_a_signal_that_was_perhaps_sent_makes_a_box_and_one_that_was_not_makes_none(self, bench: Bench) -> None:
        agent = bench.agent
        perhaps, never = agent.make_server(), agent.make_server()
        agent.hypervisor.behave(perhaps, lose_answer())
        agent.hypervisor.behave(never, refuse(BackendUnavailable(None, "away")))
        for number, server in enumerate((perhaps, never), 1):
            agent.do(agent.make_request(server, number))
            bench.boxes.action_ended(agent.get(make_id(number)))
        assert [event["server"] for event in bench.fill()] == [perhaps]

    def test_without_the_console_being_allowed_it_is_not_even_read(self, bench: Bench) -> None:
        bench.use(inspection := Inspecting(console=b"secret"))
        bench.crash(bench.agent.make_server())
        [event] = bench.fill()
        assert "console.log" not in list_parts(event)
        assert inspection.asked_for_console == 0

    def test_the_tail_of_the_console_is_kept_where_it_is_allowed(self, tmp_path: Path) -> None:
        bench = Bench(tmp_path, console_tail=4)
        bench.use(Inspecting(console=b"Kernel panic"))
        bench.crash(bench.agent.make_server())
        [event] = bench.fill()
        assert bench.read(event, "console.log") == b"anic"

    @pytest.mark.parametrize("error", [BackendUnavailable(None, "away"), ZeroDivisionError()])
    def test_what_cannot_be_read_is_named_and_the_rest_is_kept(self, tmp_path: Path, error: Exception) -> None:
        bench = Bench(tmp_path, console_tail=4)
        agent = bench.agent
        bench.use(Inspecting(error=error))
        server = agent.make_server()
        agent.sampler.step()
        agent.clock.advance(1)
        agent.hypervisor.behave(server, refuse(BackendUnavailable(None, "away")), call=Call.COLLECT_DIAGNOSTICS)
        bench.crash(server)
        [event] = bench.fill()
        assert list_parts(event) == {"sample-before.json", "diagnostics-after.json", "state.json"}
        assert bench.read_json(event, "diagnostics-after.json")["stale"]
        assert bench.read_json(event, "state.json")["problems"].keys() == {"state.json", "console.log"}

    def test_a_driver_without_inspection_tells_its_state_at_least(self, bench: Bench) -> None:
        bench.use(None)
        bench.crash(bench.agent.make_server(power_state=PowerState.CRASHED))
        [event] = bench.fill()
        assert bench.read_json(event, "state.json")["power_state"] == "crashed"

    def test_a_very_long_configuration_is_left_out(self, bench: Bench) -> None:
        bench.use(Inspecting(configuration="x" * (2 << 20)))
        bench.crash(bench.agent.make_server())
        [event] = bench.fill()
        assert "domain.xml" in bench.read_json(event, "state.json")["problems"]

    def test_a_disk_that_takes_nothing_costs_the_box_and_nothing_else(self, bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
        (bench.agent.path.parent / "black_boxes").write_text("in the way")
        bench.crash(bench.agent.make_server())
        with caplog.at_level(logging.ERROR):
            assert bench.fill() == []
        assert "could not be kept" in caplog.text


class TestFiles:
    def test_the_oldest_boxes_make_room_for_new_ones(self, tmp_path: Path) -> None:
        files = BlackBoxFiles(tmp_path, 5000)
        for number in range(5):
            files.put(f"{number:032x}", {"console.log": b"x" * 400})
        assert sorted(box.name for box in tmp_path.iterdir()) == [f"{number:032x}.tar" for number in (3, 4)]
        assert files.read(f"{0:032x}", "console.log", 0).total is None

    def test_a_full_directory_is_gone_through_once_for_many_boxes(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        looked: list[int] = []
        make_room = BlackBoxFiles._make_room
        monkeypatch.setattr(BlackBoxFiles, "_make_room", lambda files, size: looked.append(size) or make_room(files, size))
        files = BlackBoxFiles(tmp_path, 200_000)
        for number in range(200):
            files.put(f"{number:032x}", {"console.log": b"x" * 400})
        assert len(list(tmp_path.iterdir())) >= 90
        assert files.read(f"{199:032x}", "console.log", 0).total == 400
        assert 10 < len(looked) < 200 // 3, "once for three boxes or more, of the hundred that found it full"

    def test_a_box_larger_than_the_quota_removes_nothing(self, tmp_path: Path) -> None:
        files = BlackBoxFiles(tmp_path, 5000)
        files.put(ID, {"console.log": b"x" * 400})
        with pytest.raises(NoRoom):
            files.put(OTHER, {"console.log": b"x" * 5000})
        assert files.read(ID, "console.log", 0).total == 400

    def test_only_its_owner_may_read_them(self, tmp_path: Path) -> None:
        BlackBoxFiles(tmp_path / "boxes", 5000).put(ID, {"console.log": b"x"})
        assert (tmp_path / "boxes" / f"{ID}.tar").stat().st_mode & 0o777 == 0o600
        assert (tmp_path / "boxes").stat().st_mode & 0o777 == 0o700

    def test_what_a_dead_agent_was_writing_is_removed(self, tmp_path: Path) -> None:
        files = BlackBoxFiles(tmp_path, 5000)
        files.put(ID, {"console.log": b"x"})
        (tmp_path / f"{OTHER}.tar.unfinished").write_bytes(b"the beginning of a tar file")
        (tmp_path / f"{OTHER}.unfinished").mkdir()
        files.remove_unfinished()
        assert [box.name for box in tmp_path.iterdir()] == [f"{ID}.tar"]

    @given(st.dictionaries(st.sampled_from(sorted(PARTS)), st.binary(max_size=2000)))
    def test_anybody_can_look_into_a_box_with_tar(self, tmp_path_factory: pytest.TempPathFactory, parts: dict[str, bytes]) -> None:
        directory = tmp_path_factory.mktemp("boxes")
        files = BlackBoxFiles(directory, BOXES_QUOTA)
        files.put(ID, parts)
        with tarfile.open(directory / f"{ID}.tar", errorlevel=2) as box:
            assert {member.name: box.extractfile(member).read() for member in box} == parts  # type: ignore[union-attr]
        assert {part: base64.b64decode(files.read(ID, part, 0).content) for part in parts} == parts
        assert [part for part in PARTS if files.read(ID, part, 0).total is None] == [part for part in PARTS if part not in parts]

    @pytest.mark.parametrize("name", [b"\xff.json", b"state.json\xff"])
    def test_a_box_with_a_name_that_is_no_text_has_no_such_part(self, tmp_path: Path, name: bytes) -> None:
        header = tarfile.TarInfo(name.decode("utf-8", "surrogateescape")).tobuf(tarfile.USTAR_FORMAT, "utf-8", "surrogateescape")
        (tmp_path / f"{ID}.tar").write_bytes(header + bytes(2 * tarfile.BLOCKSIZE))
        assert BlackBoxFiles(tmp_path, 5000).read(ID, "state.json", 0).total is None

    def test_a_box_whose_part_has_less_than_nothing_is_not_read_for_ever(self, tmp_path: Path) -> None:
        part = tarfile.TarInfo("domain.xml")
        part.size = -tarfile.BLOCKSIZE
        (tmp_path / f"{ID}.tar").write_bytes(part.tobuf(tarfile.GNU_FORMAT) + bytes(2 * tarfile.BLOCKSIZE))
        assert BlackBoxFiles(tmp_path, 5000).read(ID, "state.json", 0).total is None

    def test_a_box_of_an_older_release_is_read_and_makes_room_as_all_others(self, tmp_path: Path) -> None:
        (tmp_path / ID).mkdir()
        (tmp_path / ID / "console.log").write_bytes(b"x" * 3000)
        files = BlackBoxFiles(tmp_path, 5000)
        assert base64.b64decode(files.read(ID, "console.log", 2990).content) == b"x" * 10
        assert files.read(ID, "state.json", 0).total is None
        files.put(OTHER, {"console.log": b"x" * 1000})
        assert [box.name for box in tmp_path.iterdir()] == [f"{OTHER}.tar"]

    def test_a_large_part_is_read_in_pieces_that_fit_into_a_message(self, tmp_path: Path) -> None:
        content = bytes(range(256)) * 2000
        files = BlackBoxFiles(tmp_path, BOXES_QUOTA)
        files.put(ID, {"console.log": content})
        read = b""
        while len(read) < len(content):
            chunk = files.read(ID, "console.log", len(read))
            assert len(chunk.content) <= 256 << 10
            read += base64.b64decode(chunk.content)
        assert read == content
        assert files.read(ID, "console.log", len(content) + 5) == BlackBoxChunk(total=len(content))
        assert len(content) > LONGEST_CHUNK

    @given(
        black_box_id=st.sampled_from([ID, "..", ".", "", "../..", f"../boxes/{ID}", f"{ID}\n", f"/{ID}", ID.upper()]) | st.text(),
        part=st.sampled_from(["../secret", "/etc/passwd", "..", "", "state.json\0", "state.json", "secret", f"../{ID}/state.json"])
        | st.text(),
        offset=st.integers(-(2**70), 2**70),
    )
    def test_no_name_reads_anything_but_a_part_of_a_box(
        self, tmp_path_factory: pytest.TempPathFactory, black_box_id: str, part: str, offset: int
    ) -> None:
        root = tmp_path_factory.getbasetemp() / "traversal"
        files = BlackBoxFiles(root / "boxes", 5000)
        if not root.exists():
            files.put(ID, {"state.json": b"{}"})
            (root / "secret").write_text("secret")
            (root / "boxes" / "secret").write_text("secret")
        chunk = files.read(black_box_id, part, offset)
        if chunk.total is not None:
            assert (black_box_id, part) == (ID, "state.json")
            assert base64.b64decode(chunk.content) in (b"{}", b"}", b"")

    @pytest.mark.parametrize(("black_box_id", "parts"), [("..", {}), (ID, {"../x": b""}), (ID, {"other": b""})])
    def test_no_other_names_are_written(self, tmp_path: Path, black_box_id: str, parts: dict[str, bytes]) -> None:
        with pytest.raises(ValueError, match="no name"):
            BlackBoxFiles(tmp_path, 1000).put(black_box_id, parts)

    def test_its_parts_are_named_as_the_contract_has_them(self) -> None:
        assert {"sample-before.json", "diagnostics-after.json", "state.json", "domain.xml", "console.log"} == PARTS

    @pytest.mark.parametrize("arguments", [(None, "state.json", 0), (ID, 7, 0), (ID, "state.json", "0"), (ID, "state.json", True)])
    def test_what_is_no_question_has_no_answer(self, tmp_path: Path, arguments: tuple[Any, Any, Any]) -> None:
        agent = Agent(tmp_path / "journal.sqlite")
        assert BlackBoxChunk.from_wire(agent.endpoint.get_black_box({}, *arguments)).total is None
        agent.journal.close()
