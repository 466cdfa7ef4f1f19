"""What a fake server counts: a little work that goes on for as long as it has run, the same for the same times.

So rates and utilisation worked out from two readings have known values, without anything that runs in the background.
"""

from dataclasses import replace
from typing import Any

from compute_agent.contract.clock import Clock
from compute_agent.contract.models import PowerState
from compute_agent.drivers.models import CollectedDiagnostics, DiskCounters, DriverServer, NicCounters

UTILISATION = 25
"""Percent of one host CPU that each processor of a fake server uses while it is on."""
OCTETS_PER_SECOND = 1000
"""Bytes per second that it receives, half as many that it sends, and as many as it reads from and writes to its disk."""
_OCTETS_PER_PACKET = 100
_OCTETS_PER_REQUEST = 500
_NS = 1_000_000_000


def count_work(seen: DriverServer, running_since: float | None, clock: Clock, **fields: Any) -> CollectedDiagnostics:
    """A reading of a server now.

    :param running_since: monotonic seconds at which it was started; None: it is off and has counted nothing
    :param fields: fields of the reading that are to be as given instead
    """
    now = clock.monotonic()
    processors = range(seen.vcpus or 0)
    memory_kib = None if seen.memory_mib is None else seen.memory_mib * 1024
    reading = CollectedDiagnostics(
        server=seen.id,
        power_state=seen.power_state,
        collected_at=clock.now(),
        monotonic=now,
        driver_word="libvirt",
        hypervisor="fake",
        started_at=seen.started_at,
        cpu_times=dict.fromkeys(processors),
        memory_maximum_kib=memory_kib,
        nics=(NicCounters(device="tap0", mac="52:54:00:00:00:01"),),
        disks=(DiskCounters(device="vda"),),
    )
    if running_since is not None and seen.power_state is not PowerState.SHUTDOWN:
        reading = _add_counters(reading, now - running_since)
    return replace(reading, **fields)


def _add_counters(reading: CollectedDiagnostics, seconds: float) -> CollectedDiagnostics:
    cpu_time = int(seconds * UTILISATION * _NS / 100)
    octets = int(seconds * OCTETS_PER_SECOND)
    nic = NicCounters(
        device="tap0",
        mac="52:54:00:00:00:01",
        rx_octets=octets,
        rx_packets=octets // _OCTETS_PER_PACKET,
        rx_errors=0,
        rx_drop=0,
        tx_octets=octets // 2,
        tx_packets=octets // 2 // _OCTETS_PER_PACKET,
        tx_errors=0,
        tx_drop=0,
    )
    disk = DiskCounters(
        device="vda",
        read_bytes=octets,
        read_requests=octets // _OCTETS_PER_REQUEST,
        write_bytes=octets,
        write_requests=octets // _OCTETS_PER_REQUEST,
        errors=0,
    )
    memory_kib = reading.memory_maximum_kib
    return replace(
        reading,
        cpu_times=dict.fromkeys(reading.cpu_times, cpu_time),
        memory_used_kib=None if memory_kib is None else memory_kib // 2,
        nics=(nic,),
        disks=(disk,),
        free_form={f"cpu{number}_time": cpu_time for number in reading.cpu_times}
        | ({} if memory_kib is None else {"memory": memory_kib})
        | {"vda_read": octets, "vda_write": octets, "tap0_rx": octets, "tap0_tx": octets // 2},
    )
