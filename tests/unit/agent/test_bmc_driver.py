"""The driver for bare metal over BMCs in memory: states, NMIs, watchdogs, diagnostics, and what each may take."""

import threading
from pathlib import Path

import pytest
from oslo_config import cfg

import compute_agent.config
from compute_agent.contract.clock import SystemClock
from compute_agent.contract.models import PowerState
from compute_agent.contract.watchdogs import ExpiryAction, Watchdog, WatchdogDevice
from compute_agent.drivers.base import Watchdogs, WatchdogTimer
from compute_agent.drivers.bmc import protocols
from compute_agent.drivers.bmc.options import register_options
from compute_agent.drivers.bmc.protocol import MachineState, TimerState
from compute_agent.drivers.bmc.protocols import ProtocolNotLoaded, Protocols
from compute_agent.drivers.errors import BackendUnavailable, ServerNotRunning, ServerUnsupported
from compute_agent.drivers.loader import DriverNotLoaded, load_driver
from tests.fakes import FakeClock
from tests.unit.agent.bmc_parts import MODEL, RESET, Bench, kinds, make_entry, make_uuid

SERVER = make_uuid(1)
POWEROFF = WatchdogDevice(model="fake-timer", expiry_action=ExpiryAction.POWEROFF)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    bench = Bench(tmp_path)
    bench.begin()
    return bench


@pytest.fixture
def watchdogs(bench: Bench) -> Watchdogs:
    assert bench.driver.watchdog is not None
    return bench.driver.watchdog


@pytest.fixture
def timer(bench: Bench) -> WatchdogTimer:
    assert bench.driver.watchdog_timer is not None
    return bench.driver.watchdog_timer


def load(**options: object) -> object:
    conf = cfg.ConfigOpts()
    compute_agent.config.register_options(conf)
    register_options(conf)
    conf([], default_config_files=[], default_config_dirs=[])
    for name, value in options.items():
        conf.set_override(name, value, "bmc")
    return load_driver("bmc", conf, SystemClock())


def test_the_driver_loads_without_an_inventory_and_without_any_library(tmp_path: Path) -> None:
    assert load(inventory=str(tmp_path / "none.yaml"))


def test_options_that_do_not_go_together_are_refused_at_the_start() -> None:
    with pytest.raises(DriverNotLoaded, match="attentive_interval = 60 s must not be more than poll_interval = 30 s"):
        load(attentive_interval=60.0)


def test_a_protocol_that_is_not_there_says_which_are() -> None:
    with pytest.raises(ProtocolNotLoaded, match="there is no such protocol; installed: ipmi, redfish"):
        Protocols(cfg.ConfigOpts(), FakeClock()).get("telnet")


def test_a_protocol_whose_library_is_missing_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise ModuleNotFoundError("No module named 'pyghmi'")

    monkeypatch.setattr(protocols, "DriverManager", fail)
    with pytest.raises(ProtocolNotLoaded, match=r"No module named 'pyghmi'\): pip install 'crashcart\[bmc\]'"):
        Protocols(cfg.ConfigOpts(), FakeClock()).get("ipmi")


# Servers


def test_a_server_is_as_its_bmc_says_and_as_its_entry_calls_it(tmp_path: Path) -> None:
    bench = Bench(tmp_path, [make_entry(1, project="p1", user="u1")])
    bench.begin()
    (seen,) = bench.driver.servers.list_servers()
    assert (seen.id, seen.name, seen.project, seen.user, seen.instance_name) == (SERVER, "m1", "p1", "u1", "m1")
    assert (seen.power_state, seen.state_reason, seen.unread) == (PowerState.RUNNING, "on", "")
    assert seen.watchdog == Watchdog(models=("fake-timer",))
    assert bench.driver.servers.get_server(SERVER) == seen


def test_a_single_server_is_asked_for_now_but_not_twice_in_a_second(bench: Bench) -> None:
    get = bench.driver.servers.get_server
    assert bench.machine().calls == ["poll"]
    get(SERVER)
    assert bench.machine().calls == ["poll"]
    bench.advance(1.5)
    bench.machine().switch(PowerState.SHUTDOWN)
    assert get(SERVER).power_state is PowerState.SHUTDOWN
    assert bench.driver.servers.list_servers()[0].power_state is PowerState.SHUTDOWN
    assert bench.machine().calls == ["poll", "read_state"]
    assert kinds(bench.look()) == ["stopped"], "what was seen on the way is told at once"


