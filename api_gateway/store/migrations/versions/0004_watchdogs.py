"""Watchdogs, events by project and type, subscriptions and their deliveries. Only adds: a release before this one goes on.

That older release records events without a project: only admins see those, until they are pruned.
"""

import sqlalchemy as sa
from alembic import op

from api_gateway.store.columns import JsonMap, JsonText, Moment, Words
from api_gateway.store.phases import Phase

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None
phase = Phase.BASELINE


def upgrade() -> None:
    op.add_column("actions", sa.Column("arguments", JsonMap()))
    for table in ("servers", "sightings"):
        op.add_column(table, sa.Column("watchdog", JsonText()))
    op.add_column("sightings", sa.Column("watchdog_at", Moment()))
    op.add_column("events", sa.Column("project", sa.String(length=255)))
    op.execute("UPDATE events SET project = (SELECT servers.project FROM servers WHERE servers.id = events.server)")
    op.create_index("ix_events_project", "events", ["project", "position"], unique=False)
    op.create_index("ix_events_type", "events", ["event_type", "position"], unique=False)
    op.create_index("ix_events_server_type", "events", ["server", "event_type", "occurred_at"], unique=False)
    op.create_table(
        "subscriptions",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("project", sa.String(length=255)),
        sa.Column("user", sa.String(length=255), nullable=False),
        sa.Column("types", Words()),
        sa.Column("severity", sa.String(length=64), nullable=False),
        sa.Column("server", sa.String(length=64)),
        sa.Column("target_kind", sa.String(length=64), nullable=False),
        sa.Column("target", sa.Text(), nullable=False),
        sa.Column("secret", sa.String(length=255)),
        sa.Column("shown", Words()),
        sa.Column("created_at", Moment(), nullable=False),
        sa.Column("begins_after", sa.BigInteger(), nullable=False),
        sa.Column("try_at", Moment()),
        sa.Column("lease_owner", sa.String(length=255)),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("failing_since", Moment()),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_subscriptions")),
    )
    op.create_index("ix_subscriptions_project", "subscriptions", ["project", "created_at", "id"], unique=False)
    op.create_index("ix_subscriptions_created", "subscriptions", ["created_at", "id"], unique=False)
    op.create_index("ix_subscriptions_try_at", "subscriptions", ["try_at"], unique=False)
    op.create_table(
        "deliveries",
        sa.Column("subscription", sa.String(length=64), nullable=False),
        sa.Column("position", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("state", sa.String(length=64), nullable=False),
        sa.Column("created_at", Moment(), nullable=False),
        sa.Column("tries", sa.Integer(), nullable=False),
        sa.Column("try_at", Moment(), nullable=False),
        sa.Column("last_tried_at", Moment()),
        sa.Column("last_error", sa.Text()),
        sa.Column("settled_at", Moment()),
        sa.PrimaryKeyConstraint("subscription", "position", name=op.f("pk_deliveries")),
    )
    op.create_index("ix_deliveries_due", "deliveries", ["subscription", "state", "try_at"], unique=False)
    op.create_index("ix_deliveries_state", "deliveries", ["subscription", "state", "position"], unique=False)
    op.create_index("ix_deliveries_settled", "deliveries", ["settled_at"], unique=False)
    counters = sa.table("counters", sa.column("name", sa.String), sa.column("value", sa.BigInteger))
    op.bulk_insert(counters, [{"name": "matched", "value": 0}])
    op.create_table(
        "secrets",
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("value", sa.String(length=255), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_secrets")),
    )
