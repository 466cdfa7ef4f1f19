"""The dead-letter shelf, which has an end: an account that may only publish must not be able to fill the database's disk."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from api_gateway.store import Connection
from api_gateway.store import events as stored_events
from api_gateway.summary import Summary
from compute_agent.contract.clock import Clock

LOG = logging.getLogger(__name__)

LOOKED_EVERY_SECONDS = 10.0
"""Whether somebody has made room on a full shelf."""
_LONGEST_BODY = 2**20
"""Of a body on the shelf, in bytes."""
_LONGEST_REASON = 2000


@dataclass(frozen=True)
class ShelfLimits:
    """How many messages lie on it at most, and how many bytes of them."""

    messages: int = 10_000
    size: int = 64 * 2**20


@dataclass(frozen=True)
class DeadLetter:
    """A message that cannot be taken in, why, and the queue that it came from."""

    body: bytes
    reason: str
    source: str


class Shelf:
    """Keeps what there is room for, and counts the rest (``crashcart-manage db check`` shows the number).

    Each process counts for itself, in its own transaction: two of them may go beyond the limits by a batch.
    """

    def __init__(self, limits: ShelfLimits, clock: Clock, summary: Summary) -> None:
        self._limits = limits
        self._clock = clock
        self._summary = summary
        self._closed_until = clock.monotonic()

    def put(self, c: Connection, letters: Sequence[DeadLetter], *, now: datetime) -> None:
        """In their order; of a body that is long its beginning."""
        if not letters:
            return
        refused = list(letters) if self._clock.monotonic() < self._closed_until else self._keep(c, letters, now)
        if refused:
            stored_events.count_refused(c, len(refused))
            last = refused[-1]
            self._summary.note(
                "messages that are lost, as the dead-letter shelf is full (look at table dead_letters and delete from it)",
                f"of {last.source}: {last.reason}",
                level=logging.ERROR,
                times=len(refused),
            )

    def _keep(self, c: Connection, letters: Sequence[DeadLetter], now: datetime) -> list[DeadLetter]:
        """What there was no room for. The shelf is not measured again for each message that a full one refuses."""
        messages, size = stored_events.measure_shelf(c)
        refused: list[DeadLetter] = []
        for letter in letters:
            body, reason = _cut(letter)
            if messages >= self._limits.messages or size + len(body) + len(reason) > self._limits.size:
                self._closed_until = self._clock.monotonic() + LOOKED_EVERY_SECONDS
                refused.append(letter)
                continue
            LOG.error("a message of %s goes to the dead-letter shelf: %s", letter.source, reason)
            stored_events.shelve(c, body, reason=reason, now=now, source=letter.source)
            messages, size = messages + 1, size + len(body) + len(reason)
        return refused


def _cut(letter: DeadLetter) -> tuple[bytes, str]:
    reason = letter.reason[:_LONGEST_REASON]
    if len(letter.body) > _LONGEST_BODY:
        reason = f"{reason} (this is its beginning, of {len(letter.body)} bytes)"
    return letter.body[:_LONGEST_BODY], reason
