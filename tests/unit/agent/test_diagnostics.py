"""From two readings to a report: the format, rates, utilisation, and what odd numbers never do."""

import json
import math
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compute_agent.contract.diagnostics import DiagnosticsReport, Hardware, Health, LogEntry, Sensor, SensorKind
from compute_agent.contract.models import PowerState
from compute_agent.diagnostics import (
    MOST_FIRMWARE,
    MOST_LOG_ENTRIES,
    MOST_SENSORS,
    SHORTEST_SPAN,
    find_earlier,
    make_historic,
    make_report,
)
from compute_agent.drivers.models import CollectedDiagnostics, DiskCounters, NicCounters

SERVER = "11111111-1111-4111-8111-111111111111"
START = datetime(2026, 1, 1, tzinfo=UTC)
SECOND = 1_000_000_000
NIC = NicCounters(device="tap0", mac="FA:16:3E:00:00:01", rx_octets=1000, tx_octets=2000)
DISK = DiskCounters(device="vda", read_bytes=4096, read_requests=2, write_bytes=512, write_requests=1, errors=0)
READING = CollectedDiagnostics(
    server=SERVER,
    power_state=PowerState.RUNNING,
    collected_at=START + timedelta(seconds=90.9),
    monotonic=1000.0,
    driver_word="libvirt",
    hypervisor="kvm",
    hypervisor_os="Debian GNU/Linux 12",
    started_at=START,
    cpu_times={1: 5 * SECOND, 0: 7 * SECOND},
    memory_maximum_kib=512 * 1024,
    memory_used_kib=100 * 1024 + 1023,
    nics=(NIC,),
    disks=(DISK,),
)


def later(seconds: float, **fields: object) -> CollectedDiagnostics:
    moved = {"monotonic": READING.monotonic + seconds, "collected_at": READING.collected_at + timedelta(seconds=seconds)}
    return replace(READING, **{**moved, **fields})  # type: ignore[arg-type]


def test_one_reading_has_every_key_and_neither_rates_nor_utilisation() -> None:
    report = make_report(READING, age=1.5)
    diagnostics = report.diagnostics
    assert (diagnostics.state, diagnostics.driver, diagnostics.hypervisor) == (PowerState.RUNNING, "libvirt", "kvm")
    assert diagnostics.uptime == 90
    assert (diagnostics.num_cpus, diagnostics.num_nics, diagnostics.num_disks) == (2, 1, 1)
    assert [(cpu.id, cpu.time, cpu.utilisation) for cpu in diagnostics.cpu_details] == [(0, 7 * SECOND, None), (1, 5 * SECOND, None)]
    assert diagnostics.nic_details[0].mac_address == "fa:16:3e:00:00:01"
    assert (diagnostics.nic_details[0].rx_rate, diagnostics.nic_details[0].tx_rate) == (None, None)
    assert (report.age, report.stale, report.errors) == (1.5, False, {})


def test_memory_is_in_mebibytes() -> None:
    memory = make_report(READING).diagnostics.memory_details
    assert (memory.maximum, memory.used) == (512, 100)


def test_rates_are_bytes_per_second_and_utilisation_is_percent_of_one_cpu() -> None:
    nic = replace(NIC, rx_octets=1000 + 30_000, tx_octets=2000 + 15)
    report = make_report(later(10, cpu_times={0: 12 * SECOND, 1: 6 * SECOND}, nics=(nic,)), READING)
    assert [cpu.utilisation for cpu in report.diagnostics.cpu_details] == [50, 10]
    assert (report.diagnostics.nic_details[0].rx_rate, report.diagnostics.nic_details[0].tx_rate) == (3000, 2)


def test_no_cpu_is_used_more_than_wholly() -> None:
    report = make_report(later(1, cpu_times={0: 9 * SECOND, 1: 6 * SECOND}), READING)
    assert [cpu.utilisation for cpu in report.diagnostics.cpu_details] == [100, 100]


