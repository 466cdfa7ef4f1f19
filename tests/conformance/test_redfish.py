"""The conformance suites over the driver for bare metal with Redfish: real guests behind ``sushy-emulator``, over TLS and HTTP Basic.

Power, NMI and what a machine is made of are the emulator's own. Its log and its watchdog timer are ours (``tests/redfish_extras.py``), and
so nothing fires there by itself. Beside the suites: what a BMC answers to who must not be let in, and how soon a call ends.
"""

import socket
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from oslo_config import cfg

from compute_agent.contract.clock import SystemClock
from compute_agent.contract.errors import Code
from compute_agent.contract.models import PowerState
from compute_agent.drivers.bmc.protocol import Bmc, Protocol, Secret, Target
from compute_agent.drivers.errors import BackendUnavailable, CapabilityUnsupported, OutcomeUnknown, ServerUnsupported
from compute_agent.drivers.redfish.protocol import create_protocol
from devstack.sushy_emulator import SushyEmulator
from tests.conformance.bare_metal_suite import LogConformance
from tests.conformance.diagnostics_suite import DiagnosticsConformance
from tests.conformance.redfish_laboratory import RedfishLaboratory, started_redfish_laboratory
from tests.conformance.suite import DriverConformance
from tests.conformance.watchdog_suite import WatchdogConformance, make_hot

LIMIT = 20.0
SHORT = 0.5
"""Seconds for a BMC from which nothing comes."""
MARGIN = 10.0
"""Seconds that a machine which boots guests beside may take longer. What is not bounded takes half a minute or for ever."""


@pytest.fixture(scope="module")
def laboratory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedfishLaboratory]:
    with started_redfish_laboratory(tmp_path_factory.mktemp("redfish")) as laboratory:
        yield laboratory


class TestRedfish(DriverConformance):
    """Everything that the suite demands."""


class TestRedfishDiagnostics(DiagnosticsConformance):
    """Everything that the suite demands."""


class TestRedfishWatchdogs(WatchdogConformance):
    """Everything that the suite demands."""


class TestRedfishLog(LogConformance):
    """Everything that the suite demands."""

    @pytest.fixture(autouse=True)
    def _begin_anew(self, laboratory: RedfishLaboratory) -> None:
        """A driver that was given a cursor tells none while nothing is logged."""
        laboratory.stop_driver()
        laboratory.start_driver({})


def test_a_machines_parts_are_those_of_its_guest(laboratory: RedfishLaboratory) -> None:
    assert laboratory.driver.diagnostics is not None
    reading = laboratory.driver.diagnostics.collect_diagnostics(laboratory.make_surviving())
    assert list(reading.cpu_times) == [0]
    assert reading.hardware is not None
    assert reading.hardware.power == "on"
    assert {sensor.name for sensor in reading.hardware.sensors} >= {"CPU Temp", "BaseBoard System Fan"}
    assert "BMC" in reading.hardware.firmware


def test_no_watchdog_can_be_fed_over_redfish_and_that_is_said(laboratory: RedfishLaboratory) -> None:
    assert laboratory.driver.watchdog_timer is not None
    server = laboratory.make_watched(make_hot(laboratory))
    with pytest.raises(ServerUnsupported, match="Redfish cannot"):
        laboratory.driver.watchdog_timer.reset_timer(server)


# Who is let in, and how soon it ends


@pytest.fixture(scope="module")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SushyEmulator]:
    """With an invented machine."""
    emulator = SushyEmulator(tmp_path_factory.mktemp("invented"))
    emulator.start()
    try:
        yield emulator
    finally:
        emulator.stop()


@pytest.fixture
def protocol() -> Iterator[Protocol]:
    protocol = create_protocol(cfg.ConfigOpts(), SystemClock())
    yield protocol
    protocol.close()


@pytest.fixture
def target(emulator: SushyEmulator) -> Target:
    password = Secret(emulator.password.encode())
    return Target("server", "127.0.0.1", emulator.port, emulator.username, password, ca_file=emulator.ca_file)


def refuse(bmc: Bmc, limit: float = LIMIT) -> BackendUnavailable:
    """What comes of a call that must not succeed; it ends within its limit."""
    began = time.monotonic()
    with pytest.raises(BackendUnavailable) as refusal:
        bmc.inject_nmi(limit)
    assert time.monotonic() - began < limit + MARGIN
    return refusal.value


def test_an_nmi_that_is_only_advertised_is_not_supported(protocol: Protocol, target: Target) -> None:
    """The emulator's driver for nobody offers it and answers 501."""
    bmc = protocol.connect(target)
    assert bmc.read_state(LIMIT).power_state is PowerState.RUNNING
    with pytest.raises(CapabilityUnsupported, match="501"):
        bmc.inject_nmi(LIMIT)


def test_a_wrong_password_is_forbidden(protocol: Protocol, target: Target) -> None:
    refusal = refuse(protocol.connect(replace(target, password=Secret(b"not-the-password"))))
    assert refusal.code is Code.FORBIDDEN
    assert "not-the-password" not in refusal.reason


def test_a_certificate_of_a_stranger_is_trusted_only_on_demand(protocol: Protocol, target: Target) -> None:
    refusal = refuse(protocol.connect(replace(target, ca_file=None)))
    assert (refusal.code, "certificate" in refusal.reason) == (Code.BACKEND_UNAVAILABLE, True)
    unverified = protocol.connect(replace(target, ca_file=None, verify_tls=False))
    assert unverified.read_state(LIMIT).power_state is PowerState.RUNNING


def test_a_certificate_of_another_name_is_not_trusted(protocol: Protocol, target: Target) -> None:
    assert "localhost" in refuse(protocol.connect(replace(target, address="localhost"))).reason


def test_a_ca_file_that_cannot_be_used_is_refused_at_once(protocol: Protocol, target: Target, tmp_path: Path) -> None:
    empty = tmp_path / "empty.pem"
    empty.touch()
    for ca_file in (tmp_path / "missing.pem", empty):
        with pytest.raises(ValueError, match=ca_file.name):
            protocol.connect(replace(target, ca_file=ca_file))


def test_a_closed_port_is_unreachable(protocol: Protocol, target: Target) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        assert "refused" in refuse(protocol.connect(replace(target, port=unused.getsockname()[1]))).reason


def test_a_silent_port_is_given_up_at_the_limit(protocol: Protocol, target: Target) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        refuse(protocol.connect(replace(target, port=silent.getsockname()[1])), SHORT)


def test_a_bmc_that_freezes_is_given_up_at_the_limit(protocol: Protocol, target: Target, emulator: SushyEmulator) -> None:
    bmc = protocol.connect(target)
    bmc.read_state(LIMIT)
    emulator.freeze()
    try:
        began = time.monotonic()
        with pytest.raises((BackendUnavailable, OutcomeUnknown)):
            bmc.read_state(SHORT)
        assert time.monotonic() - began < SHORT + MARGIN
    finally:
        emulator.thaw()
