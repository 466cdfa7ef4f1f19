"""Reading what a BMC answers without believing that it has the shape that the schema promises.

Each function looks at one place in a document (``find(document, "Status", "Health")``) and gives None where nothing of the right type is
there. So one odd value costs that value, and never the reading.
"""

import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

from compute_agent.contract.diagnostics import Health
from compute_agent.contract.text import clean_line

Document = Mapping[str, Any]

_HEALTH = {"ok": Health.OK, "warning": Health.WARNING, "critical": Health.CRITICAL}
_FIRST_BELIEVABLE_YEAR = 2001
"""A BMC whose clock was never set counts from 1970, some from 2000."""
_MAC = re.compile(r"[0-9a-f]{12}")
_PATH = re.compile(r"/[\x21-\x7e]*")
_LONGEST_NUMBER = 32
_LARGEST_NUMBER = 1e15
"""Nothing that a BMC measures or counts comes near it; sums and products of what is smaller stay numbers."""


def find(document: object, *path: str) -> object | None:
    """What is there, of whatever type."""
    place = document
    for key in path:
        if not isinstance(place, Mapping):
            return None
        place = place.get(key)
    return place


def find_document(document: object, *path: str) -> Document | None:
    found = find(document, *path)
    return found if isinstance(found, Mapping) else None


def iterate_documents(document: object, *path: str) -> Iterator[Document]:
    """The members of a list that are objects."""
    found = find(document, *path)
    if isinstance(found, list):
        yield from (member for member in found if isinstance(member, Mapping))


def list_words(document: object, *path: str) -> list[str]:
    """The members of a list that are texts."""
    found = find(document, *path)
    return [member for member in found if isinstance(member, str)] if isinstance(found, list) else []


def find_text(document: object, *path: str) -> str | None:
    """One clean line of at most 255 characters; None when nothing is left of it."""
    found = find(document, *path)
    return (clean_line(found) or None) if isinstance(found, str) else None


def find_number(document: object, *path: str) -> float | None:
    """A number that can be believed, also one that was written as a text."""
    found = find(document, *path)
    if isinstance(found, bool) or not isinstance(found, int | float | str):
        return None
    if isinstance(found, str) and len(found) > _LONGEST_NUMBER:
        return None
    try:
        number = float(found)
    except (ValueError, OverflowError):
        return None
    return number if abs(number) <= _LARGEST_NUMBER else None


def find_count(document: object, *path: str) -> int | None:
    """A whole number that is not negative."""
    number = find_number(document, *path)
    return int(number) if number is not None and number >= 0 else None


def find_link(document: object, *path: str) -> str | None:
    """The path that a reference (``{"@odata.id": ...}``) leads to."""
    return as_path(find(document, *path, "@odata.id"))


def list_links(document: object, *path: str) -> list[str]:
    """The paths that a list of references leads to."""
    return [link for member in iterate_documents(document, *path) if (link := find_link(member)) is not None]


def as_path(link: object) -> str | None:
    """The path and query of a link, whatever host it names: no answer makes us talk to another host than the BMC."""
    if not isinstance(link, str):
        return None
    try:
        parts = urlsplit(link)
    except ValueError:
        return None
    path = parts.path + (f"?{parts.query}" if parts.query else "")
    # "//host/x" as a path would be a host again for whoever joins it to ours.
    return path if _PATH.fullmatch(path) and not path.startswith("//") else None


def find_health(document: object, *path: str) -> Health | None:
    found = find(document, *path)
    return _HEALTH.get(found.lower()) if isinstance(found, str) else None


def find_moment(document: object, *path: str) -> datetime | None:
    """A point in time by the BMC's clock, in UTC; one without an offset is taken for UTC. None also where the clock was not set."""
    found = find(document, *path)
    if not isinstance(found, str):
        return None
    try:
        moment = datetime.fromisoformat(found.strip())
        moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError):
        return None
    return moment if moment.year >= _FIRST_BELIEVABLE_YEAR else None


def find_mac(document: object, *path: str) -> str | None:
    """A MAC address in lower case with colons, however it was written."""
    found = find(document, *path)
    if not isinstance(found, str):
        return None
    digits = re.sub(r"[:.\-\s]", "", found).lower()
    return ":".join(digits[at : at + 2] for at in range(0, 12, 2)) if _MAC.fullmatch(digits) else None


def last_segment(path: str) -> str:
    """The name of what a path leads to: its last part."""
    return path.partition("?")[0].rstrip("/").rpartition("/")[2]
