"""The tables. Each index says which question it answers, so that no listing scans; migrations make exactly this (tested)."""

from sqlalchemy import BigInteger, Boolean, Column, Double, Index, Integer, MetaData, String, Table, Text, UniqueConstraint

from api_gateway.store.columns import Body, JsonMap, JsonText, Moment, Words

SCHEMA_REVISION = "0006"
"""The newest migration that this release needs, one that adds: those that only remove may come when they come.

Revisions are numbers, so that an older and a newer schema can be told apart."""

metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    }
)

# Lengths: ids are UUIDs with a short prefix at most; hosts are DNS names; users and projects may come from any identity service.
_ID = String(64)
_HOST = String(255)
_NAME = String(255)
_WORD = String(64)

store_identity = Table(
    "store_identity",
    metadata,
    Column("store_id", _ID, primary_key=True),
    Column("created_at", Moment, nullable=False),
)

counters = Table(
    "counters",
    metadata,
    Column("name", _WORD, primary_key=True),
    Column("value", BigInteger, nullable=False),
)
"""``position`` and ``outbox_sequence`` number events in commit order, ``matched`` follows ``position``; ``violations.*`` count what must
never happen."""

actions = Table(
    "actions",
    metadata,
    Column("id", _ID, primary_key=True),
    Column("kind", _WORD, nullable=False),
    Column("server", _ID, nullable=False),
    Column("server_generation", BigInteger, nullable=False),
    Column("host", _HOST, nullable=False),
    Column("project", _NAME),
    Column("user", _NAME),
    Column("state", _WORD, nullable=False),
    Column("accepted_at", Moment, nullable=False),
    Column("deadline", Moment, nullable=False),
    Column("updated_at", Moment, nullable=False),
    Column("force", Boolean, nullable=False),
    Column("arguments", JsonMap),
    Column("idempotency_key", _NAME),
    Column("global_request_id", _NAME),
    Column("journal_id", _ID),
    Column("cast_incarnation", BigInteger),
    Column("cast_count", Integer, nullable=False),
    Column("unroutable_count", Integer, nullable=False),
    Column("last_cast_at", Moment),
    Column("lease_owner", _NAME),
    Column("lease_until", Moment),
    Column("received_at", Moment),
    Column("started_at", Moment),
    Column("signalled_at", Moment),
    Column("ended_at", Moment),
    Column("ending", _WORD),
    Column("code", _WORD),
    Column("reason", Text),
    Column("decided_by", _WORD),
    Column("ending_epoch", _ID),
    Column("revised_at", Moment),
    Column("observation", _WORD),
    Column("observation_final", Boolean, nullable=False),
    Column("observed_at", Moment),
    Column("observation_text", Text),
    Column("recorded_at", Moment),
    Column("cancel_requested_at", Moment),
    Column("cancel_requested_by", _NAME),
    # Open ones: what to cast, what is past its deadline.
    Index("ix_actions_state_deadline", "state", "deadline"),
    # How many a host has open.
    Index("ix_actions_host_state", "host", "state"),
    # Hosts to which a cast is in flight.
    Index("ix_actions_lease", "lease_until"),
    # A server's actions, newest first.
    Index("ix_actions_server_accepted", "server", "accepted_at", "id"),
    # A server's actions, changed since.
    Index("ix_actions_server_updated", "server", "updated_at"),
    # The same request sent twice by one client. Rows without a key are free of it: NULLs are distinct in a unique index. MariaDB has 224
    # characters of project and user in it: more does not fit into a key.
    Index("uq_actions_idempotency", "server", "idempotency_key", "project", "user", unique=True),
)

_SERVER_COLUMNS = (
    ("name", _NAME, False),
    ("project", _NAME, False),
    ("user", _NAME, True),
    ("generation", BigInteger, False),
    ("power_state", _WORD, False),
    ("state_reason", Text, False),
    ("state_at", Moment, False),
    ("instance_name", _NAME, False),
    ("vcpus", Integer, True),
    ("memory_mib", BigInteger, True),
    ("created_at", Moment, False),
    ("started_at", Moment, True),
    ("description", _NAME, True),
    ("flavor", JsonText, True),
    ("tags", Words, True),
    ("foreign_owner", _NAME, True),
    ("watchdog", JsonText, True),
)
SERVER_FACTS = tuple(name for name, _, _ in _SERVER_COLUMNS)
"""What a host says of a server; the owner's word is copied from ``sightings`` to ``servers``, where an admin's overlay covers it."""

