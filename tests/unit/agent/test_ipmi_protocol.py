"""The protocol ``ipmi`` as the driver for bare metal gets it."""

import pytest
from oslo_config import cfg

from compute_agent.contract.clock import SystemClock
from compute_agent.contract.models import PowerState
from compute_agent.drivers.bmc.protocol import Polled, Protocol, Secret, Target
from compute_agent.drivers.errors import BackendUnavailable
from compute_agent.drivers.ipmi.exchange import Response
from compute_agent.drivers.ipmi.machine import poll, read_state
from compute_agent.drivers.ipmi.protocol import create_protocol
from tests.fakes import FakeClock
from tests.unit.agent.ipmi_parts import CHASSIS_STATUS, GET_TIMER, SEL_INFO, SERVER, START, FakeBmc, event


@pytest.fixture
def protocol() -> Protocol:
    return create_protocol(cfg.ConfigOpts(), SystemClock())


def ask(bmc: FakeBmc, cursor: str | None) -> Polled:
    return bmc.converse(poll(SERVER, cursor, FakeClock(), 2000.0))


def test_its_watchdog_is_the_timer_that_every_bmc_has(protocol: Protocol) -> None:
    assert (protocol.name, protocol.default_port) == ("ipmi", 623)
    (model,) = protocol.watchdog_models
    assert model.model == "ipmi"
    assert model.expiry_actions == ("none", "reset", "poweroff", "power_cycle", "inject-nmi")


@pytest.mark.parametrize("wrong", [{"privilege": "root"}, {"cipher": 0}, {"username": "u" * 17}, {"password": Secret(b"hidden" * 4)}])
def test_a_target_that_ipmi_cannot_have_is_refused_without_its_password(protocol: Protocol, wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError) as refusal:
        protocol.connect(Target(SERVER, "127.0.0.1", 623, **wrong))  # type: ignore[arg-type]
    assert "hidden" not in str(refusal.value)


def test_a_closed_bmc_answers_nothing(protocol: Protocol) -> None:
    bmc = protocol.connect(Target(SERVER, "127.0.0.1", 9))
    bmc.close()
    bmc.close()
    for call in (bmc.read_state, bmc.read_parts, bmc.inject_nmi, bmc.reset_timer):
        with pytest.raises(BackendUnavailable, match="not served"):
            call(1.0)
    protocol.close()


def test_a_look_at_a_machine_is_few_questions() -> None:
    bmc = FakeBmc()
    bmc.log.append(event(START, 0x20, 0xA1))
    cursor = ask(bmc, None).log
    assert cursor is not None
    bmc.asked.clear()
    polled = ask(bmc, cursor.cursor)
    assert polled.state.power_state is PowerState.RUNNING
    assert polled.log is not None
    assert not polled.log.records
    assert len(bmc.asked) == 4


def test_a_log_that_cannot_be_read_does_not_hide_the_power() -> None:
    bmc = FakeBmc()
    for answer, text in ((None, "cannot be read"), (Response(0xD4), "privilege"), (Response(0xC1), "keeps no event log")):
        bmc.answers[SEL_INFO] = answer
        polled = ask(bmc, None)
        assert polled.log is None
        assert text in polled.problem
        assert polled.state.reason == "on"


def test_a_bmc_without_a_timer_is_as_good_as_another() -> None:
    bmc = FakeBmc()
    bmc.answers[GET_TIMER] = Response(0xCC)
    assert bmc.converse(read_state(SERVER)).timer is None
    bmc.answers[CHASSIS_STATUS] = None
    with pytest.raises(BackendUnavailable):
        bmc.converse(read_state(SERVER))