@pytest.mark.parametrize(
    "current",
    [
        later(SHORTEST_SPAN / 2),
        later(-5),
        later(10, started_at=START + timedelta(seconds=60)),
        later(10, server="22222222-2222-4222-8222-222222222222"),
    ],
)
def test_nothing_is_worked_out_from_readings_too_near_or_of_another_run(current: CollectedDiagnostics) -> None:
    report = make_report(current, READING)
    assert {cpu.utilisation for cpu in report.diagnostics.cpu_details} == {None}
    assert report.diagnostics.nic_details[0].rx_rate is None
    assert find_earlier(current, [READING]) is None


def test_a_counter_that_went_backwards_gives_null_and_never_less_than_nothing() -> None:
    nic = replace(NIC, rx_octets=10, tx_octets=9000)
    report = make_report(later(10, cpu_times={0: 1, 1: 6 * SECOND}, nics=(nic,)), READING)
    assert [cpu.utilisation for cpu in report.diagnostics.cpu_details] == [None, 10]
    assert (report.diagnostics.nic_details[0].rx_rate, report.diagnostics.nic_details[0].tx_rate) == (None, None)


def test_a_card_that_was_plugged_in_since_has_no_rate_and_spoils_none() -> None:
    added = NicCounters(device="tap1", mac="fa:16:3e:00:00:02", rx_octets=5, tx_octets=5)
    report = make_report(later(10, nics=(added, replace(NIC, rx_octets=2000))), READING)
    assert [nic.rx_rate for nic in report.diagnostics.nic_details] == [None, 100]


def test_cards_that_cannot_be_told_apart_have_no_rates() -> None:
    nameless = NicCounters(rx_octets=5, tx_octets=5)
    report = make_report(later(10, nics=(nameless, NIC, NIC)), later(0, nics=(nameless, NIC)))
    assert [nic.rx_rate for nic in report.diagnostics.nic_details] == [None, None, None]


def test_a_server_that_is_off_has_no_uptime() -> None:
    assert make_report(later(0, power_state=PowerState.SHUTDOWN)).diagnostics.uptime is None
    assert make_report(later(0, started_at=None)).diagnostics.uptime is None


def test_a_clock_set_back_makes_no_uptime_less_than_nothing() -> None:
    assert make_report(later(0, collected_at=START - timedelta(hours=1))).diagnostics.uptime == 0


def test_the_older_format_is_flat_and_leaves_out_what_is_not_known() -> None:
    disk = replace(DISK, errors=None)
    free_form = make_report(later(0, disks=(disk,), free_form={"memory-rss": 77, "memory": 78})).free_form
    assert free_form["cpu0_time"] == 7 * SECOND
    assert (free_form["memory"], free_form["memory-rss"]) == (78, 77)
    assert (free_form["vda_read_req"], free_form["vda_read"], free_form["tap0_rx"], free_form["tap0_tx"]) == (2, 4096, 1000, 2000)
    assert "vda_errors" not in free_form
    assert "tap0_rx_drop" not in free_form


def test_what_could_not_be_read_is_told_on_one_line() -> None:
    report = make_report(later(0, errors={"disk vda": "no\ncounters " + "x" * 1000}), stale=True, problem="no answer")
    assert report.errors["collection"] == "no answer"
    assert report.errors["disk vda"].startswith("no counters x")
    assert len(report.errors["disk vda"]) <= 255


def test_a_server_with_very_many_devices_makes_no_very_large_report() -> None:
    disks = tuple(replace(DISK, device=f"disk-{number}") for number in range(5000))
    nics = tuple(replace(NIC, device=f"tap{number}") for number in range(5000))
    errors = {f"disk {number}": "x" * 1000 for number in range(5000)}
    report = make_report(later(0, disks=disks, nics=nics, errors=errors, cpu_times=dict.fromkeys(range(5000), 2**62)))
    assert len(json.dumps(report.to_wire())) < 512 * 1024
    assert report.diagnostics.num_disks == 5000
    assert report.errors["disks"] == "only the first 256 of 5000 are listed"


