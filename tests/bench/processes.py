"""What the kernel says of a process: its memory, its threads, the processor time that it took."""

from __future__ import annotations

import os
from pathlib import Path

from devstack.services import list_children

_TICKS = os.sysconf("SC_CLK_TCK")


def read_used_processor_time(pid: int) -> float:
    """Seconds that a process and those that it has started, and theirs, were running so far; threads and children that have ended count."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / _TICKS + sum(read_used_processor_time(child.pid) for child in list_children(pid))


def read_processor_time(pid: int) -> int:
    """Nanoseconds that the threads it has now were running so far."""
    return sum(int((task / "schedstat").read_text().split()[0]) for task in Path(f"/proc/{pid}/task").iterdir())


def read_resident_mib(pid: int) -> float:
    """Its resident memory, in MiB."""
    return _read_status(pid, "VmRSS") / 1024


def read_proportional_mib(pid: int) -> float:
    """Its resident memory with each page that others have as well counted as their part of it, in MiB."""
    return _read_field(Path(f"/proc/{pid}/smaps_rollup"), "Pss") / 1024


def count_threads(pid: int) -> int:
    return _read_status(pid, "Threads")


def _read_status(pid: int, field: str) -> int:
    return _read_field(Path(f"/proc/{pid}/status"), field)


def _read_field(path: Path, field: str) -> int:
    for line in path.read_text().splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0])
    raise LookupError(f"{path} has no {field}")
