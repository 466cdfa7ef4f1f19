"""Which calls libvirt gets for diagnostics and host dumps, and what their failures mean."""

import stat
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import libvirt
import libvirt_qemu
import pytest

from compute_agent.contract.errors import Code
from compute_agent.drivers.errors import (
    BackendUnavailable,
    CapabilityUnsupported,
    DriverError,
    OutcomeUnknown,
    ServerNotFound,
    ServerNotRunning,
)
from compute_agent.drivers.libvirt import sampling
from compute_agent.drivers.libvirt.diagnostics import Host, LibvirtDiagnostics
from compute_agent.drivers.libvirt.host_dump import LibvirtHostDump
from compute_agent.drivers.libvirt.sampling import BoundedReads
from tests.fakes import FakeClock
from tests.unit.agent.libvirt_fakes import make_error

SERVER = "6f4c1c2e-0f6c-4f6e-9d0e-000000000001"
XML = """<domain type='kvm'><memory>131072</memory><vcpu>1</vcpu><devices>
<disk><source file='/v/disk'/><target dev='vda'/><alias name='virtio-disk0'/></disk></devices></domain>"""
RECORD = {"state.state": 1, "balloon.rss": 1, "vcpu.0.time": 1, "block.0.name": "vda", "block.0.rd.reqs": 1}
BUSY = {"state.state": 1, "vcpu.0.time": 1, "block.0.name": "vda"}
REPLY = '{"return": [{"qdev": "/machine/peripheral/virtio-disk0/virtio-backend", "stats": {"failed_rd_operations": 3}}]}'


class FakeDomain:
    """A virDomain; an exception as the answer of a call is raised."""

    def __init__(self, **answers: Any) -> None:
        self.asked: list[str] = []
        self.record: dict[str, Any] = RECORD
        self.answers: dict[str, Any] = {
            "UUIDString": SERVER,
            "name": "instance-1",
            "ID": 7,
            "state": (libvirt.VIR_DOMAIN_RUNNING, 1),
            "controlInfo": [libvirt.VIR_DOMAIN_CONTROL_OK, 0, 0],
            "XMLDesc": XML,
            "coreDumpWithFormat": 0,
            "jobStats": {"type": 0},
            "query-blockstats": REPLY,
            **answers,
        }

    def __getattr__(self, call: str) -> Any:
        return lambda *arguments: self.answer(call, *arguments)

    def answer(self, call: str, *arguments: Any) -> Any:
        self.asked.append(call)
        value = self.answers[call]
        if isinstance(value, Exception):
            raise value
        return value(*arguments) if callable(value) else value


class FakeConnections:
    """The lender of connections, and the connection that it lends."""

    def __init__(self, *domains: FakeDomain) -> None:
        self.domains = list(domains)
        self.flags: list[int] = []
        self.error: Exception | None = None

    @contextmanager
    def borrow(self) -> "Iterator[FakeConnections]":
        yield self

    def lookupByUUIDString(self, server: str) -> FakeDomain:
        if server != SERVER:
            raise make_error(libvirt.VIR_ERR_NO_DOMAIN)
        return self.domains[0]

    def domainListGetStats(self, domains: list[FakeDomain], wanted: int, flags: int) -> list[tuple[FakeDomain, dict[str, Any]]]:
        self.flags.append(flags)
        if self.error is not None:
            raise self.error
        return [(domain, domain.record) for domain in domains if domain in self.domains]

    def getAllDomainStats(self, wanted: int, flags: int) -> list[tuple[FakeDomain, dict[str, Any]]]:
        return self.domainListGetStats(self.domains, wanted, flags)


def make_source(connections: FakeConnections, *, counts_disk_errors: bool = True) -> LibvirtDiagnostics:
    return LibvirtDiagnostics(connections, FakeClock(), Host(None, "Debian"), counts_disk_errors=counts_disk_errors)


@pytest.fixture(autouse=True)
def _qemu_monitor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libvirt_qemu, "qemuMonitorCommand", lambda domain, command, flags: domain.answer("query-blockstats"))