counters = st.none() | st.integers(-(2**70), 2**70)
names = st.none() | st.text(max_size=300)
nics = st.builds(NicCounters, names, names, *([counters] * 8))
disks = st.builds(DiskCounters, names, *([counters] * 5))
readings = st.builds(
    CollectedDiagnostics,
    server=st.just(SERVER),
    power_state=st.sampled_from(PowerState),
    collected_at=st.datetimes(timezones=st.just(UTC)),
    monotonic=st.floats(0, 1e9),
    driver_word=st.just("libvirt"),
    hypervisor=names,
    started_at=st.none() | st.sampled_from([START, START + timedelta(days=1)]),
    cpu_times=st.dictionaries(st.integers(0, 4096), counters, max_size=6),
    memory_maximum_kib=counters,
    memory_used_kib=counters,
    nics=st.lists(nics, max_size=4),
    disks=st.lists(disks, max_size=4),
    free_form=st.dictionaries(st.text(max_size=300), st.integers(-(2**70), 2**70), max_size=5),
    errors=st.dictionaries(st.text(max_size=300), st.text(max_size=300), max_size=5),
)


@given(current=readings, earlier=st.none() | readings)
def test_whatever_a_platform_says_makes_a_report_that_can_be_sent_and_read(
    current: CollectedDiagnostics, earlier: CollectedDiagnostics | None
) -> None:
    report = make_report(current, earlier)
    assert DiagnosticsReport.from_wire(json.loads(json.dumps(report.to_wire()))) == report
    diagnostics = report.diagnostics
    assert (diagnostics.num_cpus, diagnostics.num_nics, diagnostics.num_disks) == (
        *(len(current.cpu_times), len(current.nics), len(current.disks)),
    )


@given(before=st.integers(0, 2**50), used=st.integers(0, 2**50), span=st.floats(SHORTEST_SPAN, 1e6), octets=st.integers(0, 2**50))
def test_rates_are_what_was_counted_by_the_time_it_took(before: int, used: int, span: float, octets: int) -> None:
    earlier = later(0, cpu_times={0: before})
    current = later(span, cpu_times={0: before + used}, nics=(replace(NIC, rx_octets=1000 + octets),))
    span = current.monotonic - earlier.monotonic
    report = make_report(current, earlier)
    if span < SHORTEST_SPAN:
        return
    assert report.diagnostics.cpu_details[0].utilisation == min(100, round(used / span / 1e7))
    assert report.diagnostics.nic_details[0].rx_rate == round(octets / span)


def test_what_bare_metal_tells_is_bounded_and_holds_numbers_only() -> None:
    """It travels in an event, as JSON: a BMC may tell thousands of sensors, and a reading that is none."""
    sensors = [Sensor(name=f"Temp {number}", kind=SensorKind.TEMPERATURE, value=20.5, unit="°C") for number in range(MOST_SENSORS + 1)]
    sensors[1] = sensors[1].model_copy(update={"value": math.nan})
    hardware = Hardware(
        power="on",
        power_watts=math.inf,
        health=Health.WARNING,
        sensors=tuple(sensors),
        firmware={"BMC\n": "1.2", "": "nothing", **{f"part {number}": "1" for number in range(MOST_FIRMWARE)}},
        log=tuple(LogEntry(id=str(number), text="text") for number in range(MOST_LOG_ENTRIES + 5)),
    )
    report = make_report(replace(READING, hardware=hardware))
    told = report.hardware
    assert told is not None
    assert (told.power, told.power_watts, told.health) == ("on", None, Health.WARNING)
    assert [sensor.value for sensor in told.sensors[:3]] == [20.5, None, 20.5]
    assert (len(told.sensors), len(told.firmware), len(told.log)) == (MOST_SENSORS, MOST_FIRMWARE, MOST_LOG_ENTRIES)
    assert told.firmware["BMC"] == "1.2"
    assert told.log[0].id == "0", "the newest are kept"
    assert report.errors.keys() == {"sensors", "firmware"}
    historic = make_historic(report).hardware
    assert historic is not None
    assert (historic.log, historic.sensors) == ((), told.sensors)
