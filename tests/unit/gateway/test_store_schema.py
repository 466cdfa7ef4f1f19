"""The tables: made by migrations exactly as the code expects them, on every database, and no listing scans."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection
from sqlalchemy.dialects import mysql, postgresql
from sqlalchemy.schema import CreateIndex, CreateTable

from api_gateway.store import (
    Store,
    actions,
    agent_versions,
    agents,
    casts,
    deliveries,
    diagnostics,
    endings,
    event_listing,
    events,
    gaps,
    matching,
    outbox,
    prospects,
    server_rows,
    servers,
    sightings,
    subscriptions,
)
from api_gateway.store.tables import metadata
from tests.fakes import FakeClock
from tests.unit.gateway.store_parts import SERVER

NOW = FakeClock().now()
SPAN = timedelta(seconds=5)

FILTERS: dict[str, dict[str, Any]] = {
    "of everybody": {},
    "of a server": {"server": SERVER},
    "of a host that are bad": {"host": "a", "severity": "error"},
    "of one action": {"action_id": "req-1", "project": "demo"},
    "of a project and a time": {"project": "demo", "since": NOW, "until": NOW},
    "of two types": {"types": ("server.watchdog.fired", "server.panicked"), "project": "demo"},
    "of a prefix": {"types": ("server.*",)},
    "that are bad": {"severity": "error", "since": NOW},
}

LISTINGS: dict[str, Callable[[Connection], object]] = {
    "an action": lambda c: actions.find_action(c, "req-1"),
    "the same request sent twice": lambda c: actions.find_by_idempotency_key(c, SERVER, "demo", "admin", "key"),
    "actions of a server": lambda c: actions.list_actions_of_server(c, SERVER, actions.Page(limit=10)),
    "changed actions of a server": lambda c: actions.list_actions_of_server(c, SERVER, actions.Page(changes_since=NOW)),
    "what blocks a crash dump": lambda c: actions.find_blocking_crash_dump(c, SERVER, now=NOW, holdoff=SPAN),
    "what blocks a change of a watchdog": lambda c: actions.find_open_of_server(c, SERVER, ["set_watchdog", "remove_watchdog"]),
    "how many actions a host has open": lambda c: actions.count_open_of_host(c, "a"),
    "what is castable": lambda c: casts.claim_castable(c, owner="x", now=NOW, lease=SPAN, limit=4, received_timeout=SPAN),
    "when to cast next": lambda c: casts.find_next_cast_at(c, now=NOW, received_timeout=SPAN),
    "actions past their deadline": lambda c: endings.list_past_deadline(c, now=NOW, begun_dumps_take=timedelta(hours=1), limit=10),
    "a server": lambda c: servers.find_server(c, SERVER),
    "servers to act on, and what blocks their crash dumps": lambda c: prospects.hold_free_servers(
        c, [SERVER, "s-2"], now=NOW, holdoff=SPAN
    ),
    "servers of a project": lambda c: servers.list_servers(c, project="demo", limit=10),
    "servers of all projects": lambda c: servers.list_servers(c, limit=10),
    "all servers of a project, deleted ones too": lambda c: servers.list_servers(c, project="demo", deleted=None, limit=10),
    "changed servers of a project": lambda c: servers.list_servers(c, project="demo", deleted=None, changes_since=NOW, limit=10),
    "servers of a project by name": lambda c: servers.list_servers(c, project="demo", sort=[("name", "asc")], limit=10),
    "servers of all projects by name": lambda c: servers.list_servers(c, sort=[("name", "desc")], limit=10),
    "servers in error": lambda c: servers.list_servers(c, statuses=["ERROR"], limit=10),
    "servers with a tag": lambda c: servers.list_servers(c, tags=["prod"], limit=10),
    "changed servers of all projects": lambda c: servers.list_servers(c, deleted=None, changes_since=NOW, limit=10),
    "servers by id": lambda c: servers.list_servers(c, ids=[SERVER], deleted=None, limit=10),
    "servers that something happened to": lambda c: servers.list_servers(c, event_types=["server.panicked"], event_since=NOW, limit=10),
    "servers of a host": lambda c: servers.list_servers(c, host="a", limit=10),
    "servers whose grace is over": lambda c: servers.list_overdue(c, now=NOW, missing_grace=SPAN),
    "missing servers": lambda c: servers.expire_missing(c, now=NOW, missing_grace=SPAN),
    "hosts' words": lambda c: sightings.list_sightings_of_hosts(c, ["a", "b"]),
    "hosts' words about some servers": lambda c: sightings.list_sightings_at(c, {"a": [SERVER], "b": ["s-2"]}),
    "a host's words": lambda c: sightings.list_sightings_of_host(c, "a"),
    "all words about servers": lambda c: sightings.list_words(c, [SERVER]),
    "servers that two hosts know": lambda c: sightings.list_contested(c, ["a"]),
    "generations of hosts' servers": lambda c: sightings.list_generations(c, ["a", "b"]),
    "servers by their ids": lambda c: server_rows.list_by_id(c, [SERVER, "s-2"]),
    "agents by their hosts": lambda c: agents.find_agents(c, ["a", "b"]),
    "an agent": lambda c: agents.find_agent(c, "a"),
    "what several agents speak": lambda c: agent_versions.list_versions_of(c, ["a", "b"]),
    "overdue agents": lambda c: agents.list_overdue(c, NOW),
    "events behind a position": lambda c: events.list_events(c, after=5),
    "the last position": lambda c: events.get_last_position(c),
    **{
        f"events {name}{', newest first' if newest_first else ''}": lambda c, wanted=wanted, newest_first=newest_first: (  # type: ignore[misc]
            event_listing.list_page(c, event_listing.EventFilters(**wanted), after=5, newest_first=newest_first, effort=1)
        )
        for name, wanted in FILTERS.items()
        for newest_first in (False, True)
    },
    "events of an action": lambda c: events.list_events_of_action(c, "req-1"),
    "what came of an action": lambda c: events.list_latest_of_action(c, "req-1", "a", ["server.diagnostics"]),
    "an event by its position": lambda c: events.find_event(c, "5"),
    "an event by its id": lambda c: events.find_event(c, "3d5f7a9b1c2e4f60"),
    "a server's last diagnostics": lambda c: diagnostics.find_report(c, SERVER),
    "diagnostics that are old": lambda c: diagnostics.prune(c, recorded_before=NOW),
    "gaps to ask for": lambda c: gaps.list_gaps(c, now=NOW),
    "the gaps that an event fills": lambda c: gaps.close_gap(c, host="a", epoch="e", first=1, last=2),
    "what to publish": lambda c: outbox.list_unsent(c),
    "what was published long ago": lambda c: outbox.prune(c, sent_before=NOW),
    "subscriptions of a project": lambda c: subscriptions.list_subscriptions(c, project="demo", limit=10),
    "whether there is something to deliver": lambda c: deliveries.is_due(c, now=NOW),
    "what to deliver": lambda c: deliveries.claim(c, owner="x", now=NOW, lease=SPAN, limit=4),
    "deliveries of a subscription": lambda c: deliveries.list_deliveries(c, "s-1", limit=10),
    "deliveries of a subscription in one state": lambda c: deliveries.list_deliveries(
        c, "s-1", limit=10, state=matching.DeliveryState.DEAD
    ),
    "deliveries settled long ago": lambda c: deliveries.prune(c, settled_before=NOW),
}


@pytest.mark.parametrize("listing", LISTINGS)
def test_no_listing_scans_a_table(store: Store, listing: str) -> None:
    asked: list[str] = []
    with store.write() as c:
        connection: Any = c.connection.dbapi_connection
        connection.set_trace_callback(asked.append)
        LISTINGS[listing](c)
        connection.set_trace_callback(None)
        queries = [statement for statement in asked if statement.startswith(("SELECT", "UPDATE", "DELETE", "WITH"))]
        plans = [row[3] for statement in queries for row in connection.execute(f"EXPLAIN QUERY PLAN {statement}")]
    scanned = {step.split()[1] for step in plans if step.startswith("SCAN")}
    assert scanned.isdisjoint(metadata.tables.keys() - {"store_identity"})  # that one has one row
    assert plans


def test_the_migrations_make_exactly_the_tables_of_the_code(store: Store) -> None:
    with store.read() as c:
        assert compare_metadata(MigrationContext.configure(c, opts={"compare_type": True}), metadata) == []


@pytest.mark.parametrize("dialect", [postgresql.dialect(), mysql.dialect()], ids=["postgresql", "mysql"])
def test_every_table_can_be_written_in_the_words_of_the_other_databases(dialect: object) -> None:
    for table in metadata.sorted_tables:
        assert str(CreateTable(table).compile(dialect=dialect))  # type: ignore[arg-type]
        for index in table.indexes:
            assert str(CreateIndex(index).compile(dialect=dialect))  # type: ignore[arg-type]
