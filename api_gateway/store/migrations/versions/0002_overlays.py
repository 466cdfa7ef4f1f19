"""Facts that hosts do not know: overlays, locks, descriptions, flavors and tags; and the order of lists by name.

Only adds columns and tables. A release before this one goes on writing rows: what it leaves out is NULL or has a default.
"""

import sqlalchemy as sa
from alembic import op

from api_gateway.store.columns import JsonMap, JsonText, Words
from api_gateway.store.phases import Phase

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None
phase = Phase.BASELINE

_VM_STATES = {"paused": "paused", "shutdown": "stopped", "suspended": "suspended"}
"""Of power states that are not ``active``."""


def upgrade() -> None:
    for table in ("servers", "sightings"):
        op.add_column(table, sa.Column("description", sa.String(length=255), nullable=True))
        op.add_column(table, sa.Column("flavor", JsonText(), nullable=True))
        op.add_column(table, sa.Column("tags", Words(), nullable=True))
        op.add_column(table, sa.Column("foreign_owner", sa.String(length=255), nullable=True))
    op.add_column("servers", sa.Column("vm_state", sa.String(length=64), server_default="active", nullable=False))
    op.add_column("servers", sa.Column("task_state", sa.String(length=64), nullable=True))
    op.add_column("servers", sa.Column("locked_by", sa.String(length=64), nullable=True))
    op.add_column("servers", sa.Column("locked_reason", sa.String(length=255), nullable=True))
    op.add_column("servers", sa.Column("overlay", JsonMap(), nullable=True))
    op.add_column("servers", sa.Column("overlaid", JsonMap(), nullable=True))
    op.create_table(
        "server_tags",
        sa.Column("server", sa.String(length=64), nullable=False),
        sa.Column("tag", sa.String(length=255), nullable=False),
        sa.PrimaryKeyConstraint("server", "tag", name=op.f("pk_server_tags")),
    )
    op.create_index("ix_server_tags_tag", "server_tags", ["tag", "server"], unique=False)
    servers = sa.table("servers", sa.column("power_state", sa.String), sa.column("vm_state", sa.String))
    for power_state, vm_state in _VM_STATES.items():
        op.execute(sa.update(servers).where(servers.c.power_state == power_state).values(vm_state=vm_state))
    op.create_index("ix_servers_project_name", "servers", ["project", "deleted_at", "name", "created_at", "id"], unique=False)
    op.create_index("ix_servers_name", "servers", ["deleted_at", "name", "created_at", "id"], unique=False)
    op.create_index("ix_servers_vm_state", "servers", ["vm_state", "deleted_at", "created_at", "id"], unique=False)
    op.create_index("ix_servers_host_living", "servers", ["host", "deleted_at", "created_at", "id"], unique=False)
    op.drop_index("ix_servers_host", "servers")  # the beginning of the one above
    op.create_index("ix_actions_host_state", "actions", ["host", "state"], unique=False)
