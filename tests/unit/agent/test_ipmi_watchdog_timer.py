"""The BMC's watchdog timer as a watchdog: never armed, never disarmed and never fed by a change."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compute_agent.contract.watchdogs import WatchdogDevice
from compute_agent.drivers.bmc.protocol import TimerState
from compute_agent.drivers.errors import BackendUnavailable, DriverError, OutcomeUnknown, ServerUnsupported
from compute_agent.drivers.ipmi.exchange import Response
from compute_agent.drivers.ipmi.watchdog_timer import (
    MODEL,
    build_set_request,
    find_registers,
    parse_registers,
    plan_registers,
    reset_timer,
    set_timer,
)
from tests.unit.agent.ipmi_parts import GET_TIMER, RESET_TIMER, SERVER, SET_TIMER, FakeBmc

ACTIONS = ("none", "reset", "poweroff", "power_cycle", "inject-nmi")
timers = st.builds(
    lambda use, running, actions, seconds, flags, countdown: (
        bytes([use | running, actions, seconds, flags]) + countdown.to_bytes(2, "little")
    ),
    st.integers(0, 7),
    st.sampled_from([0x00, 0x40, 0x80, 0xC0]),
    st.integers(0, 0x77),
    st.integers(0, 255),
    st.integers(0, 255),
    st.integers(0, 0xFFFF),
)


def device(expiry_action: str) -> WatchdogDevice:
    return WatchdogDevice(model="ipmi", expiry_action=expiry_action)


def set_on(bmc: FakeBmc, wanted: WatchdogDevice | None, countdown: float = 300.0) -> TimerState:
    return bmc.converse(set_timer(SERVER, wanted, countdown))


@settings(max_examples=50)
@given(timers, st.sampled_from(ACTIONS), st.sampled_from([1.0, 300.0, 6553.5]))
def test_what_is_set_is_there_and_counts_only_if_it_counted_before(timer: bytes, expiry_action: str, countdown: float) -> None:
    bmc = FakeBmc()
    bmc.timer = timer
    assert set_on(bmc, device(expiry_action), countdown) == TimerState(device(expiry_action), running=bool(timer[0] & 0x40))
    before, after = parse_registers(timer), parse_registers(bmc.timer)
    least = 10 if expiry_action == "inject-nmi" else 0
    assert after.countdown > least
    assert after.countdown == before.countdown or before.countdown <= least
    assert not after.dont_log


@given(timers)
def test_what_is_taken_away_stands_still_and_does_nothing(timer: bytes) -> None:
    bmc = FakeBmc()
    bmc.timer = timer
    assert set_on(bmc, None) == TimerState(None, running=False)


@given(timers, st.sampled_from(ACTIONS))
def test_registers_are_written_as_they_are_read(timer: bytes, expiry_action: str) -> None:
    planned = plan_registers(device(expiry_action), parse_registers(timer), 300.0)
    sent = build_set_request(planned).data
    assert len(sent) == 6
    # The "don't stop" bit and "it runs" are the same one.
    assert parse_registers(sent) == planned
    assert planned.device == device(expiry_action)


@pytest.mark.parametrize("expiry_action", ACTIONS)
def test_setting_what_is_there_feeds_no_timer(expiry_action: str) -> None:
    bmc = FakeBmc()
    set_on(bmc, device(expiry_action))
    bmc.converse(reset_timer(SERVER))
    bmc.asked.clear()
    assert set_on(bmc, device(expiry_action)) == TimerState(device(expiry_action), running=True)
    assert bmc.commands == [GET_TIMER]


def test_the_nmi_comes_a_second_before_an_end_that_does_nothing() -> None:
    bmc = FakeBmc()
    set_on(bmc, device("inject-nmi"), 60.0)
    sent = next(request for request in bmc.asked if (request.netfn, request.command) == SET_TIMER)
    assert sent.data == bytes([0x44, 0x20, 1, 0, *(600).to_bytes(2, "little")])


def test_a_timer_without_an_nmi_says_so() -> None:
    bmc = FakeBmc()
    bmc.answers[SET_TIMER] = Response(0xCC)
    with pytest.raises(ServerUnsupported, match="no pre-timeout NMI"):
        set_on(bmc, device("inject-nmi"))
    with pytest.raises(ServerUnsupported) as refusal:
        set_on(bmc, device("reset"))
    assert "NMI" not in refusal.value.reason


@pytest.mark.parametrize("wanted", [WatchdogDevice(model="i6300esb", expiry_action="reset"), device("pause")])
def test_what_no_bmc_has_is_refused_unasked(wanted: WatchdogDevice) -> None:
    bmc = FakeBmc()
    with pytest.raises(ServerUnsupported):
        set_on(bmc, wanted)
    assert not bmc.asked


@pytest.mark.parametrize("code", [0x01, 0x80, 0xC1, 0xCB, 0xCC, 0xD4, 0xFF])
def test_a_bmc_without_a_timer_has_none(code: int) -> None:
    bmc = FakeBmc()
    bmc.answers[GET_TIMER] = Response(code)
    assert bmc.converse(find_registers(SERVER)) is None
    with pytest.raises((ServerUnsupported, BackendUnavailable)):
        set_on(bmc, device("reset"))
    with pytest.raises((ServerUnsupported, BackendUnavailable)):
        bmc.converse(reset_timer(SERVER))
    assert set(bmc.commands) == {GET_TIMER}


@pytest.mark.parametrize("answer", [None, Response(0xC0), Response(0xD2)])
def test_a_timer_that_cannot_be_read_now_is_not_taken_for_none(answer: Response | None) -> None:
    bmc = FakeBmc()
    bmc.answers[GET_TIMER] = answer
    with pytest.raises(BackendUnavailable):
        bmc.converse(find_registers(SERVER))


def test_a_change_without_an_answer_or_with_another_result_is_unknown() -> None:
    bmc = FakeBmc()
    bmc.answers[SET_TIMER] = None
    with pytest.raises(OutcomeUnknown):
        set_on(bmc, device("reset"))
    bmc.answers[SET_TIMER] = Response(0)
    with pytest.raises(OutcomeUnknown, match="has no watchdog now"):
        set_on(bmc, device("reset"))


def test_what_cannot_be_read_after_a_change_is_unknown() -> None:
    bmc = FakeBmc()

    def fall_silent(fields: bytes) -> Response:
        bmc.answers[GET_TIMER] = None
        return Response(0)

    bmc.answers[SET_TIMER] = fall_silent
    with pytest.raises(OutcomeUnknown, match="cannot be read"):
        set_on(bmc, device("reset"))


def test_feeding_starts_a_timer_that_stands_still() -> None:
    bmc = FakeBmc()
    set_on(bmc, device("reset"))
    bmc.converse(reset_timer(SERVER))
    assert parse_registers(bmc.timer).state == TimerState(device("reset"), running=True)


@pytest.mark.parametrize("timer", [bytes(6), bytes([4, 1, 0, 0, 0, 0])])
def test_a_timer_that_would_fire_at_once_is_not_fed(timer: bytes) -> None:
    bmc = FakeBmc()
    bmc.timer = timer
    with pytest.raises(ServerUnsupported, match="not set up"):
        bmc.converse(reset_timer(SERVER))
    assert RESET_TIMER not in bmc.commands


@pytest.mark.parametrize(
    ("answer", "error"),
    [(Response(0x80), ServerUnsupported), (Response(0xD5), BackendUnavailable), (Response(0xFF), OutcomeUnknown), (None, OutcomeUnknown)],
)
def test_feeding_that_fails_says_what_is_known(answer: Response | None, error: type[DriverError]) -> None:
    bmc = FakeBmc()
    set_on(bmc, device("reset"))
    bmc.answers[RESET_TIMER] = answer
    with pytest.raises(DriverError) as raised:
        bmc.converse(reset_timer(SERVER))
    assert type(raised.value) is error


@settings(max_examples=50)
@given(st.integers(0, 255), st.binary(max_size=10))
def test_no_answer_breaks_the_reading(code: int, answer: bytes) -> None:
    bmc = FakeBmc()
    bmc.answers[GET_TIMER] = Response(code, answer)
    try:
        registers = bmc.converse(find_registers(SERVER))
    except BackendUnavailable:
        assert code
    else:
        assert registers is None or registers.state.device is None or registers.state.device.model == MODEL.model
