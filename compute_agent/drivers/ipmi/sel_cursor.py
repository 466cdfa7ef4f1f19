"""How far a BMC's event log was read, so that it is found again after anything: a restart, a clear, a wrap, other numbers for old records.

A record's id is not enough: a BMC begins with its numbers anew when the log is cleared, and may give other numbers to what it keeps. So the
last records are remembered by what is in them, too, and the time when something was last erased.
"""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from compute_agent.drivers.ipmi.sel_records import Record, has_time, is_pre_timeout_nmi

_REMEMBERED = 8
_DIGEST_BYTES = 6
_NO_RECORD = "-"
_TEXT = re.compile(
    rf"sel1 (?P<last>[0-9a-f]{{4}}|{_NO_RECORD}) (?P<erased>[0-9a-f]{{8}}) (?P<full>[01]) (?P<nmi_at>[0-9a-f]{{8}}|{_NO_RECORD}) "
    rf"(?P<tail>(?:[0-9a-f]{{{2 * _DIGEST_BYTES}}}\.){{0,{_REMEMBERED}}})"
)
# What a BMC tells that does not keep when something was erased, or where nothing was yet.
_NOT_KEPT = frozenset({0, 0xFFFFFFFF})


@dataclass(frozen=True)
class Cursor:
    """The last record that was read (``last`` None: the log was empty), what the last few were, oldest first, when something was last
    erased by the BMC's clock, whether the BMC was dropping events because its log was full, and when it last wrote that its watchdog gave
    an NMI.
    """

    last: int | None
    tail: tuple[str, ...]
    erased: int
    full: bool
    nmi_at: int | None = None

    def advance(self, number: int, record: Record) -> "Cursor":
        """The cursor after ``record``, which the BMC gives under ``number``."""
        nmi_at = record.seconds if is_pre_timeout_nmi(record) else self.nmi_at
        return replace(self, last=number, tail=(*self.tail, digest(record))[-_REMEMBERED:], nmi_at=nmi_at)

    def write(self) -> str:
        last = _NO_RECORD if self.last is None else f"{self.last:04x}"
        nmi_at = _NO_RECORD if self.nmi_at is None else f"{self.nmi_at:08x}"
        return f"sel1 {last} {self.erased:08x} {int(self.full)} {nmi_at} {''.join(f'{each}.' for each in self.tail)}"

    def is_at(self, record: Record, erased: int) -> bool:
        """Whether ``record``, found under the last one's number, is certainly the last one. Where the BMC does not tell of erasures, one
        without a time may also be another with the same in it: those before it decide then (:meth:`find_in`).
        """
        return digest(record) == self.tail[-1] and self._may_be_known(record, erased) and (erased not in _NOT_KEPT or has_time(record))

    def find_in(self, log: Sequence[Record], erased: int) -> int | None:
        """Where in the whole log, oldest first, the cursor is: the position of the last record that was read and is still there.

        Records before it count as well: a match is all that can be compared, from there back to the log's beginning.
        """
        digests = [digest(record) for record in log]
        for known in range(len(self.tail), 0, -1):
            for position in range(len(log) - 1, -1, -1):
                compared = min(known, position + 1)
                begin = position + 1 - compared
                if digests[begin : position + 1] != list(self.tail[known - compared : known]):
                    continue
                if any(self._may_be_known(record, erased) for record in log[begin : position + 1]):
                    return position
        return None

    def _may_be_known(self, record: Record, erased: int) -> bool:
        """Whether something with the same bytes can be the same record. A machine that does the same after a clear writes the same, but
        for the time: so after something was erased only a record that is older than that is.
        """
        return erased == self.erased or (has_time(record) and record.seconds < erased)


def parse_cursor(text: str) -> Cursor | None:
    """What :meth:`Cursor.write` wrote; None for anything else."""
    found = _TEXT.fullmatch(text)
    if found is None or (found["last"] == _NO_RECORD) != (found["tail"] == ""):
        return None
    last = None if found["last"] == _NO_RECORD else int(found["last"], 16)
    nmi_at = None if found["nmi_at"] == _NO_RECORD else int(found["nmi_at"], 16)
    return Cursor(last, tuple(found["tail"].split(".")[:-1]), int(found["erased"], 16), found["full"] == "1", nmi_at)


def digest(record: Record) -> str:
    """What is in a record, without its number."""
    return hashlib.blake2s(record.content, digest_size=_DIGEST_BYTES).hexdigest()