def test_what_was_read_is_told_whatever_the_next_look_comes_to(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    (bmc,) = bench.protocol.bmcs
    bench.advance(5)
    state = bmc.read_state(1.0)

    def read_before_a_look(limit: float) -> MachineState:
        bench.machine().refusal = "no answer"
        bench.look(31)
        return state

    monkeypatch.setattr(bmc, "read_state", read_before_a_look)
    assert bench.driver.servers.get_server(SERVER).unread == ""


def test_a_server_whose_bmc_is_silent_keeps_its_state_and_says_why_it_is_old(bench: Bench) -> None:
    bench.machine().refusal = "no answer"
    bench.look(31)
    (seen,) = bench.driver.servers.list_servers()
    assert (seen.power_state, seen.unread) == (PowerState.RUNNING, "no answer")
    bench.advance(5)
    with pytest.raises(BackendUnavailable) as refusal:
        bench.driver.servers.get_server(SERVER)
    assert refusal.value.server == SERVER


# NMI


def test_one_injection_is_one_question_within_the_drivers_bound(bench: Bench) -> None:
    assert bench.driver.nmi is not None
    bench.driver.nmi.inject_nmi(SERVER)
    assert bench.machine().signals == 1
    assert bench.machine().calls == ["poll", "inject_nmi"]
    assert bench.machine().limits[-1] == 0.8 * bench.driver.call_bound


# Watchdogs


def test_models_are_those_of_the_protocols_in_use(tmp_path: Path) -> None:
    assert list(Bench(tmp_path).driver.watchdog.list_models()) == [MODEL]  # type: ignore[union-attr]
    empty = Bench(tmp_path, [])
    assert list(empty.driver.watchdog.list_models()) == []  # type: ignore[union-attr]
    assert empty.driver.capabilities().watchdog_models == ()


def test_a_watchdog_is_set_without_being_armed_and_that_is_told(bench: Bench, watchdogs: Watchdogs) -> None:
    seen = watchdogs.set_watchdog(SERVER, RESET)
    assert (seen.configured, seen.live, seen.pending_restart) == (RESET, RESET, False)
    assert bench.machine().timer == TimerState(RESET, running=False)
    (told,) = bench.told[-1:]
    assert (str(told.kind), told.server) == ("defined", SERVER)
    assert bench.driver.servers.get_server(SERVER).watchdog == seen
    assert bench.look(31) == [], "told once"


def test_a_power_that_changes_while_a_watchdog_is_set_is_not_taken_back(
    bench: Bench, watchdogs: Watchdogs, monkeypatch: pytest.MonkeyPatch
) -> None:
    (bmc,) = bench.protocol.bmcs
    set_timer = bmc.set_timer

    def set_slowly(device: WatchdogDevice | None, limit: float) -> TimerState:
        bench.machine().switch(PowerState.SHUTDOWN)
        assert kinds(bench.look(31)) == ["stopped"]
        return set_timer(device, limit)

    monkeypatch.setattr(bmc, "set_timer", set_slowly)
    assert watchdogs.set_watchdog(SERVER, RESET) == Watchdog(configured=RESET, models=(MODEL.model,))
    (seen,) = bench.driver.servers.list_servers()
    assert (seen.power_state, seen.watchdog) == (PowerState.SHUTDOWN, Watchdog(configured=RESET, models=(MODEL.model,)))


def test_a_watchdog_that_counts_goes_on_counting_with_another_action(bench: Bench, watchdogs: Watchdogs) -> None:
    bench.machine().timer = TimerState(RESET, running=True)
    seen = watchdogs.set_watchdog(SERVER, POWEROFF)
    assert (seen.configured, seen.live) == (POWEROFF, POWEROFF)
    assert bench.machine().timer == TimerState(POWEROFF, running=True)


def test_to_set_what_is_there_or_remove_what_is_not_changes_nothing(bench: Bench, watchdogs: Watchdogs) -> None:
    watchdogs.remove_watchdog(SERVER)
    bench.machine().timer = TimerState(RESET, running=True)
    watchdogs.set_watchdog(SERVER, RESET)
    assert "set_timer" not in bench.machine().calls
    assert watchdogs.remove_watchdog(SERVER) == Watchdog(models=("fake-timer",))
    bench.machine().timer = None
    assert watchdogs.remove_watchdog(SERVER) == Watchdog()
    assert bench.machine().calls.count("set_timer") == 1


@pytest.mark.parametrize(
    ("device", "reason"),
    [
        (WatchdogDevice(model="i6300esb", expiry_action="reset"), "its BMC has no watchdog i6300esb"),
        (WatchdogDevice(model="fake-timer", expiry_action="dump"), "fake-timer has no expiry action dump"),
        (None, "its BMC has no watchdog timer"),
    ],
)
def test_a_watchdog_that_cannot_be_is_refused_before_anything_is_touched(
    bench: Bench, watchdogs: Watchdogs, device: WatchdogDevice | None, reason: str
) -> None:
    if device is None:
        bench.machine().timer = None
    with pytest.raises(ServerUnsupported, match=reason):
        watchdogs.set_watchdog(SERVER, device or RESET)
    assert "set_timer" not in bench.machine().calls


def test_all_exchanges_of_a_change_share_one_limit(bench: Bench, watchdogs: Watchdogs, monkeypatch: pytest.MonkeyPatch) -> None:
    """A BMC that takes half of it for its state has the other half for the change."""
    (bmc,) = bench.protocol.bmcs
    assert isinstance(bench.clock, FakeClock)
    clock, read = bench.clock, bmc.read_state
    share = 0.4

    def read_slowly(limit: float) -> object:
        state = read(limit)
        clock.advance(share * bench.driver.call_bound)
        return state

    monkeypatch.setattr(bmc, "read_state", read_slowly)
    watchdogs.set_watchdog(SERVER, RESET)
    assert bench.machine().limits[-1] == pytest.approx(0.4 * bench.driver.call_bound)
    share = 0.9
    with pytest.raises(BackendUnavailable, match="took all the time"):
        watchdogs.set_watchdog(SERVER, POWEROFF)
    assert bench.machine().timer == TimerState(RESET)


def test_feeding_lets_a_timer_that_stands_still_count_and_changes_no_device(bench: Bench, timer: WatchdogTimer) -> None:
    bench.machine().timer = TimerState(RESET)
    bench.look(31)
    for count in (1, 2):
        timer.reset_timer(SERVER)
        assert bench.machine().timer == TimerState(RESET, running=True)
        assert bench.machine().calls.count("reset_timer") == count
    assert bench.look(31) == []


@pytest.mark.parametrize(
    ("state", "power_state", "refusal", "reason"),
    [
        (None, PowerState.RUNNING, ServerUnsupported, "is none"),
        (TimerState(), PowerState.RUNNING, ServerUnsupported, "set a watchdog first"),
        (TimerState(RESET), PowerState.SHUTDOWN, ServerNotRunning, "is off"),
    ],
)
def test_what_cannot_be_fed_is_left_alone(
    bench: Bench, timer: WatchdogTimer, state: TimerState | None, power_state: PowerState, refusal: type[Exception], reason: str
) -> None:
    bench.machine().timer, bench.machine().power_state = state, power_state
    with pytest.raises(refusal, match=reason):
        timer.reset_timer(SERVER)
    assert "reset_timer" not in bench.machine().calls


# Diagnostics


def test_diagnostics_say_what_a_bmc_does_not_know(bench: Bench) -> None:
    assert bench.driver.diagnostics is not None
    reading = bench.driver.diagnostics.collect_diagnostics(SERVER)
    assert (reading.driver_word, reading.hypervisor, reading.power_state) == ("ironic", None, PowerState.RUNNING)
    assert (dict(reading.cpu_times), reading.memory_maximum_kib) == ({}, 2**20)
    assert reading.errors == {"cpus": "the BMC does not tell how many processors there are"}
    assert reading.hardware is not None
    assert reading.hardware.power == "on"


def test_a_sample_asks_no_bmc_and_has_the_machines_that_are_on(tmp_path: Path) -> None:
    bench = Bench(tmp_path, 3)
    bench.machine(2).switch(PowerState.SHUTDOWN)
    bench.machine(3).refusal = "no answer"
    bench.begin()
    assert bench.driver.diagnostics is not None
    calls = [len(bench.machine(number).calls) for number in (1, 2, 3)]
    assert [sample.server for sample in bench.driver.diagnostics.sample_servers()] == [SERVER]
    assert [len(bench.machine(number).calls) for number in (1, 2, 3)] == calls


# Threads


def test_the_threads_are_as_many_as_was_said_and_none_is_left(tmp_path: Path) -> None:
    """With real time: events come by themselves, and after the end there is nobody who could tell any."""
    bench = Bench(tmp_path, 20, clock=SystemClock(), poll_threads=4)
    is_over = threading.Event()
    before = set(threading.enumerate())

    def listen(event: object) -> None:
        bench.told.append(event)  # type: ignore[arg-type]
        if getattr(event, "kind", None) == "backend_back":
            is_over.set()

    driver = bench.driver
    assert driver.events is not None
    assert driver.lifecycle is not None
    driver.events.subscribe(listen, {})
    driver.lifecycle.open()
    try:
        assert is_over.wait(10)
        own = set(threading.enumerate()) - before
        assert sorted(thread.name for thread in own) == ["bmc-look-1", "bmc-look-2", "bmc-look-3", "bmc-look-4", "bmc-schedule"]
    finally:
        driver.lifecycle.close()
    assert not set(threading.enumerate()) & own
    assert all(bmc.is_closed for bmc in bench.protocol.bmcs)
