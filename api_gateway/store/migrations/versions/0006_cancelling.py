"""Who called an action off, and when.

Only adds columns. The engine of a release before this one does not look at them: it casts the action itself, which then goes its way.
"""

import sqlalchemy as sa
from alembic import op

from api_gateway.store.columns import Moment
from api_gateway.store.phases import Phase

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None
phase = Phase.EXPAND


def upgrade() -> None:
    op.add_column("actions", sa.Column("cancel_requested_at", Moment(), nullable=True))
    op.add_column("actions", sa.Column("cancel_requested_by", sa.String(length=255), nullable=True))
