"""What every driver with diagnostics or host dumps must do; subclass beside ``DriverConformance``, over the same laboratory."""

import math
import re
import stat
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from compute_agent.contract.errors import Code
from compute_agent.contract.models import PowerState
from compute_agent.drivers.base import DiagnosticsSource, HostDump, Inspection
from compute_agent.drivers.errors import BackendUnavailable, ServerNotFound, ServerNotRunning
from compute_agent.drivers.models import CollectedDiagnostics, DiskCounters, NicCounters
from tests.conformance.suite import Laboratory

_MAC = re.compile(r"([0-9a-f]{2}:){5}[0-9a-f]{2}")


def list_counters(reading: CollectedDiagnostics) -> dict[str, int]:
    """All that only grows while a server runs, by name; unknown ones are left out."""
    counters = {f"cpu {number}": time for number, time in reading.cpu_times.items()}
    for kind, devices in (("nic", reading.nics), ("disk", reading.disks)):
        for position, device in enumerate(devices):
            counters |= {f"{kind} {position} {word}": count for word, count in vars(device).items() if word not in ("device", "mac")}
    return {name: count for name, count in counters.items() if count is not None}


class DiagnosticsConformance:
    """Subclass it as the suite's docstring says."""

    def test_a_running_server_says_what_it_is_made_of(self, laboratory: Laboratory) -> None:
        server = laboratory.make_surviving()
        seen = laboratory.driver.servers.get_server(server)
        reading = self._get(laboratory).collect_diagnostics(server)
        assert (reading.server, reading.power_state, reading.started_at) == (server, PowerState.RUNNING, seen.started_at)
        assert reading.driver_word == ("libvirt" if laboratory.knows_guest_states else "ironic"), "the format's words"
        assert abs(datetime.now(UTC) - reading.collected_at) < timedelta(seconds=30)
        assert list(reading.cpu_times) == list(range(len(reading.cpu_times)))
        assert reading.memory_used_kib is None or 0 < reading.memory_used_kib < (reading.memory_maximum_kib or 0)
        if laboratory.knows_sizes:
            assert len(reading.cpu_times) == seen.vcpus
            assert reading.memory_maximum_kib == (seen.memory_mib or 0) * 1024
        assert all(nic.mac is None or _MAC.fullmatch(nic.mac) for nic in reading.nics)

    def test_no_counter_goes_back_while_a_server_runs(self, laboratory: Laboratory) -> None:
        server = laboratory.make_surviving()
        earlier, later = (self._get(laboratory).collect_diagnostics(server) for _ in range(2))
        before, after = list_counters(earlier), list_counters(later)
        assert earlier.monotonic <= later.monotonic
        assert before.keys() == after.keys()
        assert min(before.values(), default=0) >= 0
        assert {name: count for name, count in after.items() if count < before[name]} == {}

    @pytest.mark.parametrize(("make", "power_state"), [("make_paused", PowerState.PAUSED), ("make_crashed", PowerState.CRASHED)])
    def test_a_server_that_stands_still_answers_with_its_counters(self, laboratory: Laboratory, make: str, power_state: PowerState) -> None:
        server = getattr(laboratory, make)()
        reading = self._get(laboratory).collect_diagnostics(server)
        assert reading.power_state is power_state
        assert all(time is not None for time in reading.cpu_times.values())
        assert reading.memory_maximum_kib

    def test_a_server_that_is_off_answers_with_its_sizes_alone(self, laboratory: Laboratory) -> None:
        server = laboratory.make_stopped()
        reading = self._get(laboratory).collect_diagnostics(server)
        assert (reading.power_state, reading.started_at, reading.memory_used_kib) == (PowerState.SHUTDOWN, None, None)
        assert set(reading.cpu_times.values()) <= {None}
        if laboratory.knows_sizes:
            assert reading.memory_maximum_kib
            assert len(reading.cpu_times) == laboratory.driver.servers.get_server(server).vcpus
        assert {nic for nic in reading.nics if nic != NicCounters(device=nic.device, mac=nic.mac)} == set()
        assert {disk for disk in reading.disks if disk != DiskCounters(device=disk.device)} == set()

    def test_an_unknown_server_has_no_diagnostics(self, laboratory: Laboratory) -> None:
        with pytest.raises(ServerNotFound):
            self._get(laboratory).collect_diagnostics(laboratory.unknown_server)

    def test_asking_changes_nothing(self, laboratory: Laboratory) -> None:
        server = laboratory.make_surviving()
        before, signals = laboratory.driver.servers.get_server(server), laboratory.count_signals(server)
        self._get(laboratory).collect_diagnostics(server)
        self._get(laboratory).sample_servers()
        assert laboratory.driver.servers.get_server(server) == before
        assert laboratory.count_signals(server) == signals

    def test_a_sample_has_every_running_server_and_none_that_is_off(self, laboratory: Laboratory) -> None:
        running, off = laboratory.make_surviving(), laboratory.make_stopped()
        sampled = {reading.server: reading for reading in self._get(laboratory).sample_servers()}
        assert running in sampled
        assert off not in sampled
        asked = self._get(laboratory).collect_diagnostics(running)
        for reading in (sampled[running], asked):
            assert (reading.power_state, reading.started_at) == (PowerState.RUNNING, asked.started_at)
        if laboratory.samples_devices:
            assert [nic.mac for nic in sampled[running].nics] == [nic.mac for nic in asked.nics]
            assert [disk.device for disk in sampled[running].disks] == [disk.device for disk in asked.disks]

    def test_only_bare_metal_tells_what_it_is_made_of_beside_the_format(self, laboratory: Laboratory) -> None:
        """The parts that can be read; none of them spoils another, and what cannot be is named in ``errors``."""
        reading = self._get(laboratory).collect_diagnostics(laboratory.make_surviving())
        hardware = reading.hardware
        if laboratory.knows_guest_states:
            assert hardware is None, "a VM has none of its own"
            return
        assert hardware is not None
        assert reading.hypervisor is None
        assert (hardware.power or "").lower() == "on"
        assert all(sensor.value is None or math.isfinite(sensor.value) for sensor in hardware.sensors)
        assert all(name and version for name, version in hardware.firmware.items())
        times = [entry.at for entry in hardware.log if entry.at is not None]
        assert times == sorted(times, reverse=True), "newest first"
        assert self._get(laboratory).collect_diagnostics(laboratory.make_stopped()).hardware is not None, "off, it says what it can"

    def test_many_threads_may_ask_at_once(self, laboratory: Laboratory) -> None:
        server, source = laboratory.make_surviving(), self._get(laboratory)
        with ThreadPoolExecutor(9) as pool:
            sampling = pool.submit(source.sample_servers)
            asking = [pool.submit(source.collect_diagnostics, server) for _ in range(8)]
            assert {future.result(timeout=60).server for future in asking} == {server}
            sampling.result(timeout=60)

    def _get(self, laboratory: Laboratory) -> DiagnosticsSource:
        assert laboratory.driver.diagnostics is not None
        return laboratory.driver.diagnostics


