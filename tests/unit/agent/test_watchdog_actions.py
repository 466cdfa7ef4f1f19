"""Watchdogs are set and removed: what is refused, what is changed, and what the ending says of it."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from compute_agent.contract.errors import Code
from compute_agent.contract.models import ActionKind, Departure
from compute_agent.contract.watchdogs import WatchdogDevice
from compute_agent.drivers.fake_devices import make_watchdog
from compute_agent.drivers.fake_server import Call
from compute_agent.kinds import TURN_OF_KIND
from tests.unit.agent.action_parts import Agent, make_id
from tests.unit.agent.watchdog_parts import (
    ISA,
    PAUSE,
    RESET,
    ask,
    do,
    find_wanted,
    forbid_changes,
    get_devices,
    get_watchdog,
    make_watched,
)


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Agent]:
    agent = Agent(tmp_path / "journal.sqlite")
    yield agent
    agent.journal.close()


# What is changed, and what is said of it


@pytest.mark.parametrize("former", [None, RESET])
def test_a_watchdog_is_set_live_and_that_is_what_is_wanted_from_now_on(agent: Agent, former: WatchdogDevice | None) -> None:
    server = make_watched(agent, former)
    code, reason = do(agent, server, PAUSE)
    assert (code, reason) == (Code.WATCHDOG_SET, "The server has i6300esb with the expiry action pause.")
    assert get_devices(agent, server) == (PAUSE, PAUSE)
    assert find_wanted(agent, server) == (PAUSE,)


def test_a_watchdog_is_removed_and_none_is_wanted_from_now_on(agent: Agent) -> None:
    server = make_watched(agent, RESET)
    assert do(agent, server, None) == (Code.WATCHDOG_REMOVED, "The server has no watchdog.")
    assert get_devices(agent, server) == (None, None)
    assert find_wanted(agent, server) == (None,)


def test_what_the_server_has_is_told_right_before_the_ending_and_only_when_it_was_changed(agent: Agent) -> None:
    server = make_watched(agent)
    do(agent, server, RESET)
    assert agent.list_event_types()[-2:] == ["server.watchdog.changed", "action.ended"]
    (changed,) = agent.list_events("server.watchdog.changed")
    assert changed.payload["watchdog"] == get_watchdog(agent, server).to_wire()
    assert changed.payload["action_id"] == make_id(1)
    do(agent, server, RESET, 2)
    assert len(agent.list_events("server.watchdog.changed")) == 1


def test_what_comes_at_the_next_start_is_said_to(agent: Agent) -> None:
    server = make_watched(agent, RESET)
    code, reason = do(agent, server, ISA)
    assert code is Code.WATCHDOG_SET
    assert reason == (
        "The server has ib700 with the expiry action reset from its next start on; until then it has i6300esb with the expiry action reset."
    )
    assert do(agent, server, ISA, 2)[0] is Code.NOTHING_TO_CHANGE


@pytest.mark.parametrize("device", [RESET, None])
def test_what_is_there_already_is_wanted_and_nothing_is_touched(agent: Agent, device: WatchdogDevice | None) -> None:
    server = make_watched(agent, device)
    forbid_changes(agent, server)
    code, reason = do(agent, server, device)
    assert code is Code.NOTHING_TO_CHANGE
    assert "Nothing was changed" in reason
    assert find_wanted(agent, server) == (device,)
    assert not agent.list_events("action.started")


def test_a_server_that_left_is_wanted_nothing_of(agent: Agent) -> None:
    server = make_watched(agent)
    do(agent, server, RESET)
    with agent.change() as transaction:
        transaction.remove_known_server(server, Departure.UNDEFINED, agent.clock.now())
    assert find_wanted(agent, server) is None


def test_what_a_former_life_of_the_server_was_to_have_is_not_wanted_of_the_next(agent: Agent) -> None:
    """It was undefined and defined again while the driver was at work."""
    server = make_watched(agent)

    def begin_the_next_life(deliver: Callable[[], None]) -> None:
        deliver()
        with agent.change() as transaction:
            known = transaction.list_known_servers()[server].server
            transaction.remove_known_server(server, Departure.UNDEFINED, agent.clock.now())
            transaction.put_known_server(known.model_copy(update={"generation": known.generation + 1}))

    agent.hypervisor.behave(server, begin_the_next_life, call=Call.CONFIGURE_WATCHDOG)
    assert do(agent, server, RESET)[0] is Code.WATCHDOG_SET
    assert find_wanted(agent, server) is None


def test_of_a_former_life_nothing_is_there_already(agent: Agent) -> None:
    server = make_watched(agent, RESET)
    request = ask(agent, server, RESET)
    with agent.change() as transaction:
        known = transaction.list_known_servers()[server].server
        transaction.put_known_server(known.model_copy(update={"generation": known.generation + 1}))
    result = agent.do(request).result
    assert result is not None
    assert result.code is Code.SERVER_MOVED


# Refusals


def test_one_that_must_not_be_replaced_is_not(agent: Agent) -> None:
    server = make_watched(agent, RESET)
    forbid_changes(agent, server)
    code, reason = do(agent, server, PAUSE, replace=False)
    assert code is Code.WATCHDOG_EXISTS
    assert "i6300esb with the expiry action reset" in reason
    assert find_wanted(agent, server) is None


def test_without_one_nothing_needs_to_be_replaced(agent: Agent) -> None:
    assert do(agent, make_watched(agent), PAUSE, replace=False)[0] is Code.WATCHDOG_SET


def test_a_driver_without_watchdogs_is_not_asked(agent: Agent) -> None:
    agent.use_driver(replace(agent.driver, watchdog=None))
    assert do(agent, make_watched(agent), RESET)[0] is Code.NOT_SUPPORTED


@pytest.mark.parametrize("device", [WatchdogDevice(model="diag288", expiry_action="reset"), RESET.model_copy(update={"model": "itco"})])
def test_what_the_server_cannot_have_is_refused_with_the_drivers_reason(agent: Agent, device: WatchdogDevice) -> None:
    server = make_watched(agent, PAUSE)
    code, reason = do(agent, server, device)
    assert code is Code.NOT_SUPPORTED
    assert device.model in reason
    assert "i6300esb with the expiry action pause" in reason
    assert get_devices(agent, server) == (PAUSE, PAUSE)


def test_a_device_that_is_not_managed_stays(agent: Agent) -> None:
    server = make_watched(agent)
    agent.hypervisor.change(server, watchdog=make_watchdog(others=(WatchdogDevice(model="itco", expiry_action="none"),), models=()))
    assert do(agent, server, RESET)[0] is Code.NOT_SUPPORTED


def test_a_request_that_does_not_say_which_watchdog_is_invalid(agent: Agent) -> None:
    body = ask(agent, make_watched(agent), RESET).to_wire() | {"watchdog": None}
    agent.endpoint.set_watchdog({}, body)
    assert agent.queue.take(0) is None
    assert [row.payload["code"] for row in agent.list_events("action.ended")] == [Code.INVALID_REQUEST]


def test_a_server_that_is_not_here_any_more_is_not_changed(agent: Agent) -> None:
    server = make_watched(agent)
    agent.hypervisor.remove(server)
    assert do(agent, server, RESET)[0] is Code.SERVER_MOVED


def test_a_hypervisor_that_is_away_is_said_to_be_while_nothing_was_begun(agent: Agent) -> None:
    server = make_watched(agent)
    agent.hypervisor.lose_backend()
    assert do(agent, server, RESET)[0] is Code.BACKEND_UNAVAILABLE


# Turns


def test_a_crash_dump_never_waits_behind_a_change_of_its_server(agent: Agent) -> None:
    server = make_watched(agent, RESET)
    for number, device in ((1, PAUSE), (2, None)):
        agent.cast(ask(agent, server, device, number))
    agent.cast(agent.make_request(server, 3))
    assert agent.queue.take(0) == make_id(3)
    assert TURN_OF_KIND[ActionKind.TRIGGER_CRASH_DUMP] < TURN_OF_KIND[ActionKind.SET_WATCHDOG]
