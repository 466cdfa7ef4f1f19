"""The last diagnostics of each server. Only adds a table: a release before this one does not look at it."""

import sqlalchemy as sa
from alembic import op

from api_gateway.store.columns import JsonText, Moment
from api_gateway.store.phases import Phase

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None
phase = Phase.BASELINE


def upgrade() -> None:
    op.create_table(
        "diagnostics",
        sa.Column("server", sa.String(length=64), nullable=False),
        sa.Column("host", sa.String(length=255), nullable=False),
        sa.Column("collected_at", Moment(), nullable=False),
        sa.Column("recorded_at", Moment(), nullable=False),
        sa.Column("report", JsonText(), nullable=False),
        sa.PrimaryKeyConstraint("server", name=op.f("pk_diagnostics")),
    )
    op.create_index("ix_diagnostics_recorded", "diagnostics", ["recorded_at"], unique=False)
