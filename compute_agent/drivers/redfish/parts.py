"""What a machine is made of, part by part: one that cannot be read, or not in time, costs itself only."""

from collections.abc import Callable
from typing import TypeVar

from compute_agent.contract.diagnostics import Hardware, LogEntry, Sensor
from compute_agent.drivers.bmc.protocol import MachineParts
from compute_agent.drivers.models import DiskCounters, NicCounters
from compute_agent.drivers.redfish.connection import Visit
from compute_agent.drivers.redfish.documents import (
    Document,
    find,
    find_count,
    find_health,
    find_link,
    find_mac,
    find_number,
    find_text,
    iterate_documents,
    last_segment,
    list_links,
)
from compute_agent.drivers.redfish.errors import ExchangeError, Refused, Unusable
from compute_agent.drivers.redfish.log import MachineLog
from compute_agent.drivers.redfish.sensors import read_sensors
from compute_agent.drivers.redfish.system import read_state

T = TypeVar("T")

_KIB_PER_GIB = 1024 * 1024
_MOST = 64
"""Members of one collection that are looked at."""
_MOST_CPUS = 65536
_LAST_ENTRIES = 10
_UPDATES = "/redfish/v1/UpdateService"
_ABSENT = "Absent"
_NO_SENSORS: tuple[list[Sensor], float | None] = ([], None)


def read_parts(visit: Visit, system: Document, log: MachineLog) -> MachineParts:
    """Everything that diagnostics tell, the slowest and least needed last.

    :raises ExchangeError: not even the state can be read.
    """
    errors: dict[str, str] = {}

    def take(part: str, read: Callable[[], T], otherwise: T) -> T:
        try:
            return read()
        except ExchangeError as error:
            errors[part] = str(error)
            return otherwise

    state = read_state(system)
    cpus = take("cpus", lambda: _count_cpus(visit, system), None)
    memory_kib = take("memory", lambda: _read_memory(system), None)
    nics = take("nics", lambda: _list_nics(visit, system), list[NicCounters]())
    entries = take("log", lambda: log.read_last(visit, system, _LAST_ENTRIES), list[LogEntry]())
    disks = take("disks", lambda: _list_disks(visit, system), list[DiskCounters]())
    sensors, watts = take("sensors", lambda: read_sensors(visit, list_links(system, "Links", "Chassis")), _NO_SENSORS)
    firmware: dict[str, str] = {}
    take("firmware", lambda: _read_firmware(visit, system, firmware), None)
    hardware = Hardware(
        power=state.reason.lower(),
        power_watts=watts,
        health=find_health(system, "Status", "HealthRollup") or find_health(system, "Status", "Health"),
        sensors=tuple(sensors),
        firmware=firmware,
        log=tuple(entries),
    )
    return MachineParts(state, cpus, memory_kib, nics, disks, hardware, errors)


def _list_collection(visit: Visit, path: str | None) -> list[Document]:
    """The members of a collection, asked for one by one where it does not hold them itself; empty where there is none."""
    found = []
    for member in list(iterate_documents(visit.find(path), "Members"))[:_MOST]:
        document = visit.find(find_link({"at": member}, "at")) if set(member) <= {"@odata.id"} else member
        if document is not None and find_text(document, "Status", "State") != _ABSENT:
            found.append(document)
    return found


def _count_cpus(visit: Visit, system: Document) -> int:
    """As the operating system would count them, or as near to that as the BMC comes: threads, else cores, else sockets."""
    summary = find(system, "ProcessorSummary")
    threads = find_count(summary, "LogicalProcessorCount")
    if not threads:
        processors = _list_collection(visit, find_link(system, "Processors"))
        cpus = [processor for processor in processors if find(processor, "ProcessorType") in (None, "CPU")]
        threads = sum(find_count(cpu, "TotalThreads") or find_count(cpu, "TotalCores") or 0 for cpu in cpus)
    count = threads or find_count(summary, "CoreCount") or find_count(summary, "Count")
    if not count or count > _MOST_CPUS:
        raise Unusable("the BMC does not say how many processors there are")
    return count


def _read_memory(system: Document) -> int:
    size = find_number(system, "MemorySummary", "TotalSystemMemoryGiB")
    if size is None or size <= 0:
        raise Unusable("the BMC does not say how much memory there is")
    return round(size * _KIB_PER_GIB)


def _list_nics(visit: Visit, system: Document) -> list[NicCounters]:
    cards = _list_collection(visit, find_link(system, "EthernetInterfaces"))
    return [NicCounters(find_text(card, "Id"), find_mac(card, "MACAddress") or find_mac(card, "PermanentMACAddress")) for card in cards]


def _list_disks(visit: Visit, system: Document) -> list[DiskCounters]:
    """By name only: a BMC counts nothing of what is read and written. Some link to a newer kind of storage that they do not have, and fail
    over it.

    :raises ExchangeError: no kind tells of a disk, and the newer one cannot be read.
    """
    problem: Refused | None = None
    names: list[str] = []
    try:
        for storage in _list_collection(visit, find_link(system, "Storage")):
            names += [last_segment(link) for link in list_links(storage, "Drives")]
    except Refused as refusal:
        problem = refusal
    if not names:
        for storage in _list_collection(visit, find_link(system, "SimpleStorage")):
            devices = iterate_documents(storage, "Devices")
            names += [name for device in devices if find_text(device, "Status", "State") != _ABSENT and (name := find_text(device, "Name"))]
    if problem is not None and not names:
        raise problem
    return [DiskCounters(device=name) for name in names]


def _read_firmware(visit: Visit, system: Document, found: dict[str, str]) -> None:
    """Fills ``found``, so that what was read before an error is kept."""
    if (version := find_text(system, "BiosVersion")) is not None:
        found["BIOS"] = version
    for manager in list_links(system, "Links", "ManagedBy")[:1]:
        if (version := find_text(visit.find(manager), "FirmwareVersion")) is not None:
            found["BMC"] = version
    inventory = find_link(visit.find(_UPDATES), "FirmwareInventory")
    for component in _list_collection(visit, inventory):
        name, version = find_text(component, "Name") or find_text(component, "Id"), find_text(component, "Version")
        if name is not None and version is not None:
            found[name] = version
