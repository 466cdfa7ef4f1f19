"""A machine's power, and the diagnostic interrupt."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compute_agent.contract.diagnostics import Health
from compute_agent.contract.errors import Code
from compute_agent.contract.models import PowerState
from compute_agent.drivers.errors import BackendUnavailable, DriverError, OutcomeUnknown, ServerNotRunning, ServerUnsupported
from compute_agent.drivers.ipmi.chassis import inject_nmi, parse_chassis, read_chassis
from compute_agent.drivers.ipmi.exchange import Request, Response
from tests.unit.agent.ipmi_parts import CHASSIS_CONTROL, CHASSIS_STATUS, SERVER, FakeBmc


def test_the_interrupt_is_chassis_control_four_and_sent_once() -> None:
    bmc = FakeBmc()
    bmc.converse(inject_nmi(SERVER))
    assert bmc.asked == [Request(0x00, 0x01), Request(0x00, 0x02, b"\x04", once=True)]


def test_a_machine_that_is_off_gets_none() -> None:
    bmc = FakeBmc()
    bmc.answers[CHASSIS_STATUS] = Response(0, bytes([0x00, 0x08, 0x00]))
    with pytest.raises(ServerNotRunning, match="off: power fault"):
        bmc.converse(inject_nmi(SERVER))
    assert bmc.commands == [CHASSIS_STATUS]


def test_without_knowing_the_power_none_is_sent() -> None:
    bmc = FakeBmc()
    for answer in (None, Response(0xC0), Response(0xC1), Response(0xFF), Response(0, b"\x01")):
        bmc.answers[CHASSIS_STATUS] = answer
        with pytest.raises(BackendUnavailable):
            bmc.converse(inject_nmi(SERVER))
    assert CHASSIS_CONTROL not in bmc.commands


@pytest.mark.parametrize(
    ("answer", "error", "text"),
    [
        (Response(0xC1), ServerUnsupported, "no diagnostic interrupt"),
        (Response(0xCC), ServerUnsupported, "no diagnostic interrupt"),
        (Response(0xD4), BackendUnavailable, "user may not"),
        (Response(0xD5), ServerNotRunning, "present state"),
        (Response(0xC0), BackendUnavailable, "busy"),
        (Response(0xC3), OutcomeUnknown, "nobody knows"),
        (Response(0xFF), OutcomeUnknown, "nobody knows"),
        (None, OutcomeUnknown, "nobody knows"),
    ],
)
def test_what_follows_from_the_answer(answer: Response | None, error: type[DriverError], text: str) -> None:
    bmc = FakeBmc()
    bmc.answers[CHASSIS_CONTROL] = answer
    with pytest.raises(DriverError, match=text) as raised:
        bmc.converse(inject_nmi(SERVER))
    assert type(raised.value) is error
    assert (raised.value.code is Code.FORBIDDEN) == (answer == Response(0xD4))
    assert bmc.commands.count(CHASSIS_CONTROL) == 1


def test_what_is_wrong_with_the_power_is_said() -> None:
    off = parse_chassis(bytes([0x08, 0x09, 0x0C]))
    assert off.power_state is PowerState.SHUTDOWN
    assert off.reason == "off: AC failed, power fault, drive fault, cooling fault"
    assert off.health is Health.CRITICAL
    on = parse_chassis(bytes([0x61, 0x10, 0x00]))
    assert (on.power_state, on.reason, on.health) == (PowerState.RUNNING, "on", Health.OK)


@given(st.integers(0, 255), st.binary(max_size=8))
def test_no_answer_breaks_the_reading(code: int, answer: bytes) -> None:
    bmc = FakeBmc()
    bmc.answers[CHASSIS_STATUS] = Response(code, answer)
    try:
        chassis = bmc.converse(read_chassis(SERVER))
    except BackendUnavailable:
        assert code or len(answer) < 3
    else:
        assert chassis.on == bool(answer[0] & 1)
