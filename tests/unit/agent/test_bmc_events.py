"""What is told of machines: in order, once, from the power that is seen and from logs that are read with a cursor."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from compute_agent.contract.models import PowerState
from compute_agent.contract.watchdogs import ExpiryAction
from compute_agent.drivers.bmc.protocol import LogReading, LogRecord, Polled, TimerState
from compute_agent.drivers.models import DriverEvent, DriverEventKind
from tests.unit.agent.bmc_parts import BOOT, PANIC, RESET, Bench, kinds, make_entry, make_uuid

SERVER = make_uuid(1)
ON, OFF = PowerState.RUNNING, PowerState.SHUTDOWN
FIRED = (DriverEventKind.WATCHDOG_FIRED, "reset")
INITIATED = (DriverEventKind.REBOOTED, "restart_initiated")


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """One machine that was looked at once."""
    bench = Bench(tmp_path)
    bench.begin()
    return bench


def list_cursors(events: list[DriverEvent]) -> list[str]:
    return [event.cursor for event in events if event.cursor is not None]


def test_the_first_round_ends_with_a_comparison_and_with_those_that_are_silent(tmp_path: Path) -> None:
    bench = Bench(tmp_path, 3)
    bench.machine(2).refusal = "no answer"
    bench.begin()
    assert [(str(event.kind), event.server) for event in bench.told] == [
        ("log_read", make_uuid(1)),
        ("log_read", make_uuid(3)),
        ("backend_back", None),
        ("backend_lost", make_uuid(2)),
    ]
    assert bench.told[-1].reason == "no answer"


def test_until_all_were_looked_at_nobody_is_told_to_be_lost_or_back(tmp_path: Path) -> None:
    bench = Bench(tmp_path, 2, poll_interval=1.0, attentive_interval=1.0)
    bench.driver.events.subscribe(bench.told.append, {})  # type: ignore[union-attr]
    bench.parts.poller.begin()
    assert bench.parts.poller.step()
    bench.machine(1).refusal = "no answer"
    bench.parts.poller.hurry(SERVER)
    bench.advance(0.5)
    bench.look()
    assert kinds(bench.told) == ["log_read", "log_read", "backend_back", "backend_lost"]


def test_an_inventory_without_machines_is_looked_at_at_once(tmp_path: Path) -> None:
    bench = Bench(tmp_path, [])
    bench.begin()
    assert [(event.kind, event.server) for event in bench.told] == [(DriverEventKind.BACKEND_BACK, None)]


def test_power_that_comes_and_goes_is_told_once(bench: Bench) -> None:
    bench.machine().switch(OFF)
    (stopped,) = bench.look(31)
    assert (stopped.kind, stopped.server, stopped.reason) == (DriverEventKind.STOPPED, SERVER, "off")
    assert stopped.occurred_at == bench.clock.now()
    bench.machine().switch(ON)
    assert kinds(bench.look(31)) == ["started"]
    assert bench.look(31) == []


def test_what_a_log_tells_has_its_time_and_a_panicked_machine_is_on_still(bench: Bench) -> None:
    at = bench.clock.now() + timedelta(seconds=3)
    bench.machine().write(PANIC, at=at)
    (panicked,) = bench.look(31)
    assert (panicked.kind, panicked.reason, panicked.occurred_at, panicked.power_state) == (
        *(DriverEventKind.PANICKED, "os_critical_stop"),
        *(at, PowerState.RUNNING),
    )
    assert bench.driver.servers.get_server(SERVER).power_state is ON


def test_a_record_without_a_time_or_from_the_future_happened_now(bench: Bench) -> None:
    bench.machine().write(PANIC)
    bench.machine().write(PANIC, at=datetime(2099, 1, 1, tzinfo=UTC))
    assert [event.occurred_at for event in bench.look(31)] == [bench.clock.now()] * 2


def test_the_log_is_told_before_the_power_that_changed_with_it(bench: Bench) -> None:
    bench.machine().write(PANIC)
    bench.machine().switch(OFF)
    assert kinds(bench.look(31)) == ["panicked", "stopped"]


def test_the_power_that_a_watchdog_cycles_is_no_news_beside_its_reboot(tmp_path: Path) -> None:
    """Its record is there before the power is cut; power that stays away is told."""
    bench = Bench(tmp_path, poll_interval=2.0)
    bench.begin()
    bench.look(2.5)
    cycle = ((DriverEventKind.WATCHDOG_FIRED, "power_cycle"), (DriverEventKind.REBOOTED, "watchdog"))
    bench.machine().write(*cycle)
    assert kinds(bench.look(2.5)) == ["watchdog_fired", "rebooted"]
    bench.machine().switch(OFF)
    assert kinds(bench.look(2.5)) == []
    bench.machine().switch(ON)
    assert kinds(bench.look(2.5)) == []
    bench.machine().write(*cycle)
    assert kinds(bench.look(2.5)) == ["watchdog_fired", "rebooted"]
    bench.machine().switch(OFF)
    off_since = bench.clock.now() + timedelta(seconds=2.5)
    assert kinds(bench.look(2.5)) == []
    (stopped,) = [event for _ in range(8) for event in bench.look(2.5)]
    assert (stopped.kind, stopped.occurred_at) == (DriverEventKind.STOPPED, off_since)


def test_power_that_a_watchdog_had_cut_before_its_record_was_read_is_told(tmp_path: Path) -> None:
    bench = Bench(tmp_path, poll_interval=2.0)
    bench.begin()
    bench.machine().write((DriverEventKind.WATCHDOG_FIRED, "power_cycle"), (DriverEventKind.REBOOTED, "watchdog"))
    bench.machine().switch(OFF)
    assert kinds(bench.look(2.5)) == ["watchdog_fired", "stopped"]
    assert kinds(bench.look(2.5)) == []
    bench.machine().switch(ON)
    assert kinds(bench.look(2.5)) == ["started"]


def test_what_happened_while_a_machine_was_away_is_told_before_it_is_back(bench: Bench) -> None:
    bench.machine().refusal = "the BMC reboots"
    (lost,) = bench.look(31)
    assert (lost.kind, lost.server, lost.reason) == (DriverEventKind.BACKEND_LOST, SERVER, "the BMC reboots")
    assert bench.look(200) == [], "told once"
    bench.machine().refusal = ""
    bench.machine().write(PANIC)
    bench.machine().switch(OFF)
    assert kinds(bench.look(200)) == ["panicked", "stopped", "backend_back"]


def test_what_another_bmc_brings_along_to_this_ones_address_is_no_news(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new mainboard: its log has records of its former life, and nothing of what was read before."""
    (bmc,) = bench.protocol.bmcs
    read_at = bench.clock.now()
    times = (read_at - timedelta(days=90), read_at + timedelta(seconds=9))
    old, new = (LogRecord(str(at), "a record", at, events=(PANIC,)) for at in times)
    reading = LogReading([old, new], "2", lost="the log was cleared")
    monkeypatch.setattr(bmc, "poll", lambda *_: Polled(bench.machine().state, reading))
    assert [(str(event.kind), event.occurred_at) for event in bench.look(31)] == [("panicked", new.at)]


