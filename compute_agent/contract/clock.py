"""The clock that everything which decides gets handed in, so that a test can hand in another one."""

import time
import uuid
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Protocol

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class Clock(Protocol):
    """Wall-clock time for what travels, monotonic time for what must survive a stepped wall clock."""

    def now(self) -> datetime:
        """The current time, timezone-aware, in UTC."""
        ...

    def monotonic(self) -> float:
        """Seconds since an arbitrary start; never goes back while the machine runs."""
        ...

    def boot(self) -> str:
        """Which run of the machine it is: :meth:`monotonic` counts on from process to process within one."""
        ...


class SystemClock:
    """The machine's own clocks."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return time.monotonic()

    def boot(self) -> str:
        return _read_boot()


@cache
def _read_boot() -> str:
    """Linux's ``boot_id``; a name of this process's own where there is none, so that nothing is taken for the same run."""
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return uuid.uuid4().hex