servers = Table(
    "servers",
    metadata,
    Column("id", _ID, primary_key=True),
    Column("host", _HOST, nullable=False),
    *(Column(name, kind, nullable=nullable) for name, kind, nullable in _SERVER_COLUMNS),
    Column("updated_at", Moment, nullable=False),
    Column("reset_at", Moment),
    Column("conflict_host", _HOST),
    Column("missing_since", Moment),
    Column("host_released", Boolean, nullable=False),
    Column("deleted_at", Moment),
    Column("vm_state", _WORD, nullable=False, server_default="active"),
    Column("task_state", _WORD),
    Column("locked_by", _WORD),
    Column("locked_reason", _NAME),
    Column("overlay", JsonMap),
    Column("overlaid", JsonMap),
    # Living servers of a project, newest first; the same with the deleted ones.
    Index("ix_servers_project_living", "project", "deleted_at", "created_at", "id"),
    Index("ix_servers_project_created", "project", "created_at", "id"),
    # The same for admins, who see all projects.
    Index("ix_servers_living", "deleted_at", "created_at", "id"),
    Index("ix_servers_created", "created_at", "id"),
    # Living servers of a project, and of all, by name.
    Index("ix_servers_project_name", "project", "deleted_at", "name", "created_at", "id"),
    Index("ix_servers_name", "deleted_at", "name", "created_at", "id"),
    # Living servers in an unusual state (in error, rescued, …), newest first.
    Index("ix_servers_vm_state", "vm_state", "deleted_at", "created_at", "id"),
    # Living servers of a host, newest first.
    Index("ix_servers_host_living", "host", "deleted_at", "created_at", "id"),
    # What changed since, of a project and of all.
    Index("ix_servers_project_updated", "project", "updated_at"),
    Index("ix_servers_updated", "updated_at"),
    # Those whose grace is running.
    Index("ix_servers_missing", "missing_since"),
)

server_tags = Table(
    "server_tags",
    metadata,
    Column("server", _ID, primary_key=True),
    Column("tag", _NAME, primary_key=True),
    # Servers with a tag.
    Index("ix_server_tags_tag", "tag", "server"),
)
"""Each server's tags once more, a row each, to be searched; written together with ``servers.tags``."""

sightings = Table(
    "sightings",
    metadata,
    Column("host", _HOST, primary_key=True),
    Column("server", _ID, primary_key=True),
    *(Column(name, kind, nullable=nullable) for name, kind, nullable in _SERVER_COLUMNS),
    Column("watchdog_at", Moment),
    # Who else has this server.
    Index("ix_sightings_server", "server"),
)
"""Each host's own word about each server in its inventory, the owner's and everybody else's."""

former_owners = Table(
    "former_owners",
    metadata,
    Column("server", _ID, primary_key=True),
    Column("host", _HOST, primary_key=True),
    Column("left_at", Moment, nullable=False),
)
"""Hosts that owned a server and when they ceased to: what they tell of it for a while after that is its project's."""

agents = Table(
    "agents",
    metadata,
    Column("host", _HOST, primary_key=True),
    Column("release", _WORD, nullable=False),
    Column("rpc_version", _WORD, nullable=False),
    Column("event_version", _WORD, nullable=False),
    Column("journal_id", _ID, nullable=False),
    Column("incarnation", BigInteger, nullable=False),
    Column("heartbeat_number", BigInteger, nullable=False),
    Column("sent_at", Moment, nullable=False),
    Column("received_at", Moment, nullable=False),
    Column("overdue_at", Moment, nullable=False),
    Column("interval", Double, nullable=False),
    Column("driver_bound", Double, nullable=False),
    Column("capabilities", JsonText, nullable=False),
    Column("inventory_revision", BigInteger),
    Column("inventory_hash", _ID),
    Column("inventory_readable", Boolean, nullable=False),
    Column("state", _WORD, nullable=False),
    Column("down_since", Moment),
    # Agents that are up and overdue.
    Index("ix_agents_state_overdue", "state", "overdue_at"),
)

events = Table(
    "events",
    metadata,
    Column("position", BigInteger, primary_key=True, autoincrement=False),
    Column("message_id", _NAME, nullable=False),
    Column("event_type", _NAME, nullable=False),
    Column("severity", _WORD, nullable=False),
    Column("server", _ID),
    Column("host", _HOST),
    Column("epoch", _ID),
    Column("sequence", BigInteger),
    Column("action_id", _ID),
    Column("occurred_at", Moment),
    Column("recorded_at", Moment, nullable=False),
    Column("payload", JsonText, nullable=False),
    Column("project", _NAME),
    UniqueConstraint("message_id"),
    # Histories of a server, a host, an action, a project, and of one type.
    Index("ix_events_server", "server", "position"),
    Index("ix_events_host", "host", "position"),
    Index("ix_events_action", "action_id", "position"),
    Index("ix_events_project", "project", "position"),
    Index("ix_events_type", "event_type", "position"),
    # Whether a server has had an event of a type since.
    Index("ix_events_server_type", "server", "event_type", "occurred_at"),
)
"""``project`` is the one that the server belonged to when the event was recorded; NULL: for admins only."""

