"""What people say of servers lasts through all that hosts say of them."""

from datetime import timedelta

import pytest
from sqlalchemy import update

from api_gateway.store import Connection, Store, servers
from api_gateway.store.servers import ServerRow
from api_gateway.store.tables import servers as servers_table
from api_gateway.vm_state import get_status
from compute_agent.contract.models import Departure, Flavor, PowerState
from tests.fakes import FakeClock
from tests.unit.gateway.store_parts import OTHER_SERVER, SERVER, FakeHost

GRACE = timedelta(seconds=600)
FLAVOR = {"name": "large", "vcpus": 8, "ram": 16384, "disk": 80, "ephemeral": 0, "swap": 0, "extra_specs": {"hw:cpu": "pinned"}}
EVERYTHING = {
    "name": "Database",
    "project": "books",
    "user": "dba",
    "description": "Holds the books.",
    "vm_state": "rescued",
    "task_state": "rebooting",
    "flavor": FLAVOR,
    "tags": ["prod", "db"],
}


@pytest.fixture
def a(store: Store, clock: FakeClock) -> FakeHost:
    host = FakeHost(store, clock, "a")
    host.put(user="owner", description="by its host", tags=("lab",), flavor=Flavor(name="small", vcpus=1, ram_mib=512))
    host.beat(full=True)
    return host


@pytest.fixture
def b(store: Store, clock: FakeClock) -> FakeHost:
    return FakeHost(store, clock, "b")


def get(store: Store, server: str = SERVER) -> ServerRow:
    with store.read() as c:
        row = servers.find_server(c, server, include_deleted=True)
    assert row is not None
    return row


def say(store: Store, clock: FakeClock, **changes: object) -> ServerRow:
    with store.write() as c:
        return servers.set_overlay(c, SERVER, changes, now=clock.now())


def lock(store: Store, clock: FakeClock) -> None:
    with store.write() as c:
        servers.lock_server(c, SERVER, locked_by="admin", reason="evidence", now=clock.now())


def read_said(row: ServerRow) -> dict[str, object]:
    return {name: list(value) if isinstance(value := getattr(row, name), tuple) else value for name in EVERYTHING}


def is_intact(row: ServerRow) -> bool:
    return read_said(row) == EVERYTHING == row.overlay and (row.locked_by, row.locked_reason) == ("admin", "evidence")


def test_a_host_may_say_how_its_servers_are_described_ordered_and_tagged(store: Store, a: FakeHost) -> None:
    row = get(store)
    assert (row.description, row.tags, row.vm_state, row.task_state, row.foreign_owner) == ("by its host", ("lab",), "active", None, None)
    assert row.flavor == {"name": "small", "vcpus": 1, "ram": 512, "disk": 0, "ephemeral": 0, "swap": 0, "extra_specs": {}}
    a.put(foreign_owner="nova")
    a.beat()
    row = get(store)
    assert (row.description, row.tags, row.flavor, row.foreign_owner) == (None, (), None, "nova")


def test_an_overlay_holds_at_once(store: Store, clock: FakeClock, a: FakeHost) -> None:
    clock.advance(1)
    row = say(store, clock, **EVERYTHING)
    assert row == get(store)
    assert read_said(row) == EVERYTHING == row.overlay
    assert row.updated_at == clock.now()
    assert get_status(row) == "RESCUE"
    assert {name: row.overlaid[name] for name in ("name", "user", "tags", "vm_state", "task_state")} == {
        "name": "web", "user": "owner", "tags": ["lab"], "vm_state": "active", "task_state": None,
    }  # fmt: skip


def test_saying_the_same_again_changes_nothing(store: Store, clock: FakeClock, a: FakeHost) -> None:
    before = say(store, clock, **EVERYTHING)
    clock.advance(1)
    assert say(store, clock, **EVERYTHING) == say(store, clock) == get(store) == before


def test_null_gives_the_word_back_to_the_host(store: Store, clock: FakeClock, a: FakeHost) -> None:
    before = get(store)
    say(store, clock, **EVERYTHING)
    row = say(store, clock, name=None, tags=None, vm_state=None)
    assert (row.name, row.tags, row.vm_state, row.project) == ("web", ("lab",), "active", "books")
    assert row.overlay.keys() == EVERYTHING.keys() - {"name", "tags", "vm_state"}
    assert say(store, clock, **dict.fromkeys(EVERYTHING)) == before
    assert say(store, clock, name=None) == before, "what was never set can be taken back as well"


def test_what_the_host_says_meanwhile_holds_once_the_overlay_is_gone(store: Store, clock: FakeClock, a: FakeHost) -> None:
    say(store, clock, **EVERYTHING)
    a.put(power_state=PowerState.SHUTDOWN, name="renamed", description="another", tags=("x",))
    a.beat()
    row = get(store)
    assert (read_said(row), row.power_state) == (EVERYTHING, "shutdown")
    assert (row.overlaid["name"], row.overlaid["vm_state"]) == ("renamed", "stopped")
    row = say(store, clock, **dict.fromkeys(EVERYTHING))
    assert (row.name, row.description, row.tags, row.vm_state) == ("renamed", "another", ("x",), "stopped")


def test_fields_that_the_overlay_leaves_out_follow_the_host(store: Store, clock: FakeClock, a: FakeHost) -> None:
    say(store, clock, name="Database")
    a.put(power_state=PowerState.PAUSED, name="renamed", user="other")
    a.beat()
    row = get(store)
    assert (row.name, row.user, row.vm_state) == ("Database", "other", "paused")


