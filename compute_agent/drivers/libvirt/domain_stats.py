"""What libvirt's statistics of a domain say: a flat record of named values, some of which may be missing, new or nonsense."""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from compute_agent.contract.text import clean_line
from compute_agent.drivers.models import DiskCounters, NicCounters

# libvirt says "unknown" as -1, here and there in an unsigned number.
_MOST = 2**63 - 1
_CPU_KEY = re.compile(r"vcpu\.([0-9]{1,4})\.(?:state|time)")
_NAME_KEY = re.compile(r"(net|block)\.([0-9]{1,6})\.name")
_MEMORY_PREFIX = "balloon."
# memoryStats, which the older diagnostics format shows, has other words for these.
_OLD_MEMORY_WORDS = {"current": "actual", "last-update": "last_update"}
_FAILED_REQUEST = re.compile(r"failed_[a-z_]+_operations")
_OLD_DRIVE_PREFIX = "drive-"


@dataclass(frozen=True)
class DomainCounters:
    """The values by device name; ``memory`` in KiB under the words of the older format (``actual``, ``unused``, ``rss``, …)."""

    state: int = 0
    reason: int = 0
    cpu_times: Mapping[int, int | None] = field(default_factory=dict)
    memory_maximum_kib: int | None = None
    memory: Mapping[str, int] = field(default_factory=dict)
    nics: Mapping[str, NicCounters] = field(default_factory=dict)
    disks: Mapping[str, DiskCounters] = field(default_factory=dict)

    @property
    def is_partial(self) -> bool:
        """Whether QEMU was not asked, because it was busy: the counters of its disks and all but the size of its memory are missing."""
        return "rss" not in self.memory and all(disk == DiskCounters(device=name) for name, disk in self.disks.items())


def parse_counters(record: Mapping[str, Any]) -> DomainCounters:
    """Read one record of ``virDomainListGetStats``. Never raises: what is odd is left out."""
    cpus = sorted({int(found[1]) for found in map(_CPU_KEY.fullmatch, record) if found})
    memory = {key.removeprefix(_MEMORY_PREFIX): find_count(record, key) for key in record if key.startswith(_MEMORY_PREFIX)}
    maximum = memory.pop("maximum", None)
    return DomainCounters(
        state=find_count(record, "state.state") or 0,
        reason=find_count(record, "state.reason") or 0,
        cpu_times={number: find_count(record, f"vcpu.{number}.time") for number in cpus},
        memory_maximum_kib=maximum,
        memory={clean_line(_OLD_MEMORY_WORDS.get(word, word)): count for word, count in memory.items() if count is not None},
        nics={name: _read_nic(record, prefix, name) for name, prefix in _list_devices(record, "net")},
        disks={name: _read_disk(record, prefix, name) for name, prefix in _list_devices(record, "block")},
    )


def find_count(record: Mapping[str, Any], key: str) -> int | None:
    """A whole number that counts something; None when it is missing, no number, or libvirt's "unknown"."""
    value = record.get(key)
    if isinstance(value, bool) or not isinstance(value, int):
        return None
    return value if 0 <= value <= _MOST else None


def parse_failed_requests(reply: str, aliases: Iterable[str]) -> dict[str, int]:
    """Failed requests by device alias, out of QEMU's answer to ``query-blockstats``: reads, writes, flushes and discards that QEMU tried.

    Those that the guest itself asked for wrongly (``invalid_…``) are none.

    :raises ValueError: it is no such answer.
    """
    body = json.loads(reply)
    entries = body.get("return") if isinstance(body, dict) else None
    if not isinstance(entries, list):
        raise ValueError("QEMU's answer has no list in it")
    wanted = set(aliases)
    failed: dict[str, int] = {}
    for entry in entries:
        if isinstance(entry, dict) and isinstance(entry.get("stats"), dict):
            count = _sum_failed(entry["stats"])
            if count is not None:
                failed.update(dict.fromkeys(wanted & _list_names(entry), count))
    return failed


def _list_devices(record: Mapping[str, Any], kind: str) -> list[tuple[str, str]]:
    """(name, key prefix) of each in libvirt's order. Of one name only the first: the layers under a disk follow it and share its name."""
    numbers = sorted({int(found[2]) for found in map(_NAME_KEY.fullmatch, record) if found and found[1] == kind})
    prefixes: dict[str, str] = {}
    for number in numbers:
        name = record.get(f"{kind}.{number}.name")
        if isinstance(name, str) and clean_line(name):
            prefixes.setdefault(clean_line(name), f"{kind}.{number}.")
    return list(prefixes.items())


def _read_nic(record: Mapping[str, Any], prefix: str, name: str) -> NicCounters:
    return NicCounters(
        device=name,
        rx_octets=find_count(record, f"{prefix}rx.bytes"),
        rx_packets=find_count(record, f"{prefix}rx.pkts"),
        rx_errors=find_count(record, f"{prefix}rx.errs"),
        rx_drop=find_count(record, f"{prefix}rx.drop"),
        tx_octets=find_count(record, f"{prefix}tx.bytes"),
        tx_packets=find_count(record, f"{prefix}tx.pkts"),
        tx_errors=find_count(record, f"{prefix}tx.errs"),
        tx_drop=find_count(record, f"{prefix}tx.drop"),
    )


def _read_disk(record: Mapping[str, Any], prefix: str, name: str) -> DiskCounters:
    return DiskCounters(
        device=name,
        read_bytes=find_count(record, f"{prefix}rd.bytes"),
        read_requests=find_count(record, f"{prefix}rd.reqs"),
        write_bytes=find_count(record, f"{prefix}wr.bytes"),
        write_requests=find_count(record, f"{prefix}wr.reqs"),
    )


def _sum_failed(stats: Mapping[str, Any]) -> int | None:
    counts = [find_count(stats, key) for key in stats if _FAILED_REQUEST.fullmatch(key)]
    return sum(count for count in counts if count is not None) if any(count is not None for count in counts) else None


def _list_names(entry: Mapping[str, Any]) -> set[str]:
    """Where a device's alias may stand: in the path of its device, or in the name that QEMU's older drives have."""
    path, drive = entry.get("qdev"), entry.get("device")
    names = set(path.split("/")) if isinstance(path, str) else set()
    if isinstance(drive, str):
        names.add(drive.removeprefix(_OLD_DRIVE_PREFIX))
    return names - {""}