class TestCollecting:
    def test_a_disk_shows_the_failed_requests_that_qemu_counted(self) -> None:
        reading = make_source(FakeConnections(FakeDomain())).collect_diagnostics(SERVER)
        assert [disk.errors for disk in reading.disks] == [3]
        assert reading.errors["memory"]

    def test_qemu_is_not_asked_past_libvirt_when_the_operator_forbids_it(self) -> None:
        domain = FakeDomain()
        reading = make_source(FakeConnections(domain), counts_disk_errors=False).collect_diagnostics(SERVER)
        assert [disk.errors for disk in reading.disks] == [None]
        assert "query-blockstats" not in domain.asked

    @pytest.mark.parametrize("answer", [make_error(libvirt.VIR_ERR_INTERNAL_ERROR), "no json"])
    def test_failed_requests_that_cannot_be_had_cost_nothing_else(self, answer: Any) -> None:
        reading = make_source(FakeConnections(FakeDomain(**{"query-blockstats": answer}))).collect_diagnostics(SERVER)
        assert (reading.disks[0].errors, reading.disks[0].read_requests) == (None, 1)
        assert "disk_errors" in reading.errors

    def test_unreadable_xml_costs_what_only_it_knows(self) -> None:
        reading = make_source(FakeConnections(FakeDomain(XMLDesc="<domain>"))).collect_diagnostics(SERVER)
        assert reading.disks[0].read_requests == 1
        assert "unreadable" in reading.errors["devices"]

    def test_no_call_queues_behind_a_stuck_qemu(self) -> None:
        connections = FakeConnections(FakeDomain(controlInfo=[libvirt.VIR_DOMAIN_CONTROL_OCCUPIED, 0, 6000]))
        with pytest.raises(BackendUnavailable):
            make_source(connections).collect_diagnostics(SERVER)
        assert connections.flags == []

    def test_a_domain_that_goes_meanwhile_is_not_found(self) -> None:
        connections = FakeConnections(FakeDomain())
        connections.domainListGetStats = lambda *arguments: []  # type: ignore[method-assign]
        with pytest.raises(ServerNotFound):
            make_source(connections).collect_diagnostics(SERVER)

    @pytest.mark.parametrize("call", ["controlInfo", "XMLDesc"])
    def test_a_lost_connection_is_an_unavailable_backend(self, call: str) -> None:
        domain = FakeDomain(**{call: make_error(libvirt.VIR_ERR_SYSTEM_ERROR, libvirt.VIR_FROM_RPC)})
        with pytest.raises(BackendUnavailable):
            make_source(FakeConnections(domain)).collect_diagnostics(SERVER)


class TestSampling:
    def test_one_call_reads_all_and_waits_for_nobody(self) -> None:
        connections = FakeConnections(FakeDomain())
        (sample,) = make_source(connections).sample_servers()
        assert sample.server == SERVER
        assert connections.flags == [libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_ACTIVE | libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT]

    def test_a_busy_server_is_left_out(self) -> None:
        domain = FakeDomain()
        domain.record = BUSY
        assert list(make_source(FakeConnections(domain)).sample_servers()) == []

    def test_nobody_is_asked_past_libvirt(self) -> None:
        domain = FakeDomain()
        make_source(FakeConnections(domain)).sample_servers()
        assert "query-blockstats" not in domain.asked

    def test_the_xml_is_read_again_only_when_devices_changed(self) -> None:
        domain = FakeDomain()
        source = make_source(FakeConnections(domain))
        source.sample_servers()
        source.sample_servers()
        assert domain.asked.count("XMLDesc") == 1
        domain.record = RECORD | {"block.1.name": "vdb", "block.1.rd.reqs": 0}
        source.sample_servers()
        assert domain.asked.count("XMLDesc") == 2

    def test_a_server_that_goes_meanwhile_is_left_out(self) -> None:
        domain = FakeDomain(XMLDesc=make_error(libvirt.VIR_ERR_NO_DOMAIN))
        assert list(make_source(FakeConnections(domain)).sample_servers()) == []

    def test_a_lost_connection_is_an_unavailable_backend(self) -> None:
        connections = FakeConnections(FakeDomain())
        connections.error = make_error(libvirt.VIR_ERR_SYSTEM_ERROR, libvirt.VIR_FROM_RPC)
        with pytest.raises(BackendUnavailable):
            make_source(connections).sample_servers()


class TestBoundedReads:
    @pytest.fixture(autouse=True)
    def _short(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sampling, "_LONGEST_READ", 0.02)

    @pytest.fixture
    def released(self) -> Iterator[threading.Event]:
        released = threading.Event()
        yield released
        released.set()

    def read(self, *calls: Callable[[], Sequence[int]]) -> BoundedReads[int]:
        left = list(calls)
        return BoundedReads(lambda: left.pop(0)())

    def hang(self, released: threading.Event) -> Callable[[], Sequence[int]]:
        def call() -> Sequence[int]:
            released.wait()
            return [0]

        return call

    def test_a_call_that_froze_is_left_alone_and_the_next_one_reads(
        self, released: threading.Event, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sampling, "_LONGEST_READ", 0.5)
        assert self.read(self.hang(released), lambda: [1]).read() == [1]

    def test_threads_do_not_grow_when_nothing_answers(self, released: threading.Event) -> None:
        reads = self.read(*[self.hang(released)] * 4)
        before = set(threading.enumerate())
        for _ in range(5):
            with pytest.raises(BackendUnavailable):
                reads.read()
        assert len(set(threading.enumerate()) - before) == 4

    def test_what_the_call_raises_is_raised(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sampling, "_LONGEST_READ", 60.0)

        def fail() -> Sequence[int]:
            raise BackendUnavailable(None, "away")

        with pytest.raises(BackendUnavailable, match="away"):
            self.read(fail).read()


