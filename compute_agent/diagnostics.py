"""From what a driver read to what people are told: two readings of one run of a server become a report with rates and utilisation.

Pure computing. Every report is of bounded size whatever a server's devices and a backend's errors are: it travels in an event.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

from compute_agent.contract.diagnostics import (
    CpuDetails,
    Diagnostics,
    DiagnosticsReport,
    DiskDetails,
    Hardware,
    MemoryDetails,
    NicDetails,
    Sensor,
)
from compute_agent.contract.models import PowerState
from compute_agent.contract.text import clean_line
from compute_agent.drivers.models import CollectedDiagnostics, DiskCounters, NicCounters

SHORTEST_SPAN = 1.0
"""Seconds between two readings at least, for rates that mean something: counters are updated only now and then."""
MOST_CPUS = 1024
MOST_DEVICES = 256
MOST_FREE_FORM = 2048
MOST_ERRORS = 64
MOST_SENSORS = 512
MOST_FIRMWARE = 64
MOST_LOG_ENTRIES = 50
_KIB_PER_MIB = 1024
_LONGEST_KEY = 128
_LARGEST = 2**63 - 1

_Item = TypeVar("_Item")
_NicKey = tuple[str | None, str | None]
_NIC_SUFFIXES = {
    "rx": "rx_octets",
    "rx_packets": "rx_packets",
    "rx_errors": "rx_errors",
    "rx_drop": "rx_drop",
    "tx": "tx_octets",
    "tx_packets": "tx_packets",
    "tx_errors": "tx_errors",
    "tx_drop": "tx_drop",
}
_DISK_SUFFIXES = {
    "read_req": "read_requests",
    "read": "read_bytes",
    "write_req": "write_requests",
    "write": "write_bytes",
    "errors": "errors",
}


def make_report(
    current: CollectedDiagnostics,
    earlier: CollectedDiagnostics | None = None,
    *,
    age: float = 0.0,
    stale: bool = False,
    problem: str | None = None,
) -> DiagnosticsReport:
    """The report of ``current``.

    :param earlier: a reading of the same server to work out rates and utilisation from; without one they are null
    :param age: seconds since ``current`` was read
    :param problem: why there is nothing newer; told in ``errors`` as ``collection``
    """
    span = _find_span(current, earlier)
    before = earlier if span is not None else None
    cut: dict[str, str] = {}
    cpus = _limit(sorted(current.cpu_times.items()), MOST_CPUS, "cpus", cut)
    nics = _limit(current.nics, MOST_DEVICES, "nics", cut)
    disks = _limit(current.disks, MOST_DEVICES, "disks", cut)
    times_before = {} if before is None else before.cpu_times
    nics_before = {} if before is None else _index(before.nics)
    nics_now = _index(current.nics)
    diagnostics = Diagnostics(
        state=current.power_state,
        driver=current.driver_word,
        hypervisor=current.hypervisor,
        hypervisor_os=current.hypervisor_os,
        uptime=_find_uptime(current),
        config_drive=current.config_drive,
        num_cpus=len(current.cpu_times),
        num_nics=len(current.nics),
        num_disks=len(current.disks),
        cpu_details=tuple(
            CpuDetails(id=number, time=_count(time), utilisation=_find_utilisation(time, times_before.get(number), span))
            for number, time in cpus
        ),
        nic_details=tuple(_describe_nic(nic, _find_match(nic, nics_now, nics_before), span) for nic in nics),
        disk_details=tuple(_describe_disk(disk) for disk in disks),
        memory_details=MemoryDetails(maximum=_to_mib(current.memory_maximum_kib), used=_to_mib(current.memory_used_kib)),
    )
    hardware = None if current.hardware is None else _limit_hardware(current.hardware, cut)
    problems = {**({} if problem is None else {"collection": problem}), **cut, **current.errors}
    return DiagnosticsReport(
        server=current.server,
        diagnostics=diagnostics,
        collected_at=current.collected_at,
        age=round(max(age, 0.0), 3),
        stale=stale,
        errors={clean_line(part): clean_line(why) for part, why in list(problems.items())[:MOST_ERRORS]},
        free_form=_make_free_form(current, cpus, nics, disks),
        hardware=hardware,
    )


def make_historic(report: DiagnosticsReport) -> DiagnosticsReport:
    """For one of many: without the older format's numbers, and without the log, which would be the same in each of them."""
    hardware = None if report.hardware is None else report.hardware.model_copy(update={"log": ()})
    return report.model_copy(update={"free_form": {}, "hardware": hardware})


def find_earlier(current: CollectedDiagnostics, readings: Iterable[CollectedDiagnostics]) -> CollectedDiagnostics | None:
    """The newest of ``readings`` from which rates can be worked out."""
    fit = [reading for reading in readings if _find_span(current, reading) is not None]
    return max(fit, key=lambda reading: reading.monotonic, default=None)


def _find_span(current: CollectedDiagnostics, earlier: CollectedDiagnostics | None) -> float | None:
    """Seconds between two readings of one run; None when nothing can be worked out from them."""
    if earlier is None or earlier.server != current.server or earlier.started_at != current.started_at:
        return None
    span = current.monotonic - earlier.monotonic
    return span if span >= SHORTEST_SPAN else None


def _find_uptime(current: CollectedDiagnostics) -> int | None:
    if current.started_at is None or current.power_state is PowerState.SHUTDOWN:
        return None
    return max(0, int((current.collected_at - current.started_at).total_seconds()))


