"""What a host tells of a server that another one owns: kept, applied nowhere, and shown to nobody's project; migrations are no crime."""

import logging
from datetime import timedelta

import pytest
from sqlalchemy import select

from api_gateway.cast_slots import ImmediateCasts
from api_gateway.received import Received
from api_gateway.recorder import Recorder
from api_gateway.store import Store, actions, counters, diagnostics, events, servers
from api_gateway.store.had import FOREIGN_EVENTS
from api_gateway.store.tables import former_owners
from compute_agent.contract.models import PowerState
from tests.fakes import FakeClock
from tests.http.answering_agents import build_report
from tests.unit.gateway.engine_parts import SERVER, AgentVoice, NotingCaster, add_action, build_server, get_action

OWNER, OTHER = "host-1", "host-2"
DAY = 86_400


@pytest.fixture
def recorder(store: Store, clock: FakeClock) -> Recorder:
    return Recorder(store, NotingCaster(), clock, slots=ImmediateCasts())


@pytest.fixture
def owner(recorder: Recorder, clock: FakeClock) -> AgentVoice:
    """It has the server, which runs."""
    voice = AgentVoice(clock, OWNER, "journal-1")
    recorder.record_heartbeats([voice.beat(build_server(clock))])
    return voice


@pytest.fixture
def other(recorder: Recorder, clock: FakeClock) -> AgentVoice:
    """It never had the server."""
    voice = AgentVoice(clock, OTHER, "journal-2")
    recorder.record_heartbeats([voice.beat()])
    return voice


def list_projects(store: Store) -> dict[str, str | None]:
    """Whose each recorded event is, by its type."""
    with store.read() as c:
        return {event.event_type: event.project for event in events.list_events(c)}


def count_foreign(store: Store) -> int:
    with store.read() as c:
        return counters.get_value(c, FOREIGN_EVENTS)


def tell_state(voice: AgentVoice, event_type: str, power_state: PowerState) -> Received:
    return voice.tell(event_type, power_state=power_state, reason="as said")


def migrate(recorder: Recorder, store: Store, clock: FakeClock, owner: AgentVoice, other: AgentVoice, *, source_first: bool = True) -> None:
    """The inventories after a migration, in either order."""
    clock.advance(1)
    words = [owner.beat(), other.beat(build_server(clock))]
    for word in words if source_first else reversed(words):
        recorder.record_heartbeats([word])
    with store.read() as c:
        row = servers.find_server(c, SERVER)
    assert row is not None
    assert row.host == other.host


