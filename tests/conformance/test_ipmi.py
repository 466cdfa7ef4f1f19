"""The driver for bare metal over IPMI does what every driver must: its BMCs are `ipmi_sim`, independent C code."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from compute_agent.contract.diagnostics import Health, SensorKind
from compute_agent.contract.watchdogs import ExpiryAction
from compute_agent.drivers.models import DriverEventKind
from tests.conformance.bare_metal_suite import LogConformance, TimerConformance
from tests.conformance.diagnostics_suite import DiagnosticsConformance
from tests.conformance.ipmi_laboratory import IpmiLaboratory, open_laboratory
from tests.conformance.libvirt_host import require_real_parts
from tests.conformance.suite import DriverConformance
from tests.conformance.watchdog_suite import WatchdogConformance, expect, make_hot

_OS_STOP, _RUN_TIME_STOP = 0x20, 0x01


@pytest.fixture(scope="module")
def laboratory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[IpmiLaboratory]:
    require_real_parts()
    with open_laboratory(tmp_path_factory.mktemp("ipmi")) as laboratory:
        yield laboratory


class TestIpmiDriver(DriverConformance):
    """Nothing of its own."""


class TestIpmiDiagnostics(DiagnosticsConformance):
    """Nothing of its own."""

    def test_sensors_are_told_as_the_bmc_measures_them(self, laboratory: IpmiLaboratory) -> None:
        assert laboratory.driver.diagnostics is not None
        reading = laboratory.driver.diagnostics.collect_diagnostics(laboratory.make_surviving())
        assert reading.hardware is not None
        told = {sensor.kind: sensor for sensor in reading.hardware.sensors if sensor.value is not None}
        assert set(told) == {SensorKind.TEMPERATURE, SensorKind.VOLTAGE, SensorKind.FAN}
        assert {sensor.unit for sensor in told.values()} == {"°C", "V", "RPM"}
        assert {sensor.health for sensor in told.values()} == {Health.OK}
        assert set(reading.errors) == {"cpus"}, "what IPMI has no command for"


class TestIpmiWatchdogs(WatchdogConformance):
    """Nothing of its own."""


class TestIpmiLogs(LogConformance):
    def test_a_log_that_an_operator_clears_is_told_on_from_its_beginning(self, laboratory: IpmiLaboratory) -> None:
        server = laboratory.make_surviving()
        since, bmc = laboratory.events.position, laboratory.get_bmc(server)
        for number in range(3):
            position = laboratory.events.position
            bmc.add_log_record(sensor_type=_OS_STOP, offset=_RUN_TIME_STOP, details=number)
            told = expect(laboratory, DriverEventKind.PANICKED, server, position)
            assert abs(told.occurred_at - datetime.now(UTC)) < timedelta(seconds=10), "by this host's clock"
            bmc.clear_log()
        assert len(laboratory.events.list(DriverEventKind.PANICKED, server, since=since)) == 3

    def test_a_bmc_that_restarts_is_read_on(self, laboratory: IpmiLaboratory) -> None:
        """Its log is what it was, and nobody is logged in any more."""
        server = laboratory.make_surviving()
        since = laboratory.events.position
        self._panic(laboratory, server)
        laboratory.restart_bmc(server)
        self._panic(laboratory, server)
        assert len(laboratory.events.list(DriverEventKind.PANICKED, server, since=since)) == 2


class TestIpmiTimers(TimerConformance):
    def test_a_pre_timeout_nmi_is_given_and_told_once(self, laboratory: IpmiLaboratory) -> None:
        """The end that follows it a second later, and does nothing, is no firing of its own."""
        server = laboratory.make_watched(make_hot(laboratory, ExpiryAction.INJECT_NMI))
        since = laboratory.events.position
        laboratory.fire_watchdog(server)
        assert expect(laboratory, DriverEventKind.WATCHDOG_FIRED, server, since).reason == ExpiryAction.INJECT_NMI
        assert laboratory.count_signals(server) == 1
        laboratory.pass_time(laboratory.countdown + 0.5)
        assert len(laboratory.events.list(DriverEventKind.WATCHDOG_FIRED, server, since=since)) == 1
