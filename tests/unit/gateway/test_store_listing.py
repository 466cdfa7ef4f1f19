"""Lists of servers, on every database that the machine has: order, pages, filters, and how many statements they take."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, delete, event, text

from api_gateway.store import Store, migrations, servers
from api_gateway.store.server_rows import insert_servers
from api_gateway.store.servers import SORT_KEYS, BadPattern, ServerRow
from api_gateway.store.tables import events as events_table
from api_gateway.store.tables import metadata, server_tags
from api_gateway.store.tables import servers as servers_table
from api_gateway.vm_state import POWER_NUMBERS, STATUSES, UNKNOWN, derive_vm_state, get_status
from devstack.databases import DatabaseServer
from tests.fakes import FakeClock

NOW = FakeClock().now()
STATUS_WORDS = sorted({UNKNOWN, *(word for shown in STATUSES.values() for word in (shown.status, *shown.during.values()))})


@pytest.fixture(scope="module")
def server_store(database_server: DatabaseServer, empty_database: str) -> Iterator[Store]:
    store = Store(database_server.create_database("gateway", template=empty_database))
    yield store
    store.dispose()
    database_server.drop_database("gateway")  # one process may come to this file more than once, when it takes over tests of another one


@pytest.fixture(params=["sqlite", "server"])
def store(request: pytest.FixtureRequest) -> Iterator[Store]:
    if request.param == "sqlite":
        store = Store(f"sqlite:///{request.getfixturevalue('database')}")
        yield store
        store.dispose()
        return
    shared: Store = request.getfixturevalue("server_store")
    yield shared
    with shared.write() as c:
        for table in (servers_table, server_tags, events_table):
            c.execute(delete(table))


def build_row(number: int, **changes: Any) -> ServerRow:
    """A running server of project ``demo``, created ``number`` seconds after NOW."""
    at = NOW + timedelta(seconds=number)
    row = ServerRow(
        id=f"{number:08d}-0000-4000-8000-000000000000",
        name=f"web-{number}",
        project="demo",
        user="owner",
        host="a",
        generation=1,
        power_state="running",
        state_reason="",
        state_at=at,
        instance_name=f"instance-{number:08d}",
        vcpus=1,
        memory_mib=512,
        created_at=at,
        started_at=None,
        updated_at=at,
        vm_state="active",
    )
    return replace(row, **changes)


def add(store: Store, *rows: ServerRow) -> None:
    with store.write() as c:
        insert_servers(c, rows)


def ask(store: Store, **filters: Any) -> list[int]:
    """The numbers of the servers that are listed."""
    with store.read() as c:
        return [int(row.id[:8]) for row in servers.list_servers(c, **filters)]


@pytest.fixture
def mixed(store: Store) -> list[ServerRow]:
    """Servers that differ, are equal, or know nothing in every way that a list can be ordered by."""
    words = (None, "b", "a", None, "b", "c")
    power = ("running", "paused", "shutdown", "running", "crashed", "suspended")
    rows = [
        build_row(
            number,
            name=words[-1 - number] or "",
            project=("demo", "other")[number % 2],
            user=words[number],
            host=words[number] or "z",
            description=words[number],
            power_state=power[number],
            vm_state=("active", "error", "paused")[number % 3],
            task_state=words[-1 - number],
            locked_by=(None, "owner", "admin")[number % 3],
            created_at=NOW + timedelta(seconds=number // 2),
            started_at=None if number % 2 else NOW - timedelta(seconds=number),
            updated_at=NOW - timedelta(seconds=number // 3),
            instance_name=f"instance-{number % 4}",
        )
        for number in range(6)
    ]
    add(store, *rows)
    return rows


def place(row: ServerRow, key: str) -> Any:
    """The value that a server is sorted by; what is missing comes before all others."""
    if key == "power_state":
        return POWER_NUMBERS[row.power_state]
    if key == "locked":
        return row.locked_by is not None
    value = getattr(row, key)
    return (value is not None, value if value is not None else 0)


def arrange(rows: list[ServerRow], *sort: tuple[str, str]) -> list[str]:
    ordered = list(rows)
    for key, direction in reversed((*sort, ("created_at", sort[0][1]), ("id", sort[0][1]))):
        ordered.sort(key=lambda row: place(row, key), reverse=direction == "desc")
    return [row.id for row in ordered]


def read_pages(store: Store, limit: int, **asked: Any) -> list[str]:
    found: list[str] = []
    with store.read() as c:
        while page := servers.list_servers(c, limit=limit, marker=found[-1] if found else None, **asked):
            assert len(page) <= limit
            found += [row.id for row in page]
    return found


def test_every_order_can_be_read_page_by_page(store: Store, mixed: list[ServerRow]) -> None:
    for key in sorted(SORT_KEYS):
        for direction in ("asc", "desc"):
            assert read_pages(store, 2, sort=[(key, direction)]) == arrange(mixed, (key, direction)), (key, direction)


@pytest.mark.parametrize("sort", [
    (("description", "asc"), ("power_state", "desc")),
    (("description", "desc"), ("power_state", "asc"), ("started_at", "asc")),
    (("task_state", "asc"), ("user", "desc"), ("name", "asc")),
    (("vm_state", "desc"), ("locked_by", "asc")),
    (("created_at", "desc"), ("created_at", "asc")),
], ids=lambda sort: "-".join(f"{key}_{direction}" for key, direction in sort))  # fmt: skip
def test_several_keys_each_have_their_direction(store: Store, mixed: list[ServerRow], sort: tuple[tuple[str, str], ...]) -> None:
    assert read_pages(store, 1, sort=sort) == arrange(mixed, *sort)


def test_newest_first_is_the_order_that_nobody_asked_for(store: Store, mixed: list[ServerRow]) -> None:
    assert read_pages(store, 4) == arrange(mixed, ("created_at", "desc"))


def test_a_key_that_there_is_not_is_refused(store: Store) -> None:
    with pytest.raises(KeyError):
        ask(store, sort=[("colour", "asc")])


def test_each_filter_narrows_the_list(store: Store) -> None:
    add(
        store,
        build_row(0, user=None, tags=("prod", "db"), description="Holds the books.", locked_by="owner"),
        build_row(1, user="dba", tags=("prod",), vm_state="error", task_state="rebuilding"),
        build_row(2, host="b", tags=("a,b", 'x"y'), power_state="shutdown", vm_state="stopped"),
        build_row(3, project="other", missing_since=NOW),
        build_row(4, deleted_at=NOW, tags=("prod",)),
    )
    assert ask(store) == [3, 2, 1, 0]
    assert ask(store, deleted=None) == [4, 3, 2, 1, 0]
    assert ask(store, deleted=True) == [4]
    assert ask(store, project="other") == [3]
    assert ask(store, host="b") == [2]
    assert ask(store, ids=[build_row(1).id, build_row(4).id]) == [1]
    assert ask(store, ids=[]) == []
    assert ask(store, users=["dba", "nobody"]) == [1]
    assert ask(store, users=[None, "dba"]) == [1, 0]
    assert ask(store, name_pattern="^web-[02]$") == [2, 0]
    assert ask(store, description_pattern="book") == [0]
    assert ask(store, vm_states=["error", "stopped"]) == [2, 1]
    assert ask(store, task_states=["rebuilding"]) == [1]
    assert ask(store, task_states=[None]) == [3, 2, 0]
    assert ask(store, power_states=["shutdown"]) == [2]
    assert ask(store, locked=True) == [0]
    assert ask(store, locked=False) == [3, 2, 1]
    assert ask(store, missing=True) == [3]
    assert ask(store, missing=False) == [2, 1, 0]
    assert ask(store, changes_since=NOW + timedelta(seconds=1), deleted=None) == [4, 3, 2, 1]
    assert ask(store, changes_before=NOW + timedelta(seconds=1)) == [1, 0]
    assert ask(store, tags=["prod"]) == [1, 0]
    assert ask(store, tags=["prod", "db"]) == [0]
    assert ask(store, tags=["b"]) == []
    assert ask(store, tags_any=["db", 'x"y']) == [2, 0]
    assert ask(store, tags_any=[]) == []
    assert ask(store, not_tags=["prod", "db"]) == [3, 2, 1]
    assert ask(store, not_tags_any=["prod", "db"]) == [3, 2]
    assert ask(store, not_tags=[]) == []
    assert ask(store, not_tags_any=[]) == [3, 2, 1, 0]
    assert ask(store, project="demo", vm_states=["active"], tags=["prod"], locked=True) == [0]
    assert ask(store, name_pattern="web", statuses=["ERROR"]) == [], "an error that is being rebuilt is shown as that"


def test_servers_are_found_by_what_happened_to_them(store: Store) -> None:
    add(store, *(build_row(number) for number in range(4)))
    happened = [(0, "server.rebooted", 1), (0, "server.watchdog.fired", 5), (1, "server.watchdog.fired", 3), (2, "action.ended", 9)]
    with store.write() as c:
        for position, (number, event_type, seconds) in enumerate(happened, 1):
            occurred_at = NOW + timedelta(seconds=seconds)
            row = {"position": position, "message_id": f"m-{position}", "event_type": event_type, "severity": "info", "project": "former"}
            c.execute(
                events_table.insert(),
                {**row, "server": build_row(number).id, "occurred_at": occurred_at, "recorded_at": occurred_at, "payload": {}},
            )

    fired = {"event_types": ["server.watchdog.fired"]}
    assert ask(store, **fired) == [1, 0]
    assert ask(store, **fired, event_since=NOW + timedelta(seconds=5)) == [0]
    assert ask(store, event_types=["server.rebooted", "action.ended"]) == [2, 0]
    assert ask(store, event_types=["server.rebooted", "server.watchdog.fired"], event_since=NOW + timedelta(seconds=2), limit=1) == [1]
    assert ask(store, event_types=[]) == []
    assert ask(store, **fired, project="other") == []
    assert ask(store, **fired, project="demo") == [], "these are demo's servers by now, and were not when it happened"
    with store.write() as c:
        c.execute(events_table.update().where(events_table.c.position == 3).values(project="demo"))
    assert ask(store, **fired, project="demo") == [1]


def test_a_status_finds_exactly_the_servers_that_are_shown_with_it(store: Store) -> None:
    tasks = [None, "a_task_of_a_newer_release", *sorted({task for shown in STATUSES.values() for task in shown.during})]
    states = [(vm_state, task_state) for vm_state in STATUSES if vm_state != "deleted" for task_state in tasks]
    rows = [build_row(number, vm_state=vm_state, task_state=task) for number, (vm_state, task) in enumerate(states)]
    rows += [build_row(900, missing_since=NOW), build_row(901, deleted_at=NOW), build_row(902, vm_state="error", deleted_at=NOW)]
    add(store, *rows)
    for word in STATUS_WORDS:
        expected = {int(row.id[:8]) for row in rows if get_status(row) == word}
        assert set(ask(store, statuses=[word], deleted=None)) == expected, word
        assert set(ask(store, statuses=[word], deleted=None, project="demo")) == expected, word
    assert set(ask(store, statuses=["PAUSED", "DELETED"], deleted=None)) > {901, 902}
    assert ask(store, statuses=["NONSENSE"], deleted=None) == []
    assert ask(store, statuses=[], deleted=None) == []


@pytest.mark.parametrize("pattern", ["(a|a|aa)*b", "(a+)+$", "(.*)*x", "a*a*a*a*a*a*a*a*b", "((a?){50}){5}a{100}b"])
def test_no_pattern_takes_longer_than_the_names_are_long(store: Store, pattern: str) -> None:
    add(store, build_row(0, name="a" * 255), build_row(1, name="a" * 200 + "b"))
    assert set(ask(store, name_pattern=pattern)) <= {0, 1}


@pytest.mark.parametrize("pattern", ["(", "*", "a**", "[z-a]", r"(a)\1", "(?=a)", "a{1001}", "a" * 256, "\udcff"])
def test_what_is_no_pattern_is_refused_before_anything_is_searched(store: Store, pattern: str) -> None:
    for name in ("name_pattern", "description_pattern"):
        with pytest.raises(BadPattern):
            ask(store, **{name: pattern})


def test_a_pattern_that_only_this_database_does_not_know_is_no_failure_of_the_store(store: Store) -> None:
    add(store, build_row(0))
    with suppress(BadPattern):
        assert ask(store, name_pattern="w{1}[a-z]{1,300}") == [0]
    assert ask(store) == [0], "the store goes on"


def count_statements(store: Store, act: Callable[[Any], object]) -> int:
    asked: list[str] = []
    with store.read() as c:
        event.listen(c, "before_cursor_execute", lambda _c, _cursor, statement, _values, _x, _m: asked.append(statement))
        act(c)
    return sum(statement.startswith("SELECT") for statement in asked)


def test_a_longer_page_takes_no_more_statements(store: Store) -> None:
    add(store, *(build_row(number, tags=("prod", f"rack-{number}"), overlay={"user": "owner"}) for number in range(120)))

    def read(limit: int, **asked: Any) -> Callable[[Any], object]:
        return lambda c: [(row.tags, row.overlay, row.flavor) for row in servers.list_servers(c, limit=limit, **asked)]

    for asked, statements in (
        ({}, 1),
        ({"tags": ["prod"], "not_tags_any": ["rack-1"], "statuses": STATUS_WORDS, "name_pattern": "web"}, 1),
        ({"sort": [("description", "asc"), ("name", "desc")], "marker": build_row(119).id}, 2),
    ):
        assert [count_statements(store, read(limit, **asked)) for limit in (1, 100)] == [statements] * 2  # type: ignore[arg-type]


def test_rows_of_the_release_before_are_servers_after_the_migration(request: pytest.FixtureRequest, store: Store, tmp_path: Path) -> None:
    on_sqlite = "sqlite" in request.node.callspec.id
    url = f"sqlite:///{tmp_path / 'old'}" if on_sqlite else request.getfixturevalue("database_server").create_database("old")
    (tmp_path / "old").touch()
    old = Store(url)
    row = {"host": "a", "name": "web", "project": "demo", "generation": 1, "state_reason": "", "state_at": 1, "instance_name": "i",
           "created_at": 1, "updated_at": 1, "host_released": False}  # fmt: skip
    states = ("running", "paused", "shutdown", "suspended", "crashed", "pending")

    def insert(c: Connection, server: str, power_state: str) -> None:
        values = {**row, "id": server, "power_state": power_state}
        names = ", ".join(values)
        c.execute(text(f"INSERT INTO servers ({names}) VALUES ({', '.join(f':{name}' for name in values)})"), values)

    with old.write() as c:
        command.upgrade(migrations.create_config(c), "0001")
        for state in states:
            insert(c, state, state)
    old.upgrade_schema()
    with old.write() as c:
        insert(c, "later", "running")  # the release before goes on writing until it is replaced
    with old.read() as c:
        found = {row.id: row for row in servers.list_servers(c)}
    old.dispose()
    if not on_sqlite:
        request.getfixturevalue("database_server").drop_database("old")
    assert {state: found[state].vm_state for state in states} == {state: derive_vm_state(state) for state in states}
    assert {(row.tags, row.flavor, row.task_state, row.locked_by) for row in found.values()} == {((), None, None, None)}
    assert [row for row in found.values() if row.overlay or row.overlaid] == []
    assert found["later"].vm_state == "active"


def test_the_migrations_make_the_tables_of_the_code_here_too(store: Store) -> None:
    with store.read() as c:
        assert compare_metadata(MigrationContext.configure(c), metadata) == []