def _find_utilisation(now: int | None, before: int | None, span: float | None) -> int | None:
    """Percent of one host CPU; null when the counter is missing or went backwards (the server was restarted)."""
    rate = _find_rate(now, before, span)
    return None if rate is None else min(100, round(rate / 10_000_000))


def _find_rate(now: int | None, before: int | None, span: float | None) -> float | None:
    if span is None or now is None or before is None or not 0 <= before <= now:
        return None
    return (now - before) / span


def _describe_nic(nic: NicCounters, before: NicCounters | None, span: float | None) -> NicDetails:
    rx_rate = tx_rate = None
    if before is not None:
        rx, tx = _find_rate(nic.rx_octets, before.rx_octets, span), _find_rate(nic.tx_octets, before.tx_octets, span)
        is_replaced = _went_back(nic.rx_octets, before.rx_octets) or _went_back(nic.tx_octets, before.tx_octets)
        rx_rate, tx_rate = (None if rate is None or is_replaced else min(round(rate), _LARGEST) for rate in (rx, tx))
    return NicDetails(
        mac_address=None if nic.mac is None else nic.mac.lower(),
        rx_octets=_count(nic.rx_octets),
        rx_errors=_count(nic.rx_errors),
        rx_drop=_count(nic.rx_drop),
        rx_packets=_count(nic.rx_packets),
        rx_rate=rx_rate,
        tx_octets=_count(nic.tx_octets),
        tx_errors=_count(nic.tx_errors),
        tx_drop=_count(nic.tx_drop),
        tx_packets=_count(nic.tx_packets),
        tx_rate=tx_rate,
    )


def _describe_disk(disk: DiskCounters) -> DiskDetails:
    return DiskDetails(
        read_bytes=_count(disk.read_bytes),
        read_requests=_count(disk.read_requests),
        write_bytes=_count(disk.write_bytes),
        write_requests=_count(disk.write_requests),
        errors_count=_count(disk.errors),
    )


def _went_back(now: int | None, before: int | None) -> bool:
    return now is not None and before is not None and now < before


def _index(nics: Sequence[NicCounters]) -> dict[_NicKey, NicCounters | None]:
    """By device and address; None for those that cannot be told apart."""
    found: dict[_NicKey, NicCounters | None] = {}
    for nic in nics:
        key = _key(nic)
        found[key] = None if key in found or key == (None, None) else nic
    return found


def _key(nic: NicCounters) -> _NicKey:
    return nic.device, None if nic.mac is None else nic.mac.lower()


def _find_match(
    nic: NicCounters, now: Mapping[_NicKey, NicCounters | None], before: Mapping[_NicKey, NicCounters | None]
) -> NicCounters | None:
    key = _key(nic)
    return before.get(key) if now.get(key) is not None else None


def _make_free_form(
    current: CollectedDiagnostics, cpus: Iterable[tuple[int, int | None]], nics: Iterable[NicCounters], disks: Iterable[DiskCounters]
) -> dict[str, int]:
    """The older format: device names in the keys, what is not known left out; the driver's own numbers go before these."""
    found: dict[str, int | None] = {f"cpu{number}_time": time for number, time in cpus}
    found["memory"] = current.memory_maximum_kib
    for disk in disks:
        if disk.device:
            found |= {f"{disk.device}_{suffix}": getattr(disk, name) for suffix, name in _DISK_SUFFIXES.items()}
    for nic in nics:
        if nic.device:
            found |= {f"{nic.device}_{suffix}": getattr(nic, name) for suffix, name in _NIC_SUFFIXES.items()}
    found |= current.free_form
    kept: dict[str, int] = {}
    for key, value in found.items():
        lowest = -_LARGEST if key in current.free_form else 0
        if value is not None and key and len(key) <= _LONGEST_KEY and lowest <= value <= _LARGEST and len(kept) < MOST_FREE_FORM:
            kept[key] = value
    return kept


def _limit_hardware(hardware: Hardware, cut: dict[str, str]) -> Hardware:
    """What is no number has no place in JSON; a management controller that tells thousands of sensors is cut short."""
    firmware = [(clean_line(part), clean_line(version)) for part, version in hardware.firmware.items()]
    sensors = _limit(hardware.sensors, MOST_SENSORS, "sensors", cut)
    return hardware.model_copy(
        update={
            "power_watts": _find_finite(hardware.power_watts),
            "sensors": tuple(_limit_sensor(sensor) for sensor in sensors),
            "firmware": dict(_limit([entry for entry in firmware if all(entry)], MOST_FIRMWARE, "firmware", cut)),
            "log": tuple(hardware.log[:MOST_LOG_ENTRIES]),
        }
    )


def _limit_sensor(sensor: Sensor) -> Sensor:
    return sensor.model_copy(update={"value": _find_finite(sensor.value)})


def _find_finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _limit(items: Sequence[_Item], most: int, what: str, cut: dict[str, str]) -> Sequence[_Item]:
    if len(items) > most:
        cut[what] = f"only the first {most} of {len(items)} are listed"
    return items[:most]


def _count(value: int | None) -> int | None:
    """A counter as the format has it; a negative one is a platform's way to say that it does not know."""
    return value if value is not None and 0 <= value <= _LARGEST else None


def _to_mib(kib: int | None) -> int | None:
    count = _count(kib)
    return None if count is None else count // _KIB_PER_MIB
