"""Diagnostics: what a server's platform can say of it now, in the standard format, and the envelope that says how far to trust it.

The format is the Compute API's of microversion 2.48 (API reference, "Show Server Diagnostics"): every key is always there, and what the
platform cannot say is null, never zero. It has no room for a time or an error, so those are in the envelope, :class:`DiagnosticsReport`.
"""

import math
from datetime import MAXYEAR, UTC, datetime
from enum import StrEnum
from typing import Annotated, Any, Self

from pydantic import AfterValidator, AwareDatetime, Field

from compute_agent.contract.errors import Code
from compute_agent.contract.models import Line, PowerState, ServerId
from compute_agent.contract.units import BYTES, BYTES_PER_SECOND, MEBIBYTES, NANOSECONDS, PERCENT, SECONDS, WATTS
from compute_agent.contract.wire import WireModel

Count = Annotated[int, Field(ge=0)]
"""A counter since the machine was started, or a length."""
Octets = Annotated[Count, BYTES]


class CpuDetails(WireModel):
    """One virtual processor: its number, the ns it ran since the start, and ``utilisation`` in percent of one host CPU."""

    id: int | None = None
    time: Annotated[Count, NANOSECONDS] | None = None
    utilisation: Annotated[int, Field(ge=0, le=100), PERCENT] | None = None


class NicDetails(WireModel):
    """One network card. ``mac_address`` in lower case with colons. Octets, packets, errors and drops since the start, rates in B/s."""

    mac_address: str | None = None
    rx_octets: Octets | None = None
    rx_errors: Count | None = None
    rx_drop: Count | None = None
    rx_packets: Count | None = None
    rx_rate: Annotated[Count, BYTES_PER_SECOND] | None = None
    tx_octets: Octets | None = None
    tx_errors: Count | None = None
    tx_drop: Count | None = None
    tx_packets: Count | None = None
    tx_rate: Annotated[Count, BYTES_PER_SECOND] | None = None


class DiskDetails(WireModel):
    """One disk: bytes, requests and failed requests since the start."""

    read_bytes: Octets | None = None
    read_requests: Count | None = None
    write_bytes: Octets | None = None
    write_requests: Count | None = None
    errors_count: Count | None = None


class MemoryDetails(WireModel):
    """In MiB. ``used`` is what the guest itself says it uses: null without a balloon driver in it."""

    maximum: Annotated[Count, MEBIBYTES] | None = None
    used: Annotated[Count, MEBIBYTES] | None = None


class Diagnostics(WireModel):
    """The standard format, exactly these keys.

    ``driver`` is one of the format's closed list of words: ``libvirt`` for what runs virtual machines, ``ironic`` for bare metal.
    ``uptime`` in seconds since the machine was started. A count may be larger than its list where only the number is known.
    """

    state: PowerState
    driver: str
    hypervisor: str | None = None
    hypervisor_os: str | None = None
    uptime: Annotated[Count, SECONDS] | None = None
    config_drive: bool = False
    num_cpus: Count = 0
    num_nics: Count = 0
    num_disks: Count = 0
    cpu_details: tuple[CpuDetails, ...] = ()
    nic_details: tuple[NicDetails, ...] = ()
    disk_details: tuple[DiskDetails, ...] = ()
    memory_details: MemoryDetails = MemoryDetails()


class Health(StrEnum):
    """How a machine or a part of it is, in its platform's judgement."""

    OK = "ok"
    WARNING = "warning"
    CRITICAL = "critical"


def _drop_no_number(value: float | None) -> float | None:
    """Infinite or not a number: no JSON can say that, and a sensor that says it says nothing."""
    return value if value is not None and math.isfinite(value) else None


def _drop_no_time(moment: datetime | None) -> datetime | None:
    """In UTC; a machine that says a year before 1970, or the end of all years, has no clock."""
    return moment.astimezone(UTC) if moment is not None and _FIRST_YEAR <= moment.year < MAXYEAR else None


_FIRST_YEAR = 1970
Measure = Annotated[float | None, AfterValidator(_drop_no_number)]
Moment = Annotated[AwareDatetime | None, AfterValidator(_drop_no_time)]


class SensorKind(StrEnum):
    """What a sensor measures; a word of a newer release is read as ``other``."""

    TEMPERATURE = "temperature"
    VOLTAGE = "voltage"
    CURRENT = "current"
    FAN = "fan"
    POWER = "power"
    OTHER = "other"

    @classmethod
    def _missing_(cls, value: object) -> Self:
        return cls("other")


class Sensor(WireModel):
    """One sensor of a machine. ``unit`` as it is written (``°C``, ``V``, ``A``, ``RPM``, ``W``, ``%``). ``value`` None: no reading now."""

    name: Line
    kind: SensorKind
    value: Measure = None
    unit: Line = ""
    health: Health | None = None


class LogEntry(WireModel):
    """An entry of the machine's own log; ``at`` by the host's clock, None where the machine did not know the time."""

    id: Line
    at: Moment = None
    text: Line
    severity: Health | None = None


class Hardware(WireModel):
    """What a bare-metal machine says of itself beside the standard format, which has no room for it.

    ``power`` in the platform's own word (``on``, ``off``), ``power_watts`` what it draws now. ``firmware``: versions by component.
    ``log``: the last entries, newest first.
    """

    power: Line | None = None
    power_watts: Annotated[Measure, WATTS] = None
    health: Health | None = None
    sensors: tuple[Sensor, ...] = ()
    firmware: dict[str, str] = Field(default_factory=dict)
    log: tuple[LogEntry, ...] = ()


class DiagnosticsReport(WireModel):
    """Diagnostics with what their reader must know of them.

    ``collected_at`` is by the host's clock; ``age`` in seconds is how old they were when the agent sent them. ``stale``: the platform did
    not answer in time and this is the last sample. ``errors`` says for each part that could not be read why not. ``free_form`` is the older
    format of microversions below 2.48: flat, device names in the keys, memory in KiB, missing keys for what is not known. ``hardware`` is
    what only bare metal tells; None for a VM.
    """

    server: ServerId
    diagnostics: Diagnostics
    collected_at: AwareDatetime
    age: Annotated[float, Field(ge=0), SECONDS] = 0.0
    stale: bool = False
    errors: dict[str, str] = Field(default_factory=dict)
    free_form: dict[str, int] = Field(default_factory=dict)
    hardware: Hardware | None = None


class DiagnosticsReply(WireModel):
    """The answer to ``get_diagnostics``: a report, or the code and sentence why there is none; ``history`` oldest first, when asked for."""

    report: DiagnosticsReport | None = None
    code: Code | None = None
    reason: str | None = None
    history: tuple[DiagnosticsReport, ...] = ()

    @classmethod
    def refuse(cls, code: Code, reason: str) -> Self:
        return cls(code=code, reason=reason)

    def model_post_init(self, _context: Any) -> None:
        if (self.report is None) == (self.code is None):
            raise ValueError("either a report or the code of a refusal")
