"""The NMI over Redfish: one POST, whatever comes of it, and the right word for what did."""

from collections.abc import Callable

import pytest

from compute_agent.contract.errors import Code
from compute_agent.drivers.errors import (
    BackendUnavailable,
    CapabilityUnsupported,
    DriverError,
    OutcomeUnknown,
    ServerNotRunning,
    ServerUnsupported,
)
from devstack.services import wait_until
from tests.redfish_server import RESET, SYSTEM, Answering, Handler
from tests.unit.agent.redfish_parts import LIMIT, SHORT, Connected, connected

TASK = "/redfish/v1/TaskService/TaskMonitors/7"
_TRIES = 20


def answer(status: int, key: str = "GeneralError", message: str = "As it is.") -> Answering:
    return lambda handler: handler.refuse(status, key, message)


def write(content: bytes) -> Answering:
    """These bytes, and the end of the connection."""

    def send(handler: Handler) -> None:
        handler.wfile.write(content)
        handler.cut()

    return send


def hang(handler: Handler) -> None:
    """No answer, and the connection stays open until the other side ends it."""
    handler.connection.recv(1)
    handler.close_connection = True


def accept(handler: Handler) -> None:
    handler.send(202, Location=TASK, Retry_After="0")


def go_away(handler: Handler) -> None:
    """Accepts it, and then takes no connection any more: a BMC that restarts."""
    handler.stop_listening()
    handler.close_connection = True
    handler.send(202, Location=TASK, Retry_After="0", Connection="close")


def inject(at: Connected, answering: Answering, limit: float = LIMIT) -> DriverError | None:
    """What comes of it; exactly one POST arrived, also after the BMC was asked for other things."""
    at.small.answering[("POST", RESET)] = answering
    try:
        at.bmc.inject_nmi(limit)
        error = None
    except DriverError as raised:
        error = raised
    assert at.small.count("POST", RESET) == 1
    return error


def inject_in_little_time(at: Connected, answering: Answering, limit: float) -> DriverError | None:
    """As ``inject``, with a limit that passes; again when it had passed before the POST was sent, as on a machine that stood still."""
    at.small.answering[("POST", RESET)] = answering
    error: DriverError | None = None
    for _ in range(_TRIES):
        try:
            at.bmc.inject_nmi(limit)
            error = None
        except DriverError as raised:
            error = raised
        if not isinstance(error, BackendUnavailable) or at.small.count("POST", RESET):
            break
    wait_until(lambda: at.small.count("POST", RESET), LIMIT, "the POST to be read")
    assert at.small.count("POST", RESET) == 1
    return error


@pytest.mark.parametrize("status", [200, 201, 204])
def test_a_yes_is_a_yes_after_one_post_that_asks_for_an_nmi(status: int) -> None:
    with connected() as at:
        assert inject(at, lambda handler: handler.send(status, b"<html>not even JSON</html>" if status != 204 else None)) is None
        (posted,) = [asked for asked in at.small.asked if asked.method == "POST"]
        assert posted.body == {"ResetType": "Nmi"}


