"""Times in query strings."""

import re
from datetime import UTC, datetime

from api_gateway.faults import bad_request
from api_gateway.native.times import TIME_PATTERN


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
