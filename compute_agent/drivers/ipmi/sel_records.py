"""What a record of a BMC's system event log says (IPMI 2.0, section 32): its time, its words, and the events that it tells of.

The words for sensor types and offsets (tables 42-2 and 42-3) are pyghmi's.
"""

from dataclasses import dataclass
from typing import Any

from pyghmi.ipmi.private import constants

from compute_agent.contract.diagnostics import Health
from compute_agent.contract.watchdogs import ExpiryAction
from compute_agent.drivers.models import DriverEventKind

RECORD_LENGTH = 16
_SYSTEM_EVENT = 0x02
_OEM_WITH_TIME = range(0xC0, 0xE0)
# Section 37.1: times up to here count from the BMC's start, because nobody has set its clock yet.
_SINCE_START = 0x20000000
_NO_TIME = 0xFFFFFFFF

# Table 42-3, sensor types.
_WATCHDOG_1, _BOOT_INITIATED, _OS_BOOT, _OS_STOP, _WATCHDOG_2 = 0x11, 0x1D, 0x1F, 0x20, 0x23
_SENSOR_SPECIFIC = 0x6F
_WATCHDOG_1_ACTIONS = {
    0: ExpiryAction.RESET,
    1: ExpiryAction.RESET,
    2: ExpiryAction.SHUTDOWN,
    3: ExpiryAction.POWEROFF,
    4: ExpiryAction.POWER_CYCLE,
    5: ExpiryAction.INJECT_NMI,
    6: ExpiryAction.NONE,
}
_WATCHDOG_2_ACTIONS = {0: ExpiryAction.NONE, 1: ExpiryAction.RESET, 2: ExpiryAction.POWEROFF, 3: ExpiryAction.POWER_CYCLE}
_PRE_TIMEOUT = 8
_LONGEST_PRE_TIMEOUT = 255
_NMI = 2
_RESTARTING = frozenset({ExpiryAction.RESET, ExpiryAction.POWER_CYCLE})
_CRITICAL_STOPS = frozenset({0, 1})
# Of the OS boot sensor's offsets, those that say that a system is up; the others are about its installation.
_BOOTED = range(7)
_HEALTH = {0: Health.OK, 1: Health.WARNING, 2: Health.CRITICAL, 4: Health.CRITICAL}

EventWords = tuple[tuple[DriverEventKind, str], ...]


@dataclass(frozen=True)
class Record:
    """A record's 16 bytes, read."""

    raw: bytes

    @property
    def id(self) -> int:
        return int.from_bytes(self.raw[0:2], "little")

    @property
    def content(self) -> bytes:
        """All but its id, which a BMC may change."""
        return self.raw[2:]

    @property
    def seconds(self) -> int:
        """When it was written by the BMC's clock, set or not; only of one that :func:`has_time`."""
        return int.from_bytes(self.raw[3:7], "little")

    @property
    def stamp(self) -> int | None:
        """The same; None: it has no time, or one from before the BMC's clock was set."""
        return read_time(self.raw[3:7]) if has_time(self) else None


def has_time(record: Record) -> bool:
    """Whether there is a time in it (section 32: OEM records from 0xE0 on have none)."""
    return record.raw[2] == _SYSTEM_EVENT or record.raw[2] in _OEM_WITH_TIME


def read_time(field: bytes) -> int | None:
    """A time in four bytes (section 37); None where the BMC did not know it."""
    seconds = int.from_bytes(field, "little")
    return None if seconds <= _SINCE_START or seconds == _NO_TIME else seconds


def describe_record(record: Record) -> str:
    """A record in one line."""
    raw = record.raw
    if raw[2] != _SYSTEM_EVENT:
        return _describe_oem(record)
    sensor_type, number, asserted, event_type, offset = raw[10], raw[11], not raw[12] & 0x80, raw[12] & 0x7F, raw[13] & 0x0F
    name = constants.sensor_type_codes.get(sensor_type, f"sensor type 0x{sensor_type:02x}")
    entry = _find_offset(sensor_type, event_type, offset)
    if entry is None:
        words = f"event 0x{raw[13]:02x} 0x{raw[14]:02x} 0x{raw[15]:02x}" + ("" if asserted else " deasserted")
    else:
        words = str(entry["desc"] if asserted else entry["deassertion_desc"])
    expiry_action = _find_expiry_action(raw)
    if asserted and expiry_action == ExpiryAction.INJECT_NMI:
        words = f"{words} (NMI)"
    return f"{name} #0x{number:02x}: {words}"


