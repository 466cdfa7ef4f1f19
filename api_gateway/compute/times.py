"""The Compute API's three ways to write a time, all UTC, and its one way to read one."""

from datetime import UTC, datetime

from api_gateway.faults import bad_request


def format_seconds(moment: datetime) -> str:
    """``2026-01-31T12:00:00Z``: created, updated."""
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def format_microseconds(moment: datetime | None) -> str | None:
    """``2026-01-31T12:00:00.000000``, without a zone: launched_at and everything about instance actions."""
    return None if moment is None else moment.strftime("%Y-%m-%dT%H:%M:%S.%f")


def parse_query_time(name: str, text: str) -> datetime:
    """A time in a query parameter; without a zone it is UTC.

    :raises Fault: 400 when it is no ISO 8601 time.
    """
    try:
        moment = datetime.fromisoformat(text)
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise bad_request(f"Invalid input for query parameters {name}. Value: {text}. '{text}' is not a 'date-time'") from error
