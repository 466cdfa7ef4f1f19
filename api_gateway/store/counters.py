"""Named numbers in the store: event positions, outbox sequences, and counts of what must never happen."""

from sqlalchemy import Connection, bindparam, insert, select, update

from api_gateway.store.tables import counters

POSITION = "position"
OUTBOX_SEQUENCE = "outbox_sequence"
MATCHED = "matched"
"""The last position that was held against the subscriptions."""
VIOLATION_PREFIX = "violations."

_ADVANCE = update(counters).where(counters.c.name == bindparam("counter")).values(value=counters.c.value + bindparam("by"))
_READ = select(counters.c.value).where(counters.c.name == bindparam("counter"))
_LOCK = _READ.with_for_update()
_SET = update(counters).where(counters.c.name == bindparam("counter")).values(value=bindparam("to"))


def advance(c: Connection, name: str, by: int = 1) -> int:
    """Add ``by`` to a counter and return its new value.

    The counter's row stays locked until the transaction ends: numbers taken from it are committed in their order.
    """
    found = c.execute(_ADVANCE, {"counter": name, "by": by}).rowcount
    if not found:
        c.execute(insert(counters).values(name=name, value=by))
    return int(c.execute(_READ, {"counter": name}).scalar_one())


def get_value(c: Connection, name: str) -> int:
    """Of a counter that every store has."""
    return int(c.execute(_READ, {"counter": name}).scalar_one())


def set_value(c: Connection, name: str, value: int) -> None:
    """Of a counter that every store has and this transaction has locked."""
    c.execute(_SET, {"counter": name, "to": value})


def lock_counters(c: Connection) -> None:
    """Take the lock that :func:`advance` takes of the record's end: one such transaction at a time."""
    lock_counter(c, POSITION)


def lock_counter(c: Connection, name: str) -> None:
    """Take the lock that :func:`advance` takes: one such transaction at a time. SQLite's writers are that anyway."""
    if c.dialect.name != "sqlite":
        c.execute(_LOCK, {"counter": name})


def count_violation(c: Connection, what: str, times: int = 1) -> None:
    """Count something that must never happen; operators alarm on it."""
    lock_counters(c)  # two that count it for the first time must not both make its row
    advance(c, VIOLATION_PREFIX + what, times)


def list_violations(c: Connection) -> dict[str, int]:
    """What must never happen, and how often it did."""
    rows = c.execute(select(counters.c.name, counters.c.value).where(counters.c.name.startswith(VIOLATION_PREFIX, autoescape=True)))
    return {name.removeprefix(VIOLATION_PREFIX): value for name, value in rows}
