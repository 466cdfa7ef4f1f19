"""The last diagnostics of each server that came as an event: what is told while its host cannot be asked."""

from datetime import datetime

from pydantic import ValidationError
from sqlalchemy import Connection, bindparam, delete, select

from api_gateway.last_reports import KnownReport
from api_gateway.store.columns import upsert
from api_gateway.store.tables import diagnostics, servers
from compute_agent.contract.diagnostics import DiagnosticsReport

_BY_SERVER = select(diagnostics.c.host, diagnostics.c.recorded_at, diagnostics.c.report).where(
    diagnostics.c.server == bindparam("key_server")
)
_OWNER = select(servers.c.host).where(servers.c.id == bindparam("key_server"))
_LATEST = select(diagnostics.c.host, diagnostics.c.collected_at).where(diagnostics.c.server == bindparam("key_server"))


def keep_report(c: Connection, report: DiagnosticsReport, *, host: str, now: datetime) -> bool:
    """Keep what ``host`` said of a server of its own; of two reports the later one holds.

    :returns: whether it was kept.
    """
    owner = c.execute(_OWNER, {"key_server": report.server}).scalar_one_or_none()
    if owner != host:
        return False
    latest = c.execute(_LATEST, {"key_server": report.server}).one_or_none()
    if latest is not None and latest.host == host and latest.collected_at >= report.collected_at:
        return False
    row = {"server": report.server, "host": host, "collected_at": report.collected_at, "recorded_at": now, "report": report.to_wire()}
    upsert(c, diagnostics, row)
    return True


def find_report(c: Connection, server: str) -> KnownReport | None:
    """None also for one that a newer release wrote and this one cannot read."""
    row = c.execute(_BY_SERVER, {"key_server": server}).one_or_none()
    if row is None:
        return None
    try:
        return KnownReport(DiagnosticsReport.from_wire(row.report), row.host, row.recorded_at)
    except ValidationError:
        return None


def prune(c: Connection, *, recorded_before: datetime, limit: int = 1000) -> int:
    """Delete reports that old, the oldest first; how many went."""
    old = c.execute(
        select(diagnostics.c.server).where(diagnostics.c.recorded_at < recorded_before).order_by(diagnostics.c.recorded_at).limit(limit)
    ).scalars()
    return c.execute(delete(diagnostics).where(diagnostics.c.server.in_(list(old)))).rowcount
