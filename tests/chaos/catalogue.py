"""Every kind of fault that there is."""

from collections.abc import Sequence

from tests.chaos.faults import (
    ClockAhead,
    ClockBehind,
    ClockSlightlyOff,
    DiskAlarm,
    Fault,
    Freeze,
    HangingDriver,
    Kill,
    LostAnswers,
    MemoryAlarm,
    OneWay,
    Partition,
    RaisingDriver,
    Refusal,
    Restart,
    SlowDriver,
    UnavailableHypervisor,
)
from tests.chaos.guest_faults import StarvedWatchdog
from tests.chaos.operators import FullDisk, LostJournal, Poison, Purge, Restore, SecondAgent

_KINDS: tuple[type[Fault], ...] = (
    Kill,
    Freeze,
    Restart,
    MemoryAlarm,
    DiskAlarm,
    Partition,
    OneWay,
    Refusal,
    SlowDriver,
    HangingDriver,
    RaisingDriver,
    UnavailableHypervisor,
    LostAnswers,
    ClockAhead,
    ClockBehind,
    ClockSlightlyOff,
    Poison,
    SecondAgent,
    Purge,
    Restore,
    LostJournal,
    FullDisk,
    StarvedWatchdog,
)


def list_faults() -> dict[str, Fault]:
    """Each by its name."""
    return {kind.name: kind() for kind in _KINDS}


def choose_faults(names: Sequence[str]) -> dict[str, Fault]:
    """Those named; none named: all.

    :raises LookupError: naming one that there is not.
    """
    known = list_faults()
    unknown = [name for name in names if name not in known]
    if unknown:
        raise LookupError(f"no such fault: {', '.join(unknown)}; choose of: {', '.join(known)}")
    return {name: fault for name, fault in known.items() if not names or name in names}
