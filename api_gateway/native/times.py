"""``/v1`` writes every time as RFC 3339 in UTC with microseconds."""

from datetime import datetime


def format_time(moment: datetime | None) -> str | None:
    return None if moment is None else moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
