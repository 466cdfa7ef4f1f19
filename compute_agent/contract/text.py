"""Texts that people outside wrote into a server's metadata, made fit for a log line, a table and the Compute API."""

from collections.abc import Iterable

LONGEST_LINE = 255
LONGEST_TAG = 60
MOST_TAGS = 50
_FORBIDDEN_IN_TAGS = frozenset("/,")


def clean_line(text: str) -> str:
    """One line without control characters, at most 255 long; empty when nothing is left."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line[:LONGEST_LINE].rstrip()


def clean_tags(tags: Iterable[str]) -> tuple[str, ...]:
    """The first 50 different tags that the Compute API allows, sorted: up to 60 long, with neither slash nor comma in them."""
    lines = {clean_line(tag) for tag in tags}
    allowed = sorted(line for line in lines if 0 < len(line) <= LONGEST_TAG and not _FORBIDDEN_IN_TAGS & set(line))
    return tuple(allowed[:MOST_TAGS])
