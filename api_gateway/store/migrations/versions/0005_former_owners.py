"""Which hosts owned a server before. Only adds: a release before this one goes on.

Moves that such a release decides are not noted; what the former host still tells of the server then is shown to admins only.
"""

import sqlalchemy as sa
from alembic import op

from api_gateway.store.columns import Moment
from api_gateway.store.phases import Phase

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None
phase = Phase.BASELINE


def upgrade() -> None:
    op.create_table(
        "former_owners",
        sa.Column("server", sa.String(length=64), nullable=False),
        sa.Column("host", sa.String(length=255), nullable=False),
        sa.Column("left_at", Moment(), nullable=False),
        sa.PrimaryKeyConstraint("server", "host", name=op.f("pk_former_owners")),
    )
    counters = sa.table("counters", sa.column("name", sa.String), sa.column("value", sa.BigInteger))
    op.bulk_insert(counters, [{"name": "foreign_events", "value": 0}])
    # As far as the record tells: until now it was shown to the project whatever any host said.
    op.execute(
        "INSERT INTO former_owners (server, host, left_at)"
        " SELECT events.server, events.host, MAX(events.recorded_at) FROM events JOIN servers ON servers.id = events.server"
        " WHERE events.host IS NOT NULL AND events.host <> servers.host GROUP BY events.server, events.host"
    )