# What came before an NMI is not told as if it had followed


def test_a_start_is_told_of_when_the_power_was_first_read(bench: Bench) -> None:
    """An NMI is sent right after the power was read, and before the next look tells of it."""
    bench.machine().switch(OFF)
    bench.look(31)
    bench.machine().switch(ON)
    bench.advance(5)
    bench.driver.servers.get_server(SERVER)
    read_at = bench.clock.now()
    bench.advance(1)
    bench.driver.nmi.inject_nmi(SERVER)  # type: ignore[union-attr]
    (started,) = bench.look(1)
    assert (started.kind, started.occurred_at) == (DriverEventKind.STARTED, read_at)


def test_a_boot_without_a_time_is_told_of_the_earliest_that_it_can_have_been(bench: Bench) -> None:
    bench.look(31)
    looked_at = bench.clock.now()
    bench.machine().write(BOOT)
    bench.advance(5)
    bench.driver.nmi.inject_nmi(SERVER)  # type: ignore[union-attr]
    (rebooted,) = bench.look(2)
    assert (rebooted.kind, rebooted.occurred_at) == (DriverEventKind.REBOOTED, looked_at)


# Starts


def test_a_boot_of_a_running_machine_is_a_reboot_and_its_further_signs_are_not(bench: Bench) -> None:
    bench.machine().write(INITIATED)
    (rebooted,) = bench.look(31)
    assert (rebooted.kind, rebooted.reason) == (DriverEventKind.REBOOTED, "restart_initiated")
    bench.machine().write(BOOT)
    assert kinds(bench.look(60)) == ["log_read"]
    bench.machine().write(INITIATED)
    assert kinds(bench.look(60)) == ["rebooted"], "the same sign again is another start"


