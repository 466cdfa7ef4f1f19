"""Joins what libvirt counted with the devices of the domain's XML: one reading of one server. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from compute_agent.contract.models import PowerState
from compute_agent.drivers.libvirt.domain_devices import DomainDevices, DomainDisk, DomainNic
from compute_agent.drivers.libvirt.domain_stats import DomainCounters
from compute_agent.drivers.libvirt.states import translate_power_state
from compute_agent.drivers.models import CollectedDiagnostics, DiskCounters, NicCounters

DRIVER_WORD = "libvirt"
_OFF = (PowerState.SHUTDOWN, PowerState.PENDING)
# The guest reports every few seconds; a driver that was unloaded leaves its last words behind.
_OLDEST_MEMORY_REPORT = timedelta(minutes=2)


@dataclass(frozen=True)
class Occasion:
    """When and where it was read: ``collected_at`` by the wall clock, ``monotonic`` in seconds by the agent's other one."""

    server: str
    collected_at: datetime
    monotonic: float
    started_at: datetime | None = None
    hypervisor_os: str | None = None


def join_reading(
    occasion: Occasion,
    counters: DomainCounters,
    devices: DomainDevices | None,
    failed_requests: Mapping[str, int],
    errors: Mapping[str, str],
) -> CollectedDiagnostics:
    """The reading. The XML says which devices there are; without it (None) they are those that were counted.

    :param failed_requests: by QEMU's alias of the disk; those that are missing are not known
    :param errors: what could not be read; what is missing although it was read is added here
    """
    power_state = translate_power_state(counters.state, counters.reason)
    known = devices or _describe_counted(counters)
    is_on = power_state not in _OFF
    nics = tuple(_join_nic(nic, counters) for nic in known.nics)
    disks = tuple(_join_disk(disk, counters, failed_requests) for disk in known.disks)
    used, no_use = _find_memory_used(counters, occasion, power_state) if is_on else (None, None)
    missing = {"memory": no_use} | (_find_missing(nics, disks) if is_on else {})
    return CollectedDiagnostics(
        server=occasion.server,
        power_state=power_state,
        collected_at=occasion.collected_at,
        monotonic=occasion.monotonic,
        driver_word=DRIVER_WORD,
        hypervisor=known.hypervisor,
        hypervisor_os=occasion.hypervisor_os,
        started_at=occasion.started_at if is_on else None,
        config_drive=known.has_config_drive,
        cpu_times=dict(counters.cpu_times) or dict.fromkeys(known.cpus),
        memory_maximum_kib=known.memory_kib if counters.memory_maximum_kib is None else counters.memory_maximum_kib,
        memory_used_kib=used,
        nics=nics,
        disks=disks,
        free_form=_write_free_form(counters, nics, disks),
        errors={part: reason for part, reason in missing.items() if reason is not None} | dict(errors),
    )


def _describe_counted(counters: DomainCounters) -> DomainDevices:
    return DomainDevices(
        nics=tuple(DomainNic(device=name) for name in counters.nics),
        disks=tuple(DomainDisk(device=name) for name in counters.disks),
    )


def _join_nic(nic: DomainNic, counters: DomainCounters) -> NicCounters:
    return replace(counters.nics.get(nic.device or "", NicCounters()), device=nic.device, mac=nic.mac)


def _join_disk(disk: DomainDisk, counters: DomainCounters, failed_requests: Mapping[str, int]) -> DiskCounters:
    counted = counters.disks.get(disk.device or "", DiskCounters())
    return replace(counted, device=disk.device, errors=failed_requests.get(disk.alias or ""))


def _find_memory_used(counters: DomainCounters, occasion: Occasion, power_state: PowerState) -> tuple[int | None, str | None]:
    """(KiB, None), or (None, why not). Only the guest itself knows: its balloon driver tells, if there is one and it is asked to."""
    available, unused = counters.memory.get("available"), counters.memory.get("unused")
    if available is None or unused is None or unused > available:
        return None, "the guest does not report its memory: it needs a balloon driver, and its domain <memballoon> with <stats period=…/>"
    told = counters.memory.get("last_update")
    if told is not None and power_state is PowerState.RUNNING:
        age = occasion.collected_at.timestamp() - told
        if age > _OLDEST_MEMORY_REPORT.total_seconds():
            return None, f"the guest has not reported its memory for {age:.0f} s"
    return available - unused, None


def _find_missing(nics: tuple[NicCounters, ...], disks: tuple[DiskCounters, ...]) -> dict[str, str | None]:
    uncounted_nics = [nic.device or nic.mac or "?" for nic in nics if nic == NicCounters(device=nic.device, mac=nic.mac)]
    uncounted_disks = [disk.device or "?" for disk in disks if disk == DiskCounters(device=disk.device, errors=disk.errors)]
    return {"nics": _say_uncounted(uncounted_nics), "disks": _say_uncounted(uncounted_disks)}


def _say_uncounted(names: list[str]) -> str | None:
    return f"libvirt has no counters of {', '.join(names)}" if names else None


def _write_free_form(counters: DomainCounters, nics: tuple[NicCounters, ...], disks: tuple[DiskCounters, ...]) -> dict[str, int]:
    """The older format, under libvirt's names of the devices; only failed requests that are not known are there, as libvirt's -1."""
    values: dict[str, int | None] = {f"cpu{number}_time": time for number, time in counters.cpu_times.items()}
    values["memory"] = counters.memory_maximum_kib
    values |= {f"memory-{word}": count for word, count in counters.memory.items()}
    for disk in disks:
        if disk.device is not None and disk.read_requests is not None:
            values |= {
                f"{disk.device}_read_req": disk.read_requests,
                f"{disk.device}_read": disk.read_bytes,
                f"{disk.device}_write_req": disk.write_requests,
                f"{disk.device}_write": disk.write_bytes,
                f"{disk.device}_errors": -1 if disk.errors is None else disk.errors,
            }
    for nic in nics:
        if nic.device is not None:
            values |= {
                f"{nic.device}_rx": nic.rx_octets,
                f"{nic.device}_rx_packets": nic.rx_packets,
                f"{nic.device}_rx_errors": nic.rx_errors,
                f"{nic.device}_rx_drop": nic.rx_drop,
                f"{nic.device}_tx": nic.tx_octets,
                f"{nic.device}_tx_packets": nic.tx_packets,
                f"{nic.device}_tx_errors": nic.tx_errors,
                f"{nic.device}_tx_drop": nic.tx_drop,
            }
    return {key: value for key, value in values.items() if value is not None}
