"""Two requests at a time on a database whose writers do not wait for each other by themselves."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from functools import partial

import pytest
from sqlalchemy import text

from api_gateway.acceptance import Asked, Terms, accept_action
from api_gateway.cast_slots import ImmediateCasts
from api_gateway.dispatcher import Dispatcher
from api_gateway.identity import Caller, Identity
from api_gateway.server_checks import Refused
from api_gateway.store import Connection, Store, actions, backends, counters, endings, events, outbox, servers
from api_gateway.sweep import Sweep
from api_gateway.visibility import get_visible_server_to_act_on, get_visible_server_to_change
from compute_agent.contract.errors import Code, Ending
from compute_agent.contract.models import ActionKind
from devstack.databases import DatabaseServer
from tests.databases import PATIENT
from tests.fakes import FakeClock
from tests.unit.gateway.engine_parts import HOST, JOURNAL, AgentVoice, HeldCasts, NotingCaster, add_action, add_agent, get_action
from tests.unit.gateway.store_parts import SERVER, FakeHost, build_action, build_event, run_behind

HOLDOFF = timedelta(seconds=600)
_CONNECTIONS = {
    "postgresql": ("SELECT pg_backend_pid()", "SELECT pg_terminate_backend(:own)"),
    "mysql": ("SELECT connection_id()", "KILL :own"),
}
"""How each server is asked for the number of one's own connection, and told to close one."""


class Everything:
    """Implements Rules."""

    def allow(self, caller: Caller, rule: str, project: str) -> bool:
        return True

    def is_lasting(self, rule: str) -> bool:
        return True


IDENTITY = Identity(Caller("admin", "demo", frozenset({"admin"})), True, Everything())


@pytest.fixture
def store(database_server: DatabaseServer, empty_database: str, clock: FakeClock) -> Iterator[Store]:
    store = Store(database_server.create_database("races", template=empty_database), busy_timeout=PATIENT)
    host = FakeHost(store, clock, "a")
    host.put()
    host.beat(full=True)
    yield store
    store.dispose()
    database_server.drop_database("races")


def dump(clock: FakeClock, c: Connection) -> None:
    server = get_visible_server_to_act_on(c, IDENTITY, SERVER)
    asked = Asked(build_action(clock).id, ActionKind.TRIGGER_CRASH_DUMP, "demo", "admin", timedelta(seconds=30))
    accept_action(c, server, asked, now=clock.now(), terms=Terms(HOLDOFF))


def lock(clock: FakeClock, c: Connection) -> str | None:
    """By an admin, unless somebody else did; who it was."""
    found = get_visible_server_to_change(c, IDENTITY, SERVER).locked_by
    if found is None:
        servers.lock_server(c, SERVER, locked_by="admin", reason=None, now=clock.now())
    return found


def set_lock(clock: FakeClock, c: Connection) -> None:
    servers.lock_server(c, SERVER, locked_by="owner", reason=None, now=clock.now())


def test_of_two_crash_dumps_at_a_time_the_second_one_is_refused(store: Store, clock: FakeClock) -> None:
    with pytest.raises(Refused, match="crash_dump_in_progress"):
        run_behind(store, partial(dump, clock), partial(dump, clock))


def test_a_crash_dump_sees_the_lock_that_was_set_before_it(store: Store, clock: FakeClock) -> None:
    with pytest.raises(Refused, match="locked"):
        run_behind(store, partial(set_lock, clock), partial(dump, clock))


def test_who_locks_sees_the_lock_that_was_set_before(store: Store, clock: FakeClock) -> None:
    assert run_behind(store, partial(set_lock, clock), partial(lock, clock)) == "owner"


def test_an_ending_by_the_gateway_does_not_wait_for_a_recorder_that_waits_for_it(store: Store, clock: FakeClock) -> None:
    """Both take the counters first, then the action."""
    action = build_action(clock)
    with store.write() as c:
        actions.insert_action(c, action)

    def record(c: Connection) -> None:
        servers.apply_states(c, [servers.StateReport(SERVER, "a", "server.paused", "paused", "", clock.now())], now=clock.now())

    def end(c: Connection) -> bool:
        return endings.end_by_gateway(c, action.id, ending=Ending.EXPIRED, code=Code.DEADLINE_PASSED, reason="late", at=clock.now())

    assert run_behind(store, record, end) is True


def test_what_became_of_a_cast_is_noted_behind_a_recorder_that_comes_to_its_action(store: Store, clock: FakeClock) -> None:
    """Both take the counters first, then the action: the agent's word of a cast is there within milliseconds."""
    slots = HeldCasts()
    dispatcher = Dispatcher(store, NotingCaster(), clock, owner="one", slots=slots)
    add_agent(store, AgentVoice(clock, HOST, JOURNAL), clock)
    action = add_action(store, clock)
    dispatcher.step()
    slots.finish()
    with ThreadPoolExecutor(1) as pool:
        with store.write() as c:
            counters.lock_counters(c)
            begun = pool.submit(dispatcher.finish)
            with pytest.raises(TimeoutError):
                begun.result(timeout=0.2)
            assert actions.find_action_locked(c, action.id) is not None
        begun.result(timeout=PATIENT)
    assert get_action(store, action).lease_owner is None


def test_what_comes_while_its_gap_is_given_up_is_not_named_as_lost(store: Store, clock: FakeClock) -> None:
    sweep = Sweep(store, NotingCaster(), clock, slots=ImmediateCasts(), gap_tries=0)

    def record(c: Connection, sequence: int) -> None:
        events.record_events(c, [build_event(f"m{sequence}", host="a", epoch="journal-a", sequence=sequence)], now=clock.now())

    with store.write() as c:
        record(c, 5)
    with ThreadPoolExecutor(1) as pool:
        with store.write() as c:
            record(c, 3)
            begun = pool.submit(sweep.ask_for_missing_events)
            with pytest.raises(TimeoutError):
                begun.result(timeout=0.2)
        begun.result(timeout=PATIENT)
    with store.read() as c:
        lost = [(row.payload["first"], row.payload["last"]) for row in outbox.list_unsent(c) if row.event_type == "events.lost"]
    assert lost == [(1, 2), (4, 4)]


def test_a_connection_that_the_server_has_closed_is_noticed_after_a_rest(
    store: Store, database_server: DatabaseServer, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backends, "_REST_SECONDS", 0.0)
    with store.read() as c:
        asks, ends = _CONNECTIONS[c.dialect.name]
        closed = c.execute(text(asks)).scalar_one()
    other = Store(database_server.build_url("races"))
    with other.read() as c:
        c.execute(text(ends), {"own": closed})
    other.dispose()
    with store.write() as c:
        dump(clock, c)
