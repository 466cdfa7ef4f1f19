"""Everything that a crash dump needs: actions, servers with each host's word, agents, events with their gaps, the outbox."""

import uuid
from datetime import UTC, datetime

import sqlalchemy as sa
from alembic import op

from api_gateway.store.columns import JsonText, Moment
from api_gateway.store.phases import Phase

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None
phase = Phase.BASELINE


def upgrade() -> None:
    op.create_table(
        "actions",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("kind", sa.String(length=64), nullable=False),
        sa.Column("server", sa.String(length=64), nullable=False),
        sa.Column("server_generation", sa.BigInteger(), nullable=False),
        sa.Column("host", sa.String(length=255), nullable=False),
        sa.Column("project", sa.String(length=255), nullable=True),
        sa.Column("user", sa.String(length=255), nullable=True),
        sa.Column("state", sa.String(length=64), nullable=False),
        sa.Column("accepted_at", Moment(), nullable=False),
        sa.Column("deadline", Moment(), nullable=False),
        sa.Column("updated_at", Moment(), nullable=False),
        sa.Column("force", sa.Boolean(), nullable=False),
        sa.Column("idempotency_key", sa.String(length=255), nullable=True),
        sa.Column("global_request_id", sa.String(length=255), nullable=True),
        sa.Column("journal_id", sa.String(length=64), nullable=True),
        sa.Column("cast_incarnation", sa.BigInteger(), nullable=True),
        sa.Column("cast_count", sa.Integer(), nullable=False),
        sa.Column("unroutable_count", sa.Integer(), nullable=False),
        sa.Column("last_cast_at", Moment(), nullable=True),
        sa.Column("lease_owner", sa.String(length=255), nullable=True),
        sa.Column("lease_until", Moment(), nullable=True),
        sa.Column("received_at", Moment(), nullable=True),
        sa.Column("started_at", Moment(), nullable=True),
        sa.Column("signalled_at", Moment(), nullable=True),
        sa.Column("ended_at", Moment(), nullable=True),
        sa.Column("ending", sa.String(length=64), nullable=True),
        sa.Column("code", sa.String(length=64), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("decided_by", sa.String(length=64), nullable=True),
        sa.Column("ending_epoch", sa.String(length=64), nullable=True),
        sa.Column("revised_at", Moment(), nullable=True),
        sa.Column("observation", sa.String(length=64), nullable=True),
        sa.Column("observation_final", sa.Boolean(), nullable=False),
        sa.Column("observed_at", Moment(), nullable=True),
        sa.Column("observation_text", sa.Text(), nullable=True),
        sa.Column("recorded_at", Moment(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_actions")),
    )
    op.create_index("ix_actions_lease", "actions", ["lease_until"], unique=False)
    op.create_index("ix_actions_server_accepted", "actions", ["server", "accepted_at", "id"], unique=False)
    op.create_index("ix_actions_server_updated", "actions", ["server", "updated_at"], unique=False)
    op.create_index("ix_actions_state_deadline", "actions", ["state", "deadline"], unique=False)
    op.create_index(
        "uq_actions_idempotency",
        "actions",
        ["server", "idempotency_key", "project", "user"],
        unique=True,
        mysql_length={"project": 224, "user": 224},
    )
    op.create_table(
        "agents",
        sa.Column("host", sa.String(length=255), nullable=False),
        sa.Column("release", sa.String(length=64), nullable=False),
        sa.Column("rpc_version", sa.String(length=64), nullable=False),
        sa.Column("event_version", sa.String(length=64), nullable=False),
        sa.Column("journal_id", sa.String(length=64), nullable=False),
        sa.Column("incarnation", sa.BigInteger(), nullable=False),
        sa.Column("heartbeat_number", sa.BigInteger(), nullable=False),
        sa.Column("sent_at", Moment(), nullable=False),
        sa.Column("received_at", Moment(), nullable=False),
        sa.Column("overdue_at", Moment(), nullable=False),
        sa.Column("interval", sa.Double(), nullable=False),
        sa.Column("driver_bound", sa.Double(), nullable=False),
        sa.Column("capabilities", JsonText(), nullable=False),
        sa.Column("inventory_revision", sa.BigInteger(), nullable=True),
        sa.Column("inventory_hash", sa.String(length=64), nullable=True),
        sa.Column("inventory_readable", sa.Boolean(), nullable=False),
        sa.Column("state", sa.String(length=64), nullable=False),
        sa.Column("down_since", Moment(), nullable=True),
        sa.PrimaryKeyConstraint("host", name=op.f("pk_agents")),
    )
    op.create_index("ix_agents_state_overdue", "agents", ["state", "overdue_at"], unique=False)
    op.create_table(
        "counters",
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("value", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_counters")),
    )
    op.create_table(
        "dead_letters",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("source", sa.String(length=255), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("body", sa.LargeBinary(length=16777215), nullable=False),
        sa.Column("shelved_at", Moment(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_dead_letters")),
    )
    op.create_table(
        "epochs",
        sa.Column("host", sa.String(length=255), nullable=False),
        sa.Column("epoch", sa.String(length=64), nullable=False),
        sa.Column("highest", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("host", "epoch", name=op.f("pk_epochs")),
    )
    op.create_table(
        "events",
        sa.Column("position", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("message_id", sa.String(length=255), nullable=False),
        sa.Column("event_type", sa.String(length=255), nullable=False),
        sa.Column("severity", sa.String(length=64), nullable=False),
        sa.Column("server", sa.String(length=64), nullable=True),
        sa.Column("host", sa.String(length=255), nullable=True),
        sa.Column("epoch", sa.String(length=64), nullable=True),
        sa.Column("sequence", sa.BigInteger(), nullable=True),
        sa.Column("action_id", sa.String(length=64), nullable=True),
        sa.Column("occurred_at", Moment(), nullable=True),
        sa.Column("recorded_at", Moment(), nullable=False),
        sa.Column("payload", JsonText(), nullable=False),
        sa.PrimaryKeyConstraint("position", name=op.f("pk_events")),
        sa.UniqueConstraint("message_id", name=op.f("uq_events_message_id")),
    )
    op.create_index("ix_events_action", "events", ["action_id", "position"], unique=False)
    op.create_index("ix_events_host", "events", ["host", "position"], unique=False)
    op.create_index("ix_events_server", "events", ["server", "position"], unique=False)
    op.create_table(
        "gaps",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("host", sa.String(length=255), nullable=False),
        sa.Column("epoch", sa.String(length=64), nullable=False),
        sa.Column("first", sa.BigInteger(), nullable=False),
        sa.Column("last", sa.BigInteger(), nullable=False),
        sa.Column("found_at", Moment(), nullable=False),
        sa.Column("ask_at", Moment(), nullable=False),
        sa.Column("tries", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_gaps")),
    )
    op.create_index("ix_gaps_ask_at", "gaps", ["ask_at"], unique=False)
    op.create_index("ix_gaps_epoch", "gaps", ["host", "epoch", "first"], unique=False)
    op.create_table(
        "outbox",
        sa.Column("sequence", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("message_id", sa.String(length=64), nullable=False),
        sa.Column("event_type", sa.String(length=255), nullable=False),
        sa.Column("severity", sa.String(length=64), nullable=False),
        sa.Column("server", sa.String(length=64), nullable=True),
        sa.Column("payload", JsonText(), nullable=False),
        sa.Column("occurred_at", Moment(), nullable=False),
        sa.Column("sent_at", Moment(), nullable=True),
        sa.PrimaryKeyConstraint("sequence", name=op.f("pk_outbox")),
    )
    op.create_index("ix_outbox_sent", "outbox", ["sent_at", "sequence"], unique=False)
    op.create_table(
        "servers",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("host", sa.String(length=255), nullable=False),
        sa.Column("name", sa.String(length=255), nullable=False),
        sa.Column("project", sa.String(length=255), nullable=False),
        sa.Column("user", sa.String(length=255), nullable=True),
        sa.Column("generation", sa.BigInteger(), nullable=False),
        sa.Column("power_state", sa.String(length=64), nullable=False),
        sa.Column("state_reason", sa.Text(), nullable=False),
        sa.Column("state_at", Moment(), nullable=False),
        sa.Column("instance_name", sa.String(length=255), nullable=False),
        sa.Column("vcpus", sa.Integer(), nullable=True),
        sa.Column("memory_mib", sa.BigInteger(), nullable=True),
        sa.Column("created_at", Moment(), nullable=False),
        sa.Column("started_at", Moment(), nullable=True),
        sa.Column("updated_at", Moment(), nullable=False),
        sa.Column("reset_at", Moment(), nullable=True),
        sa.Column("conflict_host", sa.String(length=255), nullable=True),
        sa.Column("missing_since", Moment(), nullable=True),
        sa.Column("host_released", sa.Boolean(), nullable=False),
        sa.Column("deleted_at", Moment(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_servers")),
    )
    op.create_index("ix_servers_created", "servers", ["created_at", "id"], unique=False)
    op.create_index("ix_servers_host", "servers", ["host", "deleted_at"], unique=False)
    op.create_index("ix_servers_living", "servers", ["deleted_at", "created_at", "id"], unique=False)
    op.create_index("ix_servers_missing", "servers", ["missing_since"], unique=False)
    op.create_index("ix_servers_project_created", "servers", ["project", "created_at", "id"], unique=False)
    op.create_index("ix_servers_project_living", "servers", ["project", "deleted_at", "created_at", "id"], unique=False)
    op.create_index("ix_servers_project_updated", "servers", ["project", "updated_at"], unique=False)
    op.create_index("ix_servers_updated", "servers", ["updated_at"], unique=False)
    op.create_table(
        "sightings",
        sa.Column("host", sa.String(length=255), nullable=False),
        sa.Column("server", sa.String(length=64), nullable=False),
        sa.Column("name", sa.String(length=255), nullable=False),
        sa.Column("project", sa.String(length=255), nullable=False),
        sa.Column("user", sa.String(length=255), nullable=True),
        sa.Column("generation", sa.BigInteger(), nullable=False),
        sa.Column("power_state", sa.String(length=64), nullable=False),
        sa.Column("state_reason", sa.Text(), nullable=False),
        sa.Column("state_at", Moment(), nullable=False),
        sa.Column("instance_name", sa.String(length=255), nullable=False),
        sa.Column("vcpus", sa.Integer(), nullable=True),
        sa.Column("memory_mib", sa.BigInteger(), nullable=True),
        sa.Column("created_at", Moment(), nullable=False),
        sa.Column("started_at", Moment(), nullable=True),
        sa.PrimaryKeyConstraint("host", "server", name=op.f("pk_sightings")),
    )
    op.create_index("ix_sightings_server", "sightings", ["server"], unique=False)
    op.create_table(
        "store_identity",
        sa.Column("store_id", sa.String(length=64), nullable=False),
        sa.Column("created_at", Moment(), nullable=False),
        sa.PrimaryKeyConstraint("store_id", name=op.f("pk_store_identity")),
    )
    identity = sa.table("store_identity", sa.column("store_id", sa.String), sa.column("created_at", Moment))
    op.bulk_insert(identity, [{"store_id": uuid.uuid4().hex, "created_at": datetime.now(UTC)}])
    counters = sa.table("counters", sa.column("name", sa.String), sa.column("value", sa.BigInteger))
    op.bulk_insert(counters, [{"name": "position", "value": 0}, {"name": "outbox_sequence", "value": 0}])
