"""Up to when everything that agents said has been heard: only silence in that time is an agent's own.

Two numbers among the counters. They move only when an echo of the gateway's own comes back through the very queue that heartbeats come
through: a broker in alarm, a recorder that is stuck or a store that is away makes them stand still, and nobody is called silent.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sqlalchemy import Connection, select

from api_gateway.store.columns import upsert
from api_gateway.store.counters import lock_counters
from api_gateway.store.tables import counters

LONGEST_BREAK = timedelta(seconds=15)
"""Between two echoes; after a longer one listening has begun anew."""

_SINCE = "heard_since"
_UNTIL = "heard_until"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_READ = select(counters.c.name, counters.c.value).where(counters.c.name.in_((_SINCE, _UNTIL)))


@dataclass(frozen=True)
class Hearing:
    """Whatever was said from ``since`` to ``until`` has been heard."""

    since: datetime
    until: datetime


def find_hearing(c: Connection) -> Hearing | None:
    """None: nothing was ever heard."""
    moments = {row.name: _EPOCH + row.value * _MICROSECOND for row in c.execute(_READ)}
    return Hearing(moments[_SINCE], moments[_UNTIL]) if len(moments) == 2 else None


def note_heard(c: Connection, said_at: datetime, *, now: datetime) -> None:
    """An echo that was sent at ``said_at`` came back, so what was sent before it has come too. Echoes may come in any order."""
    lock_counters(c)
    before = find_hearing(c)
    if before is not None and before.until > now + LONGEST_BREAK:
        before = None  # the clock was put back: nothing has been heard of the time that it shows now
    if before is not None and said_at <= before.until:
        return
    if before is None or said_at - before.until > LONGEST_BREAK:
        upsert(c, counters, {"name": _SINCE, "value": (said_at - _EPOCH) // _MICROSECOND})
    upsert(c, counters, {"name": _UNTIL, "value": (said_at - _EPOCH) // _MICROSECOND})