def dump(domain: FakeDomain, path: Path) -> None:
    LibvirtHostDump(FakeConnections(domain)).take_host_dump(SERVER, str(path), lambda done, total: None)


class TestHostDump:
    def test_the_file_is_private_before_libvirt_writes_into_it(self, tmp_path: Path) -> None:
        modes: list[int] = []

        def write(path: str, form: int, flags: int) -> int:
            modes.append(stat.S_IMODE(Path(path).stat().st_mode))
            assert (form, flags) == (libvirt.VIR_DOMAIN_CORE_DUMP_FORMAT_KDUMP_ZLIB, libvirt.VIR_DUMP_MEMORY_ONLY)
            return 0

        dump(FakeDomain(coreDumpWithFormat=write), tmp_path / "dump")
        assert modes == [0o600]
        assert (tmp_path / "dump").exists()

    @pytest.mark.parametrize(
        ("error", "expected", "code"),
        [
            (make_error(libvirt.VIR_ERR_OPERATION_INVALID), ServerNotRunning, Code.SERVER_NOT_RUNNING),
            (make_error(libvirt.VIR_ERR_INVALID_ARG), CapabilityUnsupported, Code.NOT_SUPPORTED),
            (make_error(libvirt.VIR_ERR_NO_SUPPORT), CapabilityUnsupported, Code.NOT_SUPPORTED),
            (make_error(libvirt.VIR_ERR_OPERATION_TIMEOUT), BackendUnavailable, Code.BACKEND_UNAVAILABLE),
            (make_error(libvirt.VIR_ERR_OPERATION_DENIED), BackendUnavailable, Code.FORBIDDEN),
            (make_error(libvirt.VIR_ERR_OPERATION_FAILED), BackendUnavailable, Code.HOST_DUMP_FAILED),
            (make_error(libvirt.VIR_ERR_OPERATION_FAILED, message="x: No space left on device"), BackendUnavailable, Code.NO_SPACE),
        ],
    )
    def test_a_failed_dump_says_why_and_leaves_no_file(
        self, tmp_path: Path, error: libvirt.libvirtError, expected: type[DriverError], code: Code
    ) -> None:
        with pytest.raises(expected) as failure:
            dump(FakeDomain(coreDumpWithFormat=error), tmp_path / "dump")
        assert failure.value.code is code
        assert list(tmp_path.iterdir()) == []

    def test_after_a_lost_connection_nobody_knows_and_the_file_stays(self, tmp_path: Path) -> None:
        """libvirtd goes on writing without us."""
        with pytest.raises(OutcomeUnknown):
            dump(FakeDomain(coreDumpWithFormat=make_error(libvirt.VIR_ERR_SYSTEM_ERROR, libvirt.VIR_FROM_RPC)), tmp_path / "dump")
        assert (tmp_path / "dump").exists()

    def test_a_stuck_qemu_is_not_asked(self, tmp_path: Path) -> None:
        domain = FakeDomain(controlInfo=[libvirt.VIR_DOMAIN_CONTROL_ERROR, 0, 0])
        with pytest.raises(BackendUnavailable):
            dump(domain, tmp_path / "dump")
        assert "coreDumpWithFormat" not in domain.asked

    def test_progress_is_that_of_the_dump_and_no_other_job(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("compute_agent.drivers.libvirt.host_dump._PROGRESS_INTERVAL", 0.001)
        told: list[tuple[int, int]] = []
        arrived = threading.Event()

        def tell(done: int, total: int) -> None:
            told.append((done, total))
            arrived.set()

        jobs = iter(
            [{"type": 0}, {"operation": 1, "memory_processed": 9, "memory_total": 9}, {"operation": libvirt.VIR_DOMAIN_JOB_OPERATION_DUMP}]
        )
        last = {"operation": libvirt.VIR_DOMAIN_JOB_OPERATION_DUMP, "memory_processed": 4, "memory_total": 8}
        domain = FakeDomain(jobStats=lambda: next(jobs, last), coreDumpWithFormat=lambda *arguments: arrived.wait(10) and 0)
        LibvirtHostDump(FakeConnections(domain)).take_host_dump(SERVER, str(tmp_path / "dump"), tell)
        assert set(told) == {(4, 8)}
