"""How far a BMC's log was read: found again by what its last entries were, since nothing else about a log can be relied on.

Identities start anew after a log was cleared, some BMCs number all entries anew when the oldest makes room, and clocks are set back. So the
cursor keeps digests of the last entries, with and without their identities.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from compute_agent.drivers.redfish.documents import Document, find, find_moment, find_text

_KEPT = 6
_DIGEST = 12
_CONTENT = ("Created", "EventTimestamp", "MessageId", "Message", "MessageArgs", "SensorType", "SensorNumber", "EntryCode")
"""What of an entry never changes once it was written."""


@dataclass(frozen=True)
class Mark:
    """One entry: its digest with its identity, and without."""

    full: str
    content: str


def mark(entry: Document) -> Mark:
    content = json.dumps([find(entry, key) for key in _CONTENT], sort_keys=True)
    identity = find_text(entry, "Id") or find_text(entry, "@odata.id") or ""
    return Mark(_digest(f"{identity}\n{content}"), _digest(content))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode(errors="replace")).hexdigest()[:_DIGEST]


@dataclass(frozen=True)
class Cursor:
    """``log``: which log. ``position``: how many entries there were up to the last one that was read, where entries are appended to the end
    of what the BMC lists, else 0. ``marks``: the last entries that were read, oldest first."""

    log: str
    position: int = 0
    marks: tuple[Mark, ...] = ()

    def write(self) -> str:
        """At most 220 characters."""
        words = "".join(mark.full + mark.content for mark in self.marks)
        return f"1:{self.log}:{self.position}:{words}"

    def follow(self, marks: Sequence[Mark], position: int) -> "Cursor":
        """The cursor after these entries, of which the first ones may follow on this cursor's."""
        return Cursor(self.log, position, tuple(marks[-_KEPT:]))

    def find_in(self, marks: Sequence[Mark]) -> int | None:
        """How many of these entries (oldest first) were read already; None: the last that was read is not among them."""
        if not self.marks:
            return 0
        last = self.marks[-1]
        known = [at for at, mark in enumerate(marks) if mark.full == last.full]
        if known:
            return known[-1] + 1
        # All entries may have got new identities: then what was read last is there as a run, its beginning perhaps gone.
        runs = [(self._count_run(marks, at), -at) for at, mark in enumerate(marks) if mark.content == last.content]
        return 1 - max(runs)[1] if runs else None

    def _count_run(self, marks: Sequence[Mark], end: int) -> int:
        length = 0
        while length < len(self.marks) and length <= end and marks[end - length].content == self.marks[-1 - length].content:
            length += 1
        return length


def begin(log: str) -> Cursor:
    """The cursor of a log of which nothing was read."""
    return Cursor(_digest(log))


def read_cursor(text: str) -> Cursor | None:
    """None: it is none of ours."""
    version, _, rest = text.partition(":")
    log, _, rest = rest.partition(":")
    position, _, words = rest.partition(":")
    if version != "1" or not position.isascii() or not position.isdecimal() or len(words) % (2 * _DIGEST):
        return None
    pairs = [words[at : at + 2 * _DIGEST] for at in range(0, len(words), 2 * _DIGEST)]
    return Cursor(log, int(position[:9]), tuple(Mark(pair[:_DIGEST], pair[_DIGEST:]) for pair in pairs))


def is_newest_first(entries: Sequence[Document]) -> bool:
    """Which way a BMC lists its log: as most of the times run, since a clock may be set back; if that is not clear, as the numbers do."""
    moments = [moment for entry in entries if (moment := find_moment(entry, "Created")) is not None]
    falling = sum((later < earlier) - (later > earlier) for earlier, later in pairwise(moments))
    if abs(falling) > 1:
        return falling > 0
    first, last = (find_text(entry, "Id") or "" for entry in (entries[0], entries[-1])) if entries else ("", "")
    if first.isdecimal() and last.isdecimal() and first != last:
        return int(first) > int(last)
    return falling > 0


def unroll(entries: Sequence[Document]) -> list[Document]:
    """A full ring that is listed from its first place on, put in the order of time: it is, if that takes a single cut."""
    moments = [find_moment(entry, "Created") for entry in entries]
    known = [moment for moment in moments if moment is not None]
    cuts = [at for at in range(1, len(known)) if known[at] < known[at - 1]]
    if len(known) < len(entries) or len(cuts) != 1 or known[-1] > known[0]:
        return list(entries)
    return [*entries[cuts[0] :], *entries[: cuts[0]]]