class HostDumpConformance:
    """Subclass it as the suite's docstring says."""

    @pytest.mark.parametrize(
        ("make", "power_state"),
        [("make_surviving", PowerState.RUNNING), ("make_paused", PowerState.PAUSED), ("make_crashed", PowerState.CRASHED)],
    )
    def test_a_dump_is_for_its_owner_only_and_leaves_the_server_as_it_was(
        self, laboratory: Laboratory, tmp_path: Path, make: str, power_state: PowerState
    ) -> None:
        server = getattr(laboratory, make)()
        dump, told = tmp_path / "dump", list[tuple[int, int]]()
        self._get(laboratory).take_host_dump(server, str(dump), lambda done, total: told.append((done, total)))
        assert stat.S_IMODE(dump.stat().st_mode) == 0o600
        assert dump.stat().st_size > 0
        assert [(done, total) for done, total in told if not 0 <= done <= total] == []
        assert laboratory.driver.servers.get_server(server).power_state is power_state

    def test_a_server_that_is_off_has_no_memory_to_dump(self, laboratory: Laboratory, tmp_path: Path) -> None:
        with pytest.raises(ServerNotRunning):
            self._get(laboratory).take_host_dump(laboratory.make_stopped(), str(tmp_path / "dump"), self._ignore)
        assert list(tmp_path.iterdir()) == []

    def test_an_unknown_server_is_not_dumped(self, laboratory: Laboratory, tmp_path: Path) -> None:
        with pytest.raises(ServerNotFound):
            self._get(laboratory).take_host_dump(laboratory.unknown_server, str(tmp_path / "dump"), self._ignore)
        assert list(tmp_path.iterdir()) == []

    def test_a_file_that_cannot_be_made_is_a_failed_dump(self, laboratory: Laboratory, tmp_path: Path) -> None:
        with pytest.raises(BackendUnavailable) as failure:
            self._get(laboratory).take_host_dump(laboratory.make_surviving(), str(tmp_path / "missing" / "dump"), self._ignore)
        assert failure.value.code is Code.HOST_DUMP_FAILED

    def test_no_file_is_ever_written_over(self, laboratory: Laboratory, tmp_path: Path) -> None:
        dump = tmp_path / "dump"
        dump.write_bytes(b"somebody's")
        with pytest.raises(BackendUnavailable):
            self._get(laboratory).take_host_dump(laboratory.make_surviving(), str(dump), self._ignore)
        assert dump.read_bytes() == b"somebody's"

    def _get(self, laboratory: Laboratory) -> HostDump:
        assert laboratory.driver.host_dump is not None
        return laboratory.driver.host_dump

    def _ignore(self, done: int, total: int) -> None:
        pass


class InspectionConformance:
    """Subclass it as the suite's docstring says."""

    @pytest.mark.parametrize(
        ("make", "power_state"),
        [
            ("make_surviving", PowerState.RUNNING),
            ("make_paused", PowerState.PAUSED),
            ("make_crashed", PowerState.CRASHED),
            ("make_stopped", PowerState.SHUTDOWN),
        ],
    )
    def test_a_server_in_any_state_is_inspected(self, laboratory: Laboratory, make: str, power_state: PowerState) -> None:
        server = getattr(laboratory, make)()
        seen, inspected = laboratory.driver.servers.get_server(server), self._get(laboratory).inspect_server(server)
        assert (inspected.power_state, inspected.state_reason) == (power_state, seen.state_reason)
        assert len(inspected.vcpus) == (seen.vcpus or 0) or power_state is PowerState.SHUTDOWN
        assert inspected.configuration
        assert server in inspected.configuration

    def test_the_end_of_a_console_is_bounded(self, laboratory: Laboratory) -> None:
        tail = self._get(laboratory).read_console_tail(laboratory.make_surviving(), 20)
        assert tail is None or len(tail) <= 20

    def test_an_unknown_server_is_not_inspected(self, laboratory: Laboratory) -> None:
        with pytest.raises(ServerNotFound):
            self._get(laboratory).inspect_server(laboratory.unknown_server)
        with pytest.raises(ServerNotFound):
            self._get(laboratory).read_console_tail(laboratory.unknown_server, 20)

    def _get(self, laboratory: Laboratory) -> Inspection:
        assert laboratory.driver.inspection is not None
        return laboratory.driver.inspection
