"""What records of a BMC's event log mean."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compute_agent.contract.diagnostics import Health
from compute_agent.drivers.ipmi.sel_records import Record, describe_record, list_events, rate_record
from compute_agent.drivers.models import DriverEventKind
from tests.unit.agent.ipmi_parts import START, event

FIRED, REBOOTED, PANICKED = DriverEventKind.WATCHDOG_FIRED, DriverEventKind.REBOOTED, DriverEventKind.PANICKED


def record(sensor_type: int, *event_data: int, event_type: int = 0x6F) -> Record:
    return Record(b"\x01\x00" + event(START, sensor_type, *event_data, event_type=event_type))


@pytest.mark.parametrize(
    ("entry", "events"),
    [
        (record(0x23, 0xC0, 0x04), ((FIRED, "none"),)),
        (record(0x23, 0xC1, 0x04), ((FIRED, "reset"), (REBOOTED, "watchdog"))),
        (record(0x23, 0xC2, 0x04), ((FIRED, "poweroff"),)),
        (record(0x23, 0xC3, 0x04), ((FIRED, "power_cycle"), (REBOOTED, "watchdog"))),
        (record(0x23, 0x01), ((FIRED, "reset"), (REBOOTED, "watchdog"))),
        (record(0x11, 0x05), ((FIRED, "inject-nmi"),)),
        (record(0x11, 0x00), ((FIRED, "reset"), (REBOOTED, "watchdog"))),
        (record(0x20, 0xA1, 0x66, 0x6F), ((PANICKED, "os_critical_stop"),)),
        (record(0x20, 0x00), ((PANICKED, "os_critical_stop"),)),
        (record(0x1D, 0x02), ((REBOOTED, "boot_initiated"),)),
        (record(0x1F, 0x01), ((REBOOTED, "os_boot"),)),
    ],
)
def test_what_happened_is_told(entry: Record, events: tuple[tuple[DriverEventKind, str], ...]) -> None:
    assert list_events(entry) == events


def test_a_pre_timeout_nmi_is_one_firing() -> None:
    """The expiry that follows it a second later does nothing, and names the NMI."""
    assert list_events(record(0x23, 0xC8, 0x24)) == ((FIRED, "inject-nmi"),)
    assert list_events(record(0x23, 0xC0, 0x24)) == ()


@pytest.mark.parametrize(
    "entry",
    [
        record(0x23, 0xC8, 0x14),  # a pre-timeout SMI
        record(0x23, 0xC8, 0x34),  # a message
        record(0x23, 0x08),  # an interrupt that is not named
        record(0x23, 0xC1, 0x04, event_type=0xEF),  # deasserted
        record(0x20, 0xA2),  # graceful stop
        record(0x20, 0xA3),
        record(0x1F, 0x08),  # installation completed
        record(0x09, 0x00),  # power off: the power itself is looked at
        record(0x22, 0x00),
        record(0x01, 0x59, event_type=0x01),
        Record(b"\x01\x00\xf0" + b"\x23" * 13),
        Record(b"\x01\x00\xc0" + b"\x23" * 13),
    ],
    ids=describe_record,
)
def test_what_is_no_news_is_not(entry: Record) -> None:
    assert list_events(entry) == ()


@pytest.mark.parametrize(
    ("entry", "text", "severity"),
    [
        (record(0x23, 0xC1, 0x04), "Watchdog #0x01: Watchdog hard reset", Health.WARNING),
        (record(0x23, 0xC8, 0x24), "Watchdog #0x01: Watchdog interrupt (NMI)", Health.WARNING),
        (record(0x20, 0xA1), "OS Stop #0x01: OS crash", Health.CRITICAL),
        (record(0x01, 0x59, event_type=0x01), "Temperature #0x01: Upper critical", Health.CRITICAL),
        (record(0x01, 0x59, event_type=0x81), "Temperature #0x01: Upper critical deasserted", Health.OK),
        (record(0xC7, 0x01, 0x02, 0x03, event_type=0x70), "sensor type 0xc7 #0x01: event 0x01 0x02 0x03", None),
        (
            Record(b"\x01\x00\xf0\x41\x00Fatal error"),
            "OEM record 0xf0: 41 00 46 61 74 61 6c 20 65 72 72 6f 72 |A.Fatal error|",
            None,
        ),
    ],
)
def test_a_record_is_a_line_for_people(entry: Record, text: str, severity: Health | None) -> None:
    assert describe_record(entry) == text
    assert rate_record(entry) is severity


@given(st.binary(min_size=16, max_size=16))
def test_any_bytes_are_a_record(raw: bytes) -> None:
    entry = Record(raw)
    text = describe_record(entry)
    assert text.isprintable()
    assert len(text) <= 255
    assert entry.stamp is None or 0x20000000 < entry.stamp < 0xFFFFFFFF
    assert rate_record(entry) in (None, *Health)
    assert all(reason for _, reason in list_events(entry))