def test_overlay_and_lock_last_through_heartbeats_restarts_and_events(store: Store, clock: FakeClock, a: FakeHost) -> None:
    say(store, clock, **EVERYTHING)
    lock(store, clock)
    for step in (
        lambda: a.beat(full=True),
        lambda: a.beat(readable=False),
        lambda: (a.put(name="renamed"), a.beat()),
        lambda: setattr(a, "incarnation", 2),
        lambda: a.beat(full=True),
        lambda: a.beat(stopping=True),
        lambda: (a.put(power_state=PowerState.SHUTDOWN), a.beat(full=True)),
    ):
        clock.advance(30)
        step()
        assert is_intact(get(store))
    with store.write() as c:
        servers.apply_states(c, [servers.StateReport(SERVER, "a", "server.started", "running", "", clock.now())], now=clock.now())
    assert is_intact(get(store))


def test_overlay_and_lock_move_with_the_server(store: Store, clock: FakeClock, a: FakeHost, b: FakeHost) -> None:
    say(store, clock, **EVERYTHING)
    lock(store, clock)
    b.put(name="on b")
    b.beat(full=True)
    assert (get(store).conflict_host, is_intact(get(store))) == ("b", True)
    a.remove(SERVER, Departure.MIGRATED)
    row = get(store)
    assert (row.host, row.overlaid["name"], is_intact(row)) == ("b", "on b", True)


def test_overlay_and_lock_outlast_absence_and_deletion(store: Store, clock: FakeClock, a: FakeHost) -> None:
    say(store, clock, **EVERYTHING)
    lock(store, clock)
    a.remove(SERVER, Departure.GONE)
    assert (get(store).missing_since, is_intact(get(store))) == (clock.now(), True)
    clock.advance(600)
    with store.write() as c:
        assert servers.expire_missing(c, now=clock.now(), missing_grace=GRACE) == [SERVER]
    assert is_intact(get(store))
    with store.read() as c:
        assert [row.id for row in servers.list_servers(c, deleted=True, tags=["prod"], locked=True)] == [SERVER]
    a.put(generation=2)
    a.beat()
    row = get(store)
    assert (row.deleted_at, row.generation, is_intact(row)) == (None, 2, True)


def test_a_field_that_only_a_newer_release_knows_is_kept_and_stops_nothing(store: Store, clock: FakeClock, a: FakeHost) -> None:
    """Two releases write to one database while the gateway is upgraded."""
    say(store, clock, name="Database")
    newer = {"overlay": {"name": "Database", "colour": "blue"}, "overlaid": {"name": "web", "colour": None}}
    with store.write() as c:
        c.execute(update(servers_table).values(**newer))
    a.put(power_state=PowerState.PAUSED)
    a.beat()
    assert (get(store).vm_state, get(store).name) == ("paused", "Database")
    say(store, clock, user="dba")
    assert get(store).overlay == {"name": "Database", "colour": "blue", "user": "dba"}
    say(store, clock, name=None)
    assert get(store).name == "web"


def test_a_server_that_nobody_has_can_still_be_spoken_of(store: Store, clock: FakeClock, a: FakeHost) -> None:
    say(store, clock, name="Database")
    a.remove(SERVER, Departure.GONE)
    row = say(store, clock, name=None, description="Where is it?")
    assert (row.name, row.description, row.missing_since) == ("web", "Where is it?", clock.now())


def test_a_project_by_overlay_decides_in_whose_list_a_server_is(store: Store, clock: FakeClock, a: FakeHost) -> None:
    say(store, clock, project="books")
    a.put(name="renamed")
    a.beat()
    with store.read() as c:
        assert [row.id for row in servers.list_servers(c, project="books")] == [SERVER]
        assert servers.list_servers(c, project="demo") == []


def test_tags_are_found_by_what_holds_now(store: Store, clock: FakeClock, a: FakeHost) -> None:
    def find(tag: str) -> list[str]:
        with store.read() as c:
            return [row.id for row in servers.list_servers(c, tags=[tag])]

    assert (find("lab"), find("prod")) == ([SERVER], [])
    say(store, clock, tags=["prod"])
    assert (find("lab"), find("prod")) == ([], [SERVER])
    say(store, clock, tags=[])
    assert (find("lab"), find("prod")) == ([], [])
    say(store, clock, tags=None)
    assert (find("lab"), find("prod")) == ([SERVER], [])


def test_a_lock_is_taken_and_given_back(store: Store, clock: FakeClock, a: FakeHost) -> None:
    clock.advance(1)
    with store.write() as c:
        row = servers.lock_server(c, SERVER, locked_by="owner", reason=None, now=clock.now())
    assert (row.locked_by, row.locked_reason, row.updated_at) == ("owner", None, clock.now())
    lock(store, clock)
    assert (get(store).locked_by, get(store).locked_reason) == ("admin", "evidence")
    with store.write() as c:
        row = servers.unlock_server(c, SERVER, now=clock.now())
    assert (row.locked_by, row.locked_reason) == (None, None)
    assert row == get(store)


def test_nothing_can_be_said_of_a_server_that_there_is_not(store: Store, clock: FakeClock, a: FakeHost) -> None:
    def refuse(act: object) -> None:
        with pytest.raises(LookupError), store.write() as c:
            act(c)  # type: ignore[operator]

    def say_it(c: Connection) -> object:
        return servers.set_overlay(c, OTHER_SERVER, {"name": "x"}, now=clock.now())

    refuse(say_it)
    refuse(lambda c: servers.lock_server(c, OTHER_SERVER, locked_by="owner", reason=None, now=clock.now()))
    refuse(lambda c: servers.unlock_server(c, OTHER_SERVER, now=clock.now()))
    refuse(lambda c: servers.forget_server(c, OTHER_SERVER, now=clock.now()))
