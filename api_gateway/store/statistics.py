"""What PostgreSQL plans by.

Its own autovacuum looks once a minute. Of a table that grew from nothing in between it knows nothing, and goes through all of it for a few
rows: four hundred hosts with fifty servers each took 49 s to be written down, and 18 s with statistics in time (measured).
"""

from collections.abc import Sequence

from sqlalchemy import Connection, text

from api_gateway.store.tables import metadata

_LEAST_ROWS = 1000
_OUTGROWN = text(
    "SELECT found.relname FROM pg_stat_user_tables AS found JOIN pg_class ON pg_class.oid = found.relid "
    "WHERE found.schemaname = current_schema() AND found.n_live_tup > :least AND found.n_live_tup > 2 * pg_class.reltuples "
    "ORDER BY found.relname"
)
"""``reltuples`` is as of the last statistics, -1 without any. A table that is only written again and again is autovacuum's."""


def list_outgrown(c: Connection) -> Sequence[str]:
    """Our tables that have more than twice as many rows as when their statistics were taken."""
    return [name for name in c.execute(_OUTGROWN, {"least": _LEAST_ROWS}).scalars() if name in metadata.tables]


def take_statistics(c: Connection, table: str) -> None:
    """Of one of :func:`list_outgrown`; it reads a part of the table and holds up neither readers nor writers. Where another one is at it,
    nothing is done."""
    c.exec_driver_sql(f"ANALYZE (SKIP_LOCKED) {c.dialect.identifier_preparer.format_table(metadata.tables[table])}")
