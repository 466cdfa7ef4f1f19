"""What the kernel says of a process: its memory, its threads, the processor time that it took."""

from __future__ import annotations

from pathlib import Path


def read_processor_time(pid: int) -> int:
    """Nanoseconds that the threads it has now were running so far."""
    return sum(int((task / "schedstat").read_text().split()[0]) for task in Path(f"/proc/{pid}/task").iterdir())


def read_resident_mib(pid: int) -> float:
    """Its resident memory, in MiB."""
    return _read_status(pid, "VmRSS") / 1024


def count_threads(pid: int) -> int:
    return _read_status(pid, "Threads")


def _read_status(pid: int, field: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0])
    raise LookupError(f"/proc/{pid}/status has no {field}")
