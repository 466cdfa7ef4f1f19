"""The driver for bare metal passes the suites, whatever its protocols do: here it is over one in memory, looked at by hand.

Where its protocols are over real BMCs' simulators, they are in ``test_ipmi*`` and ``test_redfish``.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from compute_agent.contract.models import PowerState
from compute_agent.contract.watchdogs import ExpiryAction, WatchdogDevice
from compute_agent.drivers.bmc.protocol import TimerState
from compute_agent.drivers.models import DriverEvent, DriverEventKind
from tests.conformance.bare_metal_suite import LogConformance, LogLaboratory, TimerConformance
from tests.conformance.diagnostics_suite import DiagnosticsConformance
from tests.conformance.suite import DriverConformance, EventLog
from tests.conformance.watchdog_suite import TimerLaboratory, WatchdogConformance
from tests.fakes import FakeClock
from tests.unit.agent.bmc_parts import BOOT, COUNTDOWN, PANIC, Bench, FakeMachine, make_entry

_LONGEST_PAUSE = 121.0


class _FastClock(FakeClock):
    """Only its monotonic part moves when it is told to: a time of day that is told is compared with the system's."""

    def now(self) -> datetime:
        return datetime.now(UTC)


class _SteppedLog(EventLog):
    """Instead of waiting, lets the driver look at what is due."""

    def __init__(self, look: Callable[[], object]) -> None:
        super().__init__()
        self._look = look

    def wait_for_any(self, kinds: Collection[DriverEventKind], server: str | None, since: int, *, timeout: float) -> DriverEvent:
        self._look()
        return super().wait_for_any(kinds, server, since, timeout=timeout)


class BmcLaboratory(LogLaboratory, TimerLaboratory):
    patience = 0.0
    countdown = COUNTDOWN

    def __init__(self, folder: Path) -> None:
        self._bench = Bench(folder, 0, clock=_FastClock())
        self._entries: dict[str, dict[str, Any]] = {}
        self.driver = self._bench.driver
        self._begin({})

    def start_driver(self, cursors: Mapping[str, str]) -> None:
        self._bench.parts = self._bench.make_parts()
        self.driver = self._bench.driver = self._bench.parts.driver
        self._begin(cursors)

    def stop_driver(self) -> None:
        assert self.driver.lifecycle is not None
        self.driver.lifecycle.close()

    def pass_time(self, seconds: float) -> None:
        for machine in self._bench.protocol.machines.values():
            machine.pass_time(seconds)
        self._look()

    def make_surviving(self) -> str:
        return self._make()

    def make_panicking(self) -> str:
        return self._make(panics_at_nmi=True)

    def make_stopped(self) -> str:
        return self._make(power_state=PowerState.SHUTDOWN)

    def make_watched(self, device: WatchdogDevice | None, power_state: PowerState = PowerState.RUNNING) -> str:
        return self._make(power_state=power_state, timer=TimerState(device, running=device is not None))

    def fire_watchdog(self, server: str) -> None:
        machine = self._machine(server)
        assert machine.timer is not None
        machine.timer = replace(machine.timer, running=True)
        machine.pass_time(machine.seconds_left)

    def write_panic(self, server: str) -> None:
        self._machine(server).write(PANIC)

    def count_signals(self, server: str) -> int:
        return self._machine(server).signals

    def wait_for_signals(self, server: str, count: int) -> None:
        assert self.count_signals(server) >= count

    def start(self, server: str) -> None:
        self._switch(server, PowerState.RUNNING)

    def stop(self, server: str) -> None:
        self._switch(server, PowerState.SHUTDOWN)

    def reboot(self, server: str) -> None:
        self._machine(server).write(BOOT)

    def remove(self, server: str) -> None:
        del self._entries[server]
        self._reload()

    def lose_backend(self, server: str) -> None:
        self._machine(server).refusal = "no answer"
        self._look()

    def restore_backend(self, server: str) -> None:
        self._machine(server).refusal = ""

    def _begin(self, cursors: Mapping[str, str]) -> None:
        self.events = _SteppedLog(self._look)
        assert self.driver.events is not None
        self.driver.events.subscribe(self.events, cursors)
        self._bench.parts.poller.begin()
        self._look()

    def _look(self) -> None:
        """Late enough for a machine that was silent for long, too."""
        self._bench.look(_LONGEST_PAUSE)

    def _make(self, **attributes: Any) -> str:
        entry = make_entry(len(self._bench.protocol.machines) + 1)
        self._bench.protocol.machines[entry["address"]] = FakeMachine(**attributes)
        self._entries[entry["uuid"]] = entry
        self._reload()
        return str(entry["uuid"])

    def _reload(self) -> None:
        self._bench.reload(list(self._entries.values()))
        self._look()

    def _machine(self, server: str) -> FakeMachine:
        return self._bench.protocol.machines[self._entries[server]["address"]]

    def _switch(self, server: str, power_state: PowerState) -> None:
        self._machine(server).switch(power_state)
        self._look()


@pytest.fixture(scope="module")
def laboratory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BmcLaboratory]:
    laboratory = BmcLaboratory(tmp_path_factory.mktemp("bmc"))
    yield laboratory
    laboratory.stop_driver()


class TestBmcDriver(DriverConformance):
    """Nothing of its own."""


class TestBmcDiagnostics(DiagnosticsConformance):
    """Nothing of its own."""


class TestBmcWatchdogs(WatchdogConformance):
    """Nothing of its own."""


class TestBmcLogs(LogConformance):
    """Nothing of its own."""


class TestBmcTimers(TimerConformance):
    """Nothing of its own."""


def test_a_watchdog_without_an_expiry_action_leaves_a_record_alone() -> None:
    """What the laboratory does is what is tested with: it fires once, and switches nothing off."""
    machine = FakeMachine(timer=TimerState(WatchdogDevice(model="fake-timer", expiry_action=ExpiryAction.NONE), running=True))
    machine.pass_time(COUNTDOWN)
    machine.pass_time(COUNTDOWN)
    assert [record.events for record in machine.records] == [((DriverEventKind.WATCHDOG_FIRED, "none"),)]