def rate_record(record: Record) -> Health | None:
    """How bad what it says is; None: nobody but its maker knows."""
    raw = record.raw
    if raw[2] != _SYSTEM_EVENT:
        return None
    if raw[12] & 0x80:
        return Health.OK
    if _find_expiry_action(raw) is not None:
        return Health.WARNING
    entry = _find_offset(raw[10], raw[12] & 0x7F, raw[13] & 0x0F)
    return None if entry is None else _HEALTH.get(entry["severity"])


def is_pre_timeout_nmi(record: Record) -> bool:
    """Whether a watchdog gave an NMI some seconds before its end."""
    raw = record.raw
    asserted = raw[2] == _SYSTEM_EVENT and raw[12] == _SENSOR_SPECIFIC
    return asserted and raw[10] == _WATCHDOG_2 and _find_expiry_action(raw) == ExpiryAction.INJECT_NMI


def list_events(record: Record, nmi_at: int | None = None) -> EventWords:
    """What happened to the machine, as far as this record is the one that tells it; in their order.

    Records about power are none: the power itself is looked at. A watchdog's pre-timeout NMI is its firing where nothing follows it: the
    expiry without action after it is the end of the same one. That says so itself (it names the NMI as its interrupt), or it is known by
    its time: ``nmi_at`` is when the last such NMI was, by the BMC's clock.
    """
    raw = record.raw
    if raw[2] != _SYSTEM_EVENT or raw[12] != _SENSOR_SPECIFIC:
        return ()
    sensor_type, offset = raw[10], raw[13] & 0x0F
    if sensor_type in (_WATCHDOG_1, _WATCHDOG_2):
        ends_nmi = nmi_at is not None and 0 <= record.seconds - nmi_at <= _LONGEST_PRE_TIMEOUT
        return _list_watchdog_events(raw, ends_nmi)
    if sensor_type == _OS_STOP and offset in _CRITICAL_STOPS:
        return ((DriverEventKind.PANICKED, "os_critical_stop"),)
    if sensor_type == _BOOT_INITIATED:
        return ((DriverEventKind.REBOOTED, "boot_initiated"),)
    if sensor_type == _OS_BOOT and offset in _BOOTED:
        return ((DriverEventKind.REBOOTED, "os_boot"),)
    return ()


def _list_watchdog_events(raw: bytes, ends_nmi: bool) -> EventWords:
    expiry_action = _find_expiry_action(raw)
    is_end = raw[10] == _WATCHDOG_2 and expiry_action == ExpiryAction.NONE
    if expiry_action is None or (is_end and (ends_nmi or _find_interrupt(raw) == _NMI)):
        return ()
    fired = (DriverEventKind.WATCHDOG_FIRED, expiry_action.value)
    return (fired, (DriverEventKind.REBOOTED, "watchdog")) if expiry_action in _RESTARTING else (fired,)


def _find_expiry_action(raw: bytes) -> ExpiryAction | None:
    """What a watchdog's record says that it did; None: it is not about that."""
    offset = raw[13] & 0x0F
    if raw[12] & 0x7F != _SENSOR_SPECIFIC:
        return None
    if raw[10] == _WATCHDOG_1:
        return _WATCHDOG_1_ACTIONS.get(offset)
    if raw[10] != _WATCHDOG_2:
        return None
    if offset == _PRE_TIMEOUT:
        return ExpiryAction.INJECT_NMI if _find_interrupt(raw) == _NMI else None
    return _WATCHDOG_2_ACTIONS.get(offset)


def _find_interrupt(raw: bytes) -> int | None:
    """The pre-timeout interrupt in event data 2, where event data 1 says that it is in there."""
    return raw[14] >> 4 if raw[13] & 0xC0 == 0xC0 else None


def _find_offset(sensor_type: int, event_type: int, offset: int) -> dict[str, Any] | None:
    """pyghmi's entry for an offset: what it means, asserted and not, and how bad that is."""
    if event_type == _SENSOR_SPECIFIC:
        entry: dict[str, Any] | None = constants.sensor_type_offsets.get(sensor_type, {}).get(offset)
    else:
        entry = constants.generic_type_offsets.get(event_type, {}).get(offset)
    return entry


def _describe_oem(record: Record) -> str:
    payload = record.raw[7:] if record.raw[2] in _OEM_WITH_TIME else record.raw[3:]
    letters = "".join(chr(byte) if 0x20 <= byte < 0x7F else "." for byte in payload)
    return f"OEM record 0x{record.raw[2]:02x}: {payload.hex(' ')} |{letters}|"
