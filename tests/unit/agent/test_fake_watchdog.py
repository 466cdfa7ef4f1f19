"""The fake platform's watchdogs: changed in steps, each of which can be made to fail, and gone on with by the same call."""

from collections.abc import Callable

import pytest

from compute_agent.contract.errors import Code
from compute_agent.contract.models import PowerState
from compute_agent.contract.watchdogs import WatchdogDevice
from compute_agent.drivers.errors import BackendUnavailable, OutcomeUnknown, ServerNotRunning, ServerUnsupported
from compute_agent.drivers.fake import FakeHypervisor
from compute_agent.drivers.fake_behaviours import Behaviour, break_down, go_away, ignore_request, refuse
from compute_agent.drivers.fake_devices import make_watchdog
from compute_agent.drivers.fake_server import Call
from tests.fakes import FakeClock

RESET = WatchdogDevice(model="i6300esb", expiry_action="reset")
PAUSE = WatchdogDevice(model="i6300esb", expiry_action="pause")
ISA = WatchdogDevice(model="ib700", expiry_action="reset")
NO = refuse(BackendUnavailable(None, "no more slots", Code.WATCHDOG_NOT_CHANGED))


class Killed(BaseException):
    """The agent's process dies in the middle of a call."""


@pytest.fixture
def hypervisor() -> FakeHypervisor:
    return FakeHypervisor(FakeClock())


def set_it(hypervisor: FakeHypervisor, server: str, device: WatchdogDevice | None) -> None:
    watchdogs = hypervisor.driver.watchdog
    assert watchdogs is not None
    if device is None:
        watchdogs.remove_watchdog(server)
    else:
        watchdogs.set_watchdog(server, device)


def find(hypervisor: FakeHypervisor, server: str) -> tuple[WatchdogDevice | None, WatchdogDevice | None, bool]:
    assert hypervisor.driver.watchdog is not None
    watchdog = hypervisor.driver.watchdog.get_watchdog(server)
    return watchdog.configured, watchdog.live, watchdog.pending_restart


@pytest.mark.parametrize(
    ("power_state", "former", "wanted", "then"),
    [
        (PowerState.RUNNING, None, RESET, (RESET, RESET, False)),
        (PowerState.RUNNING, RESET, PAUSE, (PAUSE, PAUSE, False)),
        (PowerState.RUNNING, RESET, None, (None, None, False)),
        (PowerState.RUNNING, None, ISA, (ISA, None, True)),
        (PowerState.RUNNING, ISA, RESET, (RESET, ISA, True)),
        (PowerState.RUNNING, ISA, None, (None, ISA, True)),
        (PowerState.SHUTDOWN, None, RESET, (RESET, None, False)),
        (PowerState.SHUTDOWN, RESET, None, (None, None, False)),
    ],
)
def test_a_running_machine_is_changed_where_it_can_be_and_else_at_its_next_start(
    hypervisor: FakeHypervisor,
    power_state: PowerState,
    former: WatchdogDevice | None,
    wanted: WatchdogDevice | None,
    then: tuple[WatchdogDevice | None, WatchdogDevice | None, bool],
) -> None:
    server = hypervisor.make_server(power_state=power_state, watchdog=former)
    set_it(hypervisor, server, wanted)
    assert find(hypervisor, server) == then
    hypervisor.stop(server)
    hypervisor.start(server)
    assert find(hypervisor, server) == (wanted, wanted, False)


def test_without_a_free_slot_it_comes_at_the_next_start(hypervisor: FakeHypervisor) -> None:
    server = hypervisor.make_server()
    hypervisor.fill_slots(server)
    set_it(hypervisor, server, RESET)
    assert find(hypervisor, server) == (RESET, None, True)


@pytest.mark.parametrize(
    ("call", "behaviour"),
    [
        (Call.DETACH_WATCHDOG, ignore_request),
        (Call.DETACH_WATCHDOG, NO),
        (Call.ATTACH_WATCHDOG, NO),
        (Call.CONFIGURE_WATCHDOG, NO),
    ],
)
def test_a_step_that_fails_leaves_the_former_device(hypervisor: FakeHypervisor, call: Call, behaviour: Behaviour) -> None:
    server = hypervisor.make_server(watchdog=RESET)
    hypervisor.behave(server, behaviour, call=call)
    with pytest.raises(BackendUnavailable) as error:
        set_it(hypervisor, server, PAUSE)
    assert error.value.code is Code.WATCHDOG_NOT_CHANGED
    assert find(hypervisor, server) == (RESET, RESET, False)


def test_a_guest_that_has_panicked_keeps_its_device(hypervisor: FakeHypervisor) -> None:
    server = hypervisor.make_server(watchdog=RESET)
    hypervisor.panic(server)
    with pytest.raises(BackendUnavailable, match="did not let go"):
        set_it(hypervisor, server, None)
    assert find(hypervisor, server) == (RESET, RESET, False)