@pytest.mark.parametrize(
    "answering",
    [
        pytest.param(Handler.cut, id="cut before"),
        pytest.param(write(b"HTTP/1.1 200 O"), id="cut in the status"),
        pytest.param(write(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n"), id="cut after the headers"),
        pytest.param(write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"), id="garbage in the body"),
        pytest.param(write(b"\x00\x16\x03 no HTTP\r\n\r\n"), id="garbage"),
        pytest.param(write(b"HTTP/1.1 999 ?\r\nContent-Length: 0\r\n\r\n"), id="no such status"),
        pytest.param(answer(500), id="500"),
        pytest.param(answer(502), id="502"),
        pytest.param(answer(408), id="408"),
        pytest.param(answer(500, "SYS518", "SYS518: the iDRAC is not ready"), id="what sushy repeats for iDRAC"),
        pytest.param(lambda handler: handler.send(206), id="neither yes nor no"),
        pytest.param(lambda handler: handler.send(202), id="accepted, and nobody says what comes of it"),
        pytest.param(lambda handler: handler.send(303, Location=SYSTEM), id="what came of it is to be seen elsewhere"),
        pytest.param(lambda handler: handler.send(302, Location="https://elsewhere.example/"), id="302"),
        pytest.param(lambda handler: handler.send(500, b"[[]"), id="500 with garbage"),
        pytest.param(lambda handler: handler.send(500, {"error": [1]}), id="500 with JSON of another shape"),
    ],
)
def test_without_an_answer_that_can_be_believed_nobody_knows_and_nothing_is_sent_again(answering: Answering) -> None:
    with connected() as at:
        assert isinstance(inject(at, answering), OutcomeUnknown)


def test_a_slow_answer_is_given_up_at_the_limit() -> None:
    with connected() as at:
        error = inject_in_little_time(at, hang, SHORT)
    assert isinstance(error, OutcomeUnknown)
    assert "time" in error.reason


@pytest.mark.parametrize(
    ("answering", "expected", "code"),
    [
        (answer(501), CapabilityUnsupported, Code.NOT_SUPPORTED),
        (answer(405), ServerUnsupported, Code.NOT_SUPPORTED),
        (answer(404), ServerUnsupported, Code.NOT_SUPPORTED),
        (answer(400, "ActionParameterNotSupported"), ServerUnsupported, Code.NOT_SUPPORTED),
        (answer(400, "InvalidOperationForSystemState"), BackendUnavailable, Code.BACKEND_UNAVAILABLE),
        (answer(409), BackendUnavailable, Code.BACKEND_UNAVAILABLE),
        (answer(429), BackendUnavailable, Code.BACKEND_UNAVAILABLE),
        (answer(503), BackendUnavailable, Code.BACKEND_UNAVAILABLE),
        (answer(401), BackendUnavailable, Code.FORBIDDEN),
        (answer(403, "InsufficientPrivilege"), BackendUnavailable, Code.FORBIDDEN),
        (lambda handler: handler.send(307, Location="https://elsewhere.example/"), BackendUnavailable, Code.BACKEND_UNAVAILABLE),
        (lambda handler: handler.send(308, Location=RESET), BackendUnavailable, Code.BACKEND_UNAVAILABLE),
    ],
)
def test_a_no_says_that_nothing_was_done_and_why(answering: Answering, expected: type[DriverError], code: Code) -> None:
    """With a session: one that is forgotten just then is not made anew for this request."""
    with connected(sessions=True) as at:
        error = inject(at, answering)
    assert isinstance(error, expected)
    assert error.code is code
    assert "As it is." in error.reason or "elsewhere" in error.reason


def describe_off(system: dict[str, object]) -> None:
    system["PowerState"] = "Off"


def describe_on_its_way(system: dict[str, object]) -> None:
    system["PowerState"] = "PoweringOn"


def hide_the_nmi(system: dict[str, object]) -> None:
    system["Actions"] = {"#ComputerSystem.Reset": {"target": RESET, "ResetType@Redfish.AllowableValues": ["On", "ForceOff"]}}


def hide_the_action(system: dict[str, object]) -> None:
    del system["Actions"]


def say_nothing(system: dict[str, object]) -> None:
    system["Actions"] = {"#ComputerSystem.Reset": {"target": RESET}}


@pytest.mark.parametrize(
    ("describe", "expected"),
    [
        (describe_off, ServerNotRunning),
        (describe_on_its_way, ServerNotRunning),
        (hide_the_nmi, ServerUnsupported),
        (hide_the_action, ServerUnsupported),
        (say_nothing, ServerUnsupported),
    ],
)
def test_what_cannot_take_an_nmi_is_sent_none(describe: Callable[[dict[str, object]], None], expected: type[DriverError]) -> None:
    with connected() as at:
        describe(at.small.documents[SYSTEM])
        with pytest.raises(expected):
            at.bmc.inject_nmi(LIMIT)
        assert at.small.count("POST", RESET) == 0


def test_an_nmi_that_only_the_actions_description_offers_is_sent() -> None:
    with connected() as at:
        info = f"{SYSTEM}/ResetActionInfo"
        at.small.documents[SYSTEM]["Actions"]["#ComputerSystem.Reset"] = {"target": RESET, "@Redfish.ActionInfo": info}
        at.small.documents[info] = {"Parameters": [{"Name": "ResetType", "AllowableValues": ["On", "Nmi"]}]}
        at.bmc.inject_nmi(LIMIT)
        assert at.small.count("POST", RESET) == 1


def test_an_accepted_nmi_is_followed_to_its_end() -> None:
    """The monitor is named by an address of its own, and asked nowhere but here."""
    looks = iter([lambda handler: handler.send(202, Retry_After="0"), lambda handler: handler.send(200, {"TaskState": "Completed"})])
    with connected() as at:
        at.small.answering[("GET", TASK)] = lambda handler: next(looks)(handler)
        assert inject(at, lambda handler: handler.send(202, Location=f"https://bmc.example{TASK}", Retry_After="0")) is None
        assert at.small.count("GET", TASK) == 2


@pytest.mark.parametrize(
    "end",
    [
        answer(404),
        answer(500),
        lambda handler: handler.send(200, {"TaskState": "Exception"}),
        Handler.cut,
    ],
)
def test_an_accepted_nmi_that_does_not_end_well_is_unknown(end: Answering) -> None:
    with connected() as at:
        at.small.answering[("GET", TASK)] = end
        assert isinstance(inject(at, accept), OutcomeUnknown)


def test_an_accepted_nmi_that_does_not_end_in_time_is_unknown() -> None:
    with connected() as at:
        at.small.answering[("GET", TASK)] = lambda handler: handler.send(202)
        assert isinstance(inject_in_little_time(at, accept, 2 * SHORT), OutcomeUnknown)


def test_an_accepted_nmi_of_a_bmc_that_cannot_be_reached_any_more_is_unknown() -> None:
    """Nothing of the later question was sent. Of the NMI everything was."""
    with connected() as at:
        error = inject(at, go_away)
    assert isinstance(error, OutcomeUnknown)
    assert "accepted" in error.reason
