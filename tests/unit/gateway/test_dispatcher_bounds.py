"""What the dispatcher's casts say, and that neither slots nor leases are held by what is not being cast."""

import pytest
from sqlalchemy import update

from api_gateway.cast_slots import ImmediateCasts
from api_gateway.dispatcher import Dispatcher
from api_gateway.store import Store, actions, tables
from compute_agent.contract.watchdogs import WatchdogDevice
from tests.fakes import FakeClock
from tests.unit.gateway.engine_parts import (
    HOST,
    AgentVoice,
    HeldCasts,
    NotingCaster,
    add_action,
    add_agent,
    get_action,
)
from tests.unit.gateway.store_parts import build_action


def add_host(store: Store, clock: FakeClock, host: str) -> None:
    add_agent(store, AgentVoice(clock, host, f"journal-of-{host}"), clock)


def test_a_cast_says_all_that_was_asked_for_and_by_whom(
    dispatcher: Dispatcher, store: Store, caster: NotingCaster, clock: FakeClock, voice: AgentVoice
) -> None:
    voice.watchdog = True
    add_agent(store, voice, clock)
    device = WatchdogDevice(model="i6300esb", expiry_action="reset")
    action = build_action(
        clock,
        host=HOST,
        kind="set_watchdog",
        server_generation=4,
        force=True,
        global_request_id="req-of-the-caller",
        arguments={"watchdog": device.to_wire(), "replace": False},
    )
    with store.write() as c:
        actions.insert_action(c, action)
    dispatcher.step()
    (request,) = caster.requests
    for name in ("id", "kind", "server", "server_generation", "host", "project", "user", "deadline", "force", "global_request_id"):
        assert getattr(request, name) == getattr(action, name), name
    assert (request.watchdog, request.replace) == (device, False)


def test_why_an_action_ended_without_a_cast_is_said_in_words_for_who_asked(
    dispatcher: Dispatcher, store: Store, clock: FakeClock, voice: AgentVoice
) -> None:
    voice.inject_nmi = False
    add_agent(store, voice, clock)
    impossible, untellable = add_action(store, clock), add_action(store, clock, server="not-a-uuid")
    dispatcher.step()
    dispatcher.step()
    assert get_action(store, impossible).reason == f"The driver fake of host {HOST} has no capability inject_nmi; nothing was sent."
    assert get_action(store, untellable).reason == "The action cannot be told to an agent; nothing was sent."


def test_what_an_agent_never_said_of_itself_it_cannot_do(
    dispatcher: Dispatcher, store: Store, caster: NotingCaster, clock: FakeClock
) -> None:
    """What is known of it may be of a time when nobody asked for that capability."""
    with store.write() as c:
        c.execute(update(tables.agents).values(capabilities={}))
    action = add_action(store, clock)
    dispatcher.step()
    row = get_action(store, action)
    assert (row.code, row.reason) == ("not_supported", f"The driver unknown of host {HOST} has no capability inject_nmi; nothing was sent.")
    assert caster.requests == []


def test_no_more_casts_begin_than_there_are_slots_when_others_end_without_one(
    store: Store, caster: NotingCaster, clock: FakeClock, voice: AgentVoice
) -> None:
    slots = HeldCasts(2)
    add_action(store, clock, server="not-a-uuid")
    clock.advance(0.001)
    for number in range(4):
        add_host(store, clock, f"host-of-{number}")
        add_action(store, clock, host=f"host-of-{number}")
    Dispatcher(store, caster, clock, owner="one", slots=slots).step()
    assert len(slots.jobs) == 2


def test_a_host_whose_cast_is_stuck_takes_no_slot_from_others_and_is_cast_to_as_soon_as_it_is_free(
    store: Store, caster: NotingCaster, clock: FakeClock, voice: AgentVoice
) -> None:
    """Also when the cast outlived its lease, so that the host seems to be free to who looks into the store."""
    slots = HeldCasts(2)
    dispatcher = Dispatcher(store, caster, clock, owner="one", slots=slots, lease=2.0)
    add_action(store, clock, deadline=300)
    dispatcher.step()
    clock.advance(3)
    behind_it = add_action(store, clock, deadline=300)
    clock.advance(0.001)
    add_host(store, clock, "host-2")
    elsewhere = add_action(store, clock, host="host-2")
    dispatcher.step()
    slots.finish()
    assert caster.requests[-1].id == elsewhere.id
    dispatcher.step()
    slots.finish()
    assert caster.requests[-1].id == behind_it.id


def test_a_cast_of_a_process_that_died_is_tried_again_after_half_a_minute(
    store: Store, caster: NotingCaster, clock: FakeClock, voice: AgentVoice
) -> None:
    add_action(store, clock, deadline=300)
    Dispatcher(store, caster, clock, owner="died", slots=HeldCasts()).step()
    other = Dispatcher(store, caster, clock, owner="other", slots=ImmediateCasts())
    clock.advance(29.9)
    other.step()
    assert caster.requests == []
    clock.advance(0.1)
    other.step()
    assert len(caster.requests) == 1


def test_when_nothing_comes_through_it_is_said_why(
    dispatcher: Dispatcher, store: Store, caster: NotingCaster, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    caster.error = OSError("connection refused")
    for number in range(4):
        add_host(store, clock, f"host-of-{number}")
        add_action(store, clock, host=f"host-of-{number}")
    dispatcher.step()
    assert ["connection refused" in line for line in caplog.messages if "casts to agents" in line] == [True]


def test_while_nothing_comes_through_the_next_look_is_at_the_next_probe_and_none_while_one_is_under_way(
    store: Store, caster: NotingCaster, clock: FakeClock, voice: AgentVoice
) -> None:
    slots = HeldCasts(4)
    dispatcher = Dispatcher(store, caster, clock, owner="one", slots=slots)
    caster.error = OSError("connection refused")
    for number in range(4):
        add_host(store, clock, f"host-of-{number}")
        add_action(store, clock, host=f"host-of-{number}")
    dispatcher.step()
    slots.finish()
    add_action(store, clock)
    assert dispatcher.step() == 0.25
    assert slots.jobs == []
    clock.advance(0.25)
    dispatcher.step()
    assert len(slots.jobs) == 1
    assert dispatcher.step() is None, "its end is what wakes up"