def test_when_not_even_the_former_one_can_be_put_back_nobody_calls_it_unchanged(hypervisor: FakeHypervisor) -> None:
    server = hypervisor.make_server(watchdog=RESET)
    hypervisor.behave(server, NO, NO, call=Call.ATTACH_WATCHDOG)
    with pytest.raises(OutcomeUnknown):
        set_it(hypervisor, server, PAUSE)
    set_it(hypervisor, server, RESET)
    assert find(hypervisor, server) == (RESET, RESET, False)


def go_away_and_come_back(hypervisor: FakeHypervisor, server: str, call: Call, delivered: bool) -> None:
    hypervisor.behave(server, go_away(hypervisor.lose_backend, delivered=delivered), call=call)
    with pytest.raises(OutcomeUnknown):
        set_it(hypervisor, server, PAUSE)
    hypervisor.restore_backend()


def die(hypervisor: FakeHypervisor, server: str, call: Call, delivered: bool) -> None:
    hypervisor.behave(server, break_down(Killed(), delivered=delivered), call=call)
    with pytest.raises(Killed):
        set_it(hypervisor, server, PAUSE)


@pytest.mark.parametrize("end", [go_away_and_come_back, die])
@pytest.mark.parametrize("wanted", [PAUSE, RESET, None])
@pytest.mark.parametrize("delivered", [False, True])
@pytest.mark.parametrize("call", [Call.DETACH_WATCHDOG, Call.ATTACH_WATCHDOG, Call.CONFIGURE_WATCHDOG])
def test_the_call_goes_on_or_back_from_wherever_it_stopped(
    hypervisor: FakeHypervisor,
    end: Callable[[FakeHypervisor, str, Call, bool], None],
    wanted: WatchdogDevice | None,
    call: Call,
    delivered: bool,
) -> None:
    server = hypervisor.make_server(watchdog=RESET)
    end(hypervisor, server, call, delivered)
    set_it(hypervisor, server, wanted)
    assert find(hypervisor, server) == (wanted, wanted, False)


@pytest.mark.parametrize(
    "device",
    [
        WatchdogDevice(model="itco", expiry_action="reset"),
        WatchdogDevice(model="diag288", expiry_action="reset"),
        WatchdogDevice(model="i6300esb", expiry_action="explode"),
    ],
)
def test_what_the_platform_cannot_give_is_refused(hypervisor: FakeHypervisor, device: WatchdogDevice) -> None:
    server = hypervisor.make_server(watchdog=RESET)
    with pytest.raises(ServerUnsupported):
        set_it(hypervisor, server, device)
    assert find(hypervisor, server) == (RESET, RESET, False)


def test_a_device_that_is_not_managed_is_left_alone(hypervisor: FakeHypervisor) -> None:
    server = hypervisor.make_server()
    hypervisor.change(server, watchdog=make_watchdog(others=(WatchdogDevice(model="itco", expiry_action="reset"),), models=()))
    for wanted in (RESET, None):
        with pytest.raises(ServerUnsupported, match="not managed: itco"):
            set_it(hypervisor, server, wanted)


def test_a_server_without_a_next_start_is_changed_while_it_runs_or_not_at_all(hypervisor: FakeHypervisor) -> None:
    server = hypervisor.make_server()
    hypervisor.change(server, persistent=False)
    with pytest.raises(ServerUnsupported):
        set_it(hypervisor, server, ISA)
    set_it(hypervisor, server, RESET)
    assert find(hypervisor, server) == (None, RESET, False)


def test_a_paused_server_resumes_and_a_running_one_is_left_alone(hypervisor: FakeHypervisor) -> None:
    server = hypervisor.make_server(power_state=PowerState.PAUSED)
    assert hypervisor.driver.resume is not None
    for _ in range(2):
        hypervisor.driver.resume.resume_server(server)
        assert hypervisor.get_server(server).power_state is PowerState.RUNNING
    hypervisor.stop(server)
    with pytest.raises(ServerNotRunning):
        hypervisor.driver.resume.resume_server(server)


def test_the_newest_dump_of_a_firing_is_found_and_none_from_before(hypervisor: FakeHypervisor) -> None:
    clock = FakeClock()
    hypervisor = FakeHypervisor(clock)
    server = hypervisor.make_server()
    hypervisor.write_expiry_dump(server, "/dumps/old", 1)
    clock.advance(5)
    assert hypervisor.driver.expiry_dumps is not None
    assert hypervisor.driver.expiry_dumps.find_expiry_dump(server, clock.now()) is None
    hypervisor.write_expiry_dump(server, "/dumps/new", 2)
    found = hypervisor.driver.expiry_dumps.find_expiry_dump(server, clock.now())
    assert found is not None
    assert (found.path, found.size) == ("/dumps/new", 2)
