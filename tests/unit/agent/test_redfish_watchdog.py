"""``HostWatchdogTimer`` as a watchdog: what is written, what is refused before, and what is said when a BMC does not do it."""

from typing import Any

import pytest

from compute_agent.contract.errors import Code
from compute_agent.contract.watchdogs import WatchdogDevice
from compute_agent.drivers.bmc.protocol import TimerState
from compute_agent.drivers.errors import BackendUnavailable, DriverError, OutcomeUnknown, ServerUnsupported
from compute_agent.drivers.redfish.watchdog import WATCHDOG_MODEL, read_timer
from tests.redfish_server import SYSTEM, Answering, Handler
from tests.unit.agent.redfish_parts import LIMIT, Connected, connected


def make(expiry_action: str) -> WatchdogDevice:
    return WatchdogDevice(model="redfish", expiry_action=expiry_action)


def get_timer(at: Connected) -> dict[str, Any]:
    timer: dict[str, Any] = at.small.documents[SYSTEM]["HostWatchdogTimer"]
    return timer


def test_every_expiry_action_is_written_read_back_and_taken_away() -> None:
    with connected() as at:
        for action in WATCHDOG_MODEL.expiry_actions:
            assert at.bmc.set_timer(make(action), LIMIT) == TimerState(make(action))
            state = at.bmc.read_state(LIMIT)
            assert state.timer == TimerState(make(action))
        assert at.bmc.set_timer(None, LIMIT) == TimerState()
        assert get_timer(at)["FunctionEnabled"] is False


def test_an_nmi_is_the_warning_before_a_timeout_that_does_nothing() -> None:
    with connected() as at:
        at.bmc.set_timer(make("inject-nmi"), LIMIT)
        assert (get_timer(at)["WarningAction"], get_timer(at)["TimeoutAction"]) == ("DiagnosticInterrupt", "None")
        at.bmc.set_timer(make("reset"), LIMIT)
        assert (get_timer(at)["WarningAction"], get_timer(at)["TimeoutAction"]) == ("None", "ResetSystem")


def test_setting_what_is_there_writes_nothing() -> None:
    with connected() as at:
        at.bmc.set_timer(make("reset"), LIMIT)
        at.bmc.set_timer(make("reset"), LIMIT)
        assert at.small.count("PATCH", SYSTEM) == 1


def test_a_change_names_what_it_changes_and_is_made_anew_when_another_came_between() -> None:
    with connected() as at:

        def change_meanwhile(handler: Handler) -> None:
            del at.small.answering[("PATCH", SYSTEM)]
            at.small.etag += 1
            handler.refuse(412, "PreconditionFailed", "It was changed meanwhile")

        at.small.answering[("PATCH", SYSTEM)] = change_meanwhile
        at.bmc.set_timer(make("reset"), LIMIT)
        assert [asked.headers["If-Match"] for asked in at.small.asked if asked.method == "PATCH"] == ['"1"', '"2"']


def test_a_timer_that_counts_is_live() -> None:
    assert read_timer({"HostWatchdogTimer": {"FunctionEnabled": True, "TimeoutAction": "PowerCycle", "Status": {"State": "Enabled"}}}) == (
        TimerState(make("power_cycle"), running=True)
    )


@pytest.mark.parametrize(("word", "expected"), [("OEM", "oem"), ("Do It: Now!", "doitnow"), ("???", "unknown"), ("x" * 50, "x" * 32)])
def test_a_bmcs_own_action_is_shown_in_its_own_word(word: str, expected: str) -> None:
    state = read_timer({"HostWatchdogTimer": {"FunctionEnabled": True, "TimeoutAction": word}})
    assert state == TimerState(make(expected))


def test_what_the_bmc_does_not_offer_is_refused_and_not_written() -> None:
    with connected() as at:
        get_timer(at)["TimeoutAction@Redfish.AllowableValues"] = ["None", "ResetSystem"]
        del get_timer(at)["WarningAction"]
        for refused in (make("poweroff"), make("inject-nmi"), make("dump"), WatchdogDevice(model="ipmi", expiry_action="reset")):
            with pytest.raises(ServerUnsupported):
                at.bmc.set_timer(refused, LIMIT)
        assert at.small.count("PATCH", SYSTEM) == 0
        assert at.bmc.set_timer(make("reset"), LIMIT) == TimerState(make("reset"))


def test_a_bmc_without_a_timer_says_so_and_has_nothing_to_take_away() -> None:
    with connected() as at:
        del at.small.documents[SYSTEM]["HostWatchdogTimer"]
        assert at.bmc.read_state(LIMIT).timer is None
        with pytest.raises(ServerUnsupported):
            at.bmc.set_timer(make("reset"), LIMIT)
        assert at.bmc.set_timer(None, LIMIT) == TimerState()


def test_nobody_can_feed_a_timer_over_redfish() -> None:
    with connected() as at, pytest.raises(ServerUnsupported, match="operating system"):
        at.bmc.reset_timer(LIMIT)


def answer(status: int, key: str = "GeneralError") -> Answering:
    return lambda handler: handler.refuse(status, key, "As it is.")


@pytest.mark.parametrize(
    ("answering", "expected", "code"),
    [
        (answer(405), ServerUnsupported, Code.NOT_SUPPORTED),
        (answer(400, "PropertyNotWritable"), ServerUnsupported, Code.NOT_SUPPORTED),
        (answer(409), BackendUnavailable, Code.BACKEND_UNAVAILABLE),
        (answer(403), BackendUnavailable, Code.FORBIDDEN),
        (answer(500), OutcomeUnknown, Code.ANSWER_LOST),
        (Handler.cut, OutcomeUnknown, Code.ANSWER_LOST),
        (lambda handler: handler.send(200, {}), BackendUnavailable, Code.WATCHDOG_NOT_CHANGED),
    ],
)
def test_a_change_that_is_not_made_ends_as_what_is_known_of_it(answering: Answering, expected: type[DriverError], code: Code) -> None:
    with connected() as at:
        at.small.answering[("PATCH", SYSTEM)] = answering
        with pytest.raises(expected) as raised:
            at.bmc.set_timer(make("reset"), LIMIT)
        assert raised.value.code is code