def test_an_event_about_anothers_server_is_kept_and_shown_to_no_project(
    recorder: Recorder, store: Store, owner: AgentVoice, other: AgentVoice, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        recorder.record([other.tell("server.panicked", power_state=PowerState.CRASHED, reason="panicked"), owner.tell("server.levitated")])
    assert list_projects(store) == {"server.panicked": None, "server.levitated": "demo"}
    assert count_foreign(store) == 1
    assert f"server.panicked of host {OTHER} is about server {SERVER} of another host" in caplog.text


def test_it_changes_nothing(recorder: Recorder, store: Store, clock: FakeClock, owner: AgentVoice, other: AgentVoice) -> None:
    report = build_report(clock, SERVER).to_wire()
    recorder.record(
        [
            tell_state(other, "server.stopped", PowerState.SHUTDOWN),
            other.tell("server.diagnostics", report=report),
            other.tell("server.diagnostics", report=report, action_id="req-of-nobody"),
        ]
    )
    with store.read() as c:
        row = servers.find_server(c, SERVER)
        assert diagnostics.find_report(c, SERVER) is None
    assert row is not None
    assert (row.host, row.power_state) == (OWNER, PowerState.RUNNING)
    assert count_foreign(store) == 3


def test_no_host_opens_an_action_on_anothers_server(
    recorder: Recorder, store: Store, clock: FakeClock, owner: AgentVoice, other: AgentVoice
) -> None:
    """Nor does its project learn of one that names it."""
    deadline = clock.now().isoformat()
    recorder.record(
        [other.tell("action.received", action_id="req-1", kind="trigger_crash_dump", project="demo", user="u", deadline=deadline)]
    )
    assert list_projects(store) == {"action.received": None}
    with store.read() as c:
        assert actions.find_action(c, "req-1") is None


def test_an_ending_of_what_was_asked_of_a_host_counts_whoever_has_the_server_now(
    recorder: Recorder, store: Store, clock: FakeClock, owner: AgentVoice, other: AgentVoice
) -> None:
    """As after the restoring of a backup that knows nothing of a migration."""
    action = add_action(store, clock, host=OTHER)
    recorder.record([other.tell_received(action), other.tell_ended(action)])
    assert get_action(store, action).ending == "succeeded"
    assert list_projects(store) == {"action.received": "demo", "action.ended": "demo"}
    assert count_foreign(store) == 0


@pytest.mark.parametrize("source_first", [True, False])
def test_what_comes_late_from_the_former_owner_is_the_projects(
    recorder: Recorder, store: Store, clock: FakeClock, owner: AgentVoice, other: AgentVoice, source_first: bool
) -> None:
    migrate(recorder, store, clock, owner, other, source_first=source_first)
    recorder.record([owner.tell("server.stopped", power_state=PowerState.SHUTDOWN, reason="migrated"), other.tell("server.levitated")])
    assert list_projects(store) == {"server.stopped": "demo", "server.levitated": "demo"}
    assert count_foreign(store) == 0


@pytest.mark.parametrize(
    ("told_after", "occurred_after", "project"),
    [
        (6 * DAY, DAY, "demo"),
        (6 * DAY, -30 * DAY, "demo"),
        (0, DAY, "demo"),
        (0, DAY + 1, None),
        (6 * DAY, DAY + 1, None),
        (7 * DAY + 1, 0, None),
        (7 * DAY + 1, None, None),
        (6 * DAY, None, "demo"),
        (0, None, "demo"),
    ],
)
def test_a_former_owner_is_heard_of_what_was_before_it_lost_the_server_or_hardly_later_and_not_for_ever(
    recorder: Recorder,
    store: Store,
    clock: FakeClock,
    owner: AgentVoice,
    other: AgentVoice,
    told_after: int,
    occurred_after: int | None,
    project: str | None,
) -> None:
    """Whoever had a server a year ago has no say; a host's clock may be wrong, so what it says of the time is not enough."""
    migrate(recorder, store, clock, owner, other)
    occurred = None if occurred_after is None else (clock.now() + timedelta(seconds=occurred_after)).isoformat()
    clock.advance(told_after)
    recorder.record([owner.tell("server.levitated", occurred_at=occurred)])
    assert list_projects(store) == {"server.levitated": project}
    assert count_foreign(store) == (project is None)


@pytest.mark.parametrize("occurred", ["0001-01-01T00:00:00+00:00", "9999-12-31T23:59:59+00:00", "9999-12-31T23:59:59-14:00"])
def test_no_moment_that_a_former_owner_names_is_too_much(
    recorder: Recorder, store: Store, clock: FakeClock, owner: AgentVoice, other: AgentVoice, occurred: str
) -> None:
    migrate(recorder, store, clock, owner, other)
    recorder.record([owner.tell("server.levitated", occurred_at=occurred)])
    assert list(list_projects(store)) == ["server.levitated"]


def test_a_former_owner_that_is_not_heard_any_more_changes_nothing_and_ends_what_it_was_asked_for(
    recorder: Recorder, store: Store, clock: FakeClock, owner: AgentVoice, other: AgentVoice
) -> None:
    action = add_action(store, clock, host=OWNER)
    migrate(recorder, store, clock, owner, other)
    clock.advance(30 * DAY)
    recorder.record([tell_state(owner, "server.stopped", PowerState.SHUTDOWN), owner.tell_received(action), owner.tell_ended(action)])
    assert list_projects(store) == {"server.stopped": None, "action.received": "demo", "action.ended": "demo"}
    assert get_action(store, action).ending == "succeeded"
    with store.read() as c:
        row = servers.find_server(c, SERVER)
    assert row is not None
    assert row.power_state == PowerState.RUNNING


def test_who_had_a_server_that_was_deleted_has_no_say_when_it_comes_back(
    recorder: Recorder, store: Store, clock: FakeClock, owner: AgentVoice, other: AgentVoice
) -> None:
    migrate(recorder, store, clock, owner, other)
    recorder.record_heartbeats([other.beat()])
    with store.write() as c:
        assert servers.give_up(c, [SERVER], now=clock.now()) == [SERVER]
    third = AgentVoice(clock, "host-3", "journal-3")
    recorder.record_heartbeats([third.beat(build_server(clock))])
    recorder.record([owner.tell("server.levitated"), other.tell("server.sank"), third.tell("server.rose")])
    assert list_projects(store) == {"server.levitated": None, "server.sank": None, "server.rose": "demo"}


def test_who_had_a_servers_former_life_has_no_say_in_its_next(
    recorder: Recorder, store: Store, clock: FakeClock, owner: AgentVoice, other: AgentVoice
) -> None:
    """Undefined on its host and defined again."""
    migrate(recorder, store, clock, owner, other)
    recorder.record_heartbeats([other.beat(build_server(clock).model_copy(update={"generation": 2}))])
    recorder.record([owner.tell("server.levitated")])
    assert list_projects(store) == {"server.levitated": None}


def test_moves_of_long_ago_are_forgotten_at_the_next(
    recorder: Recorder, store: Store, clock: FakeClock, owner: AgentVoice, other: AgentVoice
) -> None:
    third = AgentVoice(clock, "host-3", "journal-3")
    migrate(recorder, store, clock, owner, other)
    clock.advance(8 * DAY)
    recorder.record_heartbeats([other.beat(build_server(clock))])
    migrate(recorder, store, clock, other, third)
    with store.read() as c:
        assert list(c.execute(select(former_owners.c.host)).scalars()) == [OTHER]


@pytest.mark.parametrize("source_first", [True, False])
def test_what_a_new_owner_told_before_its_inventory_was_heard_becomes_the_projects(
    recorder: Recorder, store: Store, clock: FakeClock, owner: AgentVoice, other: AgentVoice, source_first: bool
) -> None:
    recorder.record([tell_state(other, "server.resumed", PowerState.RUNNING)])
    assert list_projects(store) == {"server.resumed": None}
    migrate(recorder, store, clock, owner, other, source_first=source_first)
    assert list_projects(store) == {"server.resumed": "demo"}


def test_a_server_that_migrates_to_and_fro_is_told_of_by_both(
    recorder: Recorder, store: Store, clock: FakeClock, owner: AgentVoice, other: AgentVoice
) -> None:
    migrate(recorder, store, clock, owner, other)
    migrate(recorder, store, clock, other, owner)
    migrate(recorder, store, clock, owner, other)
    recorder.record([owner.tell("server.levitated"), other.tell("server.paused", power_state=PowerState.PAUSED, reason="by hand")])
    assert set(list_projects(store).values()) == {"demo"}


def test_a_server_that_left_its_owner_unseen_is_the_others_as_soon_as_that_one_is_understood(
    recorder: Recorder, store: Store, clock: FakeClock, owner: AgentVoice, other: AgentVoice
) -> None:
    """Nobody else has it then, and the other's word about it is the same as before: the decision is due all the same."""
    server = build_server(clock)
    recorder.record_heartbeats([other.beat(server)])
    other.number += 5  # heartbeats that were lost: what it has is not known for sure
    recorder.record_heartbeats([other.beat(full=False), owner.beat()])
    migrated = other.beat(server)
    with store.read() as c:
        row = servers.find_server(c, SERVER)
    assert row is not None
    assert (row.host, row.missing_since) == (OWNER, clock.now())
    recorder.record_heartbeats([migrated])
    with store.read() as c:
        row = servers.find_server(c, SERVER)
    assert row is not None
    assert (row.host, row.missing_since) == (OTHER, None)


@pytest.mark.parametrize("state", [PowerState.SHUTDOWN, PowerState.PAUSED])
def test_a_copy_that_nobody_is_told_of_gives_no_say(
    recorder: Recorder, store: Store, clock: FakeClock, owner: AgentVoice, other: AgentVoice, state: PowerState
) -> None:
    """Any host can list any server; only when it says that it runs there are people called (``server.claimed_twice``)."""
    recorder.record_heartbeats([other.beat(build_server(clock).model_copy(update={"power_state": state}))])
    recorder.record([other.tell("server.levitated")])
    assert list_projects(store) == {"server.levitated": None}
    assert count_foreign(store) == 1


def test_both_parties_of_a_conflict_are_heard(
    recorder: Recorder, store: Store, clock: FakeClock, owner: AgentVoice, other: AgentVoice
) -> None:
    recorder.record_heartbeats([other.beat(build_server(clock))])
    recorder.record([other.tell("server.levitated")])
    assert list_projects(store) == {"server.levitated": "demo"}


def test_nobody_owns_a_server_that_is_deleted_or_was_never_heard_of(
    recorder: Recorder, store: Store, clock: FakeClock, owner: AgentVoice, other: AgentVoice
) -> None:
    recorder.record_heartbeats([owner.beat()])
    with store.write() as c:
        servers.give_up(c, [SERVER], now=clock.now())
    unknown = "99999999-2222-4333-8444-555555555555"
    recorder.record([other.tell("server.levitated"), other.tell("server.sank", server=unknown)])
    assert list_projects(store) == {"server.levitated": "demo", "server.sank": None}
    assert count_foreign(store) == 0


def test_what_the_gateway_itself_says_is_the_projects_whatever_host_it_names(
    recorder: Recorder, store: Store, clock: FakeClock, owner: AgentVoice
) -> None:
    recorder.record([AgentVoice(clock, "host-of-old", store.store_id).tell("action.revised", action_id="req-1")])
    assert list_projects(store) == {"action.revised": "demo"}
