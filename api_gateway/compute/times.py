"""The Compute API's two ways to write a time, all UTC, and its one way to read one. What is written is cut off before its zone: a page of
servers has thousands."""

from datetime import UTC, datetime


def format_seconds(moment: datetime) -> str:
    """``2026-01-31T12:00:00Z``: created, updated."""
    return f"{moment.isoformat()[:19]}Z"


def format_microseconds(moment: datetime | None) -> str | None:
    """``2026-01-31T12:00:00.000000``, without a zone: launched_at and everything about instance actions."""
    return None if moment is None else moment.isoformat(timespec="microseconds")[:26]


def is_query_time(text: str) -> bool:
    """Whether :func:`read_query_time` can read it."""
    try:
        read_query_time(text)
    except (ValueError, OverflowError):
        return False
    return True


def read_query_time(text: str) -> datetime:
    """A time in a query parameter; without a zone it is UTC.

    :raises ValueError, OverflowError: it is no ISO 8601 time, or one before the first year.
    """
    moment = datetime.fromisoformat(text)
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