diagnostics = Table(
    "diagnostics",
    metadata,
    Column("server", _ID, primary_key=True),
    Column("host", _HOST, nullable=False),
    Column("collected_at", Moment, nullable=False),
    Column("recorded_at", Moment, nullable=False),
    Column("report", JsonText, nullable=False),
    # What was kept long ago.
    Index("ix_diagnostics_recorded", "recorded_at"),
)
"""The last report of each server that came as an event."""

epochs = Table(
    "epochs",
    metadata,
    Column("host", _HOST, primary_key=True),
    Column("epoch", _ID, primary_key=True),
    Column("highest", BigInteger, nullable=False),
)
"""The highest sequence recorded of each journal; what is missing below it is in ``gaps``."""

gaps = Table(
    "gaps",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("host", _HOST, nullable=False),
    Column("epoch", _ID, nullable=False),
    Column("first", BigInteger, nullable=False),
    Column("last", BigInteger, nullable=False),
    Column("found_at", Moment, nullable=False),
    Column("ask_at", Moment, nullable=False),
    Column("tries", Integer, nullable=False),
    # The gap that an event fills.
    Index("ix_gaps_epoch", "host", "epoch", "first"),
    # Gaps to ask for.
    Index("ix_gaps_ask_at", "ask_at"),
)

outbox = Table(
    "outbox",
    metadata,
    Column("sequence", BigInteger, primary_key=True, autoincrement=False),
    Column("message_id", _ID, nullable=False),
    Column("event_type", _NAME, nullable=False),
    Column("severity", _WORD, nullable=False),
    Column("server", _ID),
    Column("payload", JsonText, nullable=False),
    Column("occurred_at", Moment, nullable=False),
    Column("sent_at", Moment),
    # What is to be published (sent_at NULL), and what was long ago.
    Index("ix_outbox_sent", "sent_at", "sequence"),
)

subscriptions = Table(
    "subscriptions",
    metadata,
    Column("id", _ID, primary_key=True),
    Column("project", _NAME),
    Column("user", _NAME, nullable=False),
    Column("types", Words),
    Column("severity", _WORD, nullable=False),
    Column("server", _ID),
    Column("target_kind", _WORD, nullable=False),
    Column("target", Text, nullable=False),
    Column("secret", _NAME),
    Column("shown", Words),
    Column("created_at", Moment, nullable=False),
    Column("begins_after", BigInteger, nullable=False),
    Column("try_at", Moment),
    Column("lease_owner", _NAME),
    Column("failures", Integer, nullable=False),
    Column("failing_since", Moment),
    # Those of a project, and of all, oldest first.
    Index("ix_subscriptions_project", "project", "created_at", "id"),
    Index("ix_subscriptions_created", "created_at", "id"),
    # Those that have something to deliver now.
    Index("ix_subscriptions_try_at", "try_at"),
)
"""Who is told of which events. ``project`` NULL: of all of them, an admin's. ``types`` none: of every type. ``shown``: what its maker may
see and not everybody may. ``begins_after``: the last position that it is not told of. ``try_at``: when the next of its deliveries is to be
tried; while one is in flight, when the lease on all of them ends; NULL: there is none."""

deliveries = Table(
    "deliveries",
    metadata,
    Column("subscription", _ID, primary_key=True),
    Column("position", BigInteger, primary_key=True, autoincrement=False),
    Column("state", _WORD, nullable=False),
    Column("created_at", Moment, nullable=False),
    Column("tries", Integer, nullable=False),
    Column("try_at", Moment, nullable=False),
    Column("last_tried_at", Moment),
    Column("last_error", Text),
    Column("settled_at", Moment),
    # What a subscription has to try now, and its deliveries in one state, newest first.
    Index("ix_deliveries_due", "subscription", "state", "try_at"),
    Index("ix_deliveries_state", "subscription", "state", "position"),
    # What was settled long ago.
    Index("ix_deliveries_settled", "settled_at"),
)
"""Each event that a subscriber is to be told of, until it was, or until it was tried often enough."""

secrets = Table(
    "secrets",
    metadata,
    Column("name", _WORD, primary_key=True),
    Column("value", _NAME, nullable=False),
)
"""Keys that all processes over one store share; made by whoever needs one first."""

dead_letters = Table(
    "dead_letters",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("source", _NAME, nullable=False),
    Column("reason", Text, nullable=False),
    Column("body", Body, nullable=False),
    Column("shelved_at", Moment, nullable=False),
)
"""Messages that could not be read or recorded, for people to look at."""
