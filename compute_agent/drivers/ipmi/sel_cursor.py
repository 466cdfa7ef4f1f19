"""How far a BMC's event log was read, so that it is found again after anything: a restart, a clear, a wrap, other numbers for old records.

A record's id is not enough: a BMC begins with its numbers anew when the log is cleared, and may give other numbers to what it keeps. So the
last records are remembered by what is in them, too, and the time when something was last erased.
"""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from compute_agent.drivers.ipmi.sel_records import Record, has_time

_REMEMBERED = 8
_DIGEST_BYTES = 6
_NO_RECORD = "-"
_TEXT = re.compile(
    rf"sel1 (?P<last>[0-9a-f]{{4}}|{_NO_RECORD}) (?P<erased>[0-9a-f]{{8}}) (?P<full>[01]) "
    rf"(?P<tail>(?:[0-9a-f]{{{2 * _DIGEST_BYTES}}}\.){{0,{_REMEMBERED}}})"
)
_KEEPS_NO_TIME = 0xFFFFFFFF


@dataclass(frozen=True)
class Cursor:
    """The last record that was read (``last`` None: the log was empty), what the last few were, oldest first, when something was last
    erased by the BMC's clock, and whether the BMC was dropping events because its log was full.
    """

    last: int | None
    tail: tuple[str, ...]
    erased: int
    full: bool

    def advance(self, number: int, record: Record) -> "Cursor":
        """The cursor after ``record``, which the BMC gives under ``number``."""
        return replace(self, last=number, tail=(*self.tail, digest(record))[-_REMEMBERED:])

    def write(self) -> str:
        last = _NO_RECORD if self.last is None else f"{self.last:04x}"
        return f"sel1 {last} {self.erased:08x} {int(self.full)} {''.join(f'{each}.' for each in self.tail)}"

    def is_at(self, record: Record, erased: int) -> bool:
        """Whether ``record``, found under the last one's number, is the last one. After something was erased the same bytes are proof
        only where they are older than that: a machine that does the same after a clear writes the same.
        """
        return digest(record) == self.tail[-1] and (erased == self.erased or _survived(record, erased))

    def find_in(self, log: Sequence[Record], erased: int) -> int | None:
        """Where in the whole log, oldest first, the cursor is: the position of the last record that was read and is still there.

        Records before it count as well: a match is all that can be compared, from there back to the log's beginning. One that has a
        time must be among them, since others may well come again, and an old one if something was erased.
        """
        digests = [digest(record) for record in log]
        for known in range(len(self.tail), 0, -1):
            for position in range(len(log) - 1, -1, -1):
                compared = min(known, position + 1)
                begin = position + 1 - compared
                if digests[begin : position + 1] != list(self.tail[known - compared : known]):
                    continue
                if any(self._proves(record, erased) for record in log[begin : position + 1]):
                    return position
        return None

    def _proves(self, record: Record, erased: int) -> bool:
        return has_time(record) if erased == self.erased else _survived(record, erased)


def parse_cursor(text: str) -> Cursor | None:
    """What :meth:`Cursor.write` wrote; None for anything else."""
    found = _TEXT.fullmatch(text)
    if found is None or (found["last"] == _NO_RECORD) != (found["tail"] == ""):
        return None
    last = None if found["last"] == _NO_RECORD else int(found["last"], 16)
    return Cursor(last, tuple(found["tail"].split(".")[:-1]), int(found["erased"], 16), found["full"] == "1")


def digest(record: Record) -> str:
    """What is in a record, without its number."""
    return hashlib.blake2s(record.content, digest_size=_DIGEST_BYTES).hexdigest()


def _survived(record: Record, erased: int) -> bool:
    """Whether ``record`` was there before something was erased at ``erased``."""
    return has_time(record) and erased != _KEEPS_NO_TIME and record.seconds < erased
