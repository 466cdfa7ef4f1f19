"""A BMC's sensors: their records, their readings, and what is learned of them in how much time."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compute_agent.contract.diagnostics import Health, Sensor, SensorKind
from compute_agent.drivers.bmc.protocol import MachineParts
from compute_agent.drivers.errors import BackendUnavailable
from compute_agent.drivers.ipmi.controller import parse_firmware
from compute_agent.drivers.ipmi.exchange import Response
from compute_agent.drivers.ipmi.machine import KnownSensors, read_parts
from compute_agent.drivers.ipmi.sensor_records import Formula, parse_sensor
from tests.fakes import FakeClock
from tests.unit.agent.ipmi_parts import (
    CHASSIS_STATUS,
    DEVICE_ID,
    POWER_READING,
    READING,
    SDR_GET,
    SDR_INFO,
    SDR_RESERVE,
    SEL_INFO,
    SERVER,
    START,
    FakeBmc,
    event,
)


def full(number: int, name: str, sensor_type: int = 0x01, unit: int = 1, m: int = 1, result_exponent: int = 0, units: int = 0x80) -> bytes:
    """A full sensor record (IPMI 2.0, table 43-1) of a threshold sensor."""
    record = bytearray(48)
    record[2:4] = 0x51, 0x01
    record[5], record[7], record[12], record[13] = 0x20, number, sensor_type, 0x01
    record[20], record[21], record[24], record[25] = units, unit, m & 0xFF, (m >> 2) & 0xC0
    record[29] = (result_exponent & 0x0F) << 4
    record[47] = 0xC0 | len(name)
    whole = bytes(record) + name.encode()
    return whole[:4] + bytes([len(whole) - 5]) + whole[5:]


def compact(number: int, name: str, sensor_type: int, reading_type: int = 0x6F) -> bytes:
    record = bytearray(32)
    record[2:4] = 0x51, 0x02
    record[5], record[7], record[12], record[13], record[31] = 0x20, number, sensor_type, reading_type, 0xC0 | len(name)
    whole = bytes(record) + name.encode()
    return whole[:4] + bytes([len(whole) - 5]) + whole[5:]


@pytest.fixture
def bmc() -> FakeBmc:
    bmc = FakeBmc()
    bmc.sdr = {
        1: full(0x30, "CPU Temp"),
        2: full(0x41, "FAN 1", sensor_type=0x04, unit=18, m=100, units=0x00),
        4: full(0x20, "12V", sensor_type=0x02, unit=4, m=63, result_exponent=-3, units=0x00),
        5: b"\x05\x00\x51\x12\x03abc",  # of a management controller
        9: compact(0x51, "PSU 1", sensor_type=0x08),
        10: full(0x99, "Slot 7 Temp"),
    }
    bmc.readings = {
        0x30: bytes([41, 0xC0, 0xC0]),
        0x41: bytes([37, 0xC0, 0xC1]),
        0x20: bytes([194, 0xC0, 0xD0, 0x80]),
        0x51: bytes([0, 0xC0, 0x03, 0x80]),
    }
    return bmc


def read(bmc: FakeBmc, known: KnownSensors | None = None, clock: FakeClock | None = None) -> MachineParts:
    clock = clock or FakeClock()
    return bmc.converse(read_parts(SERVER, known or KnownSensors(), clock, clock.monotonic() + 10))


EXPECTED = (
    Sensor(name="CPU Temp", kind=SensorKind.TEMPERATURE, value=41.0, unit="°C", health=Health.OK),
    Sensor(name="FAN 1", kind=SensorKind.FAN, value=3700.0, unit="RPM", health=Health.WARNING),
    Sensor(name="12V", kind=SensorKind.VOLTAGE, value=12.222, unit="V", health=Health.CRITICAL),
    Sensor(name="PSU 1", kind=SensorKind.OTHER, health=Health.CRITICAL),
)


def test_sensors_are_told_with_their_values_and_how_they_are(bmc: FakeBmc) -> None:
    """What is not plugged in is left out."""
    parts = read(bmc)
    assert parts.hardware.sensors == EXPECTED
    assert parts.hardware.health is Health.CRITICAL
    assert not parts.errors


def test_a_bmc_without_sensors_has_none() -> None:
    parts = read(FakeBmc())
    assert parts.hardware.sensors == ()
    assert not parts.errors


def test_a_bmc_that_gives_its_records_in_pieces_only_tells_the_same(bmc: FakeBmc) -> None:
    def give_little(fields: bytes) -> Response:
        return Response(0xCA) if fields[5] > 16 else bmc._answer_to(SDR_GET, fields)

    bmc.answers[SDR_GET] = give_little
    assert read(bmc).hardware.sensors == EXPECTED


def test_a_reservation_that_is_taken_away_is_made_anew(bmc: FakeBmc) -> None:
    cancelled = [3]

    def cancel_first(fields: bytes) -> Response:
        if fields[5] > 16:
            return Response(0xCA)
        cancelled[0] -= 1
        return Response(0xC5) if cancelled[0] in (0, 1) else bmc._answer_to(SDR_GET, fields)

    bmc.answers[SDR_GET] = cancel_first
    assert read(bmc).hardware.sensors == EXPECTED


def test_records_are_read_once_and_again_when_they_changed(bmc: FakeBmc) -> None:
    known = KnownSensors()
    read(bmc, known)
    bmc.asked.clear()
    assert read(bmc, known).hardware.sensors == EXPECTED
    assert SDR_GET not in bmc.commands
    bmc.sdr[11] = full(0x30, "CPU Temp 2")
    bmc.sdr_version += 1
    assert "CPU Temp 2" in {sensor.name for sensor in read(bmc, known).hardware.sensors}


def test_what_takes_too_long_is_named_and_learned_the_next_time(bmc: FakeBmc) -> None:
    clock, known = FakeClock(), KnownSensors()

    def answer_slowly(fields: bytes) -> Response:
        clock.advance(2)
        return bmc._answer_to(SDR_GET, fields)

    bmc.answers[SDR_GET] = answer_slowly
    first = read(bmc, known, clock)
    assert "only 3 sensors are known so far" in first.errors["sensors"]
    assert len(first.hardware.sensors) == 3
    second = read(bmc, known, clock)
    assert second.hardware.sensors == EXPECTED
    assert not second.errors


def test_sensors_that_answer_slowly_are_counted(bmc: FakeBmc) -> None:
    clock = FakeClock()

    def answer_slowly(fields: bytes) -> Response:
        clock.advance(4)
        return bmc._answer_to(READING, fields)

    bmc.answers[READING] = answer_slowly
    parts = read(bmc, clock=clock)
    assert parts.hardware.sensors == EXPECTED[:3]
    assert "2 sensors were not read" in parts.errors["sensors"]


def test_a_part_that_is_not_there_spoils_no_other(bmc: FakeBmc) -> None:
    bmc.answers = {SDR_INFO: Response(0xC1), SEL_INFO: Response(0xD4), DEVICE_ID: Response(0xC0)}
    bmc.answers[POWER_READING] = Response(0, bytes.fromhex("dc5a01 0000000000000000000000000000 40".replace(" ", "")))
    parts = read(bmc)
    assert set(parts.errors) == {"sensors", "log", "firmware"}
    assert parts.hardware.power_watts == 346.0
    assert (parts.hardware.power, parts.hardware.health) == ("on", Health.OK)


def test_a_bmc_that_falls_silent_is_asked_nothing_more(bmc: FakeBmc) -> None:
    bmc.answers[DEVICE_ID] = None
    parts = read(bmc)
    assert set(parts.errors) == {"firmware", "power_watts", "log", "sensors"}
    assert bmc.commands[-1] == DEVICE_ID
    bmc.answers[CHASSIS_STATUS] = None
    with pytest.raises(BackendUnavailable):
        read(bmc)


def test_the_log_and_the_firmware_are_among_the_parts(bmc: FakeBmc) -> None:
    bmc.log.append(event(START, 0x20, 0xA1))
    hardware = read(bmc).hardware
    assert hardware.firmware == {"bmc": "2.19", "ipmi": "2.0"}
    assert [entry.text for entry in hardware.log] == ["OS Stop #0x01: OS crash"]


def test_versions_are_written_as_everybody_writes_them() -> None:
    assert parse_firmware(bytes([0x20, 0x01, 0x81, 0x73, 0x51, 0x9F])) == {"bmc": "1.73", "ipmi": "1.5"}


@pytest.mark.parametrize(
    ("formula", "raw", "value"),
    [
        (Formula(1, 0, 0, 0, 0, 2), 0xFE, -2.0),
        (Formula(1, 0, 0, 0, 0, 1), 0xFE, -1.0),
        (Formula(1, 0, 0, 0, 0, 0), 0xFE, 254.0),
        (Formula(-4, 5, 2, -1, 0, 0), 10, 46.0),
        (Formula(1, 0, 0, 0, 7, 0), 4, 0.25),
        (Formula(1, 0, 0, 0, 7, 0), 0, None),
        (Formula(1, 0, 0, 0, 0x70, 0), 4, None),
    ],
)
def test_a_reading_becomes_a_value(formula: Formula, raw: int, value: float | None) -> None:
    assert formula.convert(raw) == value


@settings(max_examples=50)
@given(
    st.integers(-512, 511),
    st.integers(-512, 511),
    st.integers(-8, 7),
    st.integers(-8, 7),
    st.integers(0, 12),
    st.integers(0, 3),
    st.integers(0, 255),
)
def test_no_formula_breaks(m: int, b: int, b_exponent: int, result_exponent: int, linearization: int, signed: int, raw: int) -> None:
    value = Formula(m, b, b_exponent, result_exponent, linearization, signed).convert(raw)
    assert value is None or math.isfinite(value)


@settings(max_examples=50)
@given(st.sampled_from([b"\0\0\x51\x01", b"\0\0\x51\x02", b""]), st.binary(max_size=64), st.binary(min_size=2, max_size=4))
def test_any_bytes_are_a_sensor_or_none(header: bytes, rest: bytes, answer: bytes) -> None:
    sensor = parse_sensor(header + rest)
    if sensor is not None:
        assert sensor.read(answer).name.isprintable()


@settings(max_examples=50)
@given(st.lists(st.tuples(st.sampled_from([0, 0, 0, 0xC0, 0xC5, 0xCA, 0xCB, 0xD4]), st.binary(max_size=70)), max_size=15))
def test_no_answer_breaks_the_reading_or_lasts_for_ever(answers: list[tuple[int, bytes]]) -> None:
    bmc, clock = FakeBmc(), FakeClock()

    def answer_anything(fields: bytes) -> Response:
        clock.advance(0.1)
        code, answer = answers.pop() if answers else (0, b"\x01\x00" + b"\x02" * 20)
        return Response(code, answer)

    for command in (DEVICE_ID, POWER_READING, SEL_INFO, SDR_INFO, SDR_GET, SDR_RESERVE, READING):
        bmc.answers[command] = answer_anything
    parts = read(bmc, clock=clock)
    assert set(parts.errors) <= {"firmware", "power_watts", "log", "sensors"}
    assert len(bmc.asked) < 200