def test_the_boot_of_a_machine_that_was_off_is_its_start(bench: Bench) -> None:
    bench.machine().switch(OFF)
    bench.look(31)
    bench.machine().switch(ON)
    bench.machine().write(INITIATED)
    bench.machine().write(BOOT)
    (started,) = bench.look(31)
    assert (started.kind, started.reason, started.occurred_at) == (DriverEventKind.STARTED, "restart_initiated", bench.clock.now())
    assert started.cursor is not None
    assert bench.look(31) == []


def test_a_boot_that_is_logged_after_the_power_came_is_the_same_start(bench: Bench) -> None:
    bench.machine().switch(OFF)
    bench.look(31)
    bench.machine().switch(ON)
    assert kinds(bench.look(31)) == ["started"]
    bench.machine().write(BOOT)
    assert kinds(bench.look(120)) == ["log_read"]
    bench.machine().write(BOOT)
    assert kinds(bench.look(120)) == ["rebooted"]


def test_a_boot_after_a_panic_an_nmi_or_a_firing_is_another_one_however_soon(bench: Bench) -> None:
    """A machine that was started a minute ago and hangs: what its crash kernel leads to must be seen."""
    bench.machine().write(BOOT)
    assert kinds(bench.look(31)) == ["rebooted"]
    bench.machine().write(PANIC, INITIATED)
    bench.machine().write(BOOT)
    assert kinds(bench.look(31)) == ["panicked", "rebooted"]
    bench.driver.nmi.inject_nmi(SERVER)  # type: ignore[union-attr]
    bench.machine().write(BOOT)
    assert kinds(bench.look(31)) == ["rebooted"]
    bench.machine().write(FIRED, INITIATED)
    bench.machine().write(BOOT)
    assert kinds(bench.look(31)) == ["watchdog_fired", "rebooted"]


def test_another_time_of_the_last_reset_is_a_reboot_unless_the_log_told_it(bench: Bench) -> None:
    times = [datetime(2026, 1, 1, hour, tzinfo=UTC) for hour in range(3)]
    bench.machine().started_at = times[0]
    assert bench.look(31) == []
    bench.machine().started_at = times[1]
    assert kinds(bench.look(31)) == ["rebooted", "defined"], "its new time is to be read, too: a comparison would find another start"
    bench.machine().started_at = times[2]
    bench.machine().write(PANIC, BOOT)
    assert kinds(bench.look(31)) == ["panicked", "rebooted", "defined"]


def test_a_watchdog_that_somebody_else_changed_is_told(bench: Bench) -> None:
    bench.machine().timer = TimerState(RESET, running=False)
    assert kinds(bench.look(31)) == ["defined"]
    bench.machine().timer = TimerState(RESET, running=True)
    assert bench.look(31) == [], "who lets it count changes no device"
    bench.machine().timer = TimerState()
    assert kinds(bench.look(31)) == ["defined"]


# Cursors


