"""Changes of watchdogs, and resumptions: what a server's state, its devices and what was asked before say to them."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from api_gateway.acceptance import Asked, Refused, Terms, accept_action
from api_gateway.cast_slots import ImmediateCasts
from api_gateway.native.watchdog_models import merge_models
from api_gateway.recorder import Recorder
from api_gateway.store import Store, servers
from api_gateway.store.actions import ActionRow
from compute_agent.contract.models import ActionKind
from compute_agent.contract.watchdogs import Watchdog, WatchdogDevice, WatchdogModel
from tests.fakes import FakeClock
from tests.http.application import Application, create_application
from tests.http.fleet import (
    CRASHED,
    DOWN_AGENTS,
    PANICKED_ACTION,
    PAUSED,
    RUNNING,
    SHUTOFF,
    SUSPENDED,
    add_action,
    end_action,
)
from tests.unit.gateway.engine_parts import SERVER, AgentVoice, NotingCaster, build_server

SET_WATCHDOG, REMOVE_WATCHDOG, RESUME = ActionKind.SET_WATCHDOG, ActionKind.REMOVE_WATCHDOG, ActionKind.RESUME
CHANGES = (SET_WATCHDOG, REMOVE_WATCHDOG)
RESET: dict[str, Any] = {"watchdog": {"model": "i6300esb", "expiry_action": "reset"}, "replace": True}


@pytest.fixture
def application(tmp_path: Path) -> Iterator[Application]:
    application = create_application(tmp_path)
    yield application
    application.close()


def accept(application: Application, server: str, kind: ActionKind, *, force: bool = False) -> ActionRow:
    arguments = RESET if kind == SET_WATCHDOG else {}
    asked = Asked(f"req-{kind}-{server}", kind, "demo", "admin", timedelta(seconds=30), force=force, arguments=arguments)
    with application.store.write() as c:
        row = servers.find_server(c, server)
        assert row is not None
        return accept_action(c, row, asked, now=application.clock.now(), terms=Terms(timedelta(seconds=600))).action


@pytest.mark.parametrize("kind", CHANGES)
def test_a_crash_dump_that_may_still_run_keeps_no_change_of_a_watchdog_off(application: Application, kind: ActionKind) -> None:
    row = add_action(application.store, PANICKED_ACTION.replace("01", "aa"), RUNNING, application.clock.now() - timedelta(seconds=1))
    end_action(application.store, row, observation="crash_kernel_started")

    accept(application, RUNNING, kind)


@pytest.mark.parametrize("kind", CHANGES)
def test_one_change_of_a_servers_watchdog_at_a_time(application: Application, kind: ActionKind) -> None:
    first = accept(application, RUNNING, REMOVE_WATCHDOG)
    accept(application, CRASHED, kind)

    with pytest.raises(Refused, match=f"being changed by action {first.id}"):
        accept(application, RUNNING, kind, force=True)


@pytest.mark.parametrize("server", [RUNNING, PAUSED, SHUTOFF, CRASHED])
def test_watchdogs_are_changed_whether_or_not_the_server_runs(application: Application, server: str) -> None:
    accept(application, server, SET_WATCHDOG)


@pytest.mark.parametrize("kind", CHANGES)
def test_a_chipsets_own_watchdog_is_in_nobodys_way(application: Application, kind: ActionKind) -> None:
    """Where its host says what else the server can be given, the server can be given it."""
    beside = Watchdog(others=(WatchdogDevice(model="itco", expiry_action="reset"),), models=("i6300esb",))
    with application.store.write() as c:
        c.exec_driver_sql("UPDATE servers SET watchdog = ? WHERE id = ?", (beside.model_dump_json(), RUNNING))

    accept(application, RUNNING, kind)


@pytest.mark.parametrize("server", [RUNNING, SHUTOFF, SUSPENDED, CRASHED])
def test_only_a_paused_server_resumes(application: Application, server: str) -> None:
    with pytest.raises(Refused, match="it must be paused"):
        accept(application, server, RESUME)

    accept(application, PAUSED, RESUME)


def test_nothing_is_held_against_a_device_of_which_the_host_told_nothing(application: Application) -> None:
    """An agent that is new and whose inventory is old, or a driver that has no watchdogs at all: the ending will say."""
    with application.store.write() as c:
        c.exec_driver_sql("UPDATE servers SET watchdog = NULL WHERE id = ?", (RUNNING,))
    accept(application, RUNNING, SET_WATCHDOG)
    accept(application, DOWN_AGENTS, SET_WATCHDOG)


def test_a_heartbeat_without_a_word_of_watchdogs_makes_what_was_known_unknown(store: Store, clock: FakeClock) -> None:
    voice, recorder = AgentVoice(clock), Recorder(store, NotingCaster(), clock, slots=ImmediateCasts())

    def tell(watchdog: Watchdog | None) -> dict[str, Any] | None:
        recorder.record_heartbeats([voice.beat(build_server(clock, watchdog=watchdog))])
        with store.read() as c:
            row = servers.find_server(c, SERVER)
        assert row is not None
        return row.watchdog

    has = Watchdog(configured=WatchdogDevice(model="ib700", expiry_action="none"), models=("ib700",))
    assert tell(has) == has.to_wire()
    assert tell(Watchdog()) == Watchdog().to_wire()
    assert tell(None) is None


def test_who_sees_a_change_ended_sees_its_watchdog_too_whatever_a_heartbeat_said_before(store: Store, clock: FakeClock) -> None:
    voice, recorder = AgentVoice(clock), Recorder(store, NotingCaster(), clock, slots=ImmediateCasts())
    former, changed = (Watchdog(configured=WatchdogDevice(model="ib700", expiry_action=action)) for action in ("none", "reset"))

    def find() -> dict[str, Any] | None:
        with store.read() as c:
            row = servers.find_server(c, SERVER)
        assert row is not None
        return row.watchdog

    recorder.record_heartbeats([voice.beat(build_server(clock, watchdog=former))])
    clock.advance(1)
    overtaken = voice.beat(build_server(clock, watchdog=former))
    clock.advance(1)
    told = voice.tell("server.watchdog.changed", action_id=PANICKED_ACTION, watchdog=changed.to_wire())
    recorder.record([told])
    assert find() == changed.to_wire()
    recorder.record_heartbeats([overtaken])
    assert find() == changed.to_wire()
    clock.advance(1)
    recorder.record_heartbeats([voice.beat(build_server(clock, watchdog=Watchdog()))])
    assert find() == Watchdog().to_wire()


@pytest.mark.parametrize("watchdog", [None, "ib700", {"configured": 1}])
def test_a_change_that_cannot_be_read_is_recorded_and_changes_nothing(store: Store, clock: FakeClock, watchdog: object) -> None:
    voice, recorder = AgentVoice(clock), Recorder(store, NotingCaster(), clock, slots=ImmediateCasts())
    recorder.record_heartbeats([voice.beat(build_server(clock, watchdog=Watchdog()))])

    recorder.record([voice.tell("server.watchdog.changed", action_id=PANICKED_ACTION, watchdog=watchdog)])

    with store.read() as c:
        row = servers.find_server(c, SERVER)
    assert row is not None
    assert row.watchdog == Watchdog().to_wire()


def test_platforms_that_differ_are_listed_with_all_that_any_of_them_can() -> None:
    one = WatchdogModel(model="a", expiry_actions=("none", "reset"), managed=False, hot_plug=False, note="One.")
    other = WatchdogModel(model="a", expiry_actions=("reset", "dump"), managed=True, hot_plug=True, note="Other.")

    assert merge_models([one, other, one]) == [
        WatchdogModel(model="a", expiry_actions=("none", "reset", "dump"), managed=True, hot_plug=True, note="One. Other.")
    ]
