"""``/v1`` writes every time as RFC 3339 in UTC with microseconds, and reads any RFC 3339 time."""

import re
from datetime import UTC, datetime

from api_gateway.faults import bad_request

TIME_PATTERN = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,6})?(Z|[+-][0-9]{2}:[0-9]{2})$"


def format_time(moment: datetime | None) -> str | None:
    return None if moment is None else moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def parse_time(name: str, text: str | None) -> datetime | None:
    """The query parameter ``name`` as a time in UTC.

    :raises Fault: 400 unless it is RFC 3339 with a zone.
    """
    if text is None:
        return None
    try:
        if re.fullmatch(TIME_PATTERN, text) is None:
            raise ValueError(text)
        return datetime.fromisoformat(text).astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise bad_request(f"{name} must be a time like 2026-01-31T12:00:00Z, with its zone (a + in a URL is written %2B).") from error