def test_what_was_in_a_log_before_anybody_asked_is_history(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.machine().write(PANIC)
    bench.begin()
    assert kinds(bench.told) == ["log_read", "backend_back"]


def test_a_record_without_news_moves_the_cursor(bench: Bench) -> None:
    bench.machine().write()
    (read,) = bench.look(31)
    assert read.kind is DriverEventKind.LOG_READ
    assert read.cursor
    assert bench.look(31) == []


def test_every_event_of_a_log_is_told_once_wherever_the_agent_is_killed(bench: Bench) -> None:
    """Killed after each number of events that its journal has taken, it goes on from the last cursor in there."""
    begun = list_cursors(bench.told)[-1]
    for event in (PANIC, INITIATED, (DriverEventKind.WATCHDOG_FIRED, "none"), PANIC):
        bench.machine().write(event)
        bench.machine().write()
    bench.machine().write((DriverEventKind.WATCHDOG_FIRED, "reset"), (DriverEventKind.REBOOTED, "reset"))
    told = [event for event in bench.look(31) if event.kind is not DriverEventKind.LOG_READ]
    assert len(told) == 6
    for kept in range(len(told) + 1):
        bench.restart({SERVER: ([begun, *list_cursors(told[:kept])])[-1]})
        again = [event for event in bench.told if event.server and event.kind is not DriverEventKind.LOG_READ]
        assert kinds(told[:kept] + again) == kinds(told)


def test_what_a_machine_did_while_no_agent_ran_is_told_before_the_first_round_ends(bench: Bench) -> None:
    kept = list_cursors(bench.told)[-1]
    bench.machine().write(PANIC, BOOT)
    bench.restart({SERVER: kept})
    assert kinds(bench.told) == ["panicked", "rebooted", "backend_back"]


def test_the_cursor_of_a_bmc_at_another_place_is_worth_nothing(bench: Bench) -> None:
    """Its whole log would be taken for news."""
    kept = list_cursors(bench.told)[-1]
    bench.machine(7).write(PANIC)
    bench.write([{**make_entry(1), "address": make_entry(7)["address"]}])
    bench.restart({SERVER: kept})
    assert kinds(bench.told) == ["log_read", "backend_back"]


def test_an_event_that_the_listener_did_not_take_is_told_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench(tmp_path)
    fails = [False]

    def listen(event: DriverEvent) -> None:
        if fails[0]:
            raise RuntimeError("it promised not to")
        bench.told.append(event)

    bench.driver.events.subscribe(listen, {})  # type: ignore[union-attr]
    bench.parts.poller.begin()
    bench.look()
    bench.machine().write(PANIC)
    fails[0] = True
    assert bench.look(31) == []
    assert "The listener failed" in caplog.text
    fails[0] = False
    assert kinds(bench.look(31)) == ["panicked"]


def test_there_is_one_listener(bench: Bench) -> None:
    with pytest.raises(RuntimeError):
        bench.driver.events.subscribe(bench.told.append, {})  # type: ignore[union-attr]


def test_a_fault_with_one_machine_is_logged_and_stops_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench(tmp_path, 2)
    bench.begin()

    def fail() -> None:
        raise struct_error

    struct_error = TypeError("an answer that makes no sense")
    bench.machine(1).during_poll = fail
    (lost,) = bench.look(31)
    assert (lost.kind, lost.server) == (DriverEventKind.BACKEND_LOST, SERVER)
    assert lost.reason == "the agent could not make sense of its BMC: TypeError"
    assert "Traceback" in caplog.text
    assert bench.machine(2).polls == 2


def test_an_answer_that_nobody_can_tell_of_is_logged_and_ends_no_thread(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    bench.machine().write(PANIC, at=datetime(2026, 1, 1))  # without a zone: it cannot be compared
    (lost,) = bench.look(31)
    assert (lost.kind, lost.reason) == (DriverEventKind.BACKEND_LOST, "the agent could not make sense of its BMC: TypeError")
    assert "Traceback" in caplog.text


def test_a_watchdogs_nmi_is_watched_as_closely_as_ones_own(bench: Bench) -> None:
    bench.machine().write((DriverEventKind.WATCHDOG_FIRED, ExpiryAction.INJECT_NMI))
    bench.look(31)
    polls = bench.machine().polls
    for _ in range(5):
        bench.look(2)
    assert bench.machine().polls == polls + 5
