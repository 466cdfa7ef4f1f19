"""Sensor data records (IPMI 2.0, section 43): what a sensor is called, what it measures, and how its reading becomes a number."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from pyghmi.ipmi.private import constants

from compute_agent.contract.diagnostics import Health, Sensor, SensorKind

_FULL, _COMPACT = 0x01, 0x02
# Where the name begins (tables 43-1 and 43-2): its type and length byte.
_NAME_AT = {_FULL: 47, _COMPACT: 31}
_OWN_CONTROLLER = 0x20
_THRESHOLD, _SENSOR_SPECIFIC = 0x01, 0x6F
_KINDS = {0x01: SensorKind.TEMPERATURE, 0x02: SensorKind.VOLTAGE, 0x03: SensorKind.CURRENT, 0x04: SensorKind.FAN}
# Table 43-15.
_UNITS = {1: "°C", 2: "°F", 3: "K", 4: "V", 5: "A", 6: "W", 7: "J", 9: "VA", 14: "kPa", 15: "PSI", 17: "CFM", 18: "RPM", 19: "Hz", 20: "µs"}
_UNITS |= {21: "ms", 22: "s", 23: "min", 24: "h", 25: "d", 31: "mm", 32: "cm", 33: "m", 37: "l", 58: "ppm", 60: "dB", 66: "bit", 70: "B"}
_WATT = 6
_KINDS_BY_UNIT = {1: SensorKind.TEMPERATURE, 4: SensorKind.VOLTAGE, 5: SensorKind.CURRENT, _WATT: SensorKind.POWER, 18: SensorKind.FAN}
# Table 43-1, byte 24: what is done to the linear value.
_LINEARIZATIONS: dict[int, Callable[[float], float]] = {
    0: lambda x: x,
    1: math.log,
    2: math.log10,
    3: math.log2,
    4: math.exp,
    5: lambda x: math.pow(10, x),
    6: lambda x: math.pow(2, x),
    7: lambda x: 1 / x,
    8: lambda x: math.pow(x, 2),
    9: lambda x: math.pow(x, 3),
    10: math.sqrt,
    11: math.cbrt,
}
# Table 35-15, byte 4 of a threshold sensor's reading: at or beyond which thresholds it is.
_NON_CRITICAL, _CRITICAL = 0b001001, 0b110110
_UNAVAILABLE, _SCANNED = 0x20, 0x40
_HEALTH = {0: Health.OK, 1: Health.WARNING, 2: Health.CRITICAL, 4: Health.CRITICAL}
_BCD_PLUS = "0123456789 -.:,_"


@dataclass(frozen=True)
class Formula:
    """How a raw reading becomes a value (section 36.3): ``L((m·x + b·10^b_exponent) · 10^result_exponent)``. ``signed``: 0 no, 1 in one's
    complement, 2 in two's.
    """

    m: int
    b: int
    b_exponent: int
    result_exponent: int
    linearization: int
    signed: int

    def convert(self, raw: int) -> float | None:
        """The value; None where the formula gives none, or needs factors that only the BMC has."""
        function = _LINEARIZATIONS.get(self.linearization)
        if function is None:
            return None
        if self.signed and raw & 0x80:
            raw -= 0xFF if self.signed == 1 else 0x100
        try:
            value = function((self.m * raw + self.b * 10.0**self.b_exponent) * 10.0**self.result_exponent)
        except (ValueError, OverflowError, ZeroDivisionError):
            return None
        return float(f"{value:.6g}") if math.isfinite(value) else None


@dataclass(frozen=True)
class SensorRecord:
    """A sensor that can be read. ``formula`` None: it has states only."""

    number: int
    name: str
    kind: SensorKind
    unit: str
    sensor_type: int
    reading_type: int
    formula: Formula | None

    def read(self, answer: bytes) -> Sensor:
        """What Get Sensor Reading answered (table 35-15), two bytes at least."""
        if answer[1] & _UNAVAILABLE or not answer[1] & _SCANNED:
            return Sensor(name=self.name, kind=self.kind, unit=self.unit)
        value = None if self.formula is None else self.formula.convert(answer[0])
        return Sensor(name=self.name, kind=self.kind, value=value, unit=self.unit, health=self._rate(answer[2:4]))

    def _rate(self, states: bytes) -> Health | None:
        if not states:
            return None
        if self.reading_type == _THRESHOLD:
            return Health.CRITICAL if states[0] & _CRITICAL else Health.WARNING if states[0] & _NON_CRITICAL else Health.OK
        if self.reading_type == _SENSOR_SPECIFIC:
            offsets = constants.sensor_type_offsets.get(self.sensor_type, {})
        else:
            offsets = constants.generic_type_offsets.get(self.reading_type, {})
        bits = int.from_bytes(states, "little") & 0x7FFF
        severities = [offsets[bit]["severity"] for bit in range(15) if bits >> bit & 1 and bit in offsets]
        return _HEALTH.get(max(severities)) if severities else None


def parse_sensor(record: bytes) -> SensorRecord | None:
    """The sensor that a record describes; None: it is of another kind, belongs to another controller, or is damaged."""
    kind_of_record = record[3] if len(record) > 3 else 0
    name_at = _NAME_AT.get(kind_of_record)
    if name_at is None or len(record) <= name_at or record[5] != _OWN_CONTROLLER or record[6] & 0x03:
        return None
    sensor_type, reading_type, units, base_unit = record[12], record[13], record[20], record[21]
    is_analog = kind_of_record == _FULL and units >> 6 != 3 and reading_type == _THRESHOLD
    return SensorRecord(
        number=record[7],
        name=_decode_name(record[name_at], record[name_at + 1 :]) or f"sensor 0x{record[7]:02x}",
        kind=_KINDS.get(sensor_type) or _KINDS_BY_UNIT.get(base_unit if is_analog else 0, SensorKind.OTHER),
        unit=_name_unit(units, base_unit) if is_analog else "",
        sensor_type=sensor_type,
        reading_type=reading_type,
        formula=_parse_formula(record) if is_analog else None,
    )


def _parse_formula(record: bytes) -> Formula:
    return Formula(
        m=_signed(record[24] | (record[25] & 0xC0) << 2, 10),
        b=_signed(record[26] | (record[27] & 0xC0) << 2, 10),
        b_exponent=_signed(record[29] & 0x0F, 4),
        result_exponent=_signed(record[29] >> 4, 4),
        linearization=record[23] & 0x7F,
        signed=record[20] >> 6,
    )


def _signed(value: int, bits: int) -> int:
    return value - (1 << bits) if value >> (bits - 1) else value


def _name_unit(units: int, base_unit: int) -> str:
    """Only the base unit: of a rate or a product of units (table 43-1, byte 21) there is no telling in one word."""
    if units & 0x01:
        return "%"
    return "" if units & 0x3E else _UNITS.get(base_unit, "")


def _decode_name(type_length: int, text: bytes) -> str:
    """A name in any of the codings of section 43.15."""
    text = text[: type_length & 0x1F]
    match type_length >> 6:
        case 1:
            name = "".join(_BCD_PLUS[byte >> 4] + _BCD_PLUS[byte & 0x0F] for byte in text)
        case 2:
            packed = int.from_bytes(text, "little")
            name = "".join(chr(0x20 + (packed >> shift & 0x3F)) for shift in range(0, len(text) * 8 // 6 * 6, 6))
        case _:
            name = text.decode("latin-1")
    return "".join(letter for letter in name if letter.isprintable()).strip()
